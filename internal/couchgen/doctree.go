package couchgen

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Rev names a revision: position in the history, and id.
type Rev struct {
	Pos uint64
	ID  string // 16 raw bytes, or another name given by a replicator
}

// String is the revision as HTTP shows it.
func (r Rev) String() string {
	id := r.ID
	if len(id) == 16 {
		id = hex.EncodeToString([]byte(id))
	}
	return strconv.FormatUint(r.Pos, 10) + "-" + id
}

// ParseRev undoes String.
func ParseRev(s string) (Rev, error) {
	pos, id, ok := strings.Cut(s, "-")
	n, err := strconv.ParseUint(pos, 10, 64)
	if !ok || err != nil {
		return Rev{}, fmt.Errorf("revision %q is not N-id", s)
	}
	if raw, err := hex.DecodeString(id); err == nil && len(raw) == 16 {
		id = string(raw)
	}
	return Rev{n, id}, nil
}

// info is a document's record in the id and seq trees.
type info struct {
	id               string
	seq              uint64
	oldSeq           uint64 // of a changed document: where the seq tree still has it; 0 = nowhere
	deleted          bool
	active, external int64
	roots            []root
	spare            *revNode // an unused one
}

// newInfo makes a record with room for one revision, in one allocation: most
// documents never have more.
func newInfo(id string) *info {
	d := &struct {
		info
		spareRoots [1]root
		spareNode  revNode
	}{info: info{id: id}}
	d.roots, d.spare = d.spareRoots[:0], &d.spareNode
	return &d.info
}

func (d *info) newNode() *revNode {
	n := d.spare
	if n == nil {
		n = &revNode{}
	}
	d.spare = nil
	return n
}

type root struct {
	pos uint64
	*revNode
}

// revNode is a revision in the rev tree.
type revNode struct {
	id               string
	stored           bool // has a body; else unknown or compacted away
	deleted          bool
	body             int64 // offset of the summary chunk
	seq              uint64
	active, external int64
	atts             []stream
	kids             []*revNode
}

// stream is where an attachment's bytes are.
type stream struct {
	chunks []extent
	length int64
}

type extent struct{ off, length int64 }

func compareStreams(a, b stream) int {
	return cmp.Or(slices.CompareFunc(a.chunks, b.chunks, func(a, b extent) int {
		return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.length, b.length))
	}), cmp.Compare(a.length, b.length))
}

func (d *info) clone() *info {
	c := *d
	c.roots, c.spare = slices.Clone(d.roots), nil
	for i := range c.roots {
		c.roots[i].revNode = c.roots[i].clone()
	}
	return &c
}

func (n *revNode) clone() *revNode {
	c := *n
	c.kids = slices.Clone(n.kids)
	for i := range c.kids {
		c.kids[i] = c.kids[i].clone()
	}
	return &c
}

// leaves calls f for every leaf.
func (d *info) leaves(f func(Rev, *revNode)) {
	var walk func(pos uint64, n *revNode)
	walk = func(pos uint64, n *revNode) {
		if len(n.kids) == 0 {
			f(Rev{pos, n.id}, n)
		}
		for _, k := range n.kids {
			walk(pos+1, k)
		}
	}
	for _, r := range d.roots {
		walk(r.pos, r.revNode)
	}
}

// winner is the leaf that the server shows: undeleted first, then the higher
// position, then the higher id.
func (d *info) winner() (rev Rev, node *revNode) {
	d.leaves(func(r Rev, n *revNode) {
		if node == nil || better(r, n, rev, node) {
			rev, node = r, n
		}
	})
	return rev, node
}

func better(r Rev, n *revNode, than Rev, old *revNode) bool {
	if n.deleted != old.deleted {
		return old.deleted
	}
	return cmp.Or(cmp.Compare(r.Pos, than.Pos), cmp.Compare(r.ID, than.ID)) > 0
}

// lookup returns the node of a revision, or nil.
func (d *info) lookup(rev Rev) *revNode {
	var walk func(pos uint64, n *revNode) *revNode
	walk = func(pos uint64, n *revNode) *revNode {
		if pos == rev.Pos && n.id == rev.ID {
			return n
		}
		for _, k := range n.kids {
			if found := walk(pos+1, k); found != nil {
				return found
			}
		}
		return nil
	}
	for _, r := range d.roots {
		if found := walk(r.pos, r.revNode); found != nil {
			return found
		}
	}
	return nil
}

// attach puts n under parent, or as a root at pos, keeping siblings in order.
func (d *info) attach(parent *revNode, pos uint64, n *revNode) {
	if parent != nil {
		parent.kids = append(parent.kids, n)
		slices.SortFunc(parent.kids, func(a, b *revNode) int { return cmp.Compare(a.id, b.id) })
		return
	}
	d.roots = append(d.roots, root{pos, n})
	slices.SortFunc(d.roots, func(a, b root) int { return cmp.Or(cmp.Compare(a.pos, b.pos), cmp.Compare(a.id, b.id)) })
}

