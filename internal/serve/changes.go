package serve

import (
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
)

// ChangeKind says what became of a document.
type ChangeKind string

// What can become of a document between two states of a database.
const (
	DocAdded     ChangeKind = "added"
	DocChanged   ChangeKind = "changed"
	DocDeleted   ChangeKind = "deleted"
	DocUndeleted ChangeKind = "undeleted"
	DocPurged    ChangeKind = "purged" // nothing is known of it any more, not even that it was deleted
)

// DocChange is a document that isn't the same in two states of a database.
type DocChange struct {
	ID   string     `json:"id"`
	Kind ChangeKind `json:"kind"`
	From string     `json:"from,omitempty"` // the winning revision before, a deletion too; "" if it wasn't there
	To   string     `json:"to,omitempty"`
}

// lookedUp is of how many documents what they were is looked up at once.
const lookedUp = 1000

// Changes calls fn with each document that isn't the same in two states of a database, until that returns an error; nil is a
// database that isn't there. Conflicts count: a document whose leaves differ has changed. Where a shard in to is the one in
// from, with later commits, what was changed since is read, in the order of changes; else both are read whole, in the order
// of ids. Errors are those of Open, of reading, and of fn.
func Changes(ctx context.Context, from, to *Database, fn func(DocChange) error) error {
	pairs, err := pairsOf(ctx, from, to)
	if err != nil {
		return err
	}
	if pairs == nil {
		return compareAll(ctx, from, to, fn)
	}
	for _, p := range pairs {
		if err := p.changes(ctx, fn); err != nil {
			return err
		}
	}
	return nil
}

// pair is a shard in two states, of which the second went on from the first.
type pair struct{ from, to *couchfile.DB }

