package replay

import (
	"bytes"
	"errors"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// btree_chunk_size is not in the file. Where a node of a tail is another one than was
// predicted, its entries mostly tell by which sizes the list was cut that was to be
// written there, or whether half of the size was more than an old node has.

// cutSizes is what is known of the size that nodes are cut by.
type cutSizes struct {
	entries [][]byte // of the list that is being written
	nodes   int      // of these, which were told of

	least, most int  // those that make all nodes so far as they are, or 0
	news        bool // since next
	tries       int
}

// cutTries is how often in a tail another size is tried.
const cutTries = 24

// list is told of each list.
func (c *cutSizes) list(entries [][]byte) { c.entries, c.nodes = entries, 0 }

// next is the size that is to be tried next, or 0 if there is no reason to.
func (c *cutSizes) next(was int) int {
	news := c.news
	if c.news = false; !news || c.tries == cutTries {
		return 0
	}
	c.tries++
	least, most := c.least, c.most
	switch {
	case most >= mostChunk:
		most = 2 * least
	default:
		least = max(least, most/2)
	}
	if size := roundest(least, most); size != was {
		return size
	}
	return 0
}

// between notes which sizes there can be, if what was taken is none of them. If they are
// none of those before, the server has another setting now.
func (c *cutSizes) between(least, most, was int) {
	if least <= was && was <= most {
		return
	}
	if c.news = true; max(least, c.least) <= min(most, c.most) {
		least, most = max(least, c.least), min(most, c.most)
	}
	c.least, c.most = least, most
}

// otherList notes what follows from a node of another list than the one that is being
// written: an old node was kept, or was not. Else it is that the node has so many bytes of
// entries without its last two, the second of which may have been left over.
func (c *cutSizes) otherList(node [][]byte, was int) {
	kept := func(list [][]byte) int { return 2 * (bytesOf(list) + len(list)) } // as in couchwriter, reusable
	before, more := len(c.entries)-len(node), len(node)-len(c.entries)
	switch {
	case before > 0 && slices.EqualFunc(node, c.entries[before:], bytes.Equal):
		c.between(1, kept(c.entries[:before]), was)
	case more > 0 && slices.EqualFunc(node[more:], c.entries, bytes.Equal):
		c.between(kept(node[:more])+1, mostChunk, was)
	default:
		c.between(bytesOf(node[:max(0, len(node)-2)])+1, mostChunk, was)
	}
}

func bytesOf(list [][]byte) (n int) {
	for _, e := range list {
		n += len(e)
	}
	return n
}

// cutRange is the least and the largest size that cut entries of such sizes so, or 0.
func cutRange(sizes, ends []int) (least, most int) {
	total := 7 + sum(sizes) // as in couchwriter.NodeEnds
	if len(ends) == 1 {
		return total, mostChunk
	}
	var got []int
	for k := len(ends) - 1; k <= 2*len(ends); k++ { // of the sizes for which total / size is k
		from, to := total/(k+1)+1, min(total/k, total-1)
		if got = couchwriter.NodeEnds(got[:0], sizes, to); from > to || !slices.Equal(got, ends) {
			continue
		}
		if least = from; most == 0 {
			most = to
		}
	}
	return least, most
}

// roundest is the roundest number in a range, or the default if that is there, too.
func roundest(least, most int) int {
	if least <= couchwriter.DefaultChunkSize && couchwriter.DefaultChunkSize <= most {
		return couchwriter.DefaultChunkSize
	}
	best, round := least, 1
	for _, base := range []int{2, 10} {
		for p := base; p <= most; p *= base {
			if n := (least + p - 1) / p * p; n <= most && p > round {
				best, round = n, p
			}
		}
	}
	return best
}

// learn looks at how the list was cut whose next node stands at off.
func (f *finder) learn(off int64) error {
	cut := &f.e.cut
	was := f.e.m.set.chunkSize
	var sizes []int
	for _, e := range cut.entries {
		sizes = append(sizes, len(e))
	}
	ends := couchwriter.NodeEnds(nil, sizes, was)
	ends = ends[:min(cut.nodes, len(ends))-1] // those that were right
	at := 0
	if len(ends) > 0 {
		at = ends[len(ends)-1]
	}
	n := 0
	for chunk, err := range couchfile.Chunks(f.e.f.R, off, f.to) {
		if n++; errors.Is(err, couchfile.ErrCorrupt) || n > lookAhead {
			return nil
		}
		if err != nil {
			return err
		}
		node := f.e.entriesOf(chunk)
		if node == nil {
			continue
		}
		if at+len(node) > len(sizes) || !slices.EqualFunc(node, cut.entries[at:at+len(node)], bytes.Equal) {
			cut.otherList(node, was)
			return nil
		}
		at += len(node)
		if ends = append(ends, at); at == len(sizes) {
			if least, most := cutRange(sizes, ends); least > 0 {
				cut.between(least, most, was)
			}
			return nil
		}
	}
	return nil
}

// entriesOf are the entries of a node, valid until the next one; nil if the chunk is none.
func (e *tailEncoder) entriesOf(c couchfile.Chunk) (entries [][]byte) {
	if !e.isNode(c) {
		return nil
	}
	term, err := e.inf.Term(c.Payload)
	if err != nil {
		return nil
	}
	rest, _ := erlterm.TupleN(term, 2)
	if _, rest, ok := erlterm.Next(rest); ok {
		terms, _ := erlterm.Elements(rest)
		for _, t := range terms {
			entries = append(entries, t)
		}
	}
	return entries
}
