package couchfile

import (
	"bytes"
	"cmp"
	"iter"
	"slices"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// keyOrder is how the keys of a tree compare.
type keyOrder uint8

const (
	orderBytes keyOrder = iota // binaries, byte by byte
	orderSeq                   // integers
	orderNone                  // view keys: their collation is the server's
)

// Tree is one B-tree at one header.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl.
type Tree struct {
	Root  TreeRoot
	Name  string // "id tree", "seq tree", "local tree", "purge tree" ...
	src   *source
	order keyOrder
}

// Entry is a key and its value as they are stored. Both are valid only until
// the iteration goes on; copy what is needed longer.
type Entry struct {
	Key, Value erlterm.Term
}

// Key is where an iteration starts: an id in the trees by id and by purge
// uuid, a sequence in the others.
type Key struct {
	ID  string
	Seq uint64
}

// maxDepth is more levels than a tree of 2^63 bytes has.
const maxDepth = 64

// node is a decoded B-tree node: its items still lie in the term.
type node struct {
	off, end int64
	leaf     bool
	count    int
	items    []byte // count tuples, then the list's end
}

// nodeReader reads nodes, keeping the buffers of one level of a walk.
type nodeReader struct {
	chunks chunkReader
	inf    inflater
	at     []itemAt
}

// newNodeReader returns a reader of nodes within b.
func newNodeReader(b *budget) *nodeReader {
	return &nodeReader{chunks: chunkReader{src: b.src, budget: b}, inf: inflater{budget: b}}
}

// itemAt says where an item of a node lies in the node's items.
type itemAt struct{ key, value, end uint32 }

// items are the keys and values of a node. They are cut out one by one: a
// slice of entries would take many times the memory of the node.
type items struct {
	b  []byte
	at []itemAt
}

func (s items) len() int { return len(s.at) }

func (s items) key(i int) erlterm.Term {
	a := s.at[i]
	return erlterm.Term(s.b[a.key:a.value:a.value])
}

func (s items) entry(i int) Entry {
	a := s.at[i]
	return Entry{Key: s.key(i), Value: erlterm.Term(s.b[a.value:a.end:a.end])}
}

// read reads and takes apart the node at off.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, get_node.
func (r *nodeReader) read(off int64) (node, error) {
	c, err := r.chunks.readChecked(off, "node")
	if err != nil {
		return node{}, err
	}
	return r.decode(c)
}

func (r *nodeReader) decode(c chunk) (node, error) {
	n := node{off: c.off, end: c.end}
	if more := leastNode - max(c.raw(), leastPiece); more > 0 {
		if err := r.chunks.budget.spend(c.off, "node", more); err != nil {
			return n, err
		}
	}
	t, err := r.inf.term(c.payload)
	if err != nil {
		return n, r.bad(c.off, err)
	}
	rest, ok := erlterm.TupleN(t, 2)
	if !ok {
		return n, r.bad(c.off, errShape)
	}
	name, rest, ok := erlterm.Atom(rest)
	if !ok {
		return n, r.bad(c.off, errShape)
	}
	n.leaf = string(name) == "kv_node"
	if !n.leaf && string(name) != "kp_node" {
		return n, r.bad(c.off, errShape)
	}
	if n.count, n.items, ok = erlterm.List(rest); !ok || n.count == 0 {
		return n, r.bad(c.off, errShape)
	}
	return n, nil
}

// bad is the error of a node that can't be taken apart.
func (r *nodeReader) bad(off int64, cause error) error {
	if err := r.chunks.budget.spend(off, "node", badPiece); err != nil {
		return err
	}
	return corrupt(off, "node", cause)
}

const (
	leastItem = 4 // bytes of the shortest pair
	itemBytes = 12
)

// split finds the node's keys and values.
func (r *nodeReader) split(n node) (items, error) {
	if n.count > len(n.items)/leastItem || len(n.items) > maxTerm {
		return items{}, corrupt(n.off, "node", errShape)
	}
	if grow := n.count - cap(r.at); grow > 0 {
		if err := r.chunks.budget.hold(int64(grow) * itemBytes); err != nil {
			return items{}, corrupt(n.off, "node", err)
		}
		r.at = make([]itemAt, 0, n.count)
	}
	r.at = r.at[:0]
	i := 0
	for range n.count {
		rest, ok := erlterm.TupleN(n.items[i:], 2)
		if !ok {
			return items{}, corrupt(n.off, "node", errShape)
		}
		at := itemAt{key: uint32(len(n.items) - len(rest))}
		k, ok1 := erlterm.Size(rest)
		if !ok1 {
			return items{}, corrupt(n.off, "node", errShape)
		}
		v, ok2 := erlterm.Size(rest[k:])
		if !ok2 {
			return items{}, corrupt(n.off, "node", errShape)
		}
		at.value = at.key + uint32(k)
		at.end = at.value + uint32(v)
		i = int(at.end)
		r.at = append(r.at, at)
	}
	if rest, ok := erlterm.ListEnd(n.items[i:]); !ok || len(rest) != 0 {
		return items{}, corrupt(n.off, "node", errShape)
	}
	return items{n.items, r.at}, nil
}

// walk is one pass over a tree.
type walk struct {
	tree    *Tree
	from    *Key
	reverse bool
	visit   func(Entry) bool
	levels  []*nodeReader
	path    nodePath
	budget  *budget
}

// nodePath are the offsets of the nodes above one. A node among them again is
// one that holds itself.
type nodePath []int64

// enter adds the node at off below depth others.
func (p *nodePath) enter(off int64, depth int) error {
	if depth == maxDepth {
		return errDepth
	}
	if *p = (*p)[:depth]; slices.Contains(*p, off) {
		return errCycle
	}
	*p = append(*p, off)
	return nil
}

// All iterates over the tree in the order of its keys, from the key from on
// (included), or from the first if from is nil; the other way in reverse.
// Errors end the iteration. One iteration reads at most a few times the size
// of the file, and of a sparse file a multiple of the bytes that are there.
func (t *Tree) All(from *Key, reverse bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) { t.all(newBudget(t.src), from, reverse)(yield) }
}

