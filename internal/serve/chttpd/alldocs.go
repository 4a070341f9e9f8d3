package chttpd

import (
	"errors"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/sequence"
	"github.com/slipcover/slipcover/internal/serve"
)

// docRange is a range of ids in the order of their bytes.
type docRange struct {
	from, to string // both included, unless exclusive
	open     bool   // to is the end of all
	without  bool   // to isn't included; from, when descending
	none     bool
}

const (
	// afterAll is above every id.
	afterAll = "\xff"
	// after makes of an id the next one that there can be.
	after = "\x00"
)

// rangeOf returns the ids that arguments ask for. Keys that are no texts are below all ids, as in the order of Erlang's terms.
func rangeOf(a *mrargs.Args) docRange {
	start, end := boundOf(a.Start), boundOf(a.End)
	if a.Descending {
		start, end = end, start
	}
	return docRange{from: start.id, to: end.id, open: end.id == afterAll, without: !a.InclusiveEnd, none: end.below}
}

// idBound is where a range of ids ends.
type idBound struct {
	id    string
	below bool // below all ids; id is ""
}

func boundOf(b mrargs.Bound) idBound {
	if !b.Set {
		return idBound{id: b.DocID}
	}
	s, ok := b.Key.(string)
	return idBound{id: s, below: !ok}
}

// has reports whether an id is in the range, whichever way it is walked.
func (rg docRange) has(id string) bool { return !rg.none && id >= rg.from && (rg.open || id <= rg.to) }

// allDocs answers _all_docs, _design_docs and _local_docs.
//
// Source: CouchDB 3.5.0, src/fabric/src/fabric_view_all_docs.erl, src/couch_mrview/src/couch_mrview.erl.
func (h *Handler) allDocs(r *request, d *serve.Database) error {
	op := r.parts[1]
	if len(r.parts) == 3 && r.parts[2] == "queries" {
		return h.allDocsQueries(r, d, op)
	}
	if len(r.parts) > 2 {
		return h.ofDocument(r, d)
	}
	body, err := r.queryBody("GET,HEAD,POST")
	if err != nil {
		return err
	}
	args, err := mrargs.ForAllDocs(r.query, body, r.method == http.MethodPost)
	if err != nil {
		return err
	}
	l, err := h.listing(r, d, op, args)
	if err != nil {
		return err
	}
	leave, err := h.walk(r, inlines(args))
	if err != nil {
		return err
	}
	defer leave()
	return l.send()
}

// inlines reports whether a query puts attachments into JSON.
func inlines(a *mrargs.Args) bool { return a.IncludeDocs && a.Attachments }

func (h *Handler) allDocsQueries(r *request, d *serve.Database, op string) error {
	if r.method != http.MethodPost {
		return methods("POST")
	}
	o, err := r.objectBody()
	if err != nil {
		return err
	}
	parted, err := d.Partitioned(h.ctx)
	if err != nil {
		return err
	}
	list, err := mrargs.ForQueries(r.query, o, func(a *mrargs.Args) error { return a.CheckAllDocs(parted) })
	if err != nil {
		return err
	}
	leave, err := h.walk(r, slices.ContainsFunc(list, inlines))
	if err != nil {
		return err
	}
	defer leave()
	r.w.beginJSON(http.StatusOK)
	if err := r.w.writeString(`{"results":[`); err != nil {
		return err
	}
	for i, args := range list {
		sep := ",\r\n"
		if i == 0 {
			sep = "\r\n"
		}
		if err := r.w.writeString(sep); err != nil {
			return err
		}
		l := &listing{h: h, r: r, d: d, op: op, args: args}
		if err := l.send(); err != nil {
			return err
		}
	}
	return r.w.writeString("\r\n]}")
}

// queryBody reads the body of a query that may be sent with GET, without one, or with POST.
func (r *request) queryBody(allowed string) (ejson.Value, error) {
	switch r.method {
	case http.MethodGet:
		return nil, nil
	case http.MethodPost:
		return r.posted()
	}
	return nil, methods(allowed)
}

// listing is a list of documents that is answered with.
type listing struct {
	h    *Handler
	r    *request
	d    *serve.Database
	op   string // _all_docs, _design_docs or _local_docs
	args *mrargs.Args
}

func (h *Handler) listing(r *request, d *serve.Database, op string, args *mrargs.Args) (*listing, error) {
	parted, err := d.Partitioned(h.ctx)
	if err != nil {
		return nil, err
	}
	if err := args.CheckAllDocs(parted); err != nil {
		return nil, err
	}
	return &listing{h: h, r: r, d: d, op: op, args: args}, nil
}

