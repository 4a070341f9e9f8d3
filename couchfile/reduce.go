package couchfile

import (
	"fmt"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Counts is the reduction of the id tree.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, id_tree_reduce.
type Counts struct {
	Docs    uint64 // documents whose winning revision is no deletion
	Deleted uint64
	Sizes   Sizes
}

func (c Counts) String() string {
	return fmt.Sprintf("%d and %d deleted, %d bytes active, %d external", c.Docs, c.Deleted, c.Sizes.Active, c.Sizes.External)
}

// Sizes of documents, in bytes.
type Sizes struct {
	Active   uint64 // stored summaries of leaf revisions, and their attachments
	External uint64 // the documents as JSON, and their attachments decoded
}

func (s *Sizes) add(o Sizes) { s.Active += o.Active; s.External += o.External }

// parseCounts reads {docs, deleted, {size_info, active, external}}; before 1.2
// the sizes are missing, later they were one number or nil.
func parseCounts(t erlterm.Term) (c Counts, sized, ok bool) {
	n, rest, ok := erlterm.Tuple(t)
	if !ok || n < 2 || n > 3 {
		return c, false, false
	}
	if c.Docs, rest, ok = erlterm.Uint(rest); !ok {
		return c, false, false
	}
	if c.Deleted, rest, ok = erlterm.Uint(rest); !ok {
		return c, false, false
	}
	if n == 2 || erlterm.IsAtom(rest, "nil") {
		return c, false, true
	}
	c.Sizes, _, ok = parseSizes(rest)
	return c, true, ok
}

// parseSizes reads {active, external}, {size_info, active, external}, or one
// number as of 1.2, which is the active size.
//
// Source: CouchDB 3.5, src/couch/src/couch_db_updater.erl, upgrade_sizes.
func parseSizes(b []byte) (s Sizes, rest []byte, ok bool) {
	if v, rest, ok := erlterm.Uint(b); ok {
		return Sizes{Active: v}, rest, true
	}
	n, rest, ok := erlterm.Tuple(b)
	if ok && n == 3 && erlterm.IsAtom(rest, "size_info") {
		_, rest, _ = erlterm.Atom(rest)
		n--
	}
	if !ok || n != 2 {
		if erlterm.IsAtom(b, "nil") || erlterm.IsAtom(b, "undefined") {
			_, rest, ok = erlterm.Atom(b)
			return Sizes{}, rest, ok
		}
		return s, nil, false
	}
	if s.Active, rest, ok = sizeNumber(rest); !ok {
		return s, nil, false
	}
	s.External, rest, ok = sizeNumber(rest)
	return s, rest, ok
}

// sizeNumber reads a size, which may be nil for documents of old releases.
func sizeNumber(b []byte) (v uint64, rest []byte, ok bool) {
	if v, rest, ok = erlterm.Uint(b); ok {
		return v, rest, true
	}
	if erlterm.IsAtom(b, "nil") || erlterm.IsAtom(b, "undefined") {
		_, rest, ok = erlterm.Atom(b)
		return 0, rest, ok
	}
	return 0, nil, false
}

// CountBefore counts the documents whose id is below id: the offset of a row
// in _all_docs. It reads one path of the tree.
func (db *DB) CountBefore(id string) (Counts, error) {
	var total Counts
	err := db.reduceBefore(db.IDTree(), Key{ID: id}, func(red erlterm.Term) bool {
		c, _, ok := parseCounts(red)
		total.add(c)
		return ok
	}, func(e Entry) bool {
		d, ok := parseIDEntry(e)
		total.add(d.counts())
		return ok
	})
	return total, err
}

// CountChanges counts the entries of the changes feed behind since.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, count_changes_since.
func (db *DB) CountChanges(since uint64) (uint64, error) {
	all, ok := parseCount(db.hdr.SeqTree)
	if !ok {
		return 0, corrupt(db.hdr.Offset, "seq tree reduction", errShape)
	}
	upTo := uint64(0)
	if since == ^uint64(0) {
		return 0, nil
	}
	err := db.reduceBefore(db.SeqTree(), Key{Seq: since + 1}, func(red erlterm.Term) bool {
		n, _, ok := erlterm.Uint(red)
		upTo += n
		return ok
	}, func(Entry) bool {
		upTo++
		return true
	})
	return all - min(upTo, all), err
}

func (c *Counts) add(o Counts) {
	c.Docs += o.Docs
	c.Deleted += o.Deleted
	c.Sizes.add(o.Sizes)
}

// reduceBefore folds the part of a tree below key: whole children by their
// reduction, entries of the last leaf one by one.
func (db *DB) reduceBefore(t *Tree, key Key, child func(erlterm.Term) bool, entry func(Entry) bool) error {
	if t.Root.Empty {
		return nil
	}
	w := walk{tree: t, from: &key}
	r := newNodeReader(newBudget(t.src))
	off := t.Root.Offset
	for range maxDepth {
		n, err := r.read(off)
		if err != nil {
			return err
		}
		next, err := w.foldBefore(r, n, child, entry)
		if err != nil || next < 0 {
			return err
		}
		off = next
	}
	return corrupt(off, t.Name, errDepth)
}

// foldBefore folds the items of n below w.from, and returns the child that
// holds the border, or -1.
func (w *walk) foldBefore(r *nodeReader, n node, child func(erlterm.Term) bool, entry func(Entry) bool) (next int64, err error) {
	items, err := r.split(n)
	if err != nil {
		return -1, err
	}
	for i := range items.len() {
		e := items.entry(i)
		before, err := w.before(n.off, e.Key)
		if err != nil || n.leaf && !before {
			return -1, err
		}
		if n.leaf {
			if !entry(e) {
				return -1, corrupt(n.off, "kv_node", errShape)
			}
			continue
		}
		root, err := n.child(e)
		if err != nil {
			return -1, err
		}
		if !before {
			return root.Offset, nil
		}
		if !child(root.Reduction) {
			return -1, corrupt(n.off, "kp_node", errShape)
		}
	}
	return -1, nil
}

func parseCount(root TreeRoot) (uint64, bool) {
	if root.Empty {
		return 0, true
	}
	n, _, ok := erlterm.Uint(root.Reduction)
	return n, ok
}
