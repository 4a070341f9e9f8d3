package couchwriter

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// DefaultChunkSize is couchdb/btree_chunk_size: how large a node's list may
// be, in bytes of its term, before it is split.
const DefaultChunkSize = 1279

// Order compares two keys of a tree; 0 says that they are equal.
type Order func(a, b erlterm.Term) (int, error)

// TreeOptions are what a tree is made with. The zero value is a tree without
// reductions whose keys are in Erlang's order, as of local documents.
type TreeOptions struct {
	Order       Order       // Terms if nil
	Reducer     Reducer     // NoReduce if nil
	Compression Compression // of its nodes
	ChunkSize   int         // DefaultChunkSize if 0
	// Node, if it is set, is told what each node is stored as before it is
	// written. It may append other chunks first, which the file has in front of
	// the node, and returns what is written: the same slice, or another node.
	Node func(stored []byte) ([]byte, error)
	// List, if it is set, is told the entries' terms of each list before its nodes are
	// written. The slice is valid until the next call.
	List func(entries [][]byte)
	// CacheNodes is how many of the nodes that were used last are kept, of some
	// 2 KiB each; 512 if 0. With enough of them nothing is read back.
	CacheNodes int
}

// Tree is one B-tree of a file that is written.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, all of it; main has the
// same rules.
type Tree struct {
	f     *File
	nodes Chunks
	opts  TreeOptions
	state erlterm.Term // {offset, reduction, bytes}; nil if the tree is empty
	cache nodeCache
	depth int  // of the node that is modified
	ahead bool // what is inserted is in order and behind all keys
	inf   couchfile.Inflater
	buf   []byte // of the term that is being made
	out   []byte // of its stored form

	entries []couchfile.Entry // of the leaf that is reduced
	reds    []erlterm.Term    // of the inner node that is

	sizes, ends []int // reused by chunkify
	terms       [][]byte
}

// NewTree opens a tree at its state, as it is in a header: the atom nil or
// {offset, reduction, bytes}; an empty state is nil too. Nodes are appended to
// f; older ones are read from nodes, which usually is f.
func NewTree(f *File, nodes Chunks, state erlterm.Term, opts TreeOptions) *Tree {
	if opts.Order == nil {
		opts.Order = Terms
	}
	if opts.Reducer == nil {
		opts.Reducer = NoReduce
	}
	if opts.ChunkSize == 0 {
		opts.ChunkSize = DefaultChunkSize
	}
	t := &Tree{f: f, nodes: nodes, opts: opts, cache: nodeCache{most: max(1, opts.CacheNodes/2)}}
	if opts.CacheNodes == 0 {
		t.cache.most = cacheNodes
	}
	t.Reset(state)
	return t
}

// maxDepth is more than any tree has whose nodes do not point to each other in
// circles.
const maxDepth = 100

var errDeep = fmt.Errorf("nodes of a tree below each other without end: %w", couchfile.ErrCorrupt)

// State is the tree's state as headers hold it.
func (t *Tree) State() erlterm.Term {
	if t.state == nil {
		return erlterm.PutAtom(nil, "nil")
	}
	return t.state
}

// Reset goes to another state of the same file.
func (t *Tree) Reset(state erlterm.Term) {
	t.state = nil
	if len(state) > 0 && !erlterm.IsAtom(state, "nil") {
		t.state = slices.Clone(state)
	}
}

// Terms is Erlang's order, that of all trees but those of views that collate.
func Terms(a, b erlterm.Term) (int, error) {
	if x, _, ok := erlterm.Binary(a); ok { // most keys
		if y, _, ok := erlterm.Binary(b); ok {
			return bytes.Compare(x, y), nil
		}
	}
	if x, _, ok := erlterm.Uint(a); ok {
		if y, _, ok := erlterm.Uint(b); ok {
			return cmp.Compare(x, y), nil
		}
	}
	c, ok := erlterm.Compare(a, b)
	if !ok {
		return 0, fmt.Errorf("compare keys of a tree: %w", ErrUnpredicted)
	}
	return c, nil
}

// action is one change; removals have no pair.
type action struct {
	key    erlterm.Term
	insert pair
}

// Modify adds entries to the tree and removes keys, in one change. Entries
// with the key of an old one replace it; keys that are not there are passed
// over. Afterwards State is another, unless nothing was to be done.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, query_modify.
func (t *Tree) Modify(insert []couchfile.Entry, remove []erlterm.Term) error {
	pairs := make([]pair, len(insert))
	for i, e := range insert {
		pairs[i] = newPair(e.Key, e.Value)
	}
	return t.modify(pairs, remove)
}

