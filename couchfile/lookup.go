package couchfile

import (
	"bytes"
	"iter"
	"slices"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Lookup iterates over those documents of ids that the database has, in the order of
// their ids, which ids are sorted into. It reads each node at most once, and so far less
// than as many calls of DocInfo. An error ends it.
func (db *DB) Lookup(ids []string) iter.Seq2[*DocInfo, error] {
	slices.Sort(ids)
	return func(yield func(*DocInfo, error) bool) {
		t := db.IDTree()
		l := lookup{db: db, ids: ids, walk: walk{tree: t, budget: newBudget(t.src)}, yield: yield}
		if t.Root.Empty {
			return
		}
		if _, err := l.node(t.Root.Offset, 0); err != nil {
			yield(nil, err)
		}
	}
}

// lookup is a walk to some keys of an id tree.
type lookup struct {
	walk
	db    *DB
	ids   []string // sorted, those that were not met yet
	yield func(*DocInfo, error) bool
}

func (l *lookup) node(off int64, depth int) (more bool, err error) {
	n, s, err := l.open(off, depth)
	if err != nil {
		return false, err
	}
	for i := range s.len() {
		e := s.entry(i)
		key, _, ok := erlterm.Binary(e.Key)
		if !ok {
			return false, corrupt(off, l.tree.Name+" key", errShape)
		}
		if n.leaf {
			more, err = l.entry(key, e)
		} else if more = true; len(l.ids) > 0 && l.ids[0] <= string(key) {
			var child TreeRoot
			if child, err = n.child(e); err != nil {
				return false, err
			}
			more, err = l.node(child.Offset, depth+1)
			l.pass(key) // what is not in the child isn't in the tree
		}
		if !more || err != nil || len(l.ids) == 0 {
			return more && len(l.ids) > 0, err
		}
	}
	return true, nil
}

// pass drops the ids up to a key.
func (l *lookup) pass(key []byte) {
	for len(l.ids) > 0 && l.ids[0] <= string(key) {
		l.ids = l.ids[1:]
	}
}

func (l *lookup) entry(key []byte, e Entry) (more bool, err error) {
	for len(l.ids) > 0 && l.ids[0] < string(key) {
		l.ids = l.ids[1:]
	}
	if len(l.ids) == 0 || !bytes.Equal(key, []byte(l.ids[0])) {
		return true, nil
	}
	info, err := l.db.docInfo(e, parseIDEntry)
	if err != nil {
		return false, err
	}
	l.ids = l.ids[1:]
	return l.yield(info, nil), nil
}
