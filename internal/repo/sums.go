package repo

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"

	"github.com/slipcover/slipcover/internal/manifest"
)

// leastSegment is less than any segment has as it is stored: a frame of one byte with
// its hash and seek table.
func (r *Repo) leastSegment() int64 {
	least := int64(2*headerSize + sha256.Size + entrySize + footerSize)
	if r.config.Encrypted() {
		least += 150 // an age header for one recipient, the nonce, and the tag of a chunk
	}
	return least
}

// sums are what a record says of its segments for those who can't open the manifest:
// their sizes, and their hashes, each as the hash of a list.
type sums struct {
	bytes         int64
	sizes, hashes hash.Hash
}

func newSums() *sums { return &sums{sizes: sha256.New(), hashes: sha256.New()} }

// add takes the next segment, in the order of sortSegments.
func (s *sums) add(id SegmentID, size int64, sum string) {
	s.bytes += size
	fmt.Fprintf(s.sizes, "%s %d\n", id, size)
	fmt.Fprintf(s.hashes, "%s %s\n", id, sum)
}

func hexOf(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func sortSegments(list []SegmentID) {
	slices.SortFunc(list, func(a, b SegmentID) int {
		return cmp.Or(cmp.Compare(a.Backup, b.Backup), a.N-b.N, cmp.Compare(a.Key, b.Key))
	})
}

// sumUp fills in what rec says of the segments of m.
func sumUp(rec *manifest.Record, m *manifest.Manifest) {
	byID := make(map[SegmentID]manifest.Segment, len(m.Segments))
	for _, s := range m.Segments {
		byID[idOf(s)] = s
	}
	list := make([]SegmentID, 0, len(byID))
	for id := range byID {
		list = append(list, id)
	}
	sortSegments(list)
	all := newSums()
	for _, id := range list {
		all.add(id, byID[id].Size, byID[id].SHA256)
	}
	rec.SegmentBytes, rec.SegmentSizes, rec.SegmentHashes = all.bytes, hexOf(all.sizes), hexOf(all.hashes)
}