// all is All within a budget.
func (t *Tree) all(b *budget, from *Key, reverse bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := walk{tree: t, from: from, reverse: reverse, budget: b}
		w.visit = func(e Entry) bool { return yield(e, nil) }
		if _, err := w.run(); err != nil {
			yield(Entry{}, err)
		}
	}
}

func (w *walk) run() (more bool, err error) {
	if w.tree.Root.Empty {
		return true, nil
	}
	return w.node(w.tree.Root.Offset, 0)
}

// open reads the node at off, which is valid until another one of its depth is opened.
func (w *walk) open(off int64, depth int) (n node, s items, err error) {
	if err := w.path.enter(off, depth); err != nil {
		return n, s, corrupt(off, w.tree.Name, err)
	}
	if depth == len(w.levels) {
		w.levels = append(w.levels, newNodeReader(w.budget))
	}
	level := w.levels[depth]
	if n, err = level.read(off); err == nil {
		s, err = level.split(n)
	}
	return n, s, err
}

// node visits the subtree at off. more is false once the visitor has enough.
func (w *walk) node(off int64, depth int) (more bool, err error) {
	n, items, err := w.open(off, depth)
	if err != nil {
		return false, err
	}
	if w.reverse {
		return w.backward(n, items, depth)
	}
	return w.forward(n, items, depth)
}

