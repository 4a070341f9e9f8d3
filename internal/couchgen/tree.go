package couchgen

import (
	"cmp"
	"fmt"
	"math"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// codec tells one of the five trees from the others.
type codec[K cmp.Ordered, V any] struct {
	key       func(b []byte, k K) []byte // appendKey if nil
	value     func(b []byte, v V) []byte
	reducer   couchwriter.Reducer
	readValue func(k K, term any) (V, error)
}

// tree is one B-tree of values.
type tree[K cmp.Ordered, V any] struct {
	codec[K, V]
	*couchwriter.Tree
}

// newTree makes an empty tree. nodes is how many of them are kept in memory.
func newTree[K cmp.Ordered, V any](f *couchwriter.File, c Compression, nodes int, codec codec[K, V]) tree[K, V] {
	opts := couchwriter.TreeOptions{Reducer: codec.reducer, Compression: c, CacheNodes: nodes}
	return tree[K, V]{codec, couchwriter.NewTree(f, f, nil, opts)}
}

// allNodes keeps every node.
const allNodes = math.MaxInt

// edit inserts or replaces the value of a key, or removes the key.
type edit[K cmp.Ordered, V any] struct {
	key    K
	val    V
	remove bool
}

// apply makes all edits and writes the changed nodes.
func (t *tree[K, V]) apply(edits []edit[K, V]) error {
	var put []couchfile.Entry
	var gone []erlterm.Term
	for _, e := range edits {
		key := t.appendKey(nil, e.key)
		if e.remove {
			gone = append(gone, key)
		} else {
			put = append(put, couchfile.Entry{Key: key, Value: t.value(nil, e.val)})
		}
	}
	return t.Modify(put, gone)
}

func (t *tree[K, V]) appendKey(b []byte, k K) []byte {
	if t.key != nil {
		return t.key(b, k)
	}
	switch k := any(k).(type) {
	case string:
		return erlterm.PutBinary(b, k)
	case uint64:
		return erlterm.PutUint(b, k)
	default:
		panic(fmt.Sprintf("key of type %T", k))
	}
}

func readKey[K cmp.Ordered](t erlterm.Term) (k K, err error) {
	switch p := any(&k).(type) {
	case *string:
		s, _, ok := erlterm.Binary(t)
		if *p = string(s); !ok {
			err = errTerm
		}
	case *uint64:
		var ok bool
		if *p, _, ok = erlterm.Uint(t); !ok {
			err = errTerm
		}
	}
	return k, err
}

// find returns the value of a key.
func (t *tree[K, V]) find(key K) (v V, found bool, err error) {
	term, err := t.Lookup(t.appendKey(nil, key))
	if err != nil || term == nil {
		return v, false, err
	}
	v, err = t.read(key, term)
	return v, err == nil, err
}

func (t *tree[K, V]) read(key K, term erlterm.Term) (v V, err error) {
	plain, err := decodeTerm(append([]byte{erlterm.Version}, term...))
	if err != nil {
		return v, err
	}
	return t.readValue(key, plain)
}

func (t *tree[K, V]) readEntry(e couchfile.Entry) (v V, err error) {
	k, err := readKey[K](e.Key)
	if err != nil {
		return v, err
	}
	return t.read(k, e.Value)
}

// each calls f for all entries in order of the keys.
func (t *tree[K, V]) each(f func(V) error) error {
	for e, err := range t.All() {
		if err != nil {
			return err
		}
		v, err := t.readEntry(e)
		if err != nil {
			return err
		}
		if err := f(v); err != nil {
			return err
		}
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
