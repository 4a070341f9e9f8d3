package replay

import (
	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// purgeBatches says behind which purge_seqs batches end, as flags, in the pass
// that begins at an offset. A batch's nodes of the purge tree stand in front of
// those of the purge_seq tree, and these end with its last purge.
func (s *shape) purgeBatches(from int64) (flags map[uint64]uint64, err error) {
	flags = map[uint64]uint64{}
	var last uint64 // purge_seq that was seen in the batch
	for c, err := range couchfile.Chunks(s.f.R, from, s.size) {
		if err != nil {
			return nil, err
		}
		if c.IsHeader {
			if last > 0 {
				flags[last], last = purgeCheckpoint, 0
			}
			continue
		}
		node, bySeq, isNode := purgeNode(c)
		switch {
		case !isNode:
			return flags, nil
		case bySeq > 0:
			last = bySeq
		case node && last > 0:
			flags[last], last = purgeEndsBatch, 0
		}
	}
	return flags, nil
}

// purgeNode says whether a chunk is a node, whether a leaf of the purge tree, and
// if it is one of the purge_seq tree, which purge_seq is its last.
func purgeNode(c couchfile.Chunk) (byUUID bool, bySeq uint64, node bool) {
	if c.Flagged {
		return false, 0, false
	}
	t, err := couchfile.Inflate(c.Payload)
	if err != nil {
		return false, 0, false
	}
	rest, ok := erlterm.TupleN(t, 2)
	if !ok {
		return false, 0, false
	}
	if erlterm.IsAtom(rest, "kp_node") {
		return false, 0, true
	}
	leaf := erlterm.IsAtom(rest, "kv_node")
	if _, rest, ok = erlterm.Next(rest); !ok || !leaf {
		return false, 0, false
	}
	entries, ok := erlterm.Elements(rest)
	if !ok || len(entries) == 0 {
		return false, 0, false
	}
	pair, ok := erlterm.Elements(entries[len(entries)-1])
	if !ok || len(pair) != 2 {
		return false, 0, false
	}
	parts, ok := erlterm.Elements(pair[1])
	if !ok || len(parts) != 3 || parts[1].Tag() != erlterm.TagBinary {
		return false, 0, true // of another tree
	}
	seq, _, isSeq := erlterm.Uint(pair[0])
	return !isSeq, seq, true
}
