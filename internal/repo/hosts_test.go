package repo_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// world is what several hosts do to one instance in one storage: two that make
// backups of it and two that remove some. Their clocks differ by up to two days,
// each may stop at any call for longer than a lock's lease and go on as if nothing
// had been, die at any call, and listings are up to ten minutes late. Time is that
// of a synctest bubble.
type world struct {
	t      *testing.T
	seed   uint64
	stored storage.Store // as it is
	shared storage.Store // as the hosts see it: listings are late
	writer ed25519.PrivateKey
	end    time.Time

	mu      sync.Mutex
	made    map[manifest.BackupID][][]byte // backups that a host was told are made, and their contents
	removed map[manifest.BackupID]bool     // backups that a host has begun to remove
	events  map[string]int
}

func (w *world) event(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events[fmt.Sprintf(format, args...)]++
}

// host is one machine; it is a storage.Store for what runs on it.
type host struct {
	storage.Store
	world *world
	name  string
	skew  time.Duration

	mu     sync.Mutex
	rnd    *rand.Rand // guarded by mu, like what follows
	asleep time.Time  // until then nothing on it moves
	dead   bool
}

var errDead = errors.New("the host died")

// step lets time pass, in which the host may sleep or die.
func (h *host) step(key storage.Key) error {
	h.mu.Lock()
	switch n := h.rnd.IntN(1000); {
	case n < 8:
		h.asleep = time.Now().Add(time.Duration(h.rnd.Int64N(int64(20 * time.Minute))))
	case n < 14:
		h.dead = true
	}
	pause := time.Duration(h.rnd.Int64N(int64(2 * time.Second)))
	until := h.asleep
	h.mu.Unlock()
	time.Sleep(max(pause, time.Until(until)))
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return fmt.Errorf("%s: %w", key, errDead)
	}
	return nil
}

// around makes a call between two steps: a host may die or sleep before it, and
// after it, not knowing what came of it.
func (h *host) around(key storage.Key, call func() error) error {
	if err := h.step(key); err != nil {
		return err
	}
	err := call()
	if serr := h.step(key); serr != nil {
		return serr
	}
	return err
}

func (h *host) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	return h.around(key, func() error { return h.Store.Put(ctx, key, body, opts) })
}

func (h *host) Delete(ctx context.Context, key storage.Key) error {
	return h.around(key, func() error { return h.Store.Delete(ctx, key) })
}

func (h *host) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	return h.around(key, func() error { return h.Store.Get(ctx, key, off, n, fn) })
}

func (h *host) Stat(ctx context.Context, key storage.Key) (info storage.Info, err error) {
	err = h.around(key, func() error { info, err = h.Store.Stat(ctx, key); return err })
	return info, err
}

func (h *host) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return h.around(storage.Key(prefix), func() error { return h.Store.List(ctx, prefix, fn) })
}

func (h *host) int(n int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rnd.IntN(n)
}

// start starts the host anew, after it died, with what is on its disk.
func (h *host) start() (*repo.Repo, error) {
	h.mu.Lock()
	h.dead = false
	h.mu.Unlock()
	return repo.Open(context.Background(), h, repo.Options{Host: h.name, Now: func() time.Time { return time.Now().Add(h.skew) }})
}

// run does work until the world's end, and starts the host again when it died.
func (h *host) run(work func(*repo.Repo) error) {
	for life := 0; time.Now().Before(h.world.end); life++ {
		// Each start is another one to those who look at its locks.
		h.name = fmt.Sprintf("%.5s-%d", h.name, life)
		r, err := h.start()
		for err == nil && time.Now().Before(h.world.end) {
			time.Sleep(time.Duration(h.int(int(10 * time.Minute))))
			err = work(r)
			switch {
			case errors.Is(err, repo.ErrLocked), errors.Is(err, repo.ErrLockLost), errors.Is(err, repo.ErrNoBackup), errors.Is(err, storage.ErrExist):
				h.world.event("%v", unwrapAll(err))
				err = nil
			case errors.Is(err, repo.ErrCorrupt), errors.Is(err, storage.ErrNotExist): // a segment of an interrupted run that was taken up is gone
				h.world.event("refused to commit")
				err = nil
			}
		}
		if err != nil && !errors.Is(err, errDead) {
			h.world.t.Errorf("seed %d: %s: %v", h.world.seed, h.name, err)
			return
		}
		time.Sleep(time.Minute)
	}
}

