package repo_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/meter"
)

// check checks the repository, without a key or with it, and with it all data.
func (s *shipping) check(kind string) *repo.CheckReport {
	s.t.Helper()
	r := s.r
	if kind == "names" {
		r = openWith(s.t, s.store)
	}
	report, err := r.Check(s.t.Context(), repo.CheckOptions{ReadData: kind == "data"})
	s.must(err)
	return report
}

// problems are those that were found, as text.
func problems(r *repo.CheckReport) string {
	var out []string
	for _, p := range r.Problems {
		out = append(out, fmt.Sprintf("%s %s: %s", p.Backup, p.Object, p.What))
	}
	return strings.Join(out, "\n")
}

// story ships nine ticks from a backup on, of which the second to the fourth are rolled up to one that refers to one of them, and
// goes on after another backup.
func story(t *testing.T) (s *shipping, roll storage.Key, base manifest.BackupID) {
	s = newShipping(t)
	base = s.backup("10:00")
	s.base = base
	s.begin(base)
	for i := range 9 {
		s.tick(fmt.Sprintf("10:%02d", 1+i))
	}
	a, b := s.ticks[1], s.ticks[3]
	x := &shippedTick{Tick: &manifest.Tick{Instance: instance, Chain: s.chain, First: 2, Last: 4, Prev: a.Prev, End: b.sealed.Segment.SHA256, Since: b.Since, Base: base, Tool: "test"}, data: b.data}
	for _, y := range s.ticks[1:4] {
		x.Times, x.Parts = append(x.Times, y.Times...), append(x.Parts, y.sealed.Segment)
		f := *y.Files[0]
		f.Extents = []manifest.Extent{{Seg: len(x.Parts), N: f.Extents[0].N}}
		x.Files = append(x.Files, &f)
	}
	name := repo.ShipName{Chain: s.chain, First: 2, Last: 4, From: clock(t, "10:02"), To: clock(t, "10:04")}
	s.put(x, name, []byte("x"))
	s.adopt(s.backup("10:20"))
	s.tick("10:21")
	s.tick("10:22")
	return s, storage.Key("ship/" + instance + "/" + name.String() + ".zst.age"), base
}

