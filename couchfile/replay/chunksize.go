package replay

import (
	"errors"
	"math"
	"math/bits"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// btree_chunk_size is not in the file, but a first pass cut leaves by it: those
// of the id tree out of lists of 1001 documents, those of the seq tree out of
// batches. A value that cuts the same leaves is taken: the default if it does,
// else the roundest.

const (
	idBatch    = 1001
	mostLeaves = 8 * idBatch // entries that are looked at
	mostChunk  = 1 << 20     // the largest value that is looked for
	manyChunks = 4096        // values that are tried
)

// findChunkSize finds the value by the trees of the first pass.
func (s *shape) findChunkSize(chunks *couchfile.ChunkReader, head couchfile.Header) (int, error) {
	ids, seqs := &leaves{chunks: chunks}, &leaves{chunks: chunks, extents: true}
	for root, l := range map[int64]*leaves{head.IDTree.Offset: ids, head.SeqTree.Offset: seqs} {
		if root <= 0 {
			return couchwriter.DefaultChunkSize, nil
		}
		if err := l.node(root, 0); err != nil && !errors.Is(err, errEnough) {
			return 0, err
		}
	}
	for end := idBatch; end < len(ids.sizes); end += idBatch {
		ids.lists = append(ids.lists, end)
	}
	seqs.findBatches()
	for _, l := range []*leaves{ids, seqs} {
		if len(l.sizes) <= mostLeaves {
			l.lists = append(l.lists, len(l.sizes)) // all of the tree
		}
	}
	if ids.cutBy(couchwriter.DefaultChunkSize) && seqs.cutBy(couchwriter.DefaultChunkSize) {
		return couchwriter.DefaultChunkSize, nil
	}
	for _, size := range ids.candidates() {
		if ids.cutBy(size) && seqs.cutBy(size) {
			return size, nil
		}
	}
	return couchwriter.DefaultChunkSize, nil
}

// leaves are the first leaves of a tree.
type leaves struct {
	chunks  *couchfile.ChunkReader
	extents bool  // are to be found
	sizes   []int // of the entries' terms
	ends    []int // of leaves, in the same list
	lists   []int // of which the leaves were made: their ends, too

	starts, stops []int64 // of the documents of the entries, if extents
}

var errEnough = errors.New("enough leaves")

// node adds the leaves at and below a node.
func (c *leaves) node(off int64, depth int) error {
	t, err := c.chunks.Term(off)
	if err != nil {
		return err
	}
	rest, ok := erlterm.TupleN(slices.Clone(t), 2)
	if !ok || depth > 64 {
		return damaged("node of a tree")
	}
	leaf := erlterm.IsAtom(rest, "kv_node")
	if _, rest, ok = erlterm.Next(rest); !ok {
		return damaged("node of a tree")
	}
	pairs, ok := erlterm.Elements(rest)
	if !ok || len(pairs) == 0 {
		return damaged("node of a tree")
	}
	for _, p := range pairs {
		if leaf {
			if err := c.add(p); err != nil {
				return err
			}
		} else if err := c.below(p, depth); err != nil {
			return err
		}
	}
	if leaf {
		c.ends = append(c.ends, len(c.sizes))
		if len(c.sizes) > mostLeaves {
			return errEnough
		}
	}
	return nil
}

// add adds an entry of a leaf.
func (c *leaves) add(entry erlterm.Term) error {
	c.sizes = append(c.sizes, len(entry))
	if !c.extents {
		return nil
	}
	pair, ok := erlterm.Elements(entry)
	if !ok || len(pair) != 2 {
		return damaged("entry of a tree")
	}
	r, err := couchwriter.ParseRecord(couchfile.Entry{Key: pair[0], Value: pair[1]})
	if err != nil {
		return err
	}
	r.Copied()
	start, stop, err := extentOf(r)
	c.starts, c.stops = append(c.starts, start), append(c.stops, stop)
	return err
}

// findBatches says where batches of documents end.
func (c *leaves) findBatches() {
	n := len(c.starts)
	after := make([]int64, n) // the least start behind each
	for i, least := n-1, int64(math.MaxInt64); i >= 0; i-- {
		after[i], least = least, min(least, c.starts[i])
	}
	stop := int64(0)
	for i := range n - min(n, 1) {
		if stop = max(stop, c.stops[i]); after[i] > stop {
			c.lists = append(c.lists, i+1)
		}
	}
}

// below adds the leaves below {key, {offset, reduction, bytes}}.
func (c *leaves) below(pointer erlterm.Term, depth int) error {
	pair, ok := erlterm.Elements(pointer)
	if !ok || len(pair) != 2 {
		return damaged("pointer of a tree")
	}
	_, rest, ok := erlterm.Tuple(pair[1])
	if !ok {
		return damaged("pointer of a tree")
	}
	off, _, ok := erlterm.Uint(rest)
	if !ok || off > 1<<62 {
		return damaged("pointer of a tree")
	}
	return c.node(int64(off), depth+1)
}

// cutBy says whether a chunk size makes all these leaves, but for the last
// ones, which the next list may have changed.
func (c *leaves) cutBy(size int) bool {
	var ends, part []int
	start := 0
	for _, to := range c.lists {
		part = couchwriter.NodeEnds(part[:0], c.sizes[start:to], size)
		last := start
		for _, end := range part[:len(part)-1] {
			ends = append(ends, start+end)
			last = ends[len(ends)-1]
		}
		if n := to - last; n >= 2 && 2*(sum(c.sizes[last:to])+n) >= size { // the leaf is kept
			ends, last = append(ends, to), to
		}
		start = last
	}
	n := min(len(ends), len(c.ends)-1)
	return n <= 0 || slices.Equal(ends[:n], c.ends[:n])
}

func sum(list []int) (n int) {
	for _, v := range list {
		n += v
	}
	return n
}

// candidates are the values that cut the first list as it is, the roundest
// first.
func (c *leaves) candidates() (out []int) {
	list := c.sizes[:c.lists[0]]
	total := 7 + sum(list)
	from, to := 1, total // the threshold's bounds, the second one outside
	start := 0
	for _, end := range c.ends[:max(0, len(c.ends)-1)] {
		if end >= len(list) {
			break
		}
		n := sum(c.sizes[start:end]) + end - start
		if to = min(to, n); end-start > 2 {
			from = max(from, n-c.sizes[end-1]-1)
		}
		start = end
	}
	for nodes := total/to + 1; nodes <= total/from && len(out) < manyChunks; nodes++ {
		// of sizes for which total / size + 1 is nodes
		for size := total/nodes + 1; size <= min(total/max(nodes-1, 1), mostChunk) && len(out) < manyChunks; size++ {
			out = append(out, size)
		}
	}
	slices.SortStableFunc(out, func(a, b int) int { return roundness(b) - roundness(a) })
	return out
}

// roundness is the largest power of 2 or 10 that divides n.
func roundness(n int) int {
	tens := 1
	for n%(tens*10) == 0 {
		tens *= 10
	}
	return max(tens, 1<<bits.TrailingZeros(uint(n)))
}
