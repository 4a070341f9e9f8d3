package couchwriter

import (
	"fmt"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// docInfo is a record full_doc_info: a document without its bodies.
//
// Source: CouchDB 3.5, src/couch/include/couch_db.hrl.
type docInfo struct {
	id, seq erlterm.Term
	deleted bool
	sizes   sizes
	roots   []revRoot
}

// revRoot is one tree of revisions and the position of its first one.
type revRoot struct {
	pos  uint64
	node *revNode
}

type revNode struct {
	id       erlterm.Term
	leaf     *revLeaf // nil if the revision's body is not known (REV_MISSING)
	children []*revNode
}

// revLeaf is a record leaf.
type revLeaf struct {
	deleted bool
	ptr     uint64
	seq     erlterm.Term
	sizes   sizes
	atts    erlterm.Term // list of {pointers, length}
}

var noAtts = erlterm.Term{erlterm.TagNil}

// parseSeqEntry reads a document out of the seq tree.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, seq_tree_join.
func parseSeqEntry(e couchfile.Entry) (*docInfo, error) {
	d := &docInfo{seq: e.Key}
	n, rest, ok := erlterm.Tuple(e.Value)
	if ok {
		d.id, rest, ok = erlterm.Next(rest)
	}
	if !ok || n < 3 || n > 4 || !d.parseTail(rest, n == 4, parseDiskLeaf) {
		return nil, fmt.Errorf("document in the seq tree: %w", ErrUnpredicted)
	}
	return d, nil
}

// parseTail reads the deletion flag, sizes and the tree.
func (d *docInfo) parseTail(rest []byte, sized bool, leaf leafParser) (ok bool) {
	deleted, rest, ok := erlterm.Uint(rest)
	if !ok || deleted > 1 {
		return false
	}
	if d.deleted = deleted == 1; sized {
		if d.sizes, rest, ok = parseSizes(rest); !ok {
			return false
		}
	}
	d.roots, rest, ok = parseRoots(rest, leaf)
	return ok && len(rest) == 0
}

// leafParser reads the value of a revision.
type leafParser func(b []byte) (leaf *revLeaf, rest []byte, ok bool)

// parseRoots reads a list of {position, node}, as far as a node goes at once,
// so that a long history takes a time in proportion to it.
func parseRoots(b []byte, leaf leafParser) (roots []revRoot, rest []byte, ok bool) {
	n, rest, ok := erlterm.List(b)
	if !ok || n == 0 {
		return nil, rest, ok
	}
	for range n {
		var r revRoot
		if rest, ok = erlterm.TupleN(rest, 2); !ok {
			return nil, nil, false
		}
		if r.pos, rest, ok = erlterm.Uint(rest); !ok {
			return nil, nil, false
		}
		if r.node, rest, ok = parseRev(rest, leaf, 0); !ok {
			return nil, nil, false
		}
		roots = append(roots, r)
	}
	rest, ok = erlterm.ListEnd(rest)
	return roots, rest, ok
}

// maxRevDepth is how long a history may be. CouchDB's default is 1000.
const maxRevDepth = 1 << 20

func parseRev(b []byte, leaf leafParser, depth int) (n *revNode, rest []byte, ok bool) {
	rest, ok = erlterm.TupleN(b, 3)
	if !ok || depth > maxRevDepth {
		return nil, nil, false
	}
	n = &revNode{}
	if n.id, rest, ok = erlterm.Next(rest); !ok {
		return nil, nil, false
	}
	if n.leaf, rest, ok = leaf(rest); !ok {
		return nil, nil, false
	}
	count, rest, ok := erlterm.List(rest)
	if !ok || count == 0 {
		return n, rest, ok
	}
	for range count {
		var child *revNode
		if child, rest, ok = parseRev(rest, leaf, depth+1); !ok {
			return nil, nil, false
		}
		n.children = append(n.children, child)
	}
	rest, ok = erlterm.ListEnd(rest)
	return n, rest, ok
}

// parseDiskLeaf reads [] or {deleted, pointer, seq, sizes, attachments}, of
// which old versions wrote the first three or four.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, rev_tree.
func parseDiskLeaf(b []byte) (leaf *revLeaf, rest []byte, ok bool) {
	if len(b) > 0 && b[0] == erlterm.TagNil {
		return nil, b[1:], true
	}
	n, rest, ok := erlterm.Tuple(b)
	if !ok || n < 3 || n > 5 {
		return nil, nil, false
	}
	deleted, rest, ok := erlterm.Uint(rest)
	if !ok || deleted > 1 {
		return nil, nil, false
	}
	leaf = &revLeaf{deleted: deleted == 1, atts: noAtts}
	return leaf.parse(rest, n >= 4, n >= 5)
}

// parse reads what follows the deletion flag.
func (l *revLeaf) parse(rest []byte, sized, atts bool) (*revLeaf, []byte, bool) {
	var ok bool
	if l.ptr, rest, ok = erlterm.Uint(rest); !ok {
		return nil, nil, false
	}
	if l.seq, rest, ok = erlterm.Next(rest); ok && sized {
		l.sizes, rest, ok = parseSizes(rest)
	}
	if ok && atts {
		l.atts, rest, ok = erlterm.Next(rest)
	}
	return l, rest, ok
}

// putRecord appends the record as the compactor measures it.
func (d *docInfo) putRecord(dst []byte) []byte {
	dst = erlterm.PutAtom(erlterm.PutTuple(dst, 6), "full_doc_info")
	dst = append(append(dst, d.id...), d.seq...)
	dst = putBool(dst, d.deleted)
	dst = d.putRoots(dst, (*revLeaf).putRecord)
	return d.sizes.putRecord(dst)
}

// appendPair appends the document's entry of the seq tree, and returns where its
// value begins.
func (d *docInfo) appendPair(dst []byte) (entry []byte, valueAt int) {
	dst = append(erlterm.PutTuple(dst, 2), d.seq...)
	valueAt = len(dst)
	dst = append(erlterm.PutTuple(dst, 4), d.id...)
	dst = d.sizes.putTuple(putFlag(dst, d.deleted))
	return d.putRoots(dst, (*revLeaf).putDisk), valueAt
}

func (d *docInfo) putRoots(dst []byte, leaf func(*revLeaf, []byte) []byte) []byte {
	if len(d.roots) == 0 {
		return append(dst, erlterm.TagNil)
	}
	dst = erlterm.PutListHead(dst, len(d.roots))
	for _, r := range d.roots {
		dst = erlterm.PutUint(erlterm.PutTuple(dst, 2), r.pos)
		dst = r.node.put(dst, leaf)
	}
	return append(dst, erlterm.TagNil)
}

func (n *revNode) put(dst []byte, leaf func(*revLeaf, []byte) []byte) []byte {
	dst = append(erlterm.PutTuple(dst, 3), n.id...)
	if n.leaf == nil {
		dst = append(dst, erlterm.TagNil)
	} else {
		dst = leaf(n.leaf, dst)
	}
	if len(n.children) == 0 {
		return append(dst, erlterm.TagNil)
	}
	dst = erlterm.PutListHead(dst, len(n.children))
	for _, child := range n.children {
		dst = child.put(dst, leaf)
	}
	return append(dst, erlterm.TagNil)
}

func (l *revLeaf) putRecord(dst []byte) []byte {
	dst = erlterm.PutAtom(erlterm.PutTuple(dst, 6), "leaf")
	dst = erlterm.PutUint(putBool(dst, l.deleted), l.ptr)
	dst = append(dst, l.seq...)
	return append(l.sizes.putRecord(dst), l.atts...)
}

// putDisk appends the leaf as it is in trees.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, disk_tree.
func (l *revLeaf) putDisk(dst []byte) []byte {
	dst = putFlag(erlterm.PutTuple(dst, 5), l.deleted)
	dst = append(erlterm.PutUint(dst, l.ptr), l.seq...)
	return append(l.sizes.putTuple(dst), l.atts...)
}

func putBool(dst []byte, v bool) []byte {
	if v {
		return erlterm.PutAtom(dst, "true")
	}
	return erlterm.PutAtom(dst, "false")
}

func putFlag(dst []byte, v bool) []byte {
	if v {
		return erlterm.PutInt(dst, 1)
	}
	return erlterm.PutInt(dst, 0)
}
