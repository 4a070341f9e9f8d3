package takeout

import (
	"context"
	"math"

	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
	"github.com/slipcover/slipcover/internal/serve"
)

// Matching calls yield with the ids of the documents of a state that a selector means, until that returns an error: those that
// _find would find.
func Matching(ctx context.Context, d *serve.Database, s *mango.Selector, yield func(id string) error) error {
	query := &mango.Options{Selector: s, Limit: math.MaxInt64, R: 1, AllowFallback: true}
	_, err := serve.Find(ctx, ctx, d, query, func(v ejson.Value) error {
		doc, _ := v.(ejson.Object)
		id, _ := doc.Get("_id")
		name, _ := id.(string) // every document has one
		return yield(name)
	})
	return err
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