func unwrapAll(err error) error {
	for _, kind := range []error{repo.ErrLocked, repo.ErrLockLost, repo.ErrNoBackup} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return err
}

// maker makes backups: what a node's state and journal are is in last and left.
type maker struct {
	h    *host
	last *manifest.Manifest // its last backup
	text [][]byte           // its contents
	left []leftSegment      // stored by runs that did not end
	n    uint64
}

type leftSegment struct {
	segment manifest.Segment
	text    []byte
}

func (m *maker) backup(r *repo.Repo) error {
	ctx := context.Background()
	id, err := manifest.NewID()
	if err != nil {
		return err
	}
	lock, err := r.Lock(ctx, instance, "backup", id)
	if err != nil {
		return err
	}
	man, text, err := m.fill(ctx, r, id)
	if err == nil {
		_, err = r.Commit(ctx, lock, man, &repo.WriteKey{}, m.h.world.writer)
	}
	if err == nil {
		w := m.h.world
		w.mu.Lock()
		w.made[id] = text
		w.mu.Unlock()
		m.last, m.text, m.left = man, text, nil
		w.event("backup made")
	}
	if rerr := lock.Release(ctx); err == nil {
		err = rerr
	}
	return err
}

// fill stores what is new, and refers to what an interrupted run left, and to the
// last backup if that is still there.
func (m *maker) fill(ctx context.Context, r *repo.Repo, id manifest.BackupID) (*manifest.Manifest, [][]byte, error) {
	f := &manifest.File{Root: manifest.DataRoot, Path: "shards/00000000-ffffffff/db.1795334390.couch", Kind: manifest.Shard, SHA256: fmt.Sprintf("%064d", 0)}
	man := &manifest.Manifest{Format: 1, Files: []*manifest.File{f},
		Summary: manifest.Summary{ID: id, Instance: instance, Name: "b", Type: manifest.Full, Status: manifest.Completed, Started: time.Now().UTC()}}
	var text [][]byte
	add := func(s manifest.Segment, b []byte) {
		f.Extents = append(f.Extents, manifest.Extent{Seg: len(man.Segments), N: s.Plain})
		f.Size += s.Plain
		man.Segments = append(man.Segments, s)
		text = append(text, b)
	}
	if m.last != nil {
		_, err := r.Record(ctx, instance, m.last.ID)
		if err != nil && !errors.Is(err, repo.ErrNoBackup) {
			return nil, nil, err
		}
		if err == nil {
			man.Type, man.Parent = manifest.Incremental, m.last.ID
			for i, s := range m.last.Segments {
				if i > 0 || m.h.int(4) > 0 { // a compaction drops the oldest
					add(s, m.text[i])
				}
			}
		}
	}
	present, err := r.Segments(ctx, instance)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range m.left {
		if _, ok := present[repo.SegmentID{Backup: l.segment.Backup, N: l.segment.N}]; ok {
			add(l.segment, l.text)
			m.h.world.event("segment taken up")
		}
	}
	m.left = nil
	for n := range 1 + m.h.int(3) {
		m.n++
		b := []byte(fmt.Sprintf("%s %d", m.h.name, m.n))
		var s repo.Sealed
		if err := r.Seal(&s, &repo.WriteKey{}, id, n, b); err != nil {
			return nil, nil, err
		}
		m.left = append(m.left, leftSegment{s.Segment, b}) // the journal is written first
		if err := r.PutSegment(ctx, instance, &s); err != nil {
			return nil, nil, err
		}
		add(s.Segment, b)
	}
	return man, text, nil
}

// prune removes all but a few of the backups that it sees.
func (h *host) prune(r *repo.Repo) error {
	ctx := context.Background()
	lock, err := r.Lock(ctx, instance, "prune", "")
	if err != nil {
		return err
	}
	err = h.pruneLocked(ctx, r, lock)
	if rerr := lock.Release(ctx); err == nil {
		err = rerr
	}
	return err
}

