package couchwriter

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

// stem cuts histories to the newest limit revisions.
//
// Source: CouchDB 3.5, src/couch/src/couch_key_tree.erl, stem.
func stem(roots []revRoot, limit int) ([]revRoot, error) {
	if len(roots) == 1 {
		if cut, ok := stemChain(roots[0], limit); ok {
			return []revRoot{cut}, nil
		}
	}
	seen := map[string]bool{}
	var out []revRoot
	for _, r := range roots {
		s := stemming{limit: limit, seen: seen}
		_, node := s.node(r.pos, r.node)
		if s.failed {
			return nil, fmt.Errorf("a revision id twice among the revisions of a document: %w", ErrUnpredicted)
		}
		if out = append(out, s.branches...); node != nil {
			out = append(out, revRoot{r.pos, node})
		}
	}
	slices.SortFunc(out, func(a, b revRoot) int { // ids are there once
		return cmp.Or(cmp.Compare(a.pos, b.pos), bytes.Compare(a.node.id, b.node.id))
	})
	return out, nil
}

// stemChain is stem of a tree without branches.
func stemChain(r revRoot, limit int) (revRoot, bool) {
	n := 1
	for at := r.node; len(at.children) > 0; at = at.children[0] {
		if len(at.children) > 1 {
			return r, false
		}
		n++
	}
	for ; n > limit; n-- {
		r.pos, r.node = r.pos+1, r.node.children[0]
	}
	return r, true
}

// stemming is stem of one tree.
type stemming struct {
	limit    int
	seen     map[string]bool
	branches []revRoot
	failed   bool
}

// node returns how many revisions above n may stay and what remains of n,
// which is nil if its children stand for themselves now.
//
// Source: CouchDB 3.5, src/couch/src/couch_key_tree.erl, stem_tree.
func (s *stemming) node(pos uint64, n *revNode) (left int, out *revNode) {
	s.failed = s.failed || s.seen[string(n.id)]
	s.seen[string(n.id)] = true
	if len(n.children) == 0 {
		return s.limit - 1, n
	}
	left = -1
	var children []*revNode
	for _, child := range n.children {
		more, node := s.node(pos+1, child)
		if left = max(left, more); node != nil {
			children = append(children, node)
		}
	}
	switch {
	case left > 0 && len(children) > 0:
		return left - 1, &revNode{id: n.id, leaf: n.leaf, children: children}
	case left == 0 && len(children) > 0:
		for _, child := range children {
			s.branches = append(s.branches, revRoot{pos + 1, child})
		}
		return -1, nil
	case left < 0 && len(children) == 0:
		return left - 1, nil
	}
	s.failed = true
	return 0, nil
}
