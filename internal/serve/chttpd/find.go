package chttpd

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
	"github.com/slipcover/slipcover/internal/serve"
)

// mostFind is for how long the documents of one _find are looked at.
const mostFind = 10 * time.Minute

var errTooLong = fail{status: http.StatusInternalServerError, name: "timeout", reason: "The request could not be processed in a reasonable amount of time."}

// parseSelector reads the filter _selector of a feed.
func (f *feed) parseSelector() error {
	if f.r.method != http.MethodPost {
		return badRequest("Selector must be specified in POST payload")
	}
	o, err := f.r.objectBody()
	if err != nil {
		return err
	}
	v, _ := o.Get("selector")
	s, err := mango.ParseFilter(v)
	if err != nil {
		return err
	}
	f.filter.doc = s.Match
	if list, ok := o.Get("fields"); ok && list != nil {
		fields, err := mango.ParseFields(list)
		if err != nil {
			return err
		}
		f.filter.fields = fields.Of
	}
	return nil
}

// mangoOptions reads what _find or _explain is asked with.
func (r *request) mangoOptions() (*mango.Options, error) {
	body, err := r.posted()
	if err != nil {
		return nil, err
	}
	if part, ok := r.query.Get("partition"); ok {
		body = slices.Clone(body)
		body.Set("partition", part)
	}
	return mango.ParseOptions(body)
}

func (h *Handler) mangoExplain(r *request, d *serve.Database) error {
	o, err := r.mangoOptions()
	if err != nil {
		return err
	}
	parted, err := d.Partitioned(h.ctx)
	if err != nil {
		return err
	}
	v, err := o.Explain(d.Name, parted)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, v)
}

// mangoFind answers _find by looking at all documents that the selector's ids leave.
//
// Source: CouchDB 3.5.0, src/mango/src/mango_httpd.erl, handle_find_req.
func (h *Handler) mangoFind(r *request, d *serve.Database) error {
	o, err := r.mangoOptions()
	if err != nil {
		return err
	}
	leave, err := h.walk(r, false)
	if err != nil {
		return err
	}
	defer leave()
	sep := "\r\n"
	begin := func() error {
		if r.w.begun {
			return nil
		}
		r.w.beginJSON(http.StatusOK)
		return r.w.writeString(`{"docs":[`)
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), mostFind, errTooLong)
	defer cancel()
	end, err := serve.Find(ctx, h.ctx, d, o, func(v ejson.Value) error {
		if err := begin(); err != nil { // an error before the first row is an answer itself
			return err
		}
		_, err := r.w.Write(ejson.Append([]byte(sep), v))
		sep = ",\r\n"
		return err
	})
	if err != nil {
		return err
	}
	if err := begin(); err != nil {
		return err
	}
	text := []byte("\r\n]")
	for _, m := range end {
		text = append(ejson.Append(append(text, ",\r\n"...), m.Name), ": "...)
		text = ejson.Append(text, m.Value)
	}
	_, err = r.w.Write(append(text, "}\r\n"...))
	return err
}

// mangoIndexes lists the indexes of a database: its own and that of the ids.
//
// Source: CouchDB 3.5.0, src/mango/src/mango_httpd.erl, handle_index_req; mango_idx.erl, list.
func (h *Handler) mangoIndexes(r *request, d *serve.Database) error {
	if len(r.parts) > 2 || r.method == http.MethodPost {
		if r.method == http.MethodPost || r.method == http.MethodDelete {
			return errReadOnly
		}
		return errMissing
	}
	if r.method != http.MethodGet {
		return methods("GET,POST")
	}
	ids := ejson.Object{
		{Name: "ddoc", Value: nil}, {Name: "name", Value: "_all_docs"}, {Name: "type", Value: "special"},
		{Name: "def", Value: ejson.Object{{Name: "fields", Value: ejson.Array{ejson.Object{{Name: "_id", Value: "asc"}}}}}},
	}
	list := ejson.Array{ids}
	parted, err := d.Partitioned(h.ctx)
	if err != nil {
		return err
	}
	err = h.each(d, func(_ *serve.Shard, db *couchfile.DB) error {
		for info, err := range db.Docs(couchfile.DocsOptions{Start: "_design/"}) {
			if err != nil {
				return err
			}
			if info.ID >= "_design0" {
				break
			}
			b, err := db.RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
			if err != nil {
				return err
			}
			v, err := ejson.Parse(b)
			if err != nil {
				return err
			}
			list = append(list, jsonIndexes(info.ID, v.(ejson.Object), parted)...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(list[1:], func(a, b ejson.Value) int { return strings.Compare(ejson.String(a), ejson.String(b)) })
	total := len(list)
	skip, err := r.index("skip", 0, 0)
	if err != nil {
		return err
	}
	limit, err := r.index("limit", total, 1)
	if err != nil {
		return err
	}
	list = list[min(skip, total):]
	list = list[:min(limit, len(list))]
	return r.json(http.StatusOK, ejson.Object{{Name: "total_rows", Value: total}, {Name: "indexes", Value: list}})
}

// index reads a number of a list of indexes.
func (r *request) index(name string, otherwise, least int) (int, error) {
	v, ok := r.query.Get(name)
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < least {
		return 0, fail{status: http.StatusInternalServerError, name: "invalid_list_index_params", reason: "Index parameter ranges: limit > 1, skip > 0"}
	}
	return n, nil
}

// jsonIndexes are the indexes that a design document is.
func jsonIndexes(id string, doc ejson.Object, parted bool) ejson.Array {
	if lang, _ := doc.Get("language"); lang != "query" {
		return nil
	}
	if o, ok := doc.Get("options"); ok {
		if opts, ok := o.(ejson.Object); ok {
			if v, ok := opts.Get("partitioned"); ok {
				parted, _ = v.(bool)
			}
		}
	}
	v, _ := doc.Get("views")
	views, _ := v.(ejson.Object)
	var out ejson.Array
	for _, m := range views {
		view, _ := m.Value.(ejson.Object)
		o, _ := view.Get("options")
		opts, _ := o.(ejson.Object)
		d, ok := opts.Get("def")
		def, isDef := d.(ejson.Object)
		if !ok || !isDef {
			continue
		}
		out = append(out, ejson.Object{
			{Name: "ddoc", Value: id}, {Name: "name", Value: m.Name}, {Name: "type", Value: "json"}, {Name: "partitioned", Value: parted}, {Name: "def", Value: indexDef(def)},
		})
	}
	return out
}

// indexDef is a definition as it is shown: each field with its direction.
func indexDef(def ejson.Object) ejson.Object {
	def = slices.Clone(def)
	v, _ := def.Get("fields")
	list, ok := v.(ejson.Array)
	if !ok {
		return def
	}
	fields := ejson.Array{}
	for _, f := range list {
		if name, ok := f.(string); ok {
			f = ejson.Object{{Name: name, Value: "asc"}}
		}
		fields = append(fields, f)
	}
	def.Set("fields", fields)
	return def
}
