package capture

import (
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
)

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
		was, is := Local{Dev: 1, Ino: 2}, Local{Dev: 1, Ino: 2}
		if !tt.sameFile {
			is.Ino = 3
		}
		if got := otherTimeline(&Known{File: tt.was, Local: was}, &is, tt.is); got != tt.want {
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
