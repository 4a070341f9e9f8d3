package couchfile

import (
	"bytes"
	"cmp"
	"iter"

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
	items  []Entry
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
	t, err := r.inf.term(c.payload)
	if err != nil {
		return n, corrupt(c.off, "node", err)
	}
	rest, ok := erlterm.TupleN(t, 2)
	if !ok {
		return n, corrupt(c.off, "node", errShape)
	}
	name, rest, ok := erlterm.Atom(rest)
	if !ok {
		return n, corrupt(c.off, "node", errShape)
	}
	n.leaf = string(name) == "kv_node"
	if !n.leaf && string(name) != "kp_node" {
		return n, corrupt(c.off, "node", errShape)
	}
	if n.count, n.items, ok = erlterm.List(rest); !ok || n.count == 0 {
		return n, corrupt(c.off, "node", errShape)
	}
	return n, nil
}

// split cuts the node's items into keys and values.
func (r *nodeReader) split(n node) ([]Entry, error) {
	r.items = r.items[:0]
	rest := n.items
	for range n.count {
		var e Entry
		var ok bool
		if rest, ok = erlterm.TupleN(rest, 2); !ok {
			return nil, corrupt(n.off, "node", errShape)
		}
		if e.Key, rest, ok = erlterm.Next(rest); !ok {
			return nil, corrupt(n.off, "node", errShape)
		}
		if e.Value, rest, ok = erlterm.Next(rest); !ok {
			return nil, corrupt(n.off, "node", errShape)
		}
		r.items = append(r.items, e)
	}
	if rest, ok := erlterm.ListEnd(rest); !ok || len(rest) != 0 {
		return nil, corrupt(n.off, "node", errShape)
	}
	return r.items, nil
}

// walk is one pass over a tree.
type walk struct {
	tree    *Tree
	from    *Key
	reverse bool
	visit   func(Entry) bool
	levels  []*nodeReader
	budget  int64 // bytes of nodes that may still be read: a tree fits its file
}

// All iterates over the tree in the order of its keys, from the key from on
// (included), or from the first if from is nil; the other way in reverse.
// Errors end the iteration.
func (t *Tree) All(from *Key, reverse bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := walk{tree: t, from: from, reverse: reverse, budget: t.src.size}
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

// node visits the subtree at off. more is false once the visitor has enough.
func (w *walk) node(off int64, depth int) (more bool, err error) {
	if depth == maxDepth {
		return false, corrupt(off, w.tree.Name, errDepth)
	}
	if depth == len(w.levels) {
		w.levels = append(w.levels, &nodeReader{chunks: chunkReader{src: w.tree.src}})
	}
	level := w.levels[depth]
	n, err := level.read(off)
	if err != nil {
		return false, err
	}
	if w.budget -= n.end - n.off; w.budget < 0 {
		return false, corrupt(off, w.tree.Name, errCycle)
	}
	items, err := level.split(n)
	if err != nil {
		return false, err
	}
	if w.reverse {
		return w.backward(n, items, depth)
	}
	return w.forward(n, items, depth)
}

func (w *walk) forward(n node, items []Entry, depth int) (more bool, err error) {
	for _, e := range items {
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
func (w *walk) backward(n node, items []Entry, depth int) (more bool, err error) {
	for i := len(items) - 1; i >= 0; i-- {
		skip := false
		if n.leaf {
			skip, err = w.after(n.off, items[i].Key)
		} else if i > 0 { // the child's keys are above the one before it
			skip, err = w.notBefore(n.off, items[i-1].Key)
		}
		if err != nil {
			return false, err
		}
		if skip {
			continue
		}
		if more, err := w.item(n, items[i], depth); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (w *walk) item(n node, e Entry, depth int) (more bool, err error) {
	if n.leaf {
		return w.visit(e), nil
	}
	child, ok := parseRoot(e.Value)
	if !ok || child.Empty {
		return false, corrupt(n.off, "kp_node", errShape)
	}
	return w.node(child.Offset, depth+1)
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
