package takeout

import (
	"context"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
	"github.com/slipcover/slipcover/internal/serve"
)

// Matching calls yield with the ids of the documents of a state that a selector means, until that returns an error. As in
// _find, design documents are none of them.
func Matching(ctx context.Context, d *serve.Database, s *mango.Selector, yield func(id string) error) error {
	for _, sh := range d.Shards {
		db, err := d.Open(ctx, sh)
		if err != nil {
			return err
		}
		for info, err := range db.Docs(couchfile.DocsOptions{}) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			if strings.HasPrefix(info.ID, "_design/") {
				continue
			}
			b, err := db.RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
			if err != nil {
				return err
			}
			doc, err := ejson.Parse(b)
			if err != nil {
				return err
			}
			ok, err := s.Match(doc)
			if err != nil {
				return err
			}
			if ok {
				if err := yield(info.ID); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// DeletedBetween calls yield with the ids of the documents that are in from and deleted in to, and returns how many more
// are not in to at all, as they were purged.
func DeletedBetween(ctx context.Context, from, to *serve.Database, yield func(id string) error) (purged int, err error) {
	err = serve.Changes(ctx, from, to, func(c serve.DocChange) error {
		switch {
		case c.Kind == serve.DocPurged:
			purged++
		case c.Kind == serve.DocDeleted && c.From != "":
			return yield(c.ID)
		}
		return nil
	})
	return purged, err
}
