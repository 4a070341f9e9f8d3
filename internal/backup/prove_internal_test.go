package backup

import (
	"fmt"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
)

func TestDoubt(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	ns := func(d time.Duration) int64 { return now.Add(d).UnixNano() }
	old := local{Dev: 1, Ino: 2, Size: 3, MTime: ns(-30 * time.Hour), CTime: ns(-30 * time.Hour), Proven: now.Add(-48 * time.Hour).Unix()}
	recent := old
	recent.CTime = ns(-24*time.Hour - 10*time.Minute)
	with := func(l local, edit func(*local)) local { edit(&l); return l }
	grow := func(l *local) { l.Size++; l.MTime, l.CTime = ns(-time.Hour), ns(-time.Hour) }
	booting := &proofs{booted: true, since: now.Add(-24 * time.Hour), now: now}
	for _, tt := range []struct {
		name    string
		p       *proofs
		was, is local
		want    doubt
	}{
		{"nothing", &proofs{now: now}, old, old, noDoubt},
		{"grown", &proofs{now: now}, old, with(old, grow), noDoubt},
		{"asked", &proofs{now: now, all: asked}, old, old, asked},
		{"device", &proofs{now: now}, old, with(old, func(l *local) { l.Dev++ }), moved},
		{"inode", &proofs{now: now}, old, with(old, func(l *local) { l.Ino++ }), moved},
		{"mtime back", &proofs{now: now}, old, with(old, func(l *local) { l.MTime--; l.CTime++ }), times},
		{"ctime back", &proofs{now: now}, old, with(old, func(l *local) { l.CTime-- }), times},
		{"mtime kept", &proofs{now: now}, old, with(old, func(l *local) { l.Size++; l.CTime++ }), times},
		{"times alone", &proofs{now: now}, old, with(old, func(l *local) { l.MTime++; l.CTime++ }), touched},
		{"time of change alone", &proofs{now: now}, old, with(old, func(l *local) { l.CTime++ }), touched},
		{"booted, at rest", booting, old, old, noDoubt},
		{"booted, grown", booting, old, with(old, grow), booted},
		{"booted, written just before the backup", booting, recent, recent, booted},
		{"not yet due", &proofs{now: now, interval: 97 * time.Hour}, old, old, noDoubt},
		{"due", &proofs{now: now, interval: 48 * time.Hour}, old, old, due},
		{"never due", &proofs{now: now}, with(old, func(l *local) { l.Proven = 0 }), old, noDoubt},
		{"proven in time to come", &proofs{now: now, interval: 48 * time.Hour}, with(old, func(l *local) { l.Proven = now.Add(2 * time.Hour).Unix() }), old, due},
	} {
		if got := tt.p.doubt(name{manifest.DataRoot, "x"}, &tt.was, &tt.is); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Files that were backed up first on one day aren't all read on one day again.
func TestDueIsSpread(t *testing.T) {
	t.Parallel()
	const days, files = 30, 3000
	start := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
	proven := make([]int64, files)
	for i := range proven {
		proven[i] = start.Unix()
	}
	most, age := 0, time.Duration(0)
	for day := 1; day <= 6*days; day++ {
		p := &proofs{now: start.AddDate(0, 0, day), interval: days * 24 * time.Hour}
		n := 0
		for i := range proven {
			age = max(age, p.now.Sub(time.Unix(proven[i], 0)))
			if p.due(name{manifest.DataRoot, fmt.Sprint("shards/", i)}, proven[i]) {
				proven[i] = p.now.Unix()
				n++
			}
		}
		most = max(most, n)
	}
	if most > files/10 || age > days*24*time.Hour {
		t.Errorf("up to %d of %d files on one day, and one was not proven for %s", most, files, age)
	}
}

// A compaction puts another file in the place, which on the disk may have the same
// compacted_seq as before: it is no rollback. One whose sequences went back, or the same
// file with other bytes, is.
func TestOtherTimeline(t *testing.T) {
	t.Parallel()
	at := func(uuid string, seq, compacted uint64) *manifest.File {
		return &manifest.File{Header: &manifest.Header{UUID: uuid, UpdateSeq: seq, CompactedSeq: compacted}}
	}
	for _, tt := range []struct {
		name     string
		was, is  *manifest.File
		sameFile bool
		want     bool
	}{
		{"compacted, nothing written since", at("a", 56, 0), at("a", 56, 0), false, false},
		{"compacted", at("a", 56, 0), at("a", 60, 56), false, false},
		{"the same file, other bytes", at("a", 56, 0), at("a", 56, 0), true, true},
		{"an older copy", at("a", 56, 0), at("a", 50, 0), false, true},
		{"a copy from before a compaction", at("a", 60, 56), at("a", 60, 20), false, true},
		{"another database file", at("a", 56, 0), at("b", 2, 0), true, false},
	} {
		was, is := local{Dev: 1, Ino: 2}, local{Dev: 1, Ino: 2}
		if !tt.sameFile {
			is.Ino = 3
		}
		if got := otherTimeline(&known{file: tt.was, local: was}, is, tt.is); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

// What is known may be of a header before the last tails, which are no part then of what a
// replay rests on.
func TestOlderOf(t *testing.T) {
	t.Parallel()
	f := &manifest.File{
		Extents: []manifest.Extent{{Seg: -1, N: 1000}, {Seg: 4, At: 7, N: 200}, {Seg: -2, N: 500}},
		Replays: []*manifest.Replay{{Size: 1000}, {Size: 500}},
	}
	for _, tt := range []struct {
		size             int64
		extents, replays int // -1 is none
	}{{999, -1, 0}, {1000, 1, 1}, {1100, 2, 1}, {1200, 2, 1}, {1300, -1, 0}, {1700, 3, 2}} {
		o := olderOf(f, knownFile{size: tt.size})
		if o == nil {
			if tt.extents >= 0 {
				t.Errorf("%d bytes: nothing", tt.size)
			}
			continue
		}
		sum := int64(0)
		for _, e := range o.Extents {
			sum += e.N
		}
		if len(o.Extents) != tt.extents || len(o.Replays) != tt.replays || sum != tt.size {
			t.Errorf("%d bytes: %v with %d replays", tt.size, o.Extents, len(o.Replays))
		}
	}
}
