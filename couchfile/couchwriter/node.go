package couchwriter

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// pair is an entry of a node: the term {key, value}.
type pair struct {
	raw     []byte
	valueAt int32
}

const pairHead = 2 // bytes of a tuple of two before its elements

func newPair(key, value erlterm.Term) pair {
	raw := make([]byte, 0, pairHead+len(key)+len(value))
	raw = append(erlterm.PutTuple(raw, 2), key...)
	return pair{append(raw, value...), int32(pairHead + len(key))}
}

func (p pair) key() erlterm.Term   { return erlterm.Term(p.raw[pairHead:p.valueAt:p.valueAt]) }
func (p pair) value() erlterm.Term { return erlterm.Term(p.raw[p.valueAt:]) }

// termSize is what erlang:external_size says of the pair.
func (p pair) termSize() int { return 1 + len(p.raw) }

func samePair(a, b pair) bool { return bytes.Equal(a.raw, b.raw) }

// node is a node taken apart.
type node struct {
	leaf  bool
	pairs []pair
}

// load reads the node that a state points to.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, get_node.
func (t *Tree) load(state erlterm.Term) (node, error) {
	off, err := stateOffset(state)
	if err != nil {
		return node{}, err
	}
	if n, ok := t.cache.get(off); ok {
		return n, nil
	}
	p, err := t.nodes.Payload(off)
	if err != nil {
		return node{}, err
	}
	term, err := t.inf.Term(p)
	if err != nil {
		return node{}, fmt.Errorf("node at %d: %w", off, err)
	}
	n, ok := parseNode(slices.Clone(term))
	if !ok {
		return node{}, fmt.Errorf("node at %d: %w", off, couchfile.ErrCorrupt)
	}
	t.cache.put(off, n)
	return n, nil
}

func stateOffset(state erlterm.Term) (int64, error) {
	if _, rest, ok := erlterm.Tuple(state); ok {
		if off, _, ok := erlterm.Uint(rest); ok && off < 1<<62 {
			return int64(off), nil
		}
	}
	return 0, fmt.Errorf("pointer to a node: %w", couchfile.ErrCorrupt)
}

func parseNode(term erlterm.Term) (n node, ok bool) {
	rest, ok := erlterm.TupleN(term, 2)
	if !ok {
		return n, false
	}
	n.leaf = erlterm.IsAtom(rest, "kv_node")
	if !n.leaf && !erlterm.IsAtom(rest, "kp_node") {
		return n, false
	}
	if _, rest, ok = erlterm.Next(rest); !ok {
		return n, false
	}
	count, rest, ok := erlterm.List(rest)
	if !ok || count == 0 {
		return n, false
	}
	n.pairs = make([]pair, count)
	for i := range n.pairs {
		if n.pairs[i], rest, ok = parsePair(rest); !ok {
			return n, false
		}
	}
	rest, ok = erlterm.ListEnd(rest)
	return n, ok && len(rest) == 0
}

func parsePair(b []byte) (p pair, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != erlterm.TagSmallTuple {
		return p, nil, false
	}
	rest, ok = erlterm.TupleN(b, 2)
	if !ok {
		return p, nil, false
	}
	k, ok1 := erlterm.Size(rest)
	if !ok1 {
		return p, nil, false
	}
	v, ok2 := erlterm.Size(rest[k:])
	end := pairHead + k + v
	return pair{b[:end:end], int32(pairHead + k)}, b[end:], ok2
}