func (t *Tree) modify(insert []pair, remove []erlterm.Term) error {
	actions := make([]action, 0, len(insert)+len(remove))
	for _, key := range remove { // before insertions of the same key
		actions = append(actions, action{key: key})
	}
	for _, p := range insert {
		actions = append(actions, action{key: p.key(), insert: p})
	}
	if err := t.sort(actions); err != nil {
		return err
	}
	t.depth = 0
	kps, err := t.modifyNode(t.state, actions)
	if err != nil {
		return err
	}
	for len(kps) > 1 { // complete_root
		if kps, err = t.write(false, kps); err != nil {
			return err
		}
	}
	t.state = nil
	if len(kps) == 1 {
		t.state = slices.Clone(kps[0].value())
	}
	return nil
}

// Append adds entries, which are in order, behind all others: of trees whose
// order is not known here, as that of views.
func (t *Tree) Append(entries []couchfile.Entry) error {
	t.ahead = true
	defer func() { t.ahead = false }()
	return t.Modify(entries, nil)
}

func (t *Tree) sort(actions []action) error {
	if t.ahead {
		return nil
	}
	var failed error
	compare := func(a, b action) int {
		c, err := t.opts.Order(a.key, b.key)
		if err != nil {
			failed = err
		}
		return c
	}
	if !slices.IsSortedFunc(actions, compare) {
		slices.SortStableFunc(actions, compare)
	}
	return failed
}

// modifyNode applies actions to the subtree at state, which is nil for none,
// and returns the pointers that stand for it now.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, modify_node.
func (t *Tree) modifyNode(state erlterm.Term, actions []action) ([]pair, error) {
	if state == nil {
		list, err := t.mergeLeaf(nil, actions)
		if err != nil || len(list) == 0 {
			return nil, err
		}
		return t.write(true, list)
	}
	if t.depth++; t.depth > maxDepth {
		return nil, errDeep
	}
	defer func() { t.depth-- }()
	n, err := t.load(state)
	if err != nil {
		return nil, err
	}
	var list []pair
	if n.leaf {
		list, err = t.mergeLeaf(n.pairs, actions)
	} else {
		list, err = t.modifyInner(n.pairs, actions)
	}
	if err != nil || len(list) == 0 {
		return nil, err
	}
	old := newPair(n.pairs[len(n.pairs)-1].key(), state)
	if slices.EqualFunc(n.pairs, list, samePair) {
		return []pair{old}, nil
	}
	return t.rewrite(old, n.leaf, n.pairs, list)
}

// mergeLeaf applies actions to the entries of a leaf.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, modify_kvnode.
func (t *Tree) mergeLeaf(list []pair, actions []action) ([]pair, error) {
	out := make([]pair, 0, len(list)+len(actions))
	for _, a := range actions {
		at, same, err := t.find(list, a.key)
		if err != nil {
			return nil, err
		}
		out = append(out, list[:at]...)
		if list = list[at:]; same {
			list = list[1:]
		}
		if a.insert.raw != nil {
			out = append(out, a.insert)
		}
	}
	return append(out, list...), nil
}

// find is the place of the first entry whose key is not below key, and
// whether it is the same.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, find_first_gteq.
func (t *Tree) find(list []pair, key erlterm.Term) (at int, same bool, err error) {
	lo, hi := 0, len(list)
	if t.ahead {
		return hi, false, nil
	}
	for lo < hi {
		mid := lo + (hi-lo)/2
		c, err := t.opts.Order(list[mid].key(), key)
		if err != nil {
			return 0, false, err
		}
		if c < 0 {
			lo = mid + 1
		} else {
			hi, same = mid, c == 0
		}
	}
	return lo, same && lo < len(list), nil
}

// modifyInner hands each action to the child that its key belongs to: the
// first whose last key is not below it, else the last.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, modify_kpnode.
func (t *Tree) modifyInner(list []pair, actions []action) ([]pair, error) {
	out := make([]pair, 0, len(list)+len(actions))
	for len(actions) > 0 {
		at, _, err := t.find(list, actions[0].key)
		if err != nil {
			return nil, err
		}
		at = min(at, len(list)-1)
		n := len(actions)
		if at < len(list)-1 {
			if n, err = t.upTo(actions, list[at].key()); err != nil {
				return nil, err
			}
		}
		children, err := t.modifyNode(list[at].value(), actions[:n])
		if err != nil {
			return nil, err
		}
		out = append(append(out, list[:at]...), children...)
		list, actions = list[at+1:], actions[n:]
	}
	return append(out, list...), nil
}

// upTo counts the actions whose key is not above key.
func (t *Tree) upTo(actions []action, key erlterm.Term) (int, error) {
	for i, a := range actions {
		if c, err := t.opts.Order(key, a.key); err != nil || c < 0 {
			return i, err
		}
	}
	return len(actions), nil
}
