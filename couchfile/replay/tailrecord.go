package replay

import (
	"bytes"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// In the plain form of a record, the value of a document's entry in the seq
// tree, what follows from the bodies in front of it is left out: a revision whose
// body was just written has {deleted, external size} as its value; the document's
// sizes are [] where they are the sums that the server makes.

// pendingBody is a body that was written since the header before, and that the
// records which follow refer to, in this order.
type pendingBody struct {
	off, size int64
	atts      erlterm.Term // list of {pointers, length}, as in a revision's value
}

// recordParts are {id, deleted, sizes, revisions}.
type recordParts struct{ id, deleted, sizes, revs erlterm.Term }

func splitRecord(value erlterm.Term) (p recordParts, ok bool) {
	rest, ok := erlterm.TupleN(value, 4)
	for _, to := range []*erlterm.Term{&p.id, &p.deleted, &p.sizes, &p.revs} {
		if ok {
			*to, rest, ok = erlterm.Next(rest)
		}
	}
	return p, ok && len(rest) == 0
}

func (p recordParts) append(dst []byte, sizes, revs erlterm.Term) []byte {
	dst = append(append(erlterm.PutTuple(dst, 4), p.id...), p.deleted...)
	return append(append(dst, sizes...), revs...)
}

// revValue is where the value of a revision lies in a tree of revisions.
type revValue struct {
	start, end int
	leaf       bool
}

// eachRev calls fn with the values of the revisions of a list of {position,
// {id, value, children}}, each before those below it. ok is false if it is none,
// or fn says so.
func eachRev(revs erlterm.Term, fn func(revValue) bool) (ok bool) {
	n, rest, ok := erlterm.List(revs)
	if !ok || n == 0 {
		return ok && len(rest) == 0
	}
	more := []int{n} // on each level: roots, children of a root ...
	for ok && len(more) > 0 {
		top := len(more) - 1
		if more[top] == 0 {
			more = more[:top]
			rest, ok = erlterm.ListEnd(rest)
			continue
		}
		more[top]--
		if top == 0 {
			if rest, ok = erlterm.TupleN(rest, 2); ok {
				_, rest, ok = erlterm.Next(rest)
			}
		}
		if ok {
			rest, ok = erlterm.TupleN(rest, 3)
		}
		if ok {
			_, rest, ok = erlterm.Next(rest)
		}
		start := len(revs) - len(rest)
		if ok {
			_, rest, ok = erlterm.Next(rest)
		}
		end := len(revs) - len(rest)
		if ok {
			n, rest, ok = erlterm.List(rest)
		}
		if !ok || !fn(revValue{start, end, n == 0}) {
			return false
		}
		if n > 0 {
			more = append(more, n)
		}
	}
	return ok && len(rest) == 0
}

// revBody is the value of a revision that has a body: {deleted, offset, seq,
// {active, external}, attachments}.
type revBody struct {
	deleted, seq, external, atts erlterm.Term
	off, active                  uint64
}

func parseRevBody(v []byte) (b revBody, ok bool) {
	rest, ok := erlterm.TupleN(v, 5)
	if ok {
		b.deleted, rest, ok = erlterm.Next(rest)
	}
	if ok {
		b.off, rest, ok = erlterm.Uint(rest)
	}
	if ok {
		b.seq, rest, ok = erlterm.Next(rest)
	}
	if ok {
		rest, ok = erlterm.TupleN(rest, 2)
	}
	if ok {
		b.active, rest, ok = erlterm.Uint(rest)
	}
	if ok {
		b.external, rest, ok = erlterm.Next(rest)
	}
	if ok {
		b.atts, rest, ok = erlterm.Next(rest)
	}
	return b, ok && len(rest) == 0
}

// fillRecord makes a value of its plain form, with the bodies that are pending.
// It returns those that are left.
func fillRecord(plain, seq erlterm.Term, pending []pendingBody) (value erlterm.Term, left []pendingBody) {
	p, ok := splitRecord(plain)
	if !ok {
		return plain, pending
	}
	left = pending
	revs := make([]byte, 0, len(p.revs)+64)
	done := 0
	ok = eachRev(p.revs, func(r revValue) bool {
		v := p.revs[r.start:r.end]
		if rest, ok := erlterm.TupleN(v, 2); ok && len(left) > 0 {
			deleted, external, ok := erlterm.Next(rest)
			revs = append(revs, p.revs[done:r.start]...)
			done = r.end
			revs = append(erlterm.PutTuple(revs, 5), deleted...)
			revs = append(erlterm.PutInt(revs, left[0].off), seq...)
			revs = append(erlterm.PutInt(erlterm.PutTuple(revs, 2), left[0].size), external...)
			revs = append(revs, left[0].atts...)
			left = left[1:]
			return ok
		}
		if b, ok := parseRevBody(v); ok && len(left) > 0 && b.off == uint64(left[0].off) {
			left = left[1:]
		}
		return true
	})
	if !ok {
		return plain, pending
	}
	revs = append(revs, p.revs[done:]...)
	sizes := p.sizes
	if sizes.Tag() == erlterm.TagNil {
		if sums, ok := sumSizes(revs); ok {
			sizes = sums
		}
	}
	return p.append(make([]byte, 0, len(plain)+len(revs)-len(p.revs)+16), sizes, revs), left
}

// plainRecord is the plain form of a value. It returns the bodies that are left
// when it is made a value again.
func plainRecord(value, seq erlterm.Term, pending []pendingBody) (plain erlterm.Term, left []pendingBody) {
	p, ok := splitRecord(value)
	if !ok {
		return value, pending
	}
	left = pending
	var revs []byte
	done := 0
	ok = eachRev(p.revs, func(r revValue) bool {
		b, ok := parseRevBody(p.revs[r.start:r.end])
		if !ok || len(left) == 0 || b.off != uint64(left[0].off) {
			return true
		}
		if b.active == uint64(left[0].size) && bytes.Equal(b.seq, seq) && bytes.Equal(b.atts, left[0].atts) {
			revs = append(revs, p.revs[done:r.start]...)
			revs = append(append(erlterm.PutTuple(revs, 2), b.deleted...), b.external...)
			done = r.end
		}
		left = left[1:]
		return true
	})
	if !ok {
		return value, pending
	}
	revs = append(revs, p.revs[done:]...)
	sizes := p.sizes
	if sums, ok := sumSizes(p.revs); ok && bytes.Equal(sums, sizes) {
		sizes = erlterm.Term{erlterm.TagNil}
	}
	return p.append(nil, sizes, revs), left
}

// sumSizes is what the server says of the sizes of a document: sums over the
// bodies of its leaves, and the length of each attachment once.
//
// Source: CouchDB 3.5, src/couch/src/couch_db_updater.erl, flush_trees and add_sizes.
func sumSizes(revs erlterm.Term) (sizes erlterm.Term, ok bool) {
	var active, external, attached uint64
	seen := map[string]bool{}
	ok = eachRev(revs, func(r revValue) bool {
		if !r.leaf {
			return true
		}
		b, ok := parseRevBody(revs[r.start:r.end])
		if !ok {
			return false
		}
		e, _, ok := erlterm.Uint(b.external)
		if !ok {
			return false
		}
		active, external = active+b.active, external+e
		if b.atts.Tag() == erlterm.TagNil {
			return true
		}
		items, ok := erlterm.Elements(b.atts)
		for _, item := range items {
			pair, okPair := erlterm.Elements(item)
			if !okPair || len(pair) != 2 {
				return false
			}
			n, _, okLen := erlterm.Uint(pair[1])
			if !okLen {
				return false
			}
			if !seen[string(item)] {
				seen[string(item)], attached = true, attached+n
			}
		}
		return ok
	})
	if !ok {
		return nil, false
	}
	return erlterm.PutUint(erlterm.PutUint(erlterm.PutTuple(nil, 2), active+attached), external+attached), true
}