func (l *listing) send() error {
	if l.args.Keys != nil {
		return l.sendKeys()
	}
	shards, err := l.d.ShardsOf(l.h.ctx, l.args.Partition)
	if err != nil {
		return err
	}
	rg := rangeOf(l.args)
	if l.op == "_design_docs" {
		rg.from = max(rg.from, "_design/")
		if rg.open || rg.to > "_design0" {
			rg.to, rg.open = "_design0", false
		}
		rg.none = rg.none || rg.from > rg.to
	}
	total, offset := uint64(0), uint64(0)
	var seqs []sequence.Shard
	var dbs []*couchfile.DB
	for _, s := range shards {
		db, err := l.d.Open(l.h.ctx, s)
		if err != nil {
			return err
		}
		dbs = append(dbs, db)
		seqs = append(seqs, sequence.Shard{Node: l.h.nodeName(), Range: s.Range, Seq: db.Header().UpdateSeq})
		if l.op == "_local_docs" {
			continue
		}
		n, err := l.total(db)
		if err != nil {
			return err
		}
		off, err := l.offset(db, rg)
		if err != nil {
			return err
		}
		total, offset = total+n, offset+off
	}
	offset = min(total, offset+uint64(l.args.Skip))
	meta := `{"total_rows":` + strconv.FormatUint(total, 10) + `,"offset":` + strconv.FormatUint(offset, 10)
	if l.op == "_local_docs" {
		meta = `{"total_rows":null,"offset":null`
	}
	if l.args.UpdateSeq {
		if l.op == "_local_docs" {
			meta += `,"update_seq":null`
		} else {
			meta += `,"update_seq":"` + sequence.Pack(seqs) + `"`
		}
	}
	if err := l.begin(meta); err != nil {
		return err
	}
	if l.op == "_local_docs" {
		return l.rows(l.locals(dbs, rg))
	}
	return l.rows(l.documents(dbs, rg))
}

// total is how many rows a shard has.
func (l *listing) total(db *couchfile.DB) (uint64, error) {
	if l.op != "_design_docs" {
		i, err := db.Info()
		return i.DocCount, err
	}
	from, err := db.CountBefore("_design/")
	if err != nil {
		return 0, err
	}
	to, err := db.CountBefore("_design0")
	return to.Docs - from.Docs, err
}

// offset is how many documents of a shard are in front of the first that is asked for.
func (l *listing) offset(db *couchfile.DB, rg docRange) (uint64, error) {
	i, err := db.Info()
	if err != nil {
		return 0, err
	}
	// CouchDB counts up to the first row, or to the end if there is none. A document of which it says that it isn't deleted,
	// because all its other leaves were purged, counts and is no row.
	first, found := "", false
	for row, err := range l.documents([]*couchfile.DB{db}, rg) {
		if err != nil {
			return 0, err
		}
		first, found = row.id, true
		break
	}
	at := first // the place up to which is counted: where the walk stopped
	if l.args.Descending {
		switch {
		case found:
			at += after
		case rg.none:
			at = rg.to + after
		default:
			if at = rg.from; rg.without {
				at += after
			}
			if !rg.open {
				at = min(at, rg.to+after)
			}
		}
		c, err := db.CountBefore(at)
		return i.DocCount - c.Docs, err
	}
	switch {
	case found:
	case rg.none:
		at = rg.from
	case rg.open:
		return i.DocCount, nil
	default:
		if at = rg.to; !rg.without {
			at += after
		}
		at = max(at, rg.from)
	}
	c, err := db.CountBefore(at)
	return c.Docs, err
}

// begin writes what comes before the rows.
func (l *listing) begin(meta string) error {
	if !l.r.w.begun {
		l.r.w.beginJSON(http.StatusOK)
	}
	return l.r.w.writeString(meta + ",\"rows\":[\r\n")
}

// docRow is a row of a list.
type docRow struct {
	id   string
	json func(dst []byte) ([]byte, error) // appends the row
}

// rows writes the rows that skip and limit leave, and ends the list.
func (l *listing) rows(all iter.Seq2[docRow, error]) error {
	return l.write(rowsAtOnce(l.args, 1), l.limited(all))
}

// write writes rows, of which it makes so many at once, and ends the list.
func (l *listing) write(most int, rows iter.Seq2[docRow, error]) error {
	first := true
	for row, err := range serve.Ahead(rows, most, func(r docRow) ([]byte, error) { return r.json(nil) }) {
		if err != nil {
			return err
		}
		if !first {
			if err := l.r.w.writeString(",\r\n"); err != nil {
				return err
			}
		}
		first = false
		if _, err := l.r.w.Write(row); err != nil {
			return err
		}
		if err := l.r.Context().Err(); err != nil {
			return err
		}
	}
	return l.r.w.writeString("\r\n]}")
}

