package couchfile

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// DocInfo is what the id and seq trees say about a document: everything but
// bodies.
type DocInfo struct {
	ID        string
	UpdateSeq uint64
	Deleted   bool // the winning revision is a deletion
	Sizes     Sizes

	// Revs is the revision tree, each node before its children. Leaves
	// without Deleted, other than the winner, are conflicts.
	Revs []Revision
}

// Winner is the revision that the server answers with by default: of the
// leaves, first those that are no deletions, then the longest history, then
// the largest id. The zero Revision is the winner of no revisions.
func (d *DocInfo) Winner() Revision {
	if idx := leaves(d.Revs); len(idx) > 0 {
		return d.Revs[idx[0]]
	}
	return Revision{}
}

// Leaves returns all leaf revisions, the winner first, in the order in which
// they would win.
func (d *DocInfo) Leaves() []Revision {
	var out []Revision
	for _, i := range leaves(d.Revs) {
		out = append(out, d.Revs[i])
	}
	return out
}

// Conflicts returns the leaves beside the winner that are no deletions, or
// those that are.
func (d *DocInfo) Conflicts(deleted bool) []Revision {
	var out []Revision
	for i, l := range d.Leaves() {
		if i > 0 && l.Deleted == deleted {
			out = append(out, l)
		}
	}
	return out
}

// Revision returns the node of rev, leaf or not.
func (d *DocInfo) Revision(rev Rev) (Revision, bool) {
	if i := d.index(rev); i >= 0 {
		return d.Revs[i], true
	}
	return Revision{}, false
}

func (d *DocInfo) index(rev Rev) int {
	return slices.IndexFunc(d.Revs, func(r Revision) bool { return r.Rev == rev })
}

// History returns rev's id and those of its ancestors, as far as they are
// known, newest first: the ids of _revisions.
func (d *DocInfo) History(rev Rev) []string {
	var ids []string
	for i := d.index(rev); i >= 0; i = d.Revs[i].Parent {
		ids = append(ids, revIDString(d.Revs[i].ID))
	}
	return ids
}

// docEntry is an entry of the id or seq tree with the rev tree still stored.
type docEntry struct {
	id      []byte
	seq     uint64
	deleted bool
	sizes   Sizes
	sized   bool   // sizes are stored
	raw     []byte // from the deletion flag to the end: equal in both trees
	revs    []byte // the rev tree
}

func (d *docEntry) counts() Counts {
	if d.deleted {
		return Counts{Deleted: 1, Sizes: d.sizes}
	}
	return Counts{Docs: 1, Sizes: d.sizes}
}

// parseIDEntry reads id => {seq, deleted, sizes, revs}; sizes are missing
// before 1.2.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, id_tree_join.
func parseIDEntry(e Entry) (d docEntry, ok bool) {
	id, _, ok := erlterm.Binary(e.Key)
	if !ok {
		return d, false
	}
	n, rest, ok := erlterm.Tuple(e.Value)
	if !ok {
		return d, false
	}
	seq, rest, ok := erlterm.Uint(rest)
	if !ok {
		return d, false
	}
	d.id, d.seq = id, seq
	return d, d.tail(n, rest)
}

// parseSeqEntry reads seq => {id, deleted, sizes, revs}.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, seq_tree_join.
func parseSeqEntry(e Entry) (d docEntry, ok bool) {
	seq, _, ok := erlterm.Uint(e.Key)
	if !ok {
		return d, false
	}
	n, rest, ok := erlterm.Tuple(e.Value)
	if !ok {
		return d, false
	}
	id, rest, ok := erlterm.Binary(rest)
	if !ok {
		return d, false
	}
	d.id, d.seq = id, seq
	return d, d.tail(n, rest)
}

// tail reads what both entries end with, of an entry of n elements.
func (d *docEntry) tail(n int, rest []byte) bool {
	d.raw = rest
	deleted, rest, ok := erlterm.Uint(rest)
	if !ok || deleted > 1 || n < 3 || n > 4 {
		return false
	}
	d.deleted = deleted == 1
	if n == 4 {
		if d.sizes, rest, ok = parseSizes(rest); !ok {
			return false
		}
		d.sized = true
	}
	d.revs = rest
	return true
}

