package couchwriter

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// copyDoc copies the bodies and attachments of all leaves of a document, and
// lets its record point to them.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl, copy_docs.
func (c *Compaction) copyDoc(d batchDoc) error {
	d.sizes, c.leaves = sizes{}, c.leaves[:0]
	for _, r := range d.roots {
		if err := c.addLeaves(r.node); err != nil {
			return err
		}
	}
	if d.byOffset {
		slices.SortStableFunc(c.leaves, func(a, b *revLeaf) int { return cmp.Compare(a.ptr, b.ptr) })
	}
	for _, leaf := range c.leaves {
		attached, err := c.copyLeaf(leaf, d.from)
		if err != nil {
			return err
		}
		d.sizes.add(leaf.sizes)
		d.sizes.add(sizes{attached, attached})
	}
	return nil
}

// addLeaves goes over a tree from its root on, as couch_key_tree:mapfold does.
func (c *Compaction) addLeaves(n *revNode) error {
	for _, child := range n.children {
		if err := c.addLeaves(child); err != nil {
			return err
		}
	}
	switch {
	case len(n.children) > 0:
		n.leaf = nil
	case n.leaf == nil:
		return fmt.Errorf("a leaf without a body: %w", ErrUnpredicted)
	default:
		c.leaves = append(c.leaves, n.leaf)
	}
	return nil
}

// copyLeaf copies one body and its attachments, whose length it returns.
func (c *Compaction) copyLeaf(l *revLeaf, from Chunks) (attached uint64, err error) {
	payload, err := from.Payload(int64(l.ptr))
	if err != nil {
		return 0, err
	}
	c.body = append(c.body[:0], payload...)
	body, list, err := SplitSummary(c.body)
	if err != nil {
		return 0, fmt.Errorf("summary at %d: %w", l.ptr, err)
	}
	external := l.sizes.external
	if external == 0 || c.p.Release < Release30 {
		if external, err = plainSize(body); err != nil {
			return 0, fmt.Errorf("summary at %d: %w", l.ptr, err)
		}
	}
	atts, lengths, attached, err := c.copyAttachments(list, from)
	if err != nil {
		return 0, fmt.Errorf("attachments of the summary at %d: %w", l.ptr, err)
	}
	if !c.p.Compression.Stores(body) {
		term, err := couchfile.Inflate(body)
		if err != nil {
			return 0, fmt.Errorf("summary at %d: %w", l.ptr, err)
		}
		body = c.p.Compression.Append(nil, append([]byte{erlterm.Version}, term...))
	}
	c.term = append(c.term[:0], erlterm.Version)
	c.term = erlterm.PutBinary(erlterm.PutTuple(c.term, 2), body)
	c.part = append(append(c.part[:0], erlterm.Version), atts...)
	c.packed = c.p.Compression.Append(c.packed[:0], c.part)
	c.term = erlterm.PutBinary(c.term, c.packed)
	off, size := c.f.Checked(c.term)
	l.ptr, l.sizes, l.atts = uint64(off), sizes{uint64(size), external}, lengths
	return attached, nil
}

// The empty list as it is stored with snappy, and plain.
const (
	packedNil = "\x01\x02\x04\x83j"
	plainNil  = "\x83j"
)

// SplitSummary takes what a document's chunk holds apart, {body, attachments}.
// The body comes as it is stored, the list decompressed.
func SplitSummary(p []byte) (body []byte, list erlterm.Term, err error) {
	if len(p) == 0 || p[0] != erlterm.Version {
		return nil, nil, ErrUnpredicted
	}
	rest, ok := erlterm.TupleN(p[1:], 2)
	if !ok {
		return nil, nil, couchfile.ErrCorrupt
	}
	if body, rest, ok = erlterm.Binary(rest); !ok { // before 1.2 it was no binary
		return nil, nil, ErrUnpredicted
	}
	packed, _, ok := erlterm.Binary(rest)
	switch {
	case !ok:
		return body, erlterm.Term(rest), nil
	case string(packed) == packedNil || string(packed) == plainNil: // most have no attachments
		return body, noAtts, nil
	}
	list, err = couchfile.Inflate(packed)
	return body, list, err
}

// plainSize is how long a stored term is with its version byte.
//
// Source: CouchDB 3.5, src/couch/src/couch_compress.erl, uncompressed_size.
func plainSize(p []byte) (uint64, error) {
	switch {
	case len(p) > 1 && p[0] == snappyMark:
		if n, k := binary.Uvarint(p[1:]); k > 0 {
			return n, nil
		}
	case len(p) > 6 && p[0] == erlterm.Version && p[1] == deflateMark:
		return uint64(binary.BigEndian.Uint32(p[2:])) + 1, nil
	case len(p) > 1 && p[0] == erlterm.Version:
		return uint64(len(p)), nil
	}
	return 0, ErrUnpredicted
}