// rowsAtOnce is how many rows are made at once, bare if they are without documents.
func rowsAtOnce(a *mrargs.Args, bare int) int {
	if !a.IncludeDocs {
		return bare
	}
	return atOnce(a.Attachments)
}

// atOnce is how many documents are read at once: each may wait for a storage, or have whole attachments in memory.
func atOnce(attachments bool) int {
	if attachments {
		return 2
	}
	return serve.AtOnce
}

// limited are the rows that skip and limit leave.
func (l *listing) limited(all iter.Seq2[docRow, error]) iter.Seq2[docRow, error] {
	return func(yield func(docRow, error) bool) {
		skip, limit := l.args.Skip, l.args.Limit
		if limit == 0 {
			return
		}
		for row, err := range all {
			if err == nil && skip > 0 {
				skip--
				continue
			}
			if !yield(row, err) || err != nil {
				return
			}
			if limit--; limit == 0 {
				return
			}
		}
	}
}

// documents iterates over the documents of shards that are in a range.
func (l *listing) documents(dbs []*couchfile.DB, rg docRange) iter.Seq2[docRow, error] {
	opts := l.docOptions()
	return func(yield func(docRow, error) bool) {
		if rg.none {
			return
		}
		for row, err := range serve.Documents(dbs, serve.IDRange{From: rg.from, To: rg.to, Open: rg.open, Descending: l.args.Descending}) {
			if err != nil {
				yield(docRow{}, err)
				return
			}
			id := row.Info.ID
			if l.past(id, rg) {
				return
			}
			if !yield(docRow{id, func(dst []byte) ([]byte, error) { return appendDocRow(dst, row.DB, row.Info, opts) }}, nil) {
				return
			}
		}
	}
}

// past reports whether an id is behind the end of a range.
func (l *listing) past(id string, rg docRange) bool {
	if l.args.Descending {
		return id < rg.from || rg.without && id == rg.from
	}
	return !rg.open && (id > rg.to || rg.without && id == rg.to)
}

// docOptions are those that include_docs shows documents with; nil without it.
func (l *listing) docOptions() *couchfile.DocOptions {
	if !l.args.IncludeDocs {
		return nil
	}
	return &couchfile.DocOptions{Conflicts: l.args.Conflicts, Attachments: l.args.Attachments, AttEncodingInfo: l.args.AttEncodingInfo}
}

// appendDocRow appends a row of _all_docs.
func appendDocRow(dst []byte, db *couchfile.DB, info *couchfile.DocInfo, opts *couchfile.DocOptions) ([]byte, error) {
	w := info.Winner()
	dst = appendText(append(dst, `{"id":`...), info.ID)
	dst = appendText(append(dst, `,"key":`...), info.ID)
	dst = appendText(append(dst, `,"value":{"rev":`...), w.Rev.String())
	if w.Deleted {
		dst = append(dst, `,"deleted":true`...)
	}
	dst = append(dst, '}')
	if opts != nil {
		dst = append(dst, `,"doc":`...)
		if w.Deleted {
			dst = append(dst, "null"...)
		} else {
			doc, err := db.RevisionJSON(info, w, *opts)
			if err != nil {
				return nil, err
			}
			dst = append(dst, doc...)
		}
	}
	return append(dst, '}'), nil
}

func appendText(dst []byte, s string) []byte { return ejson.Append(dst, s) }

// locals iterates over local documents, those that clients wrote here among them. CouchDB's own ones are in every shard.
func (l *listing) locals(dbs []*couchfile.DB, rg docRange) iter.Seq2[docRow, error] {
	return func(yield func(docRow, error) bool) {
		type local struct {
			id   string
			rev  int64
			json []byte
		}
		var list []local
		for _, id := range l.h.locals.ids(l.d.Name) {
			b, rev, err := l.h.localJSON(l.d, id)
			if err == nil { // else it was deleted
				list = append(list, local{id, rev, b})
			}
		}
		for _, db := range dbs {
			for doc, err := range db.LocalDocs(rg.from) {
				if err != nil {
					yield(docRow{}, err)
					return
				}
				if !rg.open && doc.ID > rg.to {
					break
				}
				b, err := doc.JSON()
				if err != nil {
					yield(docRow{}, err)
					return
				}
				if _, written := l.h.locals.get(localKey{l.d.Name, doc.ID}); written || !l.r.is("include_system", "true") && systemLocal(doc.ID, b) {
					continue
				}
				list = append(list, local{doc.ID, localRev(doc.Rev), b})
			}
		}
		slices.SortStableFunc(list, func(a, b local) int { return strings.Compare(a.id, b.id) })
		if l.args.Descending {
			slices.Reverse(list)
		}
		for _, d := range list {
			if !rg.has(d.id) || l.past(d.id, rg) {
				continue
			}
			if !yield(docRow{d.id, func(dst []byte) ([]byte, error) {
				return appendLocalRow(dst, d.id, d.rev, d.json, l.args.IncludeDocs), nil
			}}, nil) {
				return
			}
		}
	}
}

