package serve

import (
	"context"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
)

// findChecks is after how many documents Find looks whether its context is done.
const findChecks = 1000

// Find calls fn with what a Mango query prints of each document that it finds, in its order, and returns what stands behind
// them: the bookmark, warnings, statistics. All documents are looked at that the selector's ids leave. It ends when ctx is
// done, with its cause; shards are opened for as long as open lasts. Other errors are *mango.Error, those of Open, of
// reading, and of fn.
func Find(ctx, open context.Context, d *Database, o *mango.Options, fn func(ejson.Value) error) (ejson.Object, error) {
	parted, err := d.Partitioned(open)
	if err != nil {
		return nil, err
	}
	c, err := o.Find(parted)
	if err != nil {
		return nil, err
	}
	dbs, err := d.opened(open, o.Partition)
	if err != nil {
		return nil, err
	}
	f := &finder{cursor: c, opts: couchfile.DocOptions{Conflicts: o.Conflicts}, fn: fn}
	if err := f.run(ctx, dbs); err != nil {
		return nil, err
	}
	return f.end(), nil
}

// opened opens all shards, or the one that a partition is in.
func (d *Database) opened(ctx context.Context, partition string) ([]*couchfile.DB, error) {
	if partition == "" {
		return d.OpenAll(ctx)
	}
	db, err := d.Find(ctx, partition+":foo")
	return []*couchfile.DB{db}, err
}

// finder gives documents to a cursor.
type finder struct {
	cursor *mango.Cursor
	opts   couchfile.DocOptions
	fn     func(ejson.Value) error
	began  time.Time
}

func (f *finder) end() ejson.Object { return f.cursor.End(time.Since(f.began)) }

func (f *finder) run(ctx context.Context, dbs []*couchfile.DB) error {
	f.began = time.Now()
	scan := f.cursor.Scan
	if scan.Empty {
		return nil
	}
	rg := IDRange{Open: true, Descending: scan.Descending}
	if s, ok := scan.Start.(string); ok {
		if rg.From = s; scan.Descending {
			rg.From, rg.To, rg.Open = "", s, false
		}
	}
	n := 0
	for row, err := range Documents(dbs, rg) {
		if err != nil {
			return err
		}
		if n++; n%findChecks == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !f.cursor.More() || scan.After(row.Info.ID) {
			return nil
		}
		if scan.Before(row.Info.ID) {
			continue
		}
		if err := f.look(row); err != nil {
			return err
		}
	}
	return nil
}

// look gives a document to the cursor, and what that prints of it to fn.
func (f *finder) look(row Row) error {
	b, err := row.Bodies.RevisionJSON(row.Info, row.Info.Winner(), f.opts)
	if err != nil {
		return err
	}
	doc, err := ejson.Parse(b)
	if err != nil {
		return err
	}
	v, ok, err := f.cursor.Row(row.Info.ID, doc)
	if err != nil || !ok {
		return err
	}
	return f.fn(v)
}