// rewrite writes what became of an old node: the node itself, if all its
// entries are there still and it is at least half full, with what is new
// before and behind it in nodes of their own.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, write_node/5.
func (t *Tree) rewrite(old pair, leaf bool, was, list []pair) ([]pair, error) {
	if len(was) < 2 {
		return t.write(leaf, list)
	}
	before, ok, err := t.reusable(was, list)
	if err != nil {
		return nil, err
	}
	if !ok {
		return t.write(leaf, list)
	}
	var out []pair
	if before > 0 {
		if out, err = t.write(leaf, list[:before]); err != nil {
			return nil, err
		}
	}
	out = append(out, old)
	if behind := list[before+len(was):]; len(behind) > 0 {
		more, err := t.write(leaf, behind)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// reusable finds the old entries, all and in a row, in the new list. Those
// before them are compared as Erlang terms, whatever the tree's order.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, can_reuse_old_node.
func (t *Tree) reusable(was, list []pair) (before int, ok bool, err error) {
	for before < len(list) {
		c, known := erlterm.Compare(list[before].raw, was[0].raw)
		if !known {
			return 0, false, fmt.Errorf("compare entries of a node: %w", ErrUnpredicted)
		}
		if c >= 0 {
			break
		}
		before++
	}
	if len(list)-before < len(was) {
		return 0, false, nil
	}
	size := 0
	for i, p := range was {
		if !samePair(p, list[before+i]) {
			return 0, false, nil
		}
		size += p.termSize()
	}
	return before, 2*size >= t.opts.ChunkSize, nil
}

// write writes entries as nodes and returns the pointers to them.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, write_node/3 and group_kps.
func (t *Tree) write(leaf bool, list []pair) ([]pair, error) {
	var kps []pair
	for _, part := range t.chunkify(list) {
		t.buf = appendNode(append(t.buf[:0], erlterm.Version), leaf, part)
		t.out = t.opts.Compression.Append(t.out[:0], t.buf)
		stored := t.out
		if t.opts.Node != nil {
			var err error
			if stored, err = t.opts.Node(stored); err != nil {
				return nil, err
			}
		}
		off, size := t.f.Chunk(stored)
		if len(stored) > 0 && &stored[0] == &t.out[0] { // else it is read back
			t.cache.put(off, node{leaf, part})
		}
		kp, err := t.pointer(leaf, part, off, size)
		if err != nil {
			return nil, err
		}
		kps = append(kps, kp)
	}
	return kps, nil
}

// chunkify parts a list into nodes.
func (t *Tree) chunkify(list []pair) [][]pair {
	t.sizes = t.sizes[:0]
	for _, p := range list {
		t.sizes = append(t.sizes, len(p.raw))
	}
	if t.opts.List != nil {
		t.terms = t.terms[:0]
		for _, p := range list {
			t.terms = append(t.terms, p.raw)
		}
		t.opts.List(t.terms)
	}
	t.ends = NodeEnds(t.ends[:0], t.sizes, t.opts.ChunkSize)
	parts := make([][]pair, 0, len(t.ends))
	start := 0
	for _, end := range t.ends {
		parts = append(parts, list[start:end:end])
		start = end
	}
	return parts
}

// NodeEnds appends where the nodes end that a list of entries is written as:
// indexes behind their last ones. sizes are those of the entries' terms, in
// bytes. A single entry that is left over joins the node before.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, chunkify.
func NodeEnds(ends, sizes []int, chunkSize int) []int {
	size := 7 // version, head and end of the list
	for _, n := range sizes {
		size += n
	}
	if size <= chunkSize {
		return append(ends, len(sizes))
	}
	threshold := size / (size/chunkSize + 1)
	start, sum, first := 0, 0, len(ends)
	for i, n := range sizes {
		if n++; n+sum > threshold && i > start { // with a version of its own
			ends = append(ends, i+1)
			start, sum = i+1, 0
		} else {
			sum += n
		}
	}
	switch left := len(sizes) - start; {
	case left == 1 && len(ends) > first:
		ends[len(ends)-1]++
	case left > 0:
		ends = append(ends, len(sizes))
	}
	return ends
}

func appendNode(dst []byte, leaf bool, list []pair) []byte {
	dst = erlterm.PutTuple(dst, 2)
	if leaf {
		dst = erlterm.PutAtom(dst, "kv_node")
	} else {
		dst = erlterm.PutAtom(dst, "kp_node")
	}
	dst = erlterm.PutListHead(dst, len(list))
	for _, p := range list {
		dst = append(dst, p.raw...)
	}
	return append(dst, erlterm.TagNil)
}

// pointerSize is what most pointers have beside their key, in bytes.
const pointerSize = 64

// pointer is {last key, {offset, reduction, bytes}} of a node that was written.
func (t *Tree) pointer(leaf bool, list []pair, off, size int64) (pair, error) {
	key := list[len(list)-1].key()
	raw := append(erlterm.PutTuple(make([]byte, 0, len(key)+pointerSize), 2), key...)
	p := pair{valueAt: int32(len(raw))}
	raw = erlterm.PutTuple(raw, 3)
	raw = erlterm.PutInt(raw, off)
	var err error
	if leaf {
		t.entries = t.entries[:0]
		for _, p := range list {
			t.entries = append(t.entries, couchfile.Entry{Key: p.key(), Value: p.value()})
		}
		if raw, err = t.opts.Reducer.Reduce(raw, t.entries); err != nil {
			return p, err
		}
		p.raw = erlterm.PutInt(raw, size)
		return p, nil
	}
	t.reds = t.reds[:0]
	for _, kp := range list {
		red, below, ok := parseState(kp.value())
		if !ok {
			return p, fmt.Errorf("pointer in a node: %w", couchfile.ErrCorrupt)
		}
		t.reds = append(t.reds, red)
		if below < 0 || size < 0 {
			size = -1
		} else {
			size += below
		}
	}
	if raw, err = t.opts.Reducer.Rereduce(raw, t.reds); err != nil {
		return p, err
	}
	if size < 0 { // a child was written before sizes were kept
		p.raw = erlterm.PutAtom(raw, "nil")
		return p, nil
	}
	p.raw = erlterm.PutInt(raw, size)
	return p, nil
}

// parseState takes {offset, reduction, bytes} apart; bytes are -1 if they are
// not known.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, reduce_tree_size.
func parseState(state erlterm.Term) (reduction erlterm.Term, size int64, ok bool) {
	n, rest, ok := erlterm.Tuple(state)
	if !ok || n < 2 || n > 3 {
		return nil, 0, false
	}
	if _, rest, ok = erlterm.Next(rest); !ok {
		return nil, 0, false
	}
	if reduction, rest, ok = erlterm.Next(rest); !ok || n == 2 {
		return reduction, -1, ok
	}
	v, _, ok := erlterm.Uint(rest)
	if !ok || v > 1<<62 {
		return reduction, -1, erlterm.IsAtom(rest, "nil")
	}
	return reduction, int64(v), true
}

// nodeCache keeps the nodes that were used last: two generations of at most so
// many each.
type nodeCache struct {
	young, old map[int64]node
	most       int
}

const cacheNodes = 256

func (c *nodeCache) get(off int64) (node, bool) {
	if n, ok := c.young[off]; ok {
		return n, true
	}
	n, ok := c.old[off]
	if ok {
		c.put(off, n)
	}
	return n, ok
}

func (c *nodeCache) put(off int64, n node) {
	if c.young == nil || len(c.young) >= c.most {
		c.young, c.old = map[int64]node{}, c.young
	}
	c.young[off] = n
}