func (h *host) pruneLocked(ctx context.Context, r *repo.Repo, lock *repo.Lock) error {
	recs, bad, err := r.List(ctx, instance)
	if err != nil || len(bad) > 0 {
		return errors.Join(err, fmt.Errorf("bad records: %v", bad))
	}
	var remove []manifest.BackupID
	for _, rec := range recs[:max(0, len(recs)-1)] {
		if h.int(2) == 0 {
			remove = append(remove, rec.ID)
		}
	}
	w := h.world
	w.mu.Lock()
	for _, id := range remove {
		w.removed[id] = true
	}
	w.mu.Unlock()
	freed, err := r.Prune(ctx, lock, repo.PruneOptions{Remove: remove, Now: time.Now().Add(h.skew)})
	if err == nil {
		w.event("prune done")
		if freed.Unreferenced > 0 {
			w.event("leftovers removed")
		}
	}
	return err
}

// Several hosts with wrong clocks, pauses and deaths, over a storage that lists
// late, never lose a backup that was reported as made and that nobody removed, and
// never show one that doesn't read whole. SLIPCOVER_ROUNDS makes more histories.
func TestHostsLoseNothing(t *testing.T) {
	seeds := uint64(testenv.Computed(8, 4))
	total := map[string]int{}
	events := []string{"backup made", "prune done", repo.ErrLocked.Error(), repo.ErrLockLost.Error(), "leftovers removed", "segment taken up"}
	unseen := func(e string) bool { return total[e] == 0 }
	for seed := range 4 * seeds {
		if seed >= seeds && !slices.ContainsFunc(events, unseen) { // else what is rare wants more histories: the race detector orders them otherwise
			break
		}
		synctest.Test(t, func(t *testing.T) { history(t, seed, total) })
		if t.Failed() {
			return
		}
	}
	t.Log(total)
	for _, e := range events {
		if unseen(e) {
			t.Errorf("in no history: %s", e)
		}
	}
}

func history(t *testing.T, seed uint64, total map[string]int) {
	_, writer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	stored := mem.New()
	w := &world{t: t, seed: seed, stored: stored, shared: faulty.NewLate(stored, seed, 10*time.Minute), writer: writer, end: time.Now().Add(24 * time.Hour),
		made: map[manifest.BackupID][][]byte{}, removed: map[manifest.BackupID]bool{}, events: total}
	if _, err := repo.Init(t.Context(), stored, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 4 {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		h := &host{Store: w.shared, world: w, name: fmt.Sprintf("host%d", i), rnd: rnd, skew: time.Duration(rnd.IntN(5)-2) * 24 * time.Hour}
		m := &maker{h: h}
		work := m.backup
		if i >= 2 {
			work = h.prune
		}
		all.Go(func() { h.run(work) })
	}
	all.Wait()
	time.Sleep(time.Hour) // calls that are under way end
	w.check(t.Context())
}

// check looks at what is stored in the end.
func (w *world) check(ctx context.Context) {
	r, err := repo.Open(ctx, w.stored, repo.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	recs, bad, err := r.List(ctx, instance)
	if err != nil || len(bad) > 0 {
		w.t.Fatalf("seed %d: %v %v", w.seed, err, bad)
	}
	for id := range w.made {
		if !w.removed[id] && !slices.ContainsFunc(recs, func(rec *manifest.Record) bool { return rec.ID == id }) {
			w.t.Errorf("seed %d: backup %s was made, nobody removed it, and it is gone", w.seed, id)
		}
	}
	for _, rec := range recs {
		m, err := r.Manifest(ctx, rec)
		if err != nil {
			w.t.Errorf("seed %d: %v", w.seed, err)
			continue
		}
		var got []byte
		err = r.NewReader(m, m.Files).Stream(ctx, m.Files[0], func(b []byte) error { got = append(got, b...); return nil })
		if err != nil {
			w.t.Errorf("seed %d: backup %s can't be read: %v", w.seed, rec.ID, err)
		}
		if text, ok := w.made[rec.ID]; ok && err == nil && !bytes.Equal(got, slices.Concat(text...)) {
			w.t.Errorf("seed %d: backup %s reads %q, not %q", w.seed, rec.ID, got, text)
		}
	}
	report, err := r.Check(ctx, repo.CheckOptions{ReadData: true})
	if err != nil || len(report.Problems) > 0 {
		w.t.Errorf("seed %d: check: %v %+v", w.seed, err, report)
	}
}
