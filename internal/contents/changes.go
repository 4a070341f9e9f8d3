package contents

import (
	"context"
	"errors"
	"strings"

	"github.com/slipcover/slipcover/internal/refusal"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/states"
)

// Changes is what became of the documents of a database between two states.
type Changes struct {
	From State `json:"from"`
	To   State `json:"to"`
	// FromMissing and ToMissing say that a state has no such database.
	FromMissing bool `json:"from_missing,omitempty"`
	ToMissing   bool `json:"to_missing,omitempty"`
	// Counts are of all, by kind: added, changed, deleted, undeleted, purged. Complete says that all were counted: else the
	// time was over.
	Counts   map[serve.ChangeKind]int `json:"counts"`
	Complete bool                     `json:"complete"`
	Changes  []serve.DocChange        `json:"changes"` // a page of those of the kind and prefix
	Total    int                      `json:"total"`   // of these
	More     bool                     `json:"more"`
	// FromDocuments and ToDocuments are how many documents there were, without deleted ones.
	FromDocuments uint64 `json:"from_documents"`
	ToDocuments   uint64 `json:"to_documents"`
}

// ChangesQuery says which changes.
type ChangesQuery struct {
	DB       string
	From, To states.State
	Kind     string // "" is all
	Prefix   string // of ids
	Page
}

// LookChanges compares a database in two states. Deleted documents come first, then purged, changed, undeleted and added ones.
var LookChanges = newLook("changes", (*Reader).changes)

func (r *Reader) changes(ctx context.Context, of *states.Shelf, q ChangesQuery) (*Changes, error) {
	q.fill()
	switch serve.ChangeKind(q.Kind) {
	case "", serve.DocAdded, serve.DocChanged, serve.DocDeleted, serve.DocUndeleted, serve.DocPurged:
	default:
		return nil, refusal.New(refusal.Invalid, "kind is added, changed, deleted, undeleted or purged, or left out.")
	}
	a, err := r.views.View(ctx, of, q.From)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	b, err := r.views.View(ctx, of, q.To)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	out := &Changes{From: stateOf(a), To: stateOf(b), Complete: true, Counts: map[serve.ChangeKind]int{}, Changes: []serve.DocChange{}}
	from, err := sideOf(ctx, a, q.DB, &out.FromMissing, &out.FromDocuments)
	if err != nil {
		return nil, err
	}
	to, err := sideOf(ctx, b, q.DB, &out.ToMissing, &out.ToDocuments)
	if err != nil {
		return nil, err
	}
	if from == nil && to == nil {
		return nil, refusal.New(refusal.NotFound, "Neither of the two has a database %q.", q.DB)
	}
	walk, done, err := r.walk(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	list := map[serve.ChangeKind][]serve.DocChange{}
	most := q.Offset + q.Limit
	n := 0
	err = serve.Changes(walk, from, to, func(c serve.DocChange) error {
		if n++; n%200 == 0 && walk.Err() != nil {
			return context.Cause(walk)
		}
		out.Counts[c.Kind]++
		if !strings.HasPrefix(c.ID, q.Prefix) || q.Kind != "" && q.Kind != string(c.Kind) {
			return nil
		}
		out.Total++
		if len(list[c.Kind]) < most {
			list[c.Kind] = append(list[c.Kind], c)
		}
		return nil
	})
	if errors.Is(err, errSlow) || err != nil && errors.Is(context.Cause(walk), errSlow) {
		err, out.Complete = nil, false
	}
	if err != nil {
		return nil, fault(walk, err)
	}
	var all []serve.DocChange
	for _, kind := range []serve.ChangeKind{serve.DocDeleted, serve.DocPurged, serve.DocChanged, serve.DocUndeleted, serve.DocAdded} {
		all = append(all, list[kind]...)
	}
	rows, _ := cut(all, q.Page)
	out.Changes = append(out.Changes, rows...)
	out.More = q.Offset+len(rows) < out.Total
	return out, nil
}

// sideOf opens a database of a state for as long as that is open; nil if it isn't there.
func sideOf(ctx context.Context, v *states.View, name string, missing *bool, documents *uint64) (*serve.Database, error) {
	d, err := v.Node.Database(name)
	if errors.Is(err, serve.ErrNoDatabase) {
		*missing = true
		return nil, nil
	}
	if err == nil {
		_, err = d.OpenAll(v.Life) //nolint:contextcheck // shards stay open for others
	}
	if err != nil {
		return nil, fault(ctx, err)
	}
	x, err := describe(ctx, v, d)
	if err != nil {
		return nil, err
	}
	*documents = x.Documents
	return d, nil
}
