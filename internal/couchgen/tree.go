package couchgen

import (
	"cmp"
	"fmt"
	"slices"
)

// nodeSize is the size of a node's term from which it is split:
// couchdb/btree_chunk_size of the server.
const nodeSize = 1279

// reduction is what a node says about all below it. Trees that only count use
// live.
type reduction struct{ live, dead, active, external int64 }

func (r *reduction) add(x reduction) {
	r.live += x.live
	r.dead += x.dead
	r.active += x.active
	r.external += x.external
}

// codec tells one of the five trees from the others.
type codec[K cmp.Ordered, V any] struct {
	key       func(b []byte, k K) []byte // appendKey if nil
	value     func(b []byte, v V) []byte
	measure   func(v V) reduction
	red       func(b []byte, r reduction) []byte
	readValue func(k K, term any) (V, error)
	readRed   func(term any) reduction
	leaf      reduction // what each leaf counts beyond its values
}

// tree is a copy-on-write B+tree. Its nodes are in memory once they were written
// or read; unload forgets them.
type tree[K cmp.Ordered, V any] struct {
	codec[K, V]
	out         *appender
	compression Compression
	root        *node[K, V] // nil = empty
	loaded      int         // entries in memory, about

	entries, term, packed []byte // scratch
	ends                  []int
}

type node[K cmp.Ordered, V any] struct {
	last K // largest key below
	off  int64
	size int64 // raw bytes of this node and of all below
	red  reduction

	loaded bool
	kv     bool // a leaf: keys and vals; else kids
	keys   []K
	vals   []V
	kids   []*node[K, V]
}

// edit inserts or replaces the value of a key, or removes the key.
type edit[K cmp.Ordered, V any] struct {
	key    K
	val    V
	remove bool
}

// apply makes all edits and writes the changed nodes.
func (t *tree[K, V]) apply(edits []edit[K, V]) error {
	if len(edits) == 0 {
		return nil
	}
	slices.SortFunc(edits, func(a, b edit[K, V]) int { return cmp.Compare(a.key, b.key) })
	var nodes []*node[K, V]
	var err error
	if t.root == nil {
		nodes = t.changeLeaf(&node[K, V]{kv: true}, edits)
	} else if nodes, err = t.change(t.root, edits); err != nil {
		return err
	}
	for len(nodes) > 1 {
		nodes = t.writeInner(nodes)
	}
	t.root = nil
	if len(nodes) == 1 {
		t.root = nodes[0]
	}
	return nil
}

// change applies edits to a node and returns what stands in its place.
func (t *tree[K, V]) change(n *node[K, V], edits []edit[K, V]) ([]*node[K, V], error) {
	if len(edits) == 0 {
		return []*node[K, V]{n}, nil
	}
	if err := t.load(n); err != nil {
		return nil, err
	}
	if n.kv {
		return t.changeLeaf(n, edits), nil
	}
	kids := make([]*node[K, V], 0, len(n.kids)+1)
	for i, kid := range n.kids {
		mine := len(edits)
		if i < len(n.kids)-1 {
			mine, _ = slices.BinarySearchFunc(edits, kid.last, func(e edit[K, V], k K) int {
				if e.key <= k {
					return -1
				}
				return 1
			})
		}
		got, err := t.change(kid, edits[:mine])
		if err != nil {
			return nil, err
		}
		kids = append(kids, got...)
		edits = edits[mine:]
	}
	return t.writeInner(kids), nil
}

func (t *tree[K, V]) changeLeaf(n *node[K, V], edits []edit[K, V]) []*node[K, V] {
	keys := make([]K, 0, len(n.keys)+len(edits))
	vals := make([]V, 0, len(n.keys)+len(edits))
	i := 0
	for _, e := range edits {
		for i < len(n.keys) && n.keys[i] < e.key {
			keys, vals = append(keys, n.keys[i]), append(vals, n.vals[i])
			i++
		}
		if i < len(n.keys) && n.keys[i] == e.key {
			i++
		}
		if !e.remove {
			keys, vals = append(keys, e.key), append(vals, e.val)
		}
	}
	keys, vals = append(keys, n.keys[i:]...), append(vals, n.vals[i:]...)
	t.loaded += len(keys) - len(n.keys)
	return t.writeLeaves(keys, vals)
}