// sum sets what the leaves say: deleted, and the sizes, with attachments that
// leaves share counted once.
//
// Source: CouchDB 3.5, src/couch/src/couch_db_updater.erl, flush_trees and add_sizes.
func (d *info) sum() {
	var atts []stream
	d.active, d.external = 0, 0
	d.leaves(func(_ Rev, n *revNode) {
		d.active += n.active
		d.external += n.external
		atts = append(atts, n.atts...)
	})
	slices.SortFunc(atts, compareStreams)
	atts = slices.CompactFunc(atts, func(a, b stream) bool { return compareStreams(a, b) == 0 })
	for _, a := range atts {
		d.active += a.length
		d.external += a.length
	}
	_, win := d.winner()
	d.deleted = win.deleted
}

// appendTail writes what id and seq tree have in common: deleted, sizes, rev tree.
func (d *info) appendTail(b []byte) []byte {
	b = appendSizes(appendBool(b, d.deleted), d.active, d.external)
	b = erlterm.PutListHead(b, len(d.roots))
	for _, r := range d.roots {
		b = erlterm.PutUint(erlterm.PutTuple(b, 2), r.pos)
		b = r.append(b)
	}
	return append(b, erlterm.TagNil)
}

func (n *revNode) append(b []byte) []byte {
	b = erlterm.PutBinary(erlterm.PutTuple(b, 3), n.id)
	if n.stored {
		b = erlterm.PutInt(appendBool(erlterm.PutTuple(b, 5), n.deleted), n.body)
		b = appendSizes(erlterm.PutUint(b, n.seq), n.active, n.external)
		b = appendStreams(b, n.atts)
	} else {
		b = append(b, erlterm.TagNil)
	}
	if len(n.kids) > 0 {
		b = erlterm.PutListHead(b, len(n.kids))
		for _, k := range n.kids {
			b = k.append(b)
		}
	}
	return append(b, erlterm.TagNil)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return erlterm.PutInt(b, 1)
	}
	return erlterm.PutInt(b, 0)
}

func appendSizes(b []byte, active, external int64) []byte {
	return erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(b, 2), active), external)
}

func appendStreams(b []byte, atts []stream) []byte {
	if len(atts) > 0 {
		b = erlterm.PutListHead(b, len(atts))
	}
	for _, a := range atts {
		b = appendExtents(erlterm.PutTuple(b, 2), a.chunks)
		b = erlterm.PutInt(b, a.length)
	}
	return append(b, erlterm.TagNil)
}

func appendExtents(b []byte, chunks []extent) []byte {
	if len(chunks) > 0 {
		b = erlterm.PutListHead(b, len(chunks))
	}
	for _, c := range chunks {
		b = appendSizes(b, c.off, c.length)
	}
	return append(b, erlterm.TagNil)
}

// must is how a decoder of our own terms reads: a wrong shape panics, and
// guard turns that into errTerm.
func must[T any](v any) T { return v.(T) }

func guard(err *error) {
	if recover() != nil {
		*err = errTerm
	}
}

// readTail undoes appendTail.
func (d *info) readTail(deleted, sizes, roots any) (err error) {
	defer guard(&err)
	d.deleted = must[int64](deleted) == 1
	d.active, d.external = readSizes(sizes)
	for _, r := range must[[]any](roots) {
		t := must[Tuple](r)
		d.roots = append(d.roots, root{uint64(must[int64](t[0])), readRevNode(t[1])})
	}
	return nil
}

func readSizes(term any) (active, external int64) {
	t := must[Tuple](term)
	return must[int64](t[0]), must[int64](t[1])
}

func readRevNode(term any) *revNode {
	t := must[Tuple](term)
	n := &revNode{id: must[string](t[0])}
	if v, ok := t[1].(Tuple); ok {
		n.stored = true
		n.deleted = must[int64](v[0]) == 1
		n.body = must[int64](v[1])
		n.seq = uint64(must[int64](v[2]))
		n.active, n.external = readSizes(v[3])
		for _, a := range must[[]any](v[4]) {
			n.atts = append(n.atts, readStream(a))
		}
	}
	for _, k := range must[[]any](t[2]) {
		n.kids = append(n.kids, readRevNode(k))
	}
	return n
}

func readStream(term any) stream {
	t := must[Tuple](term)
	s := stream{length: must[int64](t[1])}
	for _, c := range must[[]any](t[0]) {
		off, length := readSizes(c)
		s.chunks = append(s.chunks, extent{off, length})
	}
	return s
}
