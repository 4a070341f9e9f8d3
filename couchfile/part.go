package couchfile

import (
	"bytes"
	"errors"
	"slices"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Part is a part of a tree. What order its keys have only the caller knows: Start and End compare a key with where the part
// starts and ends, as cmp.Compare does, in the order of the tree in either direction. Nil is no bound. An error of theirs ends
// the walk and is passed on.
type Part struct {
	Reverse    bool // from the last key to the first: Start is above End
	Start, End func(key erlterm.Term) (int, error)
	OpenEnd    bool // the key that is equal to the end isn't in it
}

// before says that a key comes before the part, in its direction.
func (p *Part) before(key erlterm.Term) (bool, error) {
	if p.Start == nil {
		return false, nil
	}
	c, err := p.Start(key)
	if p.Reverse {
		c = -c
	}
	return c < 0, err
}

// inside says that a key doesn't come behind the part.
func (p *Part) inside(key erlterm.Term) (bool, error) {
	if p.End == nil {
		return true, nil
	}
	c, err := p.End(key)
	if p.Reverse {
		c = -c
	}
	return c < 0 || c == 0 && !p.OpenEnd, err
}

// Visitor is told what a walk comes by, in its direction. Entries and reductions are valid only until the call returns. Errors
// end the walk and are passed on.
type Visitor struct {
	// Passed is called for each entry before the part, and PassedBelow with the reduction of all that lie below a pointer.
	// They may be nil.
	Passed      func(Entry) error
	PassedBelow func(reduction erlterm.Term) error
	// Visit is called for each entry of the part, until it says that it has enough.
	Visit func(Entry) (more bool, err error)
}

// Walk visits a part of the tree, and reads only nodes that hold keys of it or at its ends. It reads at most what All does.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, fold and stream_kp_node.
func (t *Tree) Walk(p Part, v Visitor) error {
	if t.Root.Empty {
		return nil
	}
	w := partWalk{walk: walk{tree: t, budget: newBudget(t.src)}, part: p, visitor: v}
	_, err := w.node(t.Root.Offset, 0)
	return err
}

type partWalk struct {
	walk
	part    Part
	visitor Visitor
	started bool // all that follows is not before the part
}

func (w *partWalk) node(off int64, depth int) (more bool, err error) {
	n, s, err := w.open(off, depth)
	if err != nil {
		return false, err
	}
	for i := range s.len() {
		e := s.entry(i)
		if w.part.Reverse {
			e = s.entry(s.len() - 1 - i)
		}
		if !n.leaf {
			more, err = w.pointer(n, s, i, e, depth)
		} else {
			more, err = w.entry(e)
		}
		if !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (w *partWalk) entry(e Entry) (more bool, err error) {
	if !w.started {
		before, err := w.part.before(e.Key)
		if err != nil {
			return false, err
		}
		if before {
			if w.visitor.Passed != nil {
				err = w.visitor.Passed(e)
			}
			return err == nil, err
		}
		w.started = true
	}
	if in, err := w.part.inside(e.Key); !in || err != nil {
		return false, err
	}
	return w.visitor.Visit(e)
}

// pointer goes on below the i-th pointer of a node, as it is walked, unless all below it is before the part.
func (w *partWalk) pointer(n node, s items, i int, e Entry, depth int) (more bool, err error) {
	child, err := n.child(e)
	if err != nil {
		return false, err
	}
	if !w.started {
		highest := e.Key // of a pointer's keys
		if w.part.Reverse {
			highest = nil // its keys are above the one before it
			if next := s.len() - 2 - i; next >= 0 {
				highest = s.key(next)
			}
		}
		if passed, err := w.passed(highest); err != nil || passed {
			if passed && err == nil && w.visitor.PassedBelow != nil {
				err = w.visitor.PassedBelow(child.Reduction)
			}
			return err == nil, err
		}
	}
	return w.node(child.Offset, depth+1)
}

// passed says that all keys below a pointer are before the part; in reverse key is the highest that isn't below it, nil if there
// is none.
func (w *partWalk) passed(key erlterm.Term) (bool, error) {
	if w.part.Start == nil || key == nil {
		return false, nil
	}
	c, err := w.part.Start(key)
	if w.part.Reverse { // the start itself may be below the pointer before
		return c >= 0, err
	}
	return c < 0, err
}

// Group is what a part of a tree holds of keys that belong together.
type Group struct {
	Key        erlterm.Term   // the first one
	Entries    []Entry        // those that no reduction has, the last first
	Reductions []erlterm.Term // of what lies below pointers, the last first
}

// errEnough ends a fold.
var errEnough = errors.New("enough")

// Groups folds a part of the tree to groups: of entries that follow each other, same says which belong together. What lies below
// a pointer is told by its reduction where all of it is in the part and the group, as CouchDB has it, so that what it reduces
// again comes out the same: with floats, the order matters. visit is called for each group until it says that it has enough, and
// may keep what it is given. Errors of both are passed on. It reads at most what All does.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, fold_reduce and reduce_stream_node.
func (t *Tree) Groups(p Part, same func(a, b erlterm.Term) (bool, error), visit func(Group) (more bool, err error)) error {
	if t.Root.Empty {
		return nil
	}
	f := groupFold{walk: walk{tree: t, budget: newBudget(t.src)}, part: p, same: same, visit: visit}
	err := f.node(t.Root.Offset, 0)
	if err == nil {
		err = f.flush()
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

type groupFold struct {
	walk
	part  Part
	same  func(a, b erlterm.Term) (bool, error)
	visit func(Group) (bool, error)
	group Group // what was seen of it, the last at the end; no Key if there is none
	held  int64 // bytes of it
}

// hold takes memory for n bytes of the group.
func (f *groupFold) hold(off int64, n int) error {
	if err := f.budget.hold(int64(n)); err != nil {
		return corrupt(off, f.tree.Name, err)
	}
	f.held += int64(n)
	return nil
}

func (f *groupFold) flush() error {
	if f.group.Key == nil {
		return nil
	}
	g := f.group
	slices.Reverse(g.Entries)
	slices.Reverse(g.Reductions)
	f.group = Group{}
	if err := f.budget.hold(-f.held); err != nil {
		return err
	}
	f.held = 0
	more, err := f.visit(g)
	if err == nil && !more {
		err = errEnough
	}
	return err
}

// sliceBytes is what an entry takes beside its bytes.
const sliceBytes = 48

func (f *groupFold) add(off int64, e Entry) error {
	if f.group.Key != nil {
		same, err := f.same(f.group.Key, e.Key)
		if err != nil {
			return err
		}
		if !same {
			if err := f.flush(); err != nil {
				return err
			}
		}
	}
	if err := f.hold(off, len(e.Key)+len(e.Value)+sliceBytes); err != nil {
		return err
	}
	e = Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)}
	if f.group.Key == nil {
		f.group.Key = e.Key
	}
	f.group.Entries = append(f.group.Entries, e)
	return nil
}

func (f *groupFold) node(off int64, depth int) error {
	n, s, err := f.open(off, depth)
	if err != nil {
		return err
	}
	at := func(i int) Entry {
		if f.part.Reverse {
			i = s.len() - 1 - i
		}
		return s.entry(i)
	}
	if n.leaf {
		return f.leaf(n, s.len(), at)
	}
	return f.inner(n, s.len(), at, depth)
}

func (f *groupFold) leaf(n node, count int, at func(int) Entry) error {
	started := false
	for i := range count {
		e := at(i)
		if !started {
			before, err := f.part.before(e.Key)
			if err != nil {
				return err
			}
			if before {
				continue
			}
			started = true
		}
		if in, err := f.part.inside(e.Key); !in || err != nil {
			return err
		}
		if err := f.add(n.off, e); err != nil {
			return err
		}
	}
	return nil
}

// pointers returns which of a node's pointers, as they are walked, may hold keys of the part.
func (f *groupFold) pointers(count int, at func(int) Entry) (first, end int, err error) {
	if f.part.Start != nil {
		for ; first < count; first++ {
			i := first
			if f.part.Reverse { // all but those above the first one whose last key isn't below the start
				if i++; i == count {
					break
				}
			}
			c, err := f.part.Start(at(i).Key)
			if err != nil {
				return 0, 0, err
			}
			if !f.part.Reverse && c >= 0 || f.part.Reverse && c < 0 {
				break
			}
		}
	}
	for end = first; end < count; end++ {
		in, err := f.part.inside(at(end).Key)
		if err != nil {
			return 0, 0, err
		}
		if !in {
			if !f.part.Reverse { // its first keys may be
				end++
			}
			break
		}
	}
	return first, end, nil
}

func (f *groupFold) inner(n node, count int, at func(int) Entry, depth int) error {
	i, end, err := f.pointers(count, at)
	if err != nil {
		return err
	}
	for ; i < end; i++ {
		if f.group.Key != nil {
			last := i // the pointers before the last one whose key is in the group hold nothing else
			for ; last < end; last++ {
				if same, err := f.same(f.group.Key, at(last).Key); err != nil {
					return err
				} else if !same {
					break
				}
			}
			for ; i < last-1; i++ {
				child, err := n.child(at(i))
				if err != nil {
					return err
				}
				if err := f.hold(n.off, len(child.Reduction)+sliceBytes); err != nil {
					return err
				}
				f.group.Reductions = append(f.group.Reductions, bytes.Clone(child.Reduction))
			}
		}
		child, err := n.child(at(i))
		if err != nil {
			return err
		}
		if err := f.node(child.Offset, depth+1); err != nil {
			return err
		}
	}
	return nil
}