// TestCheckShipped finds nothing wrong where nothing is, and what is wrong by its name, with what it costs.
func TestCheckShipped(t *testing.T) {
	t.Parallel()
	all := []string{"names", "indexes", "data"}
	flip := func(s *shipping, key storage.Key) {
		b := s.object(key)
		b[len(b)/2] ^= 1
		s.replace(key, b)
	}
	for name, c := range map[string]struct {
		damage func(s *shipping, roll storage.Key, base manifest.BackupID)
		found  []string // by which checks
		object int64    // the tick whose object is named, -1 for the roll-up, 0 for none
		want   string
	}{
		"nothing": {func(*shipping, storage.Key, manifest.BackupID) {}, nil, 0, ""},
		"what a roll-up covers": {func(s *shipping, roll storage.Key, _ manifest.BackupID) {
			s.remove(roll) // its ticks are there still
		}, nil, 0, ""},
		"a tick is gone": {func(s *shipping, _ storage.Key, _ manifest.BackupID) {
			s.remove(s.tickKey(6))
		}, all, 6, "tick 6 of chain CHAIN is missing: moments from 2026-11-22T10:05:00Z to 2026-11-22T10:19:00Z can't be restored; `slipcover copy` brings it back"},
		"the last before a backup is damaged": {func(s *shipping, _ storage.Key, _ manifest.BackupID) {
			flip(s, s.tickKey(9))
		}, all[1:], 9, "damaged.*: moments after 2026-11-22T10:08:00Z can't be restored, but for backups, until the next backup; if another repository has it as it was"},
		"the last is damaged": {func(s *shipping, _ storage.Key, _ manifest.BackupID) {
			flip(s, s.tickKey(11))
		}, all[1:], 11, "damaged.*: moments after 2026-11-22T10:21:00Z can't be restored, but for backups, until the next backup; if"},
		"the first is gone": {func(s *shipping, _ storage.Key, _ manifest.BackupID) {
			s.remove(s.tickKey(1))
			for n := int64(5); n <= 9; n++ {
				s.rollUp(n, n)
			}
		}, all[1:], 0, "those before it are gone: moments from .* to 2026-11-22T10:19:00Z can't be restored"},
		"a roll-up is damaged whose ticks are there": {func(s *shipping, roll storage.Key, _ manifest.BackupID) {
			flip(s, roll)
		}, all[1:], -1, "no moment is lost"},
		"what a roll-up needs is gone": {func(s *shipping, _ storage.Key, _ manifest.BackupID) {
			s.remove(s.tickKey(3))
		}, all[1:], -1, "needs ship/node1/CHAIN/0000000003.zst.age, which is not there: moments from 2026-11-22T10:02:00Z to 2026-11-22T10:19:00Z"},
		"what a roll-up needs is damaged": {func(s *shipping, _ storage.Key, _ manifest.BackupID) {
			flip(s, s.tickKey(3))
		}, all[2:], -1, "needs ship/node1/CHAIN/0000000003.zst.age: .*damaged.*: moments from 2026-11-22T10:02:00Z to 2026-11-22T10:19:00Z"},
		"an object is short": {func(s *shipping, _ storage.Key, _ manifest.BackupID) {
			s.replace(s.tickKey(5), s.object(s.tickKey(5))[:100])
		}, all, 5, "has 100 bytes, less than any segment"},
		"two shippers": {func(s *shipping, _ storage.Key, _ manifest.BackupID) {
			x := *s.ticks[4]
			x.sealed, x.Tool = repo.Sealed{}, "another"
			s.remove(s.tickKey(5))
			s.put(&x, repo.ShipName{Chain: s.chain, First: 5, Last: 5}, x.data[x.Files[0].From:])
		}, all[1:], 6, "tick 6 of chain CHAIN doesn't go on from tick 5.*: moments from 2026-11-22T10:05:00Z to 2026-11-22T10:19:00Z"},
		"the backups are gone": {func(s *shipping, _ storage.Key, base manifest.BackupID) {
			s.remove(storage.Key("backups/" + instance + "/" + string(base) + "/record.jsonl"))
			s.remove(storage.Key("backups/" + instance + "/" + string(s.since) + "/record.jsonl"))
		}, all, 0, "no moment can be restored"},
		"the first backup is gone": {func(s *shipping, _ storage.Key, base manifest.BackupID) {
			for _, r := range [][2]int64{{5, 6}, {7, 8}} {
				s.rollUp(r[0], r[1])
			}
			s.remove(storage.Key("backups/" + instance + "/" + string(base) + "/record.jsonl"))
		}, all[1:], 0, "^[^\n]*\n : tick 5 of chain CHAIN rests on a backup that is gone: moments before 2026-11-22T10:19:00Z can't be restored"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, roll, base := story(t)
			c.damage(s, roll, base)
			for _, kind := range all {
				r := s.check(kind)
				text := problems(r)
				if want := slices.Contains(c.found, kind); want != (len(r.Problems) > 0) && name != "the first backup is gone" && name != "the backups are gone" {
					t.Errorf("%s: found %d problems\n%s", kind, len(r.Problems), text)
				} else if want && !matches(text, strings.ReplaceAll(c.want, "CHAIN", string(s.chain))) && kind != "names" {
					t.Errorf("%s: found\n%s\nwant %s", kind, text, c.want)
				}
				object := ""
				if c.object > 0 {
					object = string(s.tickKey(c.object))
				} else if c.object < 0 {
					object = string(roll)
				}
				if slices.Contains(c.found, kind) && !strings.Contains(text, object) {
					t.Errorf("%s: found\n%s\nwithout %s", kind, text, object)
				}
				if name == "nothing" && (r.Shipped != 12 || r.Moments != 11 || r.ShippedBytes == 0) {
					t.Errorf("%s: %+v", kind, r.ShippedReport)
				}
			}
		})
	}
}

func matches(text, want string) bool { return regexp.MustCompile(want).MatchString(text) }

// TestCheckShippedReadsLittle: without --read-data the indexes are read and nothing else.
func TestCheckShippedReadsLittle(t *testing.T) {
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
	for _, kind := range []string{"names", "indexes", "data"} {
		m := &meter.Meter{}
		r := s.open(t, meter.New(s.store, m))
		if kind == "names" {
			r = openWith(t, meter.New(s.store, m))
		}
		report, err := r.Check(t.Context(), repo.CheckOptions{ReadData: kind == "data"})
		s.must(err)
		read, asked := m.Snapshot().Down, m.Snapshot().Requests()
		t.Logf("%s: %d objects of %d bytes: %d bytes read in %d requests", kind, report.Shipped, report.ShippedBytes, read, asked)
		if len(report.Problems) > 0 || report.Moments != 1000 {
			t.Errorf("%s: %+v", kind, report)
		}
		if kind == "names" && asked > 30 || asked > 1100 || kind != "data" && read > report.ShippedBytes/5 {
			t.Errorf("%s: %d bytes read in %d requests", kind, read, asked)
		}
	}
}
