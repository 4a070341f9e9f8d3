package repo_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage/meter"
)

// told is a time line as text: windows and gaps.
func told(p *repo.Points) string {
	var b strings.Builder
	show := func(t time.Time) string { return t.UTC().Format("15:04:05") }
	for _, w := range p.Windows {
		kind := "backups"
		if w.Shipped {
			kind = "shipped"
		}
		fmt.Fprintf(&b, "%s-%s %s %d/%d\n", show(w.From), show(w.To), kind, w.Moments, w.Backups)
	}
	for _, g := range p.Gaps {
		fmt.Fprintf(&b, "gap %s-%s %s\n", show(g.From), show(g.To), g.Why)
	}
	return b.String()
}

func (s *shipping) points(want string) *repo.Points {
	s.t.Helper()
	p, err := s.r.Points(s.t.Context(), instance, nil)
	s.must(err)
	want = strings.ReplaceAll(strings.TrimSpace(want), "\t", "") + "\n"
	if got := told(p); got != want {
		s.t.Errorf("got\n%swant\n%s", got, want)
	}
	return p
}

// TestPoints parts a time line into windows, with gaps and why they are there.
func TestPoints(t *testing.T) {
	t.Parallel()
	s := newShipping(t)
	s.backup("08:00")
	s.backup("09:00")
	s.points(`08:00:00-09:00:00 backups 2/2`)
	s.begin(s.backup("10:00"))
	for i := range 4 {
		s.tick(fmt.Sprintf("10:%02d", 5+i))
	}
	s.points(`08:00:00-09:00:00 backups 2/2
		10:00:00-10:08:00 shipped 5/1`)
	s.rollUp(1, 4)
	s.quiet = 10 * time.Minute
	s.tick("10:30")
	s.quiet = time.Second
	s.adopt(s.backup("10:32"))
	s.tick("10:33")
	s.points(`08:00:00-09:00:00 backups 2/2
		10:00:00-10:20:00 shipped 5/1
		10:30:00-10:33:00 shipped 3/1
		gap 10:20:00-10:30:00 nothing was shipped: the shipper didn't run, or the storage was away`)
	s.begin(s.backup("11:00"))
	s.tick("11:05")
	s.backup("12:00")
	p := s.points(`08:00:00-09:00:00 backups 2/2
		10:00:00-10:20:00 shipped 5/1
		10:30:00-10:33:00 shipped 3/1
		11:00:00-11:05:00 shipped 2/1
		12:00:00-12:00:00 backups 1/1
		gap 10:20:00-10:30:00 nothing was shipped: the shipper didn't run, or the storage was away
		gap 10:33:00-10:59:00 nothing was shipped
		gap 11:05:00-11:59:00 nothing was shipped, or it was not copied here yet`)
	if !p.Read || p.Objects != 4 || p.Windows[1].Every != time.Second {
		t.Errorf("%+v", p)
	}
}

// TestPointsBesideHole: what can't be had back is no moment.
func TestPointsBesideHole(t *testing.T) {
	t.Parallel()
	s := newShipping(t)
	s.begin(s.backup("10:00"))
	for i := range 5 {
		s.tick(fmt.Sprintf("10:%02d", 1+i))
	}
	s.remove(s.tickKey(3))
	chain := string(s.chain)
	p, err := s.r.Points(t.Context(), instance, nil)
	s.must(err)
	if len(p.Gaps) != 1 || !strings.Contains(p.Gaps[0].Why, "tick 3 of chain "+chain+" is missing") || !p.Gaps[0].To.IsZero() || p.Windows[0].Moments != 3 {
		t.Errorf("%s", told(p))
	}
	s.adopt(s.backup("10:10"))
	s.tick("10:11")
	p, err = s.r.Points(t.Context(), instance, nil)
	s.must(err)
	if last := p.Windows[len(p.Windows)-1]; len(p.Windows) != 3 && len(p.Windows) != 2 || last.To != clock(t, "10:11") {
		t.Errorf("%s", told(p))
	}
}

// TestPointsWithoutKey: names tell something too.
func TestPointsWithoutKey(t *testing.T) {
	t.Parallel()
	s := newShipping(t)
	s.begin(s.backup("10:00"))
	for i := range 5 {
		s.tick(fmt.Sprintf("10:%02d", 1+i))
	}
	s.rollUp(1, 5)
	var err error
	s.r, err = repo.Open(t.Context(), s.store, repo.Options{})
	s.must(err)
	if p := s.points(`10:00:00-10:00:00 backups 1/1
		10:01:00-10:05:00 shipped 5/0`); p.Read {
		t.Error("it says that it has read indexes")
	}
}

// TestPointsReadLittle: of large objects the indexes are read and nothing else, and many objects take few
// requests.
func TestPointsReadLittle(t *testing.T) {
	t.Parallel()
	s := newShipping(t)
	s.begin(s.backup("10:00"))
	s.large = 1
	for i := range 996 {
		s.tick(fmt.Sprintf("11:%02d:%02d", i/60, i%60))
	}
	s.large = 3 << 20
	for i := range 4 {
		s.tick(fmt.Sprintf("12:%02d", 1+i))
	}
	s.rollUp(997, 998)
	m := &meter.Meter{}
	r := s.open(t, meter.New(s.store, m))
	p, err := r.Points(t.Context(), instance, nil)
	s.must(err)
	read, asked := m.Snapshot().Down, m.Snapshot().Requests()
	if p.Objects != 999 || p.Windows[len(p.Windows)-1].Moments < 996 {
		t.Errorf("%d objects: %s", p.Objects, told(p))
	}
	if small := int64(997 * 3000); read-small > p.Bytes/10 || p.Bytes < 6<<20 {
		t.Errorf("%d bytes were read of %d", read, p.Bytes)
	}
	t.Logf("%d of %d bytes read in %d requests", read, p.Bytes, asked)
	if asked > 999+3*3+20 {
		t.Errorf("%d requests for %d objects", asked, p.Objects)
	}
}

// TestPointsAfterPrune: what is left of a chain of which the beginning expired goes on from the oldest backup.
func TestPointsAfterPrune(t *testing.T) {
	t.Parallel()
	s := newShipping(t)
	first := s.backup("2026-11-10 10:00:00")
	s.begin(first)
	for i := range 9 {
		s.tick(fmt.Sprintf("2026-11-%d 10:30:00", 10+i))
		s.rollUp(int64(2*i+1), int64(2*i+1))
		s.tick(fmt.Sprintf("2026-11-%d 11:30:00", 10+i))
		s.rollUp(int64(2*i+2), int64(2*i+2))
		s.adopt(s.backup(fmt.Sprintf("2026-11-%d 12:00:00", 10+i)))
	}
	lock, err := s.r.Lock(t.Context(), instance, "prune", "")
	s.must(err)
	_, err = s.r.Prune(t.Context(), lock, repo.PruneOptions{Remove: []manifest.BackupID{first}, KeepMoments: 4 * 24 * time.Hour, Now: s.now})
	s.must(err)
	s.must(lock.End(t.Context()))
	p, err := s.r.Points(t.Context(), instance, nil)
	s.must(err)
	if len(p.Gaps) != 1 || len(p.Windows) != 3 || p.Windows[1].From != clock(t, "2026-11-12 12:00:00") || p.Windows[1].To != clock(t, "2026-11-18 11:30:00") || p.Windows[1].Moments != 18 {
		t.Errorf("%s", told(p))
	}
}