// copyAttachments copies what a list of attachments points to. It returns the
// new list and that of {pointers, length}, and the sum of the lengths.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl,
// copy_doc_attachments.
func (c *Compaction) copyAttachments(list erlterm.Term, from Chunks) (atts, lengths erlterm.Term, sum uint64, err error) {
	if list.Tag() == erlterm.TagNil && len(list) == 1 {
		return noAtts, noAtts, 0, nil
	}
	items, ok := erlterm.Elements(list)
	if !ok {
		return nil, nil, 0, couchfile.ErrCorrupt
	}
	var newAtts, newLengths []erlterm.Term
	for _, item := range items {
		a, ok := erlterm.Elements(item)
		if !ok || len(a) != 6 && len(a) != 8 {
			return nil, nil, 0, ErrUnpredicted
		}
		if len(a) == 6 { // name, type, pointers, length, rev position, MD5: of 0.10
			a = []erlterm.Term{a[0], a[1], a[2], a[3], a[3], a[4], a[5], erlterm.PutAtom(nil, "identity")}
		}
		n, _, ok := erlterm.Uint(a[3])
		if !ok {
			return nil, nil, 0, couchfile.ErrCorrupt
		}
		if a[2], err = c.copyStream(a[2], from); err != nil {
			return nil, nil, 0, err
		}
		a[7] = encodingOf(a[7])
		newAtts = append(newAtts, tupleOf(a))
		newLengths = append(newLengths, tupleOf([]erlterm.Term{a[2], a[3]}))
		sum += n
	}
	return erlterm.PutList(nil, newAtts), erlterm.PutList(nil, newLengths), sum, nil
}

// encodingOf turns the booleans of 0.11 into the atoms of today.
func encodingOf(t erlterm.Term) erlterm.Term {
	switch {
	case erlterm.IsAtom(t, "true"):
		return erlterm.PutAtom(nil, "gzip")
	case erlterm.IsAtom(t, "false"):
		return erlterm.PutAtom(nil, "identity")
	}
	return t
}

func tupleOf(items []erlterm.Term) erlterm.Term {
	out := erlterm.PutTuple(nil, len(items))
	for _, t := range items {
		out = append(out, t...)
	}
	return out
}

// FillsStream says whether a stream that holds some bytes of an attachment writes
// them as a chunk, with more of them, instead of waiting for others.
//
// Source: CouchDB 3.5, src/couch/src/couch_stream.erl, DEFAULT_BUFFER_SIZE and
// handle_call write.
func FillsStream(held, more uint64) bool { return held+more > 4096 }

// copyStream copies the chunks of an attachment, small ones merged, and
// returns the list of {offset, length} of the new ones.
//
// Source: CouchDB 3.5, src/couch/src/couch_stream.erl, copy and handle_call
// write; src/couch/src/couch_bt_engine_stream.erl.
func (c *Compaction) copyStream(pointers erlterm.Term, from Chunks) (erlterm.Term, error) {
	parts, ok := erlterm.Elements(pointers)
	if !ok || pointers.Tag() != erlterm.TagList && pointers.Tag() != erlterm.TagNil {
		return nil, ErrUnpredicted
	}
	var out []erlterm.Term
	write := func() {
		out = append(out, c.chunk(c.part))
		c.part = c.part[:0]
	}
	c.part = c.part[:0]
	for _, p := range parts {
		if pair, ok := erlterm.TupleN(p, 2); ok {
			p = pair // before 1.0 it was the offset alone
		}
		off, _, ok := erlterm.Uint(p)
		if !ok {
			return nil, couchfile.ErrCorrupt
		}
		data, err := from.Payload(int64(off))
		if err != nil {
			return nil, err
		}
		if len(c.part) == 0 && FillsStream(0, uint64(len(data))) {
			out = append(out, c.chunk(data))
			continue
		}
		full := FillsStream(uint64(len(c.part)), uint64(len(data)))
		if c.part = append(c.part, data...); full {
			write()
		}
	}
	if len(c.part) > 0 {
		write()
	}
	return erlterm.PutList(nil, out), nil
}

// chunk writes a chunk of an attachment and returns the pointer to it.
func (c *Compaction) chunk(data []byte) erlterm.Term {
	off, _ := c.f.Chunk(data)
	p := erlterm.PutInt(erlterm.PutTuple(make([]byte, 0, 16), 2), off)
	return erlterm.PutInt(p, int64(len(data)))
}
