package cluster

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/topology"
)

const (
	// purgeBatch is how many purged documents are looked up at once.
	purgeBatch = 1000
	// mostPurges is how many purges of one copy are read.
	mostPurges = 1 << 20
	// namedDocs is how many documents are named.
	namedDocs = 1000
)

// PurgedBack are documents that come back, although a copy that is left out knows that they were purged.
type PurgedBack struct {
	Count int         `json:"count"`
	Docs  []PurgedDoc `json:"docs"` // the first 1000
	// Unread are shards of which a copy can't be read, so that what was purged in it is not known.
	Unread []string `json:"unread"`
}

// PurgedDoc is a document that comes back.
type PurgedDoc struct {
	Database string `json:"database"`
	ID       string `json:"id"`
	Node     string `json:"node"` // whose copy knows the purge
}

// PurgedBack looks into copies that are left out for purges that none of those knows which come back and still have what
// was purged. Where a restored copy knows a purge, CouchDB brings it to the others. Only copies with purges are opened.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3_rep.erl, push_changes (purges go first).
func (c *Cluster) PurgedBack(ctx context.Context, copies *Copies, left []topology.Left) (*PurgedBack, error) {
	out := &PurgedBack{Docs: []PurgedDoc{}, Unread: []string{}}
	for i := range left {
		l := &left[i]
		if !slices.ContainsFunc(l.Unused, func(u topology.Copy) bool { return u.Purges > 0 }) {
			continue
		}
		err := c.purgedBack(ctx, copies, l, out)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && !repo.Damaged(err) && !errors.Is(err, couchfile.ErrCorrupt):
			return nil, err
		case err != nil:
			out.Unread = append(out.Unread, l.Name.Path())
		}
	}
	return out, nil
}

// purgedBack looks at one range.
func (c *Cluster) purgedBack(ctx context.Context, copies *Copies, l *topology.Left, out *PurgedBack) error {
	used := make([]*couchfile.DB, len(l.Used))
	known := map[string]bool{} // uuids, which a purge keeps when it is passed on
	for i, u := range l.Used {
		db, done, err := copies.Open(ctx, u.Backup, l.Name)
		if err != nil {
			return err
		}
		defer done()
		used[i] = db
		n := 0
		for p, err := range db.Purges(0) {
			if err != nil {
				return err
			}
			if known[p.UUID] = true; n == mostPurges {
				break
			}
			n++
		}
	}
	seen := map[string]bool{}
	for _, u := range l.Unused {
		if u.Purges == 0 {
			continue
		}
		db, done, err := copies.Open(ctx, u.Backup, l.Name)
		if err != nil {
			return err
		}
		defer done()
		batch, n := map[string][]couchfile.Rev{}, 0
		look := func() error {
			err := c.stillThere(l.Name.DB, c.Members[u.Backup].Manifest.NodeName, used, db, batch, seen, out)
			clear(batch)
			return err
		}
		for p, err := range db.Purges(0) {
			if err != nil {
				return err
			}
			if n++; n > mostPurges {
				break
			}
			if known[p.UUID] {
				continue
			}
			if batch[p.DocID] = append(batch[p.DocID], p.Revs...); len(batch) == purgeBatch {
				if err := look(); err != nil {
					return err
				}
			}
		}
		if err := look(); err != nil {
			return err
		}
	}
	return nil
}

// stillThere counts the documents of which a restored copy has a revision that was purged in another one, which hasn't got
// it again since.
func (c *Cluster) stillThere(db, node string, used []*couchfile.DB, knows *couchfile.DB, purged map[string][]couchfile.Rev, seen map[string]bool, out *PurgedBack) error {
	again := map[string]*couchfile.DocInfo{}
	ids := slices.Sorted(maps.Keys(purged))
	for d, err := range knows.Lookup(ids) {
		if err != nil {
			return err
		}
		again[d.ID] = d
	}
	for _, one := range used {
		for d, err := range one.Lookup(ids) {
			if err != nil {
				return err
			}
			back := slices.ContainsFunc(purged[d.ID], func(rev couchfile.Rev) bool {
				if d := again[d.ID]; d != nil {
					if _, ok := d.Revision(rev); ok {
						return false
					}
				}
				_, ok := d.Revision(rev)
				return ok
			})
			if !back || seen[d.ID] {
				continue
			}
			seen[d.ID] = true
			if out.Count++; len(out.Docs) < namedDocs {
				out.Docs = append(out.Docs, PurgedDoc{db, d.ID, node})
			}
		}
	}
	return nil
}