// pairsOf returns the shards of two states that have the same ranges and went on, nil if they don't.
func pairsOf(ctx context.Context, from, to *Database) ([]pair, error) {
	if from == nil || to == nil || !slices.EqualFunc(from.Shards, to.Shards, func(a, b *Shard) bool { return a.Range == b.Range }) {
		return nil, nil
	}
	var out []pair
	for i := range from.Shards {
		a, err := from.Open(ctx, from.Shards[i])
		if err != nil {
			return nil, err
		}
		b, err := to.Open(ctx, to.Shards[i])
		if err != nil {
			return nil, err
		}
		p := pair{a, b}
		if ok, err := p.goesOn(); err != nil || !ok {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// looked is how many of the last changes are held against each other.
const looked = 20

// goesOn reports whether the second state is the first with later changes: it has the same uuid, knows the last changes of
// the first, as a file that was set back in between doesn't, and remembers all purges since.
func (p pair) goesOn() (bool, error) {
	was, is := p.from.Header(), p.to.Header()
	if was.UUID == "" || was.UUID != is.UUID || was.UpdateSeq > is.UpdateSeq {
		return false, nil
	}
	n := 0
	for info, err := range p.from.Changes(0, true) {
		if err != nil {
			return false, err
		}
		now, err := find(p.to, info.ID)
		if err != nil {
			return false, err
		}
		if now != nil && now.UpdateSeq <= was.UpdateSeq && (now.UpdateSeq != info.UpdateSeq || !sameLeaves(now, info)) {
			return false, nil
		}
		if n++; n == looked {
			break
		}
	}
	before, err := p.from.Info()
	if err != nil {
		return false, err
	}
	after, err := p.to.Info()
	if err != nil {
		return false, err
	}
	purges := before.PurgeSeq
	for _, err := range p.to.Purges(before.PurgeSeq) {
		if err != nil {
			return false, err
		}
		purges++
	}
	return purges == after.PurgeSeq, nil
}

// changes tells of what was changed or purged since.
func (p pair) changes(ctx context.Context, fn func(DocChange) error) error {
	since := p.from.Header().UpdateSeq
	now := map[string]*couchfile.DocInfo{}
	var ids []string
	flush := func() error {
		was := map[string]*couchfile.DocInfo{}
		for info, err := range p.from.Lookup(slices.Clone(ids)) {
			if err != nil {
				return err
			}
			was[info.ID] = info
		}
		for _, id := range ids {
			if c, ok := changeOf(id, was[id], now[id]); ok {
				if err := fn(c); err != nil {
					return err
				}
			}
		}
		ids = ids[:0]
		clear(now)
		return ctx.Err()
	}
	for info, err := range p.to.Changes(since, false) {
		if err != nil {
			return err
		}
		ids = append(ids, info.ID)
		now[info.ID] = info
		if len(ids) == lookedUp {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return p.purged(since, fn)
}

// purged tells of documents that were purged since, and weren't made again.
func (p pair) purged(since uint64, fn func(DocChange) error) error {
	before, err := p.from.Info()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for purge, err := range p.to.Purges(before.PurgeSeq) {
		if err != nil {
			return err
		}
		if seen[purge.DocID] {
			continue
		}
		seen[purge.DocID] = true
		is, err := find(p.to, purge.DocID)
		if err != nil {
			return err
		}
		if is != nil && is.UpdateSeq > since { // told as a change
			continue
		}
		was, err := find(p.from, purge.DocID)
		if err != nil {
			return err
		}
		if c, ok := changeOf(purge.DocID, was, is); ok {
			if err := fn(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// find looks a document up, nil if it isn't there.
func find(db *couchfile.DB, id string) (*couchfile.DocInfo, error) {
	info, err := db.DocInfo(id)
	if errors.Is(err, couchfile.ErrNotFound) {
		return nil, nil
	}
	return info, err
}

// changeOf says what became of a document, ok if anything did.
func changeOf(id string, was, is *couchfile.DocInfo) (c DocChange, ok bool) {
	c.ID = id
	if was != nil {
		c.From = was.Winner().Rev.String()
	}
	if is != nil {
		c.To = is.Winner().Rev.String()
	}
	there := func(info *couchfile.DocInfo) bool { return info != nil && !info.Deleted }
	switch {
	case was == nil && is == nil:
		return c, false
	case is == nil:
		c.Kind = DocPurged
	case there(was) && !there(is):
		c.Kind = DocDeleted
	case there(is) && was == nil:
		c.Kind = DocAdded
	case there(is) && !there(was):
		c.Kind = DocUndeleted
	case was == nil: // made and deleted in between
		c.Kind = DocDeleted
	default:
		c.Kind = DocChanged
		return c, !sameLeaves(was, is)
	}
	return c, true
}

func sameLeaves(a, b *couchfile.DocInfo) bool {
	return slices.EqualFunc(a.Leaves(), b.Leaves(), func(x, y couchfile.Revision) bool { return x.Rev == y.Rev && x.Deleted == y.Deleted })
}

// compareAll walks all documents of two states side by side.
func compareAll(ctx context.Context, from, to *Database, fn func(DocChange) error) error {
	nextA, stopA := iter.Pull2(from.all(ctx))
	defer stopA()
	nextB, stopB := iter.Pull2(to.all(ctx))
	defer stopB()
	a, errA, okA := nextA()
	b, errB, okB := nextB()
	for okA || okB {
		if err := errors.Join(errA, errB, ctx.Err()); err != nil {
			return err
		}
		id := ""
		switch {
		case !okB || okA && a.ID < b.ID:
			id = a.ID
		default:
			id = b.ID
		}
		var was, is *couchfile.DocInfo
		if okA && a.ID == id {
			was = a
			a, errA, okA = nextA()
		}
		if okB && b.ID == id {
			is = b
			b, errB, okB = nextB()
		}
		if c, ok := changeOf(id, was, is); ok {
			if err := fn(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// all iterates over all documents of all shards, deleted ones too, in the order of their ids. A nil database has none.
func (d *Database) all(ctx context.Context) iter.Seq2[*couchfile.DocInfo, error] {
	return func(yield func(*couchfile.DocInfo, error) bool) {
		if d == nil {
			return
		}
		dbs, err := d.OpenAll(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		for row, err := range Documents(dbs, IDRange{Open: true, Deleted: true}) {
			if !yield(row.Info, err) || err != nil {
				return
			}
		}
	}
}
