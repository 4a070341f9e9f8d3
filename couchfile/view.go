package couchfile

import (
	"encoding/hex"
	"fmt"
	"io"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// ViewHeader is the header of a view index: one commit.
//
// An index whose UpdateSeq or PurgeSeq is above its shard's is served by
// CouchDB as it stands, with wrong rows; so a restore must leave it out.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl,
// make_header, and src/couch_mrview/src/couch_mrview_index.erl, commit.
type ViewHeader struct {
	Offset, End int64 // in the file, as in RawHeader
	Checksum    ChecksumKind

	Signature string // hex; also the name of the file
	UpdateSeq uint64 // of the shard, up to which the index is built; 0 in a fresh file
	PurgeSeq  uint64 // of the shard; 0 in a fresh file
	Fresh     bool   // nothing was indexed yet: the state is nil

	IDTree TreeRoot     // document id to keys
	Views  []ViewState  // in the order of the design document's views
	Info   erlterm.Term // map with the collator's versions; nil before 3.3
}

// ViewState is one view of an index.
type ViewState struct {
	Tree      TreeRoot // keys to values
	UpdateSeq uint64
	PurgeSeq  uint64
}

// View is a view index file at its newest header.
type View struct {
	src *source
	hdr ViewHeader
}

// Header is the header that v was opened at.
func (v *View) Header() ViewHeader { return v.hdr }

// OpenView opens the view index at its newest intact header. It returns
// ErrNoHeader if there is none, and ErrNotView if that is no view header.
func OpenView(r io.ReaderAt, size int64) (*View, error) {
	raw, err := FindHeader(r, size)
	if err != nil {
		return nil, err
	}
	return OpenViewAt(r, size, raw)
}

// OpenViewAt opens the view index as it was at a header of this file. Bytes
// behind it are not read. It returns ErrNotView if that is no view header.
func OpenViewAt(r io.ReaderAt, size int64, raw RawHeader) (*View, error) {
	h, err := ParseViewHeader(raw)
	if err != nil {
		return nil, err
	}
	if h.End > size {
		return nil, corrupt(h.Offset, "view header", errBeyondEnd)
	}
	return &View{src: newSource(r, h.End, lookupShift, lookupFrames), hdr: h}, nil
}

// ParseViewHeader reads the view header that raw holds, or returns ErrNotView.
func ParseViewHeader(raw RawHeader) (ViewHeader, error) {
	h := ViewHeader{Offset: raw.Offset, End: raw.End, Checksum: raw.Checksum, IDTree: emptyRoot}
	if raw.Kind != HeaderView {
		return h, fmt.Errorf("header at %d is of kind %v: %w", raw.Offset, raw.Kind, ErrNotView)
	}
	bad := corrupt(raw.Offset, "view header", errShape)
	t, err := erlterm.Parse(raw.Term)
	if err != nil {
		return h, bad
	}
	rest, ok := erlterm.TupleN(t, 2)
	if !ok {
		return h, bad
	}
	sig, rest, ok := erlterm.Binary(rest)
	if !ok {
		return h, bad
	}
	h.Signature = hex.EncodeToString(sig)
	if erlterm.IsAtom(rest, "nil") {
		h.Fresh = true
		return h, nil
	}
	if !h.fill(rest) {
		return h, bad
	}
	return h, nil
}

// fill reads {mrheader, update_seq, purge_seq, id tree, info, views}. Instead
// of info, which is a map, 2.x has a log tree, and 3.0 to 3.2 have nothing.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl,
// maybe_update_header.
func (h *ViewHeader) fill(state erlterm.Term) bool {
	var f [6]erlterm.Term
	n, ok := splitTuple(state, f[:])
	if !ok || n < 5 || !erlterm.IsAtom(f[0], "mrheader") {
		return false
	}
	var ok1, ok2, ok3 bool
	h.UpdateSeq, _, ok1 = erlterm.Uint(f[1])
	h.PurgeSeq, _, ok2 = erlterm.Uint(f[2])
	h.IDTree, ok3 = parseRoot(f[3])
	if !ok1 || !ok2 || !ok3 {
		return false
	}
	views := f[4]
	if n == 6 {
		views = f[5]
		if f[4].Tag() == erlterm.TagMap {
			h.Info = f[4]
		}
	}
	return h.fillViews(views)
}

// fillViews reads the list of {root, nil, nil, update_seq, purge_seq}; older
// files have {root, update_seq, purge_seq} or nil.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl,
// make_view_state.
func (h *ViewHeader) fillViews(list erlterm.Term) bool {
	n, rest, ok := erlterm.List(list)
	for ; ok && n > 0; n-- {
		var item erlterm.Term
		if item, rest, ok = erlterm.Next(rest); !ok {
			break
		}
		var v ViewState
		if v, ok = parseViewState(item); ok {
			h.Views = append(h.Views, v)
		}
	}
	return ok
}

func parseViewState(t erlterm.Term) (v ViewState, ok bool) {
	if erlterm.IsAtom(t, "nil") {
		return ViewState{Tree: emptyRoot}, true
	}
	var f [5]erlterm.Term
	n, ok := splitTuple(t, f[:])
	if !ok || n != 3 && n != 5 {
		return v, false
	}
	var ok1, ok2, ok3 bool
	v.Tree, ok1 = parseRoot(f[0])
	v.UpdateSeq, _, ok2 = erlterm.Uint(f[n-2])
	v.PurgeSeq, _, ok3 = erlterm.Uint(f[n-1])
	return v, ok1 && ok2 && ok3
}
