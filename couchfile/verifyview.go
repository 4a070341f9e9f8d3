package couchfile

import (
	"fmt"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

var (
	viewIDCheck = treeCheck{"view id tree", orderBytes, (*verifier).viewIDEntry, parseNoReduction}
	viewCheck   = treeCheck{"view tree", orderNone, (*verifier).viewEntry, parseViewReduction}
)

// view verifies a view index. The design document's own reductions can't be
// recomputed; the number of rows can.
func (v *verifier) view(raw RawHeader) error {
	h, err := ParseViewHeader(raw)
	if err != nil {
		v.findErr(err, Finding{})
		return v.err
	}
	v.report.View = h
	v.viewState(h)
	if !v.opts.AllHeaders || v.stopped() {
		return v.err
	}
	return EachHeader(v.src.r, raw.Offset, func(older RawHeader) error {
		h, err := ParseViewHeader(older)
		if err != nil || v.stopped() {
			return v.err
		}
		v.state = fmt.Sprintf("older state at update_seq %d: ", h.UpdateSeq)
		v.viewState(h)
		v.state = ""
		return v.err
	})
}

func (v *verifier) viewState(h ViewHeader) {
	v.limit = h.End
	v.report.Headers++
	v.trees.add(h.Offset, h.End)
	v.tree(h.IDTree, &viewIDCheck)
	roots := map[int64]bool{}
	for _, s := range h.Views {
		if roots[s.Tree.Offset] && !s.Tree.Empty {
			v.find(Finding{Offset: s.Tree.Offset, What: viewCheck.name + ": " + errShared.Error(), Err: errShared})
			continue
		}
		roots[s.Tree.Offset] = true
		v.tree(s.Tree, &viewCheck)
	}
}

func (v *verifier) viewIDEntry(off int64, e Entry) (reduction, digest, bool) {
	_, _, ok := erlterm.Binary(e.Key)
	return reduction{}, digest{}, ok
}

// viewEntry counts the rows of {key, doc id} => value, where {dups, [value]}
// stands for several.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl, expand_dups.
func (v *verifier) viewEntry(off int64, e Entry) (reduction, digest, bool) {
	if _, ok := erlterm.TupleN(e.Key, 2); !ok {
		return reduction{}, digest{}, false
	}
	red := reduction{Counts: Counts{Docs: 1}}
	rest, ok := erlterm.TupleN(e.Value, 2)
	if !ok || !erlterm.IsAtom(rest, "dups") {
		return red, digest{}, true
	}
	_, rest, _ = erlterm.Atom(rest)
	if len(rest) > 3 && rest[0] == erlterm.TagString { // a list of small integers
		red.Docs = uint64(rest[1])<<8 | uint64(rest[2])
		return red, digest{}, true
	}
	n, _, ok := erlterm.List(rest)
	red.Docs = uint64(n)
	return red, digest{}, ok
}

// parseViewReduction reads {rows, reductions, external size}; the size is
// missing in old files, and only the leaves' writer knows it.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl,
// make_reduce_fun.
func parseViewReduction(t erlterm.Term) (reduction, bool) {
	var f [3]erlterm.Term
	n, ok := splitTuple(t, f[:])
	if !ok || n < 2 {
		return reduction{}, false
	}
	var red reduction
	red.Docs, _, ok = erlterm.Uint(f[0])
	if n == 3 {
		red.Sizes.External, _, red.sized = erlterm.Uint(f[2])
	}
	return red, ok
}
