package couchwriter

import (
	"bytes"
	"iter"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// What is read out of a tree is valid as long as it is not changed, and must
// not be written to.

// Lookup returns the value of a key, or nil.
func (t *Tree) Lookup(key erlterm.Term) (erlterm.Term, error) {
	state := t.state
	for range maxDepth {
		if state == nil {
			return nil, nil
		}
		n, err := t.load(state)
		if err != nil {
			return nil, err
		}
		at, same, err := t.find(n.pairs, key)
		if err != nil || at == len(n.pairs) {
			return nil, err
		}
		if state = n.pairs[at].value(); n.leaf {
			if same {
				return state, nil
			}
			return nil, nil
		}
	}
	return nil, errDeep
}

// Last returns the largest key, or nil.
func (t *Tree) Last() (erlterm.Term, error) {
	e, err := t.Descend(func(erlterm.Term) bool { return true })
	return e.Key, err
}

// Descend goes down to one entry: into the first child of a node whose
// reduction pass does not pass over, and to the first such entry, which it is
// asked about with nil. The last child and entry are taken in any case. Of an
// empty tree it returns the zero Entry.
func (t *Tree) Descend(pass func(reduction erlterm.Term) bool) (e couchfile.Entry, err error) {
	for state := t.state; state != nil; {
		n, err := t.load(state)
		if err != nil {
			return e, err
		}
		at := 0
		for at < len(n.pairs)-1 {
			var red erlterm.Term
			if !n.leaf {
				red, _, _ = parseState(n.pairs[at].value())
			}
			if !pass(red) {
				break
			}
			at++
		}
		p := n.pairs[at]
		if n.leaf {
			return couchfile.Entry{Key: p.key(), Value: p.value()}, nil
		}
		state = p.value()
	}
	return e, nil
}

// All iterates over the entries in the order of their keys. An error ends it.
func (t *Tree) All() iter.Seq2[couchfile.Entry, error] {
	return func(yield func(couchfile.Entry, error) bool) {
		if t.state != nil {
			t.all(t.state, yield)
		}
	}
}

func (t *Tree) all(state erlterm.Term, yield func(couchfile.Entry, error) bool) (more bool) {
	n, err := t.load(state)
	if err != nil {
		yield(couchfile.Entry{}, err)
		return false
	}
	for _, p := range n.pairs {
		if n.leaf {
			more = yield(couchfile.Entry{Key: p.key(), Value: p.value()}, nil)
		} else {
			more = t.all(p.value(), yield)
		}
		if !more {
			return false
		}
	}
	return true
}

// slice calls fn with n entries of a tree that counts them, from the one on that has
// so many before it.
func (t *Tree) slice(from, n uint64, fn func(couchfile.Entry) error) error {
	return t.sliceBelow(t.state, &from, &n, fn)
}

func (t *Tree) sliceBelow(state erlterm.Term, skip, n *uint64, fn func(couchfile.Entry) error) error {
	if state == nil {
		return nil
	}
	node, err := t.load(state)
	if err != nil {
		return err
	}
	for _, p := range node.pairs {
		count := uint64(1)
		if !node.leaf {
			red, _, _ := parseState(p.value())
			count, _, _ = erlterm.Uint(red)
		}
		switch {
		case *n == 0:
			return nil
		case *skip >= count:
			*skip -= count
		case !node.leaf:
			err = t.sliceBelow(p.value(), skip, n, fn)
		default:
			*n--
			err = fn(couchfile.Entry{Key: p.key(), Value: p.value()})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Diff finds what changed since an older state of the tree, all nodes of which
// lie before since, and none of those that are only in the tree now: the entries
// that are new or other ones, and the keys that are gone. It reads no node that
// both have.
func (t *Tree) Diff(was erlterm.Term, since int64) (put []couchfile.Entry, gone []erlterm.Term, err error) {
	seen := map[int64]bool{}
	is, err := t.leaves(nil, t.state, func(off int64) bool { // each node once, whatever points to it
		known := seen[off]
		seen[off] = true
		return off >= since && !known
	})
	if err != nil {
		return nil, nil, err
	}
	if erlterm.IsAtom(was, "nil") {
		was = nil
	}
	old, err := t.leaves(nil, was, func(off int64) bool {
		known := seen[off]
		seen[off] = true
		return !known
	})
	if err != nil {
		return nil, nil, err
	}
	values := make(map[string]erlterm.Term, len(old))
	for _, e := range old {
		values[string(e.Key)] = e.Value
	}
	for _, e := range is {
		if v, ok := values[string(e.Key)]; !ok || !bytes.Equal(v, e.Value) {
			put = append(put, e)
		}
		delete(values, string(e.Key))
	}
	for _, e := range old { // in order
		if _, ok := values[string(e.Key)]; ok {
			gone = append(gone, e.Key)
		}
	}
	return put, gone, nil
}

// leaves appends the entries below a state, without nodes that are not wanted.
func (t *Tree) leaves(out []couchfile.Entry, state erlterm.Term, wanted func(off int64) bool) ([]couchfile.Entry, error) {
	if state == nil {
		return out, nil
	}
	off, err := stateOffset(state)
	if err != nil || !wanted(off) {
		return out, err
	}
	n, err := t.load(state)
	if err != nil {
		return out, err
	}
	for _, p := range n.pairs {
		if n.leaf {
			out = append(out, couchfile.Entry{Key: p.key(), Value: p.value()})
		} else if out, err = t.leaves(out, p.value(), wanted); err != nil {
			return out, err
		}
	}
	return out, nil
}
