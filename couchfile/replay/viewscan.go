package replay

import (
	"bytes"
	"iter"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// A compaction of an index writes a header without trees, then tree by tree, the
// one by id first, and the header at which the server takes the file into use. A
// tree is written in batches of rows, each of which appends leaves and then the
// inner nodes above them. What the file has in that order shows where batches end,
// and what the reduce functions gave.

// viewNode is a node of a batch.
type viewNode struct {
	off      int64
	rows     []couchfile.Entry // of a leaf
	children []viewChild       // of an inner node
	red      erlterm.Term      // what the pointer to it says; nil if there is none
}

// viewChild is a pointer in an inner node.
type viewChild struct {
	off int64
	red erlterm.Term
}

// viewBatch is what one addition of rows wrote.
type viewBatch struct {
	leaves, inner []*viewNode // in the order of the file

	begins bool // a tree
	again  int  // rows of the batch before that stand in its first leaves once more
}

func (b *viewBatch) start() int64 { return b.leaves[0].off }

// root is the last node of the batch.
func (b *viewBatch) root() *viewNode {
	if len(b.inner) > 0 {
		return b.inner[len(b.inner)-1]
	}
	return b.leaves[len(b.leaves)-1]
}

// rows are the new rows.
func (b *viewBatch) rows() []couchfile.Entry {
	n := 0
	for _, l := range b.leaves {
		n += len(l.rows)
	}
	out := make([]couchfile.Entry, 0, n)
	for _, l := range b.leaves {
		out = append(out, l.rows...)
	}
	return out[b.again:]
}

// viewScan reads the batches of a compacted index in the order of the file, up
// to the first header behind them.
type viewScan struct {
	next func() (couchfile.Chunk, error, bool)
	stop func()
	inf  couchfile.Inflater

	held        *viewNode // the first one of the next batch
	first       bool      // no node was read yet
	ended       bool
	compression couchwriter.Compression // of the first node
	singles     []*viewBatch            // trees of one leaf that stand before the batch that was read

	treeStart int64      // of the tree of the batch before
	last      *viewBatch // the batch before
}

// scanView begins behind the first header.
func scanView(f File, from int64) *viewScan {
	s := &viewScan{first: true}
	s.next, s.stop = iter.Pull2(couchfile.Chunks(f.R, from, f.Size))
	return s
}

// batch is the next batch; nil if a header follows.
func (s *viewScan) batch() (*viewBatch, error) {
	if len(s.singles) == 0 {
		if err := s.read(); err != nil {
			return nil, err
		}
	}
	if len(s.singles) == 0 {
		return nil, nil
	}
	b := s.singles[0]
	s.singles = s.singles[1:]
	return b, s.place(b)
}

// read reads leaves and what stands above them. Leaves in front to which nothing
// points are trees by themselves.
func (s *viewScan) read() error {
	b := &viewBatch{}
	for !s.ended {
		n, err := s.node()
		if err != nil {
			return err
		}
		if n == nil {
			s.ended = true
			break
		}
		if n.children != nil {
			b.inner = append(b.inner, n)
			continue
		}
		if len(b.inner) > 0 {
			s.held = n
			break
		}
		b.leaves = append(b.leaves, n)
	}
	if len(b.leaves) == 0 {
		if len(b.inner) > 0 {
			return notReplayed("an inner node at %d without leaves in front of it", b.inner[0].off)
		}
		return nil
	}
	b.reductions()
	for len(b.leaves) > 0 && (len(b.inner) == 0 || b.leaves[0].red == nil) {
		s.singles = append(s.singles, &viewBatch{leaves: b.leaves[:1:1]})
		b.leaves = b.leaves[1:]
	}
	switch {
	case len(b.leaves) > 0:
		s.singles = append(s.singles, b)
	case len(b.inner) > 0:
		return notReplayed("an inner node at %d without leaves in front of it", b.inner[0].off)
	}
	return nil
}

// reductions gives each node what the pointer to it says.
func (b *viewBatch) reductions() {
	said := map[int64]erlterm.Term{}
	for _, n := range b.inner {
		for _, c := range n.children {
			said[c.off] = c.red
		}
	}
	for _, list := range [][]*viewNode{b.leaves, b.inner} {
		for _, n := range list {
			n.red = said[n.off]
		}
	}
}

// place finds out how a batch continues the one before.
func (s *viewScan) place(b *viewBatch) error {
	before := s.last
	s.last, b.begins = b, true
	var oldest = b.start()
	for _, n := range b.inner {
		for _, c := range n.children {
			oldest = min(oldest, c.off)
			if before != nil && c.off == before.root().off {
				before.root().red = c.red
			}
		}
	}
	if oldest == b.start() {
		s.treeStart = oldest
		return nil
	}
	b.begins = false
	if before == nil || oldest < s.treeStart {
		return notReplayed("nodes from %d on that no compaction wrote in this order", b.start())
	}
	was := before.leaves[len(before.leaves)-1].rows
	if !bytes.Equal(was[0].Key, b.leaves[0].rows[0].Key) {
		return nil
	}
	b.again = len(was)
	n := 0
	for _, l := range b.leaves {
		n += len(l.rows)
	}
	if n <= b.again {
		return notReplayed("a batch at %d without rows", b.start())
	}
	return nil
}

// node reads the next node; nil if a header follows.
func (s *viewScan) node() (*viewNode, error) {
	if n := s.held; n != nil {
		s.held = nil
		return n, nil
	}
	c, err, ok := s.next()
	if err != nil {
		return nil, err
	}
	if !ok || c.IsHeader {
		return nil, nil
	}
	if c.Flagged || len(c.Payload) == 0 {
		return nil, notReplayed("what stands at %d is no node of an index", c.Offset)
	}
	if s.first {
		s.first = false
		switch c.Payload[0] {
		case 1:
			s.compression = couchwriter.Snappy
		case erlterm.Version:
			s.compression = couchwriter.None
			if len(c.Payload) > 1 && c.Payload[1] == 80 {
				return nil, notReplayed("nodes that deflate compressed")
			}
		default:
			return nil, notReplayed("nodes that are compressed in another way than with snappy")
		}
	}
	t, err := s.inf.Term(c.Payload)
	if err != nil {
		return nil, err
	}
	n, ok := parseViewNode(bytes.Clone(t))
	if !ok {
		return nil, notReplayed("what stands at %d is no node of an index", c.Offset)
	}
	n.off = c.Offset
	return n, nil
}

func parseViewNode(t erlterm.Term) (*viewNode, bool) {
	rest, ok := erlterm.TupleN(t, 2)
	if !ok {
		return nil, false
	}
	leaf := erlterm.IsAtom(rest, "kv_node")
	if !leaf && !erlterm.IsAtom(rest, "kp_node") {
		return nil, false
	}
	_, rest, _ = erlterm.Next(rest)
	count, rest, ok := erlterm.List(rest)
	if !ok || count == 0 {
		return nil, false
	}
	n := &viewNode{}
	for range count {
		var key, value erlterm.Term
		var ok1, ok2 bool
		rest, ok = erlterm.TupleN(rest, 2)
		if ok {
			key, rest, ok1 = erlterm.Next(rest)
		}
		if ok1 {
			value, rest, ok2 = erlterm.Next(rest)
		}
		if !ok2 {
			return nil, false
		}
		if leaf {
			n.rows = append(n.rows, couchfile.Entry{Key: key, Value: value})
			continue
		}
		state, ok := erlterm.Elements(value)
		if !ok || len(state) < 2 {
			return nil, false
		}
		off, _, ok := erlterm.Uint(state[0])
		if !ok || off > 1<<62 {
			return nil, false
		}
		n.children = append(n.children, viewChild{off: int64(off), red: state[1]})
	}
	return n, true
}