// info copies the entry out of the tree's buffers.
func (d *docEntry) info() (*DocInfo, bool) {
	var p revParser
	revs, rest, ok := p.parse(d.revs)
	return &DocInfo{
		ID: string(d.id), UpdateSeq: d.seq, Deleted: d.deleted || leavesDeleted(revs), Sizes: d.sizes, Revs: p.revisions(),
	}, ok && len(rest) == 0
}

// leavesDeleted says whether a document is deleted: if all leaves are. Its flag says so
// too, but not where the last other leaf was purged: the server leaves the flag then.
//
// Source: CouchDB 3.5, src/couch/src/couch_db_updater.erl, apply_purge_reqs.
func leavesDeleted(revs []rawRev) bool {
	return !slices.ContainsFunc(revs, func(r rawRev) bool { return r.Leaf && !r.Deleted })
}

// DocInfo looks a document up by its id. It returns ErrNotFound for ids that
// the database never held or that were purged; deleted ones are found.
func (db *DB) DocInfo(id string) (*DocInfo, error) {
	for e, err := range db.IDTree().All(&Key{ID: id}, false) {
		if err != nil {
			return nil, err
		}
		info, err := db.docInfo(e, parseIDEntry)
		if err != nil {
			return nil, err
		}
		if info.ID == id {
			return info, nil
		}
		break
	}
	return nil, fmt.Errorf("document %q: %w", id, ErrNotFound)
}

func (db *DB) docInfo(e Entry, parse func(Entry) (docEntry, bool)) (*DocInfo, error) {
	d, ok := parse(e)
	if !ok {
		return nil, corrupt(db.hdr.Offset, "document entry", errShape)
	}
	info, ok := d.info()
	if !ok {
		return nil, corrupt(db.hdr.Offset, fmt.Sprintf("revision tree of %q", d.id), errShape)
	}
	return info, nil
}

// DocsOptions selects what Docs iterates over. The zero value is all
// documents that are not deleted, in the order of their ids.
type DocsOptions struct {
	Start      string // first id; with Descending, and if not empty, the last one to start from
	Descending bool
	Deleted    bool // deleted documents too
}

// Docs iterates over documents in the byte order of their ids. An error ends
// the iteration.
func (db *DB) Docs(opts DocsOptions) iter.Seq2[*DocInfo, error] {
	var from *Key
	if opts.Start != "" {
		from = &Key{ID: opts.Start}
	}
	return db.infos(db.IDTree().All(from, opts.Descending), parseIDEntry, opts.Deleted)
}

// Changes iterates over the documents behind the sequence since, in the order
// of their last update, deleted ones too; descending, from the newest down.
func (db *DB) Changes(since uint64, descending bool) iter.Seq2[*DocInfo, error] {
	if descending {
		return until(db.infos(db.SeqTree().All(nil, true), parseSeqEntry, true), since)
	}
	if since == ^uint64(0) {
		return func(func(*DocInfo, error) bool) {}
	}
	return db.infos(db.SeqTree().All(&Key{Seq: since + 1}, false), parseSeqEntry, true)
}

// until ends a descending iteration at since.
func until(seq iter.Seq2[*DocInfo, error], since uint64) iter.Seq2[*DocInfo, error] {
	return func(yield func(*DocInfo, error) bool) {
		for info, err := range seq {
			if err == nil && info.UpdateSeq <= since {
				return
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func (db *DB) infos(seq iter.Seq2[Entry, error], parse func(Entry) (docEntry, bool), deleted bool) iter.Seq2[*DocInfo, error] {
	return func(yield func(*DocInfo, error) bool) {
		for e, err := range seq {
			var info *DocInfo
			if err == nil {
				info, err = db.docInfo(e, parse)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if info.Deleted && !deleted {
				continue
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// IsDesign says that id names a design document.
func IsDesign(id string) bool { return strings.HasPrefix(id, "_design/") }