func (t *tree[K, V]) writeLeaves(keys []K, vals []V) []*node[K, V] {
	t.entries, t.ends = t.entries[:0], t.ends[:0]
	for i, k := range keys {
		t.entries = t.appendKey(appendTuple(t.entries, 2), k)
		t.entries = t.value(t.entries, vals[i])
		t.ends = append(t.ends, len(t.entries))
	}
	var nodes []*node[K, V]
	for from, to := range t.split() {
		n := &node[K, V]{last: keys[to-1], loaded: true, kv: true, keys: keys[from:to:to], vals: vals[from:to:to], red: t.leaf}
		for _, v := range n.vals {
			n.red.add(t.measure(v))
		}
		n.off, n.size = t.writeNode("kv_node", from, to)
		nodes = append(nodes, n)
	}
	return nodes
}

func (t *tree[K, V]) writeInner(kids []*node[K, V]) []*node[K, V] {
	t.entries, t.ends = t.entries[:0], t.ends[:0]
	for _, k := range kids {
		t.entries = t.appendKey(appendTuple(t.entries, 2), k.last)
		t.entries = t.state(t.entries, k)
		t.ends = append(t.ends, len(t.entries))
	}
	var nodes []*node[K, V]
	for from, to := range t.split() {
		n := &node[K, V]{last: kids[to-1].last, loaded: true, kids: kids[from:to:to]}
		n.off, n.size = t.writeNode("kp_node", from, to)
		for _, k := range n.kids {
			n.red.add(k.red)
			n.size += k.size
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// state writes {offset, reduction, subtree bytes}.
func (t *tree[K, V]) state(b []byte, n *node[K, V]) []byte {
	b = appendInt(appendTuple(b, 3), n.off)
	return appendInt(t.red(b, n.red), n.size)
}

// rootState writes what the header says about the tree.
func (t *tree[K, V]) rootState(b []byte) []byte {
	if t.root == nil {
		return appendAtom(b, "nil")
	}
	return t.state(b, t.root)
}

// split yields the entries of each node as [from, to), as chunkify of the server
// does: about equal sizes below nodeSize, and never a node of one entry if there
// are more.
func (t *tree[K, V]) split() func(yield func(from, to int) bool) {
	return func(yield func(from, to int) bool) {
		total, n := len(t.entries), len(t.ends)
		if n == 0 {
			return
		}
		limit := total
		if total > nodeSize {
			limit = total / (total/nodeSize + 1)
		}
		from, start := 0, 0
		for i := range n {
			if t.ends[i]-start > limit && i > from && i != n-2 {
				if !yield(from, i+1) {
					return
				}
				from, start = i+1, t.ends[i]
			}
		}
		if from < n {
			yield(from, n)
		}
	}
}

func (t *tree[K, V]) writeNode(kind string, from, to int) (off, size int64) {
	start := 0
	if from > 0 {
		start = t.ends[from-1]
	}
	t.term = appendAtom(appendTuple(append(t.term[:0], tagVersion), 2), kind)
	t.term = append(appendList(t.term, to-from), t.entries[start:t.ends[to-1]]...)
	t.term = append(t.term, tagNil)
	t.packed = t.compression.compress(t.packed[:0], t.term)
	return t.out.chunk(t.packed)
}

func (t *tree[K, V]) appendKey(b []byte, k K) []byte {
	if t.key != nil {
		return t.key(b, k)
	}
	return appendKey(b, k)
}

func appendKey[K cmp.Ordered](b []byte, k K) []byte {
	switch k := any(k).(type) {
	case string:
		return appendBinary(b, k)
	case uint64:
		return appendUint(b, k)
	default:
		panic(fmt.Sprintf("key of type %T", k))
	}
}

func readKey[K cmp.Ordered](term any) (k K, err error) {
	switch p := any(&k).(type) {
	case *string:
		s, ok := term.(string)
		if *p = s; !ok {
			err = errTerm
		}
	case *uint64:
		i, ok := term.(int64)
		if *p = uint64(i); !ok {
			err = errTerm
		}
	}
	return k, err
}

// find returns the value of a key.
func (t *tree[K, V]) find(key K) (v V, found bool, err error) {
	n := t.root
	for n != nil && key <= n.last {
		if err := t.load(n); err != nil {
			return v, false, err
		}
		if n.kv {
			i, found := slices.BinarySearch(n.keys, key)
			if found {
				v = n.vals[i]
			}
			return v, found, nil
		}
		i, _ := slices.BinarySearchFunc(n.kids, key, func(kid *node[K, V], k K) int { return cmp.Compare(kid.last, k) })
		n = n.kids[i]
	}
	return v, false, nil
}

// at returns the i-th entry; i must be below the count of the root.
func (t *tree[K, V]) at(i int64) (v V, err error) {
	n := t.root
	for n != nil {
		if err := t.load(n); err != nil {
			return v, err
		}
		if n.kv {
			return n.vals[i], nil
		}
		k := 0
		for ; k < len(n.kids)-1; k++ {
			count := n.kids[k].red.live + n.kids[k].red.dead
			if i < count {
				break
			}
			i -= count
		}
		n = n.kids[k]
	}
	return v, nil
}

// each calls f for all entries in order of the keys.
func (t *tree[K, V]) each(n *node[K, V], f func(V) error) error {
	if n == nil {
		return nil
	}
	if err := t.load(n); err != nil {
		return err
	}
	for _, v := range n.vals {
		if err := f(v); err != nil {
			return err
		}
	}
	for _, kid := range n.kids {
		if err := t.each(kid, f); err != nil {
			return err
		}
	}
	return nil
}

// unload forgets all nodes below the root, which load reads again from the file.
func (t *tree[K, V]) unload() {
	if n := t.root; n != nil {
		n.loaded, n.keys, n.vals, n.kids = false, nil, nil, nil
	}
	t.loaded = 0
}

func (t *tree[K, V]) load(n *node[K, V]) error {
	if n.loaded {
		return nil
	}
	p, err := t.out.payload(n.off)
	if err != nil {
		return err
	}
	if p, err = decompress(p); err != nil {
		return fmt.Errorf("decompress node at %d: %w", n.off, err)
	}
	term, err := decodeTerm(p)
	if err != nil {
		return fmt.Errorf("decode node at %d: %w", n.off, err)
	}
	kind, list, ok := pair(term)
	entries, ok2 := list.([]any)
	if !ok || !ok2 {
		return fmt.Errorf("node at %d: %w", n.off, errTerm)
	}
	n.kv = kind == Atom("kv_node")
	for _, e := range entries {
		if err := t.loadEntry(n, e); err != nil {
			return fmt.Errorf("node at %d: %w", n.off, err)
		}
	}
	n.loaded = true
	t.loaded += len(n.keys)
	return nil
}

func (t *tree[K, V]) loadEntry(n *node[K, V], entry any) error {
	kt, vt, ok := pair(entry)
	if !ok {
		return errTerm
	}
	k, err := readKey[K](kt)
	if err != nil {
		return err
	}
	if !n.kv {
		kid, err := t.readState(vt)
		if err != nil {
			return err
		}
		kid.last = k
		n.kids = append(n.kids, kid)
		return nil
	}
	v, err := t.readValue(k, vt)
	n.keys, n.vals = append(n.keys, k), append(n.vals, v)
	return err
}

// readState undoes state.
func (t *tree[K, V]) readState(term any) (*node[K, V], error) {
	if term == Atom("nil") {
		return nil, nil
	}
	s, ok := term.(Tuple)
	if !ok || len(s) != 3 {
		return nil, errTerm
	}
	off, ok1 := s[0].(int64)
	size, ok2 := s[2].(int64)
	if !ok1 || !ok2 {
		return nil, errTerm
	}
	return &node[K, V]{off: off, size: size, red: t.readRed(s[1])}, nil
}

// openRoot takes the root from a header. The largest key is not in it.
func (t *tree[K, V]) openRoot(term any) error {
	n, err := t.readState(term)
	if err != nil || n == nil {
		return err
	}
	t.root = n
	if err := t.load(n); err != nil {
		return err
	}
	if n.kv {
		n.last = n.keys[len(n.keys)-1]
	} else {
		n.last = n.kids[len(n.kids)-1].last
	}
	return nil
}

func pair(term any) (a, b any, ok bool) {
	t, ok := term.(Tuple)
	if !ok || len(t) != 2 {
		return nil, nil, false
	}
	return t[0], t[1], true
}
