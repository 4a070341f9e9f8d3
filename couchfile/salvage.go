package couchfile

import (
	"bytes"
	"cmp"
	"errors"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

var (
	errOrder   = errors.New("keys are not in order")
	errLastKey = errors.New("last key is not the one that its parent names")
	errCount   = errors.New("number of entries is not the one that its parent names")
)

// Salvage visits, in order, all entries of the tree that can be read, and tells of what can't: damaged is called with the
// error for all keys behind after, up to last and with it; nil is no bound. What it skips is below the pointer that leads to
// the damage, and no other entry is. It believes no node whose keys are out of order, or which doesn't hold what its parent
// says. Entries and keys are valid only until the call returns. An error of visit or damaged ends the walk and is passed on,
// as does the end of what a walk may read, which is that of All.
func (t *Tree) Salvage(visit func(Entry) error, damaged func(after, last erlterm.Term, err error) error) error {
	if t.Root.Empty {
		return nil
	}
	s := salvage{walk: walk{tree: t, budget: newBudget(t.src)}, seen: visit, damaged: damaged}
	return s.node(t.Root, nil, 0)
}

type salvage struct {
	walk
	seen    func(Entry) error
	damaged func(after, last erlterm.Term, err error) error
	after   erlterm.Term // the last key that was passed; nil at the start
}

// node visits what is below a pointer whose key is last, nil for the root.
func (s *salvage) node(root TreeRoot, last erlterm.Term, depth int) error {
	n, items, err := s.open(root.Offset, depth)
	if err == nil {
		err = s.believe(n, items, root, last)
	}
	if err != nil {
		return s.lost(last, err)
	}
	for i := range items.len() {
		e := items.entry(i)
		if n.leaf {
			err = s.seen(e)
		} else {
			err = s.below(n, e, depth)
		}
		if err != nil {
			return err
		}
		s.after = append(s.after[:0], e.Key...)
	}
	return nil
}

func (s *salvage) below(n node, e Entry, depth int) error {
	child, err := n.child(e)
	if err != nil {
		return s.lost(e.Key, err)
	}
	return s.node(child, e.Key, depth+1)
}

// believe says why a node isn't what its parent says, if so.
func (s *salvage) believe(n node, items items, root TreeRoot, last erlterm.Term) error {
	if last != nil && !bytes.Equal(items.key(items.len()-1), last) {
		return corrupt(n.off, s.tree.Name, errLastKey)
	}
	before := s.after
	for i := range items.len() {
		key := items.key(i)
		if c, ok := s.tree.compareKeys(before, key); !ok || c >= 0 {
			return corrupt(n.off, s.tree.Name, errOrder)
		}
		before = key
	}
	if want, ok := entriesOf(root.Reduction); n.leaf && ok && want != uint64(n.count) {
		return corrupt(n.off, s.tree.Name, errCount)
	}
	return nil
}

// entriesOf is how many entries a reduction counts, if it is one that does.
func entriesOf(reduction erlterm.Term) (n uint64, ok bool) {
	if n, _, ok := erlterm.Uint(reduction); ok {
		return n, true
	}
	c, _, ok := parseCounts(reduction)
	return c.Docs + c.Deleted, ok
}

// lost tells of what can't be read up to last. Where all else would fail as well it ends the walk.
func (s *salvage) lost(last erlterm.Term, err error) error {
	if end := s.tree.src.done(); end != nil {
		return end
	}
	if errors.Is(err, errBudget) || errors.Is(err, errHeld) {
		return err
	}
	if err := s.damaged(s.after, last, err); err != nil {
		return err
	}
	s.after = append(s.after[:0], last...)
	return nil
}

// compareKeys orders two keys, of which a nil one is before all others. It is not ok if they are none of this tree's. Keys in
// an order that only the server knows are taken to ascend.
func (t *Tree) compareKeys(a, b erlterm.Term) (c int, ok bool) {
	switch t.order {
	case orderBytes:
		y, _, ok := erlterm.Binary(b)
		if a == nil || !ok {
			return -1, ok
		}
		x, _, ok := erlterm.Binary(a)
		return bytes.Compare(x, y), ok
	case orderSeq:
		y, _, ok := erlterm.Uint(b)
		if a == nil || !ok {
			return -1, ok
		}
		x, _, ok := erlterm.Uint(a)
		return cmp.Compare(x, y), ok
	}
	return -1, true
}
