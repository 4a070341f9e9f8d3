package couchwriter

import (
	"iter"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// What is read out of a tree is valid as long as it is not changed, and must
// not be written to.

// Lookup returns the value of a key, or nil.
func (t *Tree) Lookup(key erlterm.Term) (erlterm.Term, error) {
	for state := t.state; state != nil; {
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
	return nil, nil
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
