package viewindex

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/shard"
)

// Unable says why a view can't be answered out of what is stored, where CouchDB would answer.
type Unable struct{ Reason string }

func (u *Unable) Error() string { return u.Reason }

func unable(format string, args ...any) error { return &Unable{fmt.Sprintf(format, args...)} }

// Shard is a shard of the database, and its index of a design document's views.
type Shard struct {
	Range shard.Range
	DB    *couchfile.DB
	Index *couchfile.View // nil if none is stored
	Size  int64           // of the index's file, which only Info tells
}

// Answer is what a view answers. What CouchDB leaves open, such as the order without sorted, is as with it.
type Answer struct {
	// Reduced says that rows are reductions: only they have no ids, and there is no total.
	Reduced bool
	// Total is how many rows the view has, Offset how many of them come before the first one.
	Total, Offset uint64
	// Seqs are the sequences of the shards' indexes that were asked, as given to Rows, and Shards which ones those are.
	Seqs   []uint64
	Shards []int
	// Rows must be read once, if only its beginning. It ends with an error of reading, an *Unable, or the context's.
	Rows iter.Seq2[Row, error]
}

// Row is a row of an answer.
type Row struct {
	ID    string // of the document; "" in a reduction
	Key   ejson.Value
	Value json.RawMessage
	// Doc is the document that include_docs adds, nil without it.
	Doc *DocRef
}

// DocRef names a document.
type DocRef struct {
	ID  string
	Rev string // "" for the winning revision
	// Linked says that the row's value named it. Then it is given without conflicts and attachments, whatever was asked.
	Linked bool
	// None says that there is none: null.
	None bool
}

// Append appends the JSON of a row. doc is that of its document, nil if none is asked for.
func (r *Row) Append(dst []byte, reduced bool, doc json.RawMessage) []byte {
	dst = append(dst, '{')
	if !reduced {
		dst = append(erlterm.AppendString(append(dst, `"id":`...), []byte(r.ID)), ',')
	}
	dst = ejson.Append(append(dst, `"key":`...), r.Key)
	dst = append(append(dst, `,"value":`...), r.Value...)
	if doc != nil {
		dst = append(append(dst, `,"doc":`...), doc...)
	}
	return append(dst, '}')
}

// Rows answers a query, whose arguments Check has checked. shards are all shards of the database. The error is an *Unable if
// what is stored doesn't do.
func (v *View) Rows(ctx context.Context, shards []Shard, a *mrargs.Args) (*Answer, error) {
	ans := &Answer{Reduced: a.Kind == mrargs.Reduce}
	if ans.Reduced && !v.known {
		return nil, unable("the reduce function of %s is none of CouchDB's own, and functions of design documents aren't run; its rows are there with reduce=false", v.Name)
	}
	var readers []*reader
	for i, s := range shards {
		if a.Partition != "" && !s.Range.Contains(shard.Hash(a.Partition+":foo", true)) {
			continue
		}
		if err := v.usable(s, a.Update == mrargs.UpdateFirst); err != nil {
			return nil, err
		}
		ans.Shards = append(ans.Shards, i)
		r := &reader{ctx: ctx, view: v, args: a}
		if !s.Index.Header().Fresh {
			if v.tree.id >= len(s.Index.Header().Views) {
				return nil, fmt.Errorf("the index of %s has too few views: %w", v.Name, couchfile.ErrCorrupt)
			}
			r.tree = s.Index.Trees()[v.tree.id]
			ans.Seqs = append(ans.Seqs, s.Index.Header().Views[v.tree.id].UpdateSeq)
		} else {
			ans.Seqs = append(ans.Seqs, 0)
		}
		readers = append(readers, r)
	}
	if ans.Reduced {
		ans.Rows = v.reduceRows(readers, a)
		return ans, nil
	}
	return ans, v.mapRows(ans, readers, a)
}

// usable says why the index of a shard can't be used. One that is behind its shard can where that is asked for.
func (v *View) usable(s Shard, current bool) error {
	if s.Index == nil {
		return unable("no index of %s is stored for the shard %s", v.Name, s.Range)
	}
	h, db := s.Index.Header(), s.DB.Header()
	if h.Signature != v.design.Signature {
		return unable("the index that is stored for the shard %s is of other views", s.Range)
	}
	purges, err := s.DB.Info()
	if err != nil {
		return err
	}
	switch {
	case h.UpdateSeq > db.UpdateSeq || h.PurgeSeq > purges.PurgeSeq:
		return unable("the index of %s that is stored for the shard %s is from after what is read", v.Name, s.Range)
	case !current:
		return nil
	case h.UpdateSeq < db.UpdateSeq:
		n, err := s.DB.CountChanges(h.UpdateSeq)
		if err != nil {
			return err
		}
		return unable("the index of %s that is stored for the shard %s is behind by %d changes; update=false answers as it stands", v.Name, s.Range, n)
	case h.PurgeSeq < purges.PurgeSeq:
		return unable("the index of %s that is stored for the shard %s is behind by %d purges; update=false answers as it stands",
			v.Name, s.Range, purges.PurgeSeq-h.PurgeSeq)
	}
	return nil
}

// reader reads a view in one shard.
type reader struct {
	ctx  context.Context
	view *View
	args *mrargs.Args
	tree *couchfile.Tree // nil if nothing was indexed

	offset uint64 // of its first row, or where it would be; known with the first row
	skip   int64  // rows that aren't given out
}

// pull is iter.Pull2 for what gives out items until it fails or is told to stop.
func pull[T any](give func(yield func(T) bool) error) (next func() (T, error, bool), stop func()) {
	return iter.Pull2(func(yield func(T, error) bool) {
		if err := give(func(item T) bool { return yield(item, nil) }); err != nil {
			var none T
			yield(none, err)
		}
	})
}

// total is how many rows the shard has.
func (r *reader) total() (uint64, error) {
	if r.tree == nil || r.tree.Root.Empty {
		return 0, nil
	}
	red, err := parseReduction(r.tree.Root.Reduction)
	return red.rows, err
}

// parts are the parts of the tree that a query asks for, one after the other.
func (r *reader) parts() []couchfile.Part {
	a, o := r.args, r.view.order
	part := func(start, end *ejson.Value) couchfile.Part {
		p := couchfile.Part{Reverse: a.Descending}
		if start != nil {
			p.Start = o.bound(r.view.bound(a, *start), a.Start.DocID)
		}
		if end != nil {
			id := a.End.DocID
			if p.OpenEnd = !a.InclusiveEnd; p.OpenEnd {
				id = openEnd(id)
			}
			p.End = o.bound(r.view.bound(a, *end), id)
		}
		return p
	}
	if a.Keys == nil {
		var start, end *ejson.Value
		if a.Start.Set {
			start = &a.Start.Key
		}
		if a.End.Set {
			end = &a.End.Key
		}
		return []couchfile.Part{part(start, end)}
	}
	var out []couchfile.Part
	for _, k := range keysOf(a) {
		out = append(out, part(&k, &k))
	}
	return out
}

// keysOf are the keys that are asked for, in the order of rows: those of reductions are never turned around.
func keysOf(a *mrargs.Args) ejson.Array {
	if !a.Descending || a.Kind == mrargs.Reduce {
		return a.Keys
	}
	out := slices.Clone(a.Keys)
	slices.Reverse(out)
	return out
}

// openEnd is the document where a range ends that leaves its end out.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl, reverse_key_default.
func openEnd(id string) string {
	switch id {
	case "":
		return "\xff"
	case "\xff":
		return ""
	}
	return id
}