func appendLocalRow(dst []byte, id string, rev int64, doc []byte, include bool) []byte {
	dst = appendText(append(dst, `{"id":`...), id)
	dst = appendText(append(dst, `,"key":`...), id)
	dst = append(strconv.AppendInt(append(dst, `,"value":{"rev":"0-`...), rev, 10), `"}`...)
	if include {
		dst = append(append(dst, `,"doc":`...), doc...)
	}
	return append(dst, '}')
}

// systemLocal reports whether a local document is a checkpoint of CouchDB's own, which isn't listed.
//
// Source: CouchDB 3.5.0, src/couch_mrview/src/couch_mrview.erl, should_skip_local_document.
func systemLocal(id string, doc []byte) bool {
	var fields []string
	switch {
	case strings.HasPrefix(id, "_local/purge-"):
		fields = []string{"purge_seq"}
	case strings.HasPrefix(id, "_local/shard-sync"):
		fields = []string{"target_uuid", "seq"}
	default:
		return false
	}
	v, err := ejson.Parse(doc)
	o, ok := v.(ejson.Object)
	for _, f := range fields {
		_, has := o.Get(f)
		ok = ok && has
	}
	return ok && err == nil
}

// sendKeys answers with the documents that keys name, in their order.
func (l *listing) sendKeys() error {
	keys := slices.Clone(l.args.Keys)
	if l.args.Descending {
		slices.Reverse(keys)
	}
	keys = keys[min(l.args.Skip, int64(len(keys))):]
	keys = keys[:min(l.args.Limit, int64(len(keys)))]
	for _, k := range keys { // rather than in the middle of an answer
		if id, ok := k.(string); ok {
			if err := l.h.placeable(l.d, id); err != nil {
				return err
			}
		}
	}
	prefix := map[string]string{"_design_docs": "_design/", "_local_docs": "_local/"}[l.op]
	total := uint64(0)
	err := l.h.each(l.d, func(_ *serve.Shard, db *couchfile.DB) error {
		n, err := l.total(db)
		total += n
		return err
	})
	if err != nil {
		return err
	}
	meta := `{"total_rows":` + strconv.FormatUint(total, 10) + `,"offset":null`
	if l.op == "_local_docs" {
		meta = `{"total_rows":null,"offset":null`
	}
	if l.args.UpdateSeq {
		meta += `,"update_seq":null`
	}
	if err := l.begin(meta); err != nil {
		return err
	}
	return l.write(rowsAtOnce(l.args, 8), func(yield func(docRow, error) bool) {
		for _, k := range keys {
			id, ok := k.(string)
			if prefix != "" && (!ok || !strings.HasPrefix(id, prefix)) {
				continue
			}
			if !yield(docRow{id, func(dst []byte) ([]byte, error) { return l.keyRow(dst, k) }}, nil) {
				return
			}
		}
	})
}

// keyRow appends the row of a document that was asked for by its id.
func (l *listing) keyRow(dst []byte, key ejson.Value) ([]byte, error) {
	none := func() []byte {
		return ejson.Append(dst, ejson.Object{{Name: "key", Value: key}, {Name: "error", Value: "not_found"}})
	}
	id, ok := key.(string)
	if !ok {
		return none(), nil
	}
	if strings.HasPrefix(id, "_local/") {
		doc, rev, err := l.h.localJSON(l.d, id)
		var f fail
		if errors.As(err, &f) {
			return none(), nil
		}
		return appendLocalRow(dst, id, rev, doc, l.args.IncludeDocs), err
	}
	db, err := l.h.find(l.d, id)
	if err != nil {
		return nil, err
	}
	info, err := db.DocInfo(id)
	if errors.Is(err, couchfile.ErrNotFound) {
		return none(), nil
	}
	if err != nil {
		return nil, err
	}
	return appendDocRow(dst, db, info, l.docOptions())
}
