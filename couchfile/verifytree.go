package couchfile

import (
	"bytes"
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// reduction is what can be recomputed of the trees' reductions: a count, and
// for the id tree the deleted documents and sizes.
type reduction struct {
	Counts
	sized bool // sizes are known
}

// digest is a sum of hashes of records, so that two trees in different orders
// can be compared without keeping them.
type digest struct{ hi, lo uint64 }

func (d *digest) add(o digest) {
	var carry uint64
	d.lo, carry = bits.Add64(d.lo, o.lo, 0)
	d.hi, _ = bits.Add64(d.hi, o.hi, carry)
}

// subtree is what a walk found out about a node and all below it.
type subtree struct {
	red  reduction
	sum  digest
	size int64  // bytes on disk
	last []byte // the last key, as a term
	ok   bool   // all of it could be read: the rest can be compared
	walk int    // the tree that it was last met in
	kind *treeCheck
}

// treeCheck says how the entries and reductions of a tree are read.
type treeCheck struct {
	name      string
	order     keyOrder
	entry     func(v *verifier, off int64, e Entry) (reduction, digest, bool)
	reduction func(erlterm.Term) (reduction, bool)
}

var (
	idCheck       = treeCheck{"id tree", orderBytes, (*verifier).idEntry, parseIDReduction}
	seqCheck      = treeCheck{"seq tree", orderSeq, (*verifier).seqEntry, parseCountReduction}
	localCheck    = treeCheck{"local tree", orderBytes, (*verifier).localEntry, parseNoReduction}
	purgeCheck    = treeCheck{"purge tree", orderBytes, (*verifier).purgeEntry, parseCountReduction}
	purgeSeqCheck = treeCheck{"purge_seq tree", orderSeq, (*verifier).purgeSeqEntry, parseCountReduction}
)

func parseIDReduction(t erlterm.Term) (reduction, bool) {
	c, sized, ok := parseCounts(t)
	return reduction{c, sized}, ok
}

func parseCountReduction(t erlterm.Term) (reduction, bool) {
	n, rest, ok := erlterm.Uint(t)
	return reduction{Counts: Counts{Docs: n}}, ok && len(rest) == 0
}

// parseNoReduction reads the reduction of a tree that has none: the empty list.
func parseNoReduction(t erlterm.Term) (reduction, bool) {
	return reduction{}, len(t) == 1 && t[0] == erlterm.TagNil
}

// treeWalk is the verification of one tree.
type treeWalk struct {
	v     *verifier
	check *treeCheck
	path  nodePath
	prev  []byte // the last key of the leaf before
	buf   []byte // that prev may lie in
}

// tree verifies a whole tree against its root's state.
func (v *verifier) tree(root TreeRoot, check *treeCheck) subtree {
	if root.Empty || v.stopped() {
		return subtree{ok: root.Empty}
	}
	v.walk++
	w := treeWalk{v: v, check: check}
	s := w.node(root.Offset, 0)
	w.compare(root.Offset, "root", root, &s)
	return s
}

// node verifies the subtree at off.
func (w *treeWalk) node(off int64, depth int) subtree {
	v := w.v
	if v.stopped() {
		return subtree{}
	}
	if err := w.path.enter(off, depth); err != nil {
		return w.bad(off, err)
	}
	s, known := v.nodes[off]
	if known && (s.walk == v.walk || s.kind != w.check) {
		return w.bad(off, errTwice)
	}
	if known {
		w.prev = s.last
	} else {
		s = w.read(off, depth)
	}
	if v.nodes != nil {
		s.walk, s.kind = v.walk, w.check
		v.nodes[off] = s
	}
	return s
}

// bad records a node that can't be where it is.
func (w *treeWalk) bad(off int64, err error) subtree {
	w.v.find(Finding{Offset: off, What: w.check.name + ": " + err.Error(), Err: err})
	return subtree{}
}

func (w *treeWalk) read(off int64, depth int) subtree {
	v := w.v
	if depth == len(v.levels) {
		v.levels = append(v.levels, newNodeReader(v.budget))
	}
	level := v.levels[depth]
	c, err := level.chunks.readChecked(off, "node")
	var n node
	if err == nil {
		v.took(&v.trees, &c, "node")
		n, err = level.decode(c)
	}
	if err != nil {
		v.findErr(err, Finding{What: w.check.name + ": "})
		return subtree{}
	}
	items, err := level.split(n)
	if err != nil {
		v.findErr(err, Finding{What: w.check.name + ": "})
		return subtree{}
	}
	if n.leaf {
		return w.leaf(n, items)
	}
	return w.inner(n, items, depth)
}

// leaf verifies the entries of a kv_node.
func (w *treeWalk) leaf(n node, all items) subtree {
	s := subtree{size: n.end - n.off, ok: true}
	s.red.sized = true
	var e Entry
	for i := range all.len() {
		e = all.entry(i)
		w.ascending(n.off, e.Key)
		red, sum, ok := w.check.entry(w.v, n.off, e)
		if !ok {
			w.v.find(Finding{Offset: n.off, What: w.check.name + ": entry: " + errShape.Error(), Err: errShape})
			s.ok = false
		}
		s.add(red, sum)
	}
	if w.v.nodes != nil { // it is remembered
		w.buf = nil
	}
	w.buf = append(w.buf[:0], e.Key...)
	w.prev, s.last = w.buf, w.buf
	return s
}

// ascending checks that key follows the one before in its tree, and takes its
// place, as long as the leaf's bytes are there.
func (w *treeWalk) ascending(off int64, key erlterm.Term) {
	if w.check.order != orderNone && len(w.prev) > 0 && compareKeys(w.check.order, w.prev, key) >= 0 {
		w.v.find(Finding{Offset: off, What: w.check.name + ": keys do not ascend"})
	}
	w.prev = key
}

// compareKeys orders two keys; keys of other types than the tree's are equal,
// which is an error to every caller.
func compareKeys(order keyOrder, a, b erlterm.Term) int {
	switch order {
	case orderBytes:
		x, _, ok1 := erlterm.Binary(a)
		y, _, ok2 := erlterm.Binary(b)
		if ok1 && ok2 {
			return bytes.Compare(x, y)
		}
	case orderSeq:
		x, _, ok1 := erlterm.Uint(a)
		y, _, ok2 := erlterm.Uint(b)
		if ok1 && ok2 && x != y {
			if x < y {
				return -1
			}
			return 1
		}
	}
	return 0
}

func (s *subtree) add(red reduction, sum digest) {
	s.red.Counts.add(red.Counts)
	s.red.sized = s.red.sized && red.sized
	s.sum.add(sum)
}

// inner verifies the children of a kp_node, and what the node says of them.
func (w *treeWalk) inner(n node, all items, depth int) subtree {
	s := subtree{size: n.end - n.off, ok: true}
	s.red.sized = true
	for i := range all.len() {
		e := all.entry(i)
		root, ok := parseRoot(e.Value)
		if !ok || root.Empty {
			w.v.find(Finding{Offset: n.off, What: w.check.name + ": pointer: " + errShape.Error(), Err: errShape})
			s.ok = false
			continue
		}
		child := w.node(root.Offset, depth+1)
		w.compare(n.off, "child", root, &child)
		if child.ok && !bytes.Equal(child.last, e.Key) {
			w.v.find(Finding{Offset: n.off, What: fmt.Sprintf("%s: key is not the last key of the child at %d", w.check.name, root.Offset)})
		}
		s.ok = s.ok && child.ok
		s.size += child.size
		s.last = child.last
		s.add(child.red, child.sum)
	}
	return s
}

// compare holds what a pointer at off says of a subtree against what the walk
// found there. Sizes that leaves don't have are taken from the pointer.
func (w *treeWalk) compare(off int64, which string, root TreeRoot, s *subtree) {
	if !s.ok {
		return
	}
	red, ok := w.check.reduction(root.Reduction)
	switch {
	case !ok:
		w.v.find(Finding{Offset: off, What: w.check.name + ": reduction: " + errShape.Error(), Err: errShape})
	case red.Docs != s.red.Docs || red.Deleted != s.red.Deleted || red.sized && s.red.sized && red.Sizes != s.red.Sizes:
		w.v.find(Finding{Offset: off, What: fmt.Sprintf("%s: reduction of the %s at %d is %v, want %v", w.check.name, which, root.Offset, red.Counts, s.red.Counts)})
	case root.Size >= 0 && root.Size != s.size:
		w.v.find(Finding{Offset: off, What: fmt.Sprintf("%s: size of the %s at %d is %d, want %d", w.check.name, which, root.Offset, root.Size, s.size)})
	}
	if ok && !s.red.sized {
		s.red.Sizes, s.red.sized = red.Sizes, red.sized
	}
}

// overlaps looks for pieces that share bytes, and adds up the live bytes.
func (v *verifier) overlaps() {
	all := append(v.trees, v.docs...)
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.off, b.off) })
	var last span
	for _, s := range all {
		if s.off < last.end {
			v.find(Finding{Offset: s.off, What: fmt.Sprintf("bytes up to %d belong to two pieces", min(s.end, last.end))})
		}
		v.report.LiveBytes += max(0, s.end-max(s.off, last.end))
		if s.end > last.end {
			last = s
		}
	}
}
