package repo

import (
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"

	"github.com/slipcover/slipcover/internal/manifest"
)

// Whoever may write to the storage, or sign records, can say in a few bytes what takes
// gigabytes to hold: what is here keeps the memory for it in proportion to what is stored.

// The content of a manifest has at most manifestRatio bytes for each stored one, and
// manifestFree more. That of real ones has some 4, as each file brings hashes of its own, and
// 110 where all that is said of 100,000 files is why they were left out.
const (
	manifestRatio = 256
	manifestFree  = 8 << 20
)

// manifestBound returns how many bytes of content a manifest of stored bytes may have.
func manifestBound(stored int64) int64 { return min(maxManifest, manifestFree+manifestRatio*stored) }

// paddingMagic begins the skippable frame of zeros behind a manifest that is far
// smaller than its content.
const paddingMagic = 0x184D2A50

// pad writes to w, which has taken all of a manifest's zstd bytes, what is missing for
// readers to take text bytes of content.
func pad(w *counted, text int64) error {
	missing := (text-manifestFree+manifestRatio-1)/manifestRatio - w.n
	if missing <= 0 {
		return nil
	}
	n := int(max(0, missing-headerSize))
	_, err := w.Write(append(skippable(paddingMagic, n), make([]byte, n)...))
	return err
}

// counted counts the bytes on their way to w.
type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// bounded gives less than left bytes of r; where there are more it is an error.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("%w: it decompresses to more than %d times its size", ErrCorrupt, manifestRatio)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// maxUnlisted is how many segments at most a late listing is taken to hide.
const maxUnlisted = 10_000

// deletedAtOnce is for how many segments memory is made at once while a plan is
// carried out.
const deletedAtOnce = 10_000

// each goes through segments one by one. A forged record or plan may name billions:
// who wants a list takes present.
func each(refs map[manifest.BackupID][]manifest.Range) iter.Seq[SegmentID] {
	return func(yield func(SegmentID) bool) {
		for id, ranges := range refs {
			for _, g := range ranges {
				for n := g[0]; n <= g[1]; n++ {
					if !yield(SegmentID{Backup: id, N: n}) {
						return
					}
				}
			}
		}
	}
}

// eachOf goes through all objects that a record names beside its manifest.
func eachOf(rec *manifest.Record) iter.Seq[SegmentID] {
	return func(yield func(SegmentID) bool) {
		for s := range each(rec.Segments) {
			if !yield(s) {
				return
			}
		}
		for _, name := range rec.Shipped {
			if !yield(shippedID(name)) {
				return
			}
		}
	}
}

// names reports whether refs, which passed checkRanges, name s, a segment of a backup.
func names(refs map[manifest.BackupID][]manifest.Range, s SegmentID) bool {
	ranges := refs[s.Backup]
	i := sort.Search(len(ranges), func(i int) bool { return ranges[i][1] >= s.N })
	return s.Key == "" && i < len(ranges) && ranges[i][0] <= s.N
}

// recordNames reports whether rec names s.
func recordNames(rec *manifest.Record, s SegmentID) bool {
	if s.Key != "" {
		_, ok := slices.BinarySearch(rec.Shipped, s.Key)
		return ok
	}
	return names(rec.Segments, s)
}

// namedBy returns a function that reports whether rec names a segment; nil names none.
func namedBy(rec *manifest.Record) func(SegmentID) bool {
	return func(s SegmentID) bool { return rec != nil && recordNames(rec, s) }
}

// presentOf lists the objects that a record names beside its manifest, of those in stored.
func presentOf[V any](rec *manifest.Record, stored map[SegmentID]V) []SegmentID {
	out := present(rec.Segments, stored)
	for _, name := range rec.Shipped {
		if s := shippedID(name); has(stored, s) {
			out = append(out, s)
		}
	}
	return out
}

func has[V any](stored map[SegmentID]V, s SegmentID) bool {
	_, ok := stored[s]
	return ok
}

// present lists those of refs that are in stored.
func present[V any](refs map[manifest.BackupID][]manifest.Range, stored map[SegmentID]V) []SegmentID {
	var out []SegmentID
	if manifest.CountRefs(refs) > int64(len(stored)) {
		for s := range stored {
			if names(refs, s) {
				out = append(out, s)
			}
		}
		return out
	}
	for s := range each(refs) {
		if has(stored, s) {
			out = append(out, s)
		}
	}
	return out
}