func (w *walk) forward(n node, s items, depth int) (more bool, err error) {
	for i := range s.len() {
		e := s.entry(i)
		before, err := w.before(n.off, e.Key)
		if err != nil {
			return false, err
		}
		if before { // in a kp_node: all keys of the child are
			continue
		}
		if more, err := w.item(n, e, depth); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// backward goes from the last item that may hold a key up to from.
func (w *walk) backward(n node, s items, depth int) (more bool, err error) {
	for i := s.len() - 1; i >= 0; i-- {
		skip := false
		if n.leaf {
			skip, err = w.after(n.off, s.key(i))
		} else if i > 0 { // the child's keys are above the one before it
			skip, err = w.notBefore(n.off, s.key(i-1))
		}
		if err != nil {
			return false, err
		}
		if skip {
			continue
		}
		if more, err := w.item(n, s.entry(i), depth); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (w *walk) item(n node, e Entry, depth int) (more bool, err error) {
	if n.leaf {
		return w.visit(e), nil
	}
	child, err := n.child(e)
	if err != nil {
		return false, err
	}
	return w.node(child.Offset, depth+1)
}

// child is what an entry of a kp_node points to.
func (n node) child(e Entry) (TreeRoot, error) {
	root, ok := parseRoot(e.Value)
	if !ok || root.Empty {
		return root, corrupt(n.off, "kp_node", errShape)
	}
	return root, nil
}

// before says that key lies before the start of a walk.
func (w *walk) before(off int64, key erlterm.Term) (bool, error) {
	c, err := w.compare(off, key)
	return w.from != nil && c < 0, err
}

func (w *walk) after(off int64, key erlterm.Term) (bool, error) {
	c, err := w.compare(off, key)
	return w.from != nil && c > 0, err
}

func (w *walk) notBefore(off int64, key erlterm.Term) (bool, error) {
	c, err := w.compare(off, key)
	return w.from != nil && c >= 0, err
}

// compare orders key against the start of the walk; 0 if there is none.
func (w *walk) compare(off int64, key erlterm.Term) (int, error) {
	if w.from == nil {
		return 0, nil
	}
	switch w.tree.order {
	case orderBytes:
		id, _, ok := erlterm.Binary(key)
		if !ok {
			return 0, corrupt(off, w.tree.Name+" key", errShape)
		}
		return bytes.Compare(id, []byte(w.from.ID)), nil
	case orderSeq:
		seq, _, ok := erlterm.Uint(key)
		if !ok {
			return 0, corrupt(off, w.tree.Name+" key", errShape)
		}
		return cmp.Compare(seq, w.from.Seq), nil
	}
	return 0, nil
}

// IDTree is the tree of documents by id.
func (db *DB) IDTree() *Tree { return db.tree(db.hdr.IDTree, "id tree", orderBytes) }

// SeqTree is the tree of documents by update_seq.
func (db *DB) SeqTree() *Tree { return db.tree(db.hdr.SeqTree, "seq tree", orderSeq) }

// LocalTree is the tree of local documents by id.
func (db *DB) LocalTree() *Tree { return db.tree(db.hdr.LocalTree, "local tree", orderBytes) }

// PurgeTree is the tree of purges by their uuid.
func (db *DB) PurgeTree() *Tree { return db.tree(db.hdr.PurgeTree, "purge tree", orderBytes) }

// PurgeSeqTree is the tree of purges by purge_seq.
func (db *DB) PurgeSeqTree() *Tree { return db.tree(db.hdr.PurgeSeqTree, "purge_seq tree", orderSeq) }

func (db *DB) tree(root TreeRoot, name string, order keyOrder) *Tree {
	return &Tree{Root: root, Name: name, src: db.src, order: order}
}

// IDTree is the tree of document id to the keys the document has in the views.
func (v *View) IDTree() *Tree {
	return &Tree{Root: v.hdr.IDTree, Name: "view id tree", src: v.src, order: orderBytes}
}

// Trees returns the views' trees, in the order of the design document. Their
// keys are {key, document id} in CouchDB's collation, so that iterations can
// only start at either end.
func (v *View) Trees() []*Tree {
	var trees []*Tree
	for _, s := range v.hdr.Views {
		trees = append(trees, &Tree{Root: s.Tree, Name: "view tree", src: v.src, order: orderNone})
	}
	return trees
}
