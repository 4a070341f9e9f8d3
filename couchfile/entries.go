package couchfile

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// EntryDoc returns what an entry of the id tree says of its document.
func (db *DB) EntryDoc(e Entry) (*DocInfo, error) { return db.docInfo(e, parseIDEntry) }

// EntryLocal returns the local document of an entry of the local tree.
func (db *DB) EntryLocal(e Entry) (*LocalDoc, error) { return db.localDoc(e) }

// EntryPurge returns the purge of an entry of the purge tree, whose keys are the purges' uuids.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, purge_tree_join.
func (db *DB) EntryPurge(e Entry) (Purge, error) {
	var p Purge
	var f [3]erlterm.Term
	n, ok := splitTuple(e.Value, f[:])
	if ok = ok && n == len(f); ok {
		var oks [4]bool
		p.UUID, oks[0] = text(e.Key)
		p.Seq, _, oks[1] = erlterm.Uint(f[0])
		p.DocID, oks[2] = text(f[1])
		p.Revs, oks[3] = parseRevs(f[2])
		ok = oks == [4]bool{true, true, true, true}
	}
	if !ok {
		return Purge{}, corrupt(db.hdr.PurgeTree.Offset, "purge", errShape)
	}
	return p, nil
}

// LeafReader reads the leaf revisions of many documents, into memory that it uses again. The zero value is ready. It is not
// safe for concurrent use.
type LeafReader struct {
	parser revParser
	leaves []rawRev
}

// Append appends the leaf revisions of an entry of the id tree to dst, in a form that is the same for two documents if and
// only if their leaves have the same names and the same of them are deletions. The id is a part of the entry.
func (r *LeafReader) Append(dst []byte, e Entry) (id, leaves []byte, err error) {
	d, ok := parseIDEntry(e)
	if !ok {
		return nil, dst, fmt.Errorf("document entry: %w", ErrCorrupt)
	}
	revs, rest, ok := r.parser.parse(d.revs)
	if !ok || len(rest) != 0 {
		return nil, dst, fmt.Errorf("revision tree of %q: %w", d.id, ErrCorrupt)
	}
	r.leaves = r.leaves[:0]
	for i := range revs {
		if revs[i].Leaf {
			r.leaves = append(r.leaves, revs[i])
		}
	}
	slices.SortFunc(r.leaves, func(a, b rawRev) int {
		return cmp.Or(cmp.Compare(a.pos, b.pos), bytes.Compare(a.id, b.id))
	})
	for i := range r.leaves {
		l := &r.leaves[i]
		flag := byte(0)
		if l.Deleted {
			flag = 1
		}
		dst = erlterm.PutBinary(erlterm.PutUint(append(dst, flag), l.pos), l.id)
	}
	return d.id, dst, nil
}
