package serve

import (
	"context"
	"iter"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
)

// AtOnce is how many documents are read at once for a list: each may wait for a storage that is far away.
const AtOnce = 32

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
	shards, err := d.ShardsOf(open, o.Partition)
	if err != nil {
		return nil, err
	}
	dbs, err := d.openAll(open, shards)
	if err != nil {
		return nil, err
	}
	f := &finder{cursor: c, opts: couchfile.DocOptions{Conflicts: o.Conflicts}, fn: fn}
	if err := f.run(ctx, dbs); err != nil {
		return nil, err
	}
	return f.end(), nil
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
	for doc, err := range Ahead(f.scanned(Documents(dbs, rg)), AtOnce, f.read) {
		if err != nil {
			return err
		}
		if n++; n%findChecks == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !f.cursor.More() {
			return nil
		}
		v, ok, err := f.cursor.Row(doc.id, doc.value)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := f.fn(v); err != nil {
			return err
		}
	}
	return nil
}

// scanned are the documents that the cursor's scan has.
func (f *finder) scanned(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
	scan := f.cursor.Scan
	return func(yield func(Row, error) bool) {
		for row, err := range rows {
			switch {
			case err == nil && scan.After(row.Info.ID):
				return
			case err == nil && scan.Before(row.Info.ID):
				continue
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

// document is one that was read.
type document struct {
	id    string
	value ejson.Value
}

func (f *finder) read(row Row) (document, error) {
	b, err := row.DB.RevisionJSON(row.Info, row.Info.Winner(), f.opts)
	if err != nil {
		return document{}, err
	}
	v, err := ejson.Parse(b)
	return document{row.Info.ID, v}, err
}
