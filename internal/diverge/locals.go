package diverge

import (
	"bytes"
	"context"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// isCheckpoint says that a local document is one that each node writes for itself: where its internal replication to another
// node stands, or which purges an index or another node knows.
//
// Source: CouchDB 3.5, src/couch/src/couch_db_split.erl, copy_local_docs.
func isCheckpoint(id string) bool {
	return strings.HasPrefix(id, "_local/shard-sync-") || strings.HasPrefix(id, "_local/purge-")
}

// locals compares the trees of local documents.
func (c *comparison) locals(ctx context.Context) error {
	trees := make([]*couchfile.Tree, len(c.copies))
	picks := make([]pick, len(c.copies))
	for i := range c.copies {
		db := c.copies[i].DB
		trees[i] = db.LocalTree()
		picks[i] = func(dst []byte, e couchfile.Entry) (key, sum []byte, ok bool, err error) {
			if key, _, ok = erlterm.Binary(e.Key); ok && isCheckpoint(string(key)) {
				return key, dst, false, nil
			}
			_, err = db.EntryLocal(e)
			return key, append(dst, e.Value...), true, err
		}
	}
	return c.merge(ctx, trees, picks, c.lost(PartLocal), c.local)
}

// local looks at what all copies have of a local document.
func (c *comparison) local(r *row) error {
	rep := &c.report.Local
	rep.Documents++
	for i, unread := range r.unread {
		if unread {
			c.report.Copies[i].Unread++
		}
	}
	if r.equal() {
		c.localAgrees(r)
		return nil
	}
	d := Difference{ID: string(r.key), Local: true, Copies: make([]Held, len(r.items))}
	var text []byte
	differ, absent := false, false
	for i, it := range r.items {
		h := &d.Copies[i]
		if it == nil {
			h.State = Missing
			if r.unread[i] {
				h.State = Unread
			}
			absent = absent || h.State == Missing
			continue
		}
		var err error
		if h.Local, err = c.copies[i].DB.EntryLocal(it.entry()); err != nil {
			return err
		}
		body, err := h.Local.JSON()
		if err != nil { // nothing else tells what it holds
			body = it.value
		}
		differ = differ || text != nil && !bytes.Equal(text, body)
		text = body
	}
	if !differ && !absent { // the same in another form
		c.localAgrees(r)
		return nil
	}
	rep.Different++
	for i := range d.Copies {
		h, out := &d.Copies[i], &c.report.Copies[i]
		switch {
		case h.State == Missing:
			c.add(&out.LocalMissing, d.ID, func() []string { return localRevs(d.Copies) })
		case h.Local != nil && differ:
			h.State = Differs
			c.add(&out.LocalDiffers, d.ID, func() []string { return []string{h.Local.Rev} })
		}
	}
	return c.each(d)
}

func (c *comparison) localAgrees(r *row) {
	if r.whole() {
		c.report.Local.Equal++
	} else {
		c.report.Local.Unread++
	}
}

// localRevs are the revisions that copies have of a local document.
func localRevs(copies []Held) []string {
	revs := []string{}
	for _, h := range copies {
		if h.Local != nil && (len(revs) == 0 || revs[len(revs)-1] != h.Local.Rev) {
			revs = append(revs, h.Local.Rev)
		}
	}
	return revs
}
