package couchwriter

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Record is what an entry of a seq tree says of a document, as far as a
// compaction keeps it: the bodies of leaves alone.
type Record struct {
	ID     erlterm.Term
	Leaves []Leaf // in the order in which a compaction copies them

	info  *docInfo
	mixed bool // by Copied
}

// Leaf is where a leaf's body is stored.
type Leaf struct {
	Offset, Size int64        // of its chunk
	Attachments  erlterm.Term // list of {pointers, length}
}

// ParseRecord reads an entry of a seq tree. The record refers to its bytes.
func ParseRecord(e couchfile.Entry) (*Record, error) {
	info, err := parseSeqEntry(e)
	if err != nil {
		return nil, err
	}
	r := &Record{ID: info.id, info: info}
	for _, root := range info.roots {
		if err := r.add(root.node); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// add takes the leaves at and below n, in the order of copyRev.
func (r *Record) add(n *revNode) error {
	for _, child := range n.children {
		if err := r.add(child); err != nil {
			return err
		}
	}
	switch {
	case len(n.children) > 0:
		n.leaf = nil
	case n.leaf == nil || n.leaf.ptr > 1<<62 || n.leaf.sizes.active > 1<<62:
		return fmt.Errorf("a leaf without a body: %w", ErrUnpredicted)
	default:
		r.Leaves = append(r.Leaves, Leaf{int64(n.leaf.ptr), int64(n.leaf.sizes.active), n.leaf.atts})
	}
	return nil
}

// Copied says that a compaction wrote what the record points to: Leaves are put
// into the order of their offsets, in which it copied them. It is another one
// than that of the tree if the compaction then cut histories.
func (r *Record) Copied() (mixed bool) {
	byOffset := func(a, b Leaf) int { return cmp.Compare(a.Offset, b.Offset) }
	r.mixed = !slices.IsSortedFunc(r.Leaves, byOffset)
	if r.mixed {
		slices.SortStableFunc(r.Leaves, byOffset)
	}
	return r.mixed
}

// AppendPlain appends the entry's value without what a compaction puts in anew:
// offsets and stored sizes are 0, sizes of the document too, and lists of
// attachments are empty. Where Copied found another order than the tree's, the
// leaves' places in it, from 1 on, stand for their offsets.
func (r *Record) AppendPlain(dst []byte) []byte {
	d := *r.info
	d.sizes = sizes{}
	dst = append(erlterm.PutTuple(dst, 4), d.id...)
	dst = d.sizes.putTuple(putFlag(dst, d.deleted))
	return d.putRoots(dst, func(l *revLeaf, dst []byte) []byte {
		plain := revLeaf{deleted: l.deleted, seq: l.seq, sizes: sizes{0, l.sizes.external}, atts: noAtts}
		if r.mixed {
			plain.ptr = 1 + uint64(slices.IndexFunc(r.Leaves, func(x Leaf) bool { return x.Offset == int64(l.ptr) }))
		}
		return plain.putDisk(dst)
	})
}
