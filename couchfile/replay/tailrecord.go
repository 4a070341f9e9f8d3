package replay

import (
	"bytes"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// In the plain form of a record, the value of a document's entry in the seq
// tree, what follows from the bodies in front of it is left out: a revision whose
// body was just written has {deleted, external size} as its value; the document's
// sizes are [] where they are the sums that the server makes. What follows from the
// value that the document had before is left out too: what a revision had stands there
// bare, as {deleted, 0, seq, {0, external}, []} or, if it has children, as []. So a
// plain record says nothing of where things are.

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
	id         erlterm.Term
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
		r := revValue{}
		if ok {
			r.id, rest, ok = erlterm.Next(rest)
		}
		r.start = len(revs) - len(rest)
		if ok {
			_, rest, ok = erlterm.Next(rest)
		}
		r.end = len(revs) - len(rest)
		if ok {
			n, rest, ok = erlterm.List(rest)
		}
		r.leaf = n == 0
		if !ok || !fn(r) {
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

// olderRevs are the revisions of a document's value that have bodies.
type olderRevs struct {
	list []olderRev
	next int // most are asked for in their order
}

type olderRev struct {
	id   erlterm.Term
	body []byte // its value
}

// revsOf are those of a value of the id tree, which may be nil.
func revsOf(was erlterm.Term) *olderRevs {
	o := &olderRevs{}
	p, ok := splitRecord(was)
	if !ok {
		return o
	}
	ok = eachRev(p.revs, func(r revValue) bool {
		if v := p.revs[r.start:r.end]; isBody(v) {
			o.list = append(o.list, olderRev{r.id, v})
		}
		return true
	})
	if !ok {
		return &olderRevs{}
	}
	return o
}

// isBody says whether the value of a revision has five elements.
func isBody(v []byte) bool { _, ok := erlterm.TupleN(v, 5); return ok }

// find is what a revision had, or nil.
func (o *olderRevs) find(r revValue) []byte {
	for i := range o.list {
		at := (o.next + i) % len(o.list)
		if x := &o.list[at]; bytes.Equal(x.id, r.id) {
			o.next = at + 1
			return x.body
		}
	}
	return nil
}

// bare is the value of a leaf without its place.
func bare(dst, v []byte) ([]byte, bool) {
	b, ok := parseRevBody(v)
	if !ok {
		return dst, false
	}
	dst = append(erlterm.PutTuple(dst, 5), b.deleted...)
	dst = append(erlterm.PutInt(dst, 0), b.seq...)
	dst = append(erlterm.PutInt(erlterm.PutTuple(dst, 2), 0), b.external...)
	return append(dst, erlterm.TagNil), true
}

// atSeq is the value of a revision with another update_seq: a purge gives the leaves that
// stay new ones.
//
// Source: CouchDB 3.5, src/couch/src/couch_db_updater.erl, apply_purge_reqs.
func atSeq(v []byte, seq erlterm.Term) []byte {
	b, ok := parseRevBody(v)
	if !ok || bytes.Equal(b.seq, seq) {
		return v
	}
	out := append(erlterm.PutTuple(make([]byte, 0, len(v)+8), 5), b.deleted...)
	out = append(erlterm.PutUint(out, b.off), seq...)
	out = append(erlterm.PutUint(erlterm.PutTuple(out, 2), b.active), b.external...)
	return append(out, b.atts...)
}

// bareRecord is the base of a document's plain form: what it was, with its id for the
// sequence, without sizes and the places of bodies; or the beginning of that.
func bareRecord(was, id erlterm.Term) []byte {
	p, ok := splitRecord(was)
	p.id = id
	if ok {
		var revs []byte
		done := 0
		ok = eachRev(p.revs, func(r revValue) bool {
			revs = append(revs, p.revs[done:r.start]...)
			v := p.revs[r.start:r.end]
			done = r.end
			if !r.leaf {
				revs = append(revs, erlterm.TagNil)
			} else if b, ok := bare(revs, v); ok {
				revs = b
			} else {
				revs = append(revs, v...)
			}
			return true
		})
		if ok {
			return p.append(nil, erlterm.Term{erlterm.TagNil}, append(revs, p.revs[done:]...))
		}
	}
	return append(erlterm.PutTuple(nil, 4), id...)
}

// fillRecord makes a value of its plain form, with the bodies that are pending and what
// the document's value was, or nil. It returns the bodies that are left, and whether the
// plain form says nothing of where things are: so in another file, too, the value is right.
func fillRecord(plain, seq erlterm.Term, pending []pendingBody, was erlterm.Term) (value erlterm.Term, left []pendingBody, apart bool) {
	p, ok := splitRecord(plain)
	if !ok {
		return plain, pending, false
	}
	apart = true
	left = pending
	older := revsOf(was)
	revs := make([]byte, 0, len(p.revs)+64)
	var again []byte
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
		b, isBody := parseRevBody(v)
		if isNil := len(v) == 1 && v[0] == erlterm.TagNil; isNil || isBody && b.off == 0 {
			had := older.find(r)
			same := isNil
			if had != nil && isBody {
				had = atSeq(had, b.seq)
				again, _ = bare(again[:0], had)
				same = bytes.Equal(again, v)
			}
			if had != nil && same {
				revs = append(append(revs, p.revs[done:r.start]...), had...)
				done = r.end
			} else if isBody {
				apart = false
			}
			return true
		}
		apart = false
		if isBody && len(left) > 0 && b.off == uint64(left[0].off) {
			left = left[1:]
		}
		return true
	})
	if !ok {
		return plain, pending, false
	}
	revs = append(revs, p.revs[done:]...)
	sizes := p.sizes
	if sizes.Tag() == erlterm.TagNil {
		if sums, ok := sumSizes(revs); ok {
			sizes = sums
		}
	}
	return p.append(make([]byte, 0, len(plain)+len(revs)-len(p.revs)+16), sizes, revs), left, apart
}

// plainRecord is the plain form of a value. It returns the bodies that are left
// when it is made a value again.
func plainRecord(value, seq erlterm.Term, pending []pendingBody, was erlterm.Term) (plain erlterm.Term, left []pendingBody) {
	p, ok := splitRecord(value)
	if !ok {
		return value, pending
	}
	left = pending
	older := revsOf(was)
	var revs []byte
	done := 0
	ok = eachRev(p.revs, func(r revValue) bool {
		v := p.revs[r.start:r.end]
		b, ok := parseRevBody(v)
		if !ok {
			return true
		}
		keep := func(plain []byte) {
			revs = append(append(revs, p.revs[done:r.start]...), plain...)
			done = r.end
		}
		if len(left) > 0 && b.off == uint64(left[0].off) {
			if b.active == uint64(left[0].size) && bytes.Equal(b.seq, seq) && bytes.Equal(b.atts, left[0].atts) {
				keep(append(append(erlterm.PutTuple(nil, 2), b.deleted...), b.external...))
			}
			left = left[1:]
			return true
		}
		switch had := older.find(r); {
		case had == nil:
		case !r.leaf && bytes.Equal(had, v):
			keep([]byte{erlterm.TagNil})
		case r.leaf && bytes.Equal(atSeq(had, b.seq), v):
			x, _ := bare(nil, v)
			keep(x)
		}
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
