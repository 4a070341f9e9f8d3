package chttpd

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/sequence"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/viewindex"
)

// viewShards are a database's shards with their indexes of a design document.
func (h *Handler) viewShards(d *serve.Database, signature string) ([]viewindex.Shard, error) {
	var out []viewindex.Shard
	err := h.each(d, func(s *serve.Shard, db *couchfile.DB) error {
		index, size, err := d.Index(h.ctx, s, signature)
		out = append(out, viewindex.Shard{Range: s.Range, DB: db, Index: index, Size: size})
		return err
	})
	return out, err
}

func (h *Handler) designInfo(r *request, d *serve.Database, doc ejson.Object) error {
	if r.method != http.MethodGet {
		return methods("GET")
	}
	design, err := viewindex.ParseDesign(doc)
	if err != nil {
		return notImplemented("%s", err)
	}
	shards, err := h.viewShards(d, design.Signature)
	if err != nil {
		return err
	}
	info, err := design.Info(r.parts[2], shards)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, info)
}

// viewQuery is a query of a view.
type viewQuery struct {
	h      *Handler
	r      *request
	d      *serve.Database
	view   *viewindex.View
	shards []viewindex.Shard
}

// view answers the query of a view out of its stored index.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_view.erl.
func (h *Handler) view(r *request, d *serve.Database, doc ejson.Object) error {
	queries := len(r.parts) == 6 && r.parts[5] == "queries"
	if len(r.parts) != 5 && !queries {
		return methods("GET,POST,HEAD")
	}
	if queries && r.method != http.MethodPost {
		return methods("POST")
	}
	body, err := r.queryBody("GET,POST,HEAD")
	if err != nil {
		return err
	}
	design, err := viewindex.ParseDesign(doc)
	if err != nil {
		return notImplemented("%s", err)
	}
	parted, err := d.Partitioned(h.ctx)
	if err != nil {
		return err
	}
	q := &viewQuery{h: h, r: r, d: d}
	if q.view, err = design.View(r.parts[4], parted); err != nil {
		return err
	}
	if q.shards, err = h.viewShards(d, design.Signature); err != nil {
		return err
	}
	if queries {
		return q.several(body)
	}
	args, err := mrargs.ForView(r.query, body, r.method == http.MethodPost)
	if err != nil {
		return err
	}
	if err := q.view.Check(args); err != nil {
		return err
	}
	leave, err := h.walk(r, inlines(args))
	if err != nil {
		return err
	}
	defer leave()
	return q.send("", args)
}

func (q *viewQuery) several(body ejson.Value) error {
	list, err := mrargs.ForQueries(q.r.query, body, q.view.Check)
	if err != nil {
		return err
	}
	leave, err := q.h.walk(q.r, slices.ContainsFunc(list, inlines))
	if err != nil {
		return err
	}
	defer leave()
	sep := "{\"results\":[\r\n"
	for _, args := range list {
		if err := q.send(sep, args); err != nil {
			return err
		}
		sep = ",\r\n"
	}
	if len(list) == 0 {
		q.r.w.beginJSON(http.StatusOK)
		return q.r.w.writeString("{\"results\":[\r\n]}")
	}
	return q.r.w.writeString("\r\n]}")
}

// send answers one query behind some text.
func (q *viewQuery) send(before string, args *mrargs.Args) error {
	ans, err := q.view.Rows(q.r.Context(), q.shards, args)
	if err != nil {
		return err
	}
	meta := before + "{"
	if !ans.Reduced {
		meta += `"total_rows":` + strconv.FormatUint(ans.Total, 10) + `,"offset":` + strconv.FormatUint(ans.Offset, 10) + ","
	}
	if args.UpdateSeq {
		var seqs []sequence.Shard
		for i, n := range ans.Shards {
			seqs = append(seqs, sequence.Shard{Node: q.h.nodeName(), Range: q.shards[n].Range, Seq: ans.Seqs[i]})
		}
		meta += `"update_seq":"` + sequence.Pack(seqs) + `",`
	}
	meta += "\"rows\":[\r\n"
	begun := false
	begin := func() error {
		if begun {
			return nil
		}
		begun = true
		if !q.r.w.begun {
			q.r.w.beginJSON(http.StatusOK)
		}
		return q.r.w.writeString(meta)
	}
	sep := ""
	for b, err := range serve.Ahead(ans.Rows, rowsAtOnce(args, 1), func(row viewindex.Row) ([]byte, error) {
		doc, err := q.document(args, row.Doc)
		return row.Append(nil, ans.Reduced, doc), err
	}) {
		if err != nil {
			return err
		}
		if err := begin(); err != nil {
			return err
		}
		if err := q.r.w.writeString(sep); err != nil {
			return err
		}
		if _, err := q.r.w.Write(b); err != nil {
			return err
		}
		sep = ",\r\n"
	}
	if err := begin(); err != nil {
		return err
	}
	return q.r.w.writeString("\r\n]}")
}

// document reads the document of a row.
func (q *viewQuery) document(args *mrargs.Args, ref *viewindex.DocRef) (json.RawMessage, error) {
	none := json.RawMessage("null")
	switch {
	case ref == nil:
		return nil, nil
	case ref.None:
		return none, nil
	}
	var opts couchfile.DocOptions
	if !ref.Linked {
		opts = couchfile.DocOptions{Conflicts: args.Conflicts, Attachments: args.Attachments, AttEncodingInfo: args.AttEncodingInfo}
	}
	db, err := q.d.Find(q.h.ctx, ref.ID)
	if err != nil {
		return nil, err
	}
	opts.Rev = ref.Rev
	b, err := db.Doc(ref.ID, opts)
	if errors.Is(err, couchfile.ErrNotFound) || errors.Is(err, couchfile.ErrDeleted) || errors.Is(err, couchfile.ErrMissing) {
		return none, nil
	}
	return b, err
}
