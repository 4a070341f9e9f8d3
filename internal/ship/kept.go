package ship

import (
	"slices"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/state"
)

// What a roll-up of the long level has, or refers to, no later one deletes: a backup may refer to it instead of storing
// it once more. The journal says where that is, as far as it pays.

const (
	// leastKept is how much content a range has at least that a backup refers to, in bytes: for less it would keep an
	// object that may have other things too.
	leastKept = 1 << 20
	// mostKept is how many ranges are noted at most; backups read the older ones again.
	mostKept = 10_000
)

// keep notes what a roll-up of the long level has for the next backup. What a compaction wrote is no such range: it
// rests on what is in other objects. Nor is the shard map, which a backup looks into, and a damaged file, so that a backup
// tells of that.
func (s *Shipper) keep(made *link) {
	for i, f := range made.tick.Files {
		was := made.was[i]
		if f.Kind != manifest.Shard || f.Header == nil || f.Content() < leastKept || made.locals[i].Unsound || f.From > 0 && (was == nil || was.File.Size != f.From) ||
			slices.ContainsFunc(f.Replays, func(r *manifest.Replay) bool { return r.Older != nil }) {
			continue
		}
		k := state.Kept{File: new(manifest.File), Local: made.locals[i]}
		*k.File = f.File
		if f.From > 0 {
			k.Was = was.File
		}
		numbers := map[int]int{}
		k.File.Extents, k.File.Replays = manifest.Renumbered(f.Extents, f.Replays, func(seg int) int {
			n, ok := numbers[seg]
			if !ok {
				n = len(k.Parts)
				numbers[seg] = n
				if seg == 0 {
					k.Parts = append(k.Parts, made.segment)
				} else {
					k.Parts = append(k.Parts, made.tick.Parts[seg-1])
				}
			}
			return n
		})
		s.kept = append(s.kept, k)
	}
	s.kept = s.kept[max(0, len(s.kept)-mostKept):]
}

// forget drops what a backup has taken over, or has read, and what is of files that aren't there any more.
func (s *Shipper) forget(base *state.State) {
	s.kept = slices.DeleteFunc(s.kept, func(k state.Kept) bool {
		nm := capture.Name{Root: k.File.Root, Path: k.File.Path}
		is, b := s.files[nm], base.Files[nm]
		return is == nil || is.File.Generation != k.File.Generation ||
			b != nil && b.File.Generation == k.File.Generation && b.File.Size >= k.File.Size
	})
}
