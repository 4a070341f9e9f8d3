package chttpd

import (
	"errors"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/serve"
)

// revsDiff answers which revisions the database doesn't have.
//
// Source: CouchDB 3.5.0, src/fabric/src/fabric_doc_missing_revs.erl; src/couch/src/couch_db.erl, get_missing_revs.
func (h *Handler) revsDiff(r *request, d *serve.Database) error {
	asked, err := r.posted()
	if err != nil {
		return err
	}
	diff := r.parts[1] == "_revs_diff"
	out := ejson.Object{}
	for _, m := range asked {
		revs, err := revsOf(m.Value)
		if err != nil {
			return err
		}
		missing, ancestors, err := h.missing(d, m.Name, revs)
		switch {
		case err != nil:
			return err
		case len(missing) == 0:
		case !diff:
			out = append(out, ejson.Member{Name: m.Name, Value: missing})
		default:
			o := ejson.Object{{Name: "missing", Value: missing}}
			if len(ancestors) > 0 {
				o = append(o, ejson.Member{Name: "possible_ancestors", Value: ancestors})
			}
			out = append(out, ejson.Member{Name: m.Name, Value: o})
		}
	}
	if !diff {
		out = ejson.Object{{Name: "missing_revs", Value: out}}
	}
	return r.json(http.StatusOK, out)
}

// missing returns which revisions of a document aren't there, and which leaves could be their ancestors.
func (h *Handler) missing(d *serve.Database, id string, revs []couchfile.Rev) (missing, ancestors []string, err error) {
	db, err := h.find(d, id)
	if err != nil {
		return nil, nil, err
	}
	info, err := db.DocInfo(id)
	if err != nil && !errors.Is(err, couchfile.ErrNotFound) {
		return nil, nil, err
	}
	most := uint64(0)
	for _, rev := range revs {
		if info != nil {
			if _, ok := info.Revision(rev); ok {
				continue
			}
		}
		missing = append(missing, rev.String())
		most = max(most, rev.Pos)
	}
	if info != nil {
		for _, l := range info.Leaves() {
			if l.Pos < most {
				ancestors = append(ancestors, l.String())
			}
		}
	}
	return missing, ancestors, nil
}

// bulkAsk is a document that _bulk_get is asked for.
type bulkAsk struct {
	id      ejson.Value // as it came
	q       docQuery
	failure *fail       // it isn't looked for
	rev     ejson.Value // of the failure
}

// bulkGet answers with many documents.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_db.erl, bulk_get_parse_args and what follows.
func (h *Handler) bulkGet(r *request, d *serve.Database) error {
	o, err := r.posted()
	if err != nil {
		return err
	}
	v, _ := o.Get("docs")
	docs, ok := v.(ejson.Array)
	if !ok {
		return badRequest("Missing JSON list of 'docs'.")
	}
	for _, p := range r.query {
		if slices.Contains([]string{"open_revs", "new_edits", "w", "rev", "atts_since"}, p.Name) {
			return badRequest("%q query parameter is not acceptable", p.Name)
		}
	}
	base, err := r.docQuery()
	if err != nil {
		return err
	}
	var asks []bulkAsk
	for _, doc := range docs {
		asks = append(asks, bulkAskOf(doc, base))
	}
	if !r.accepts("application/json") && (r.accepts("multipart/mixed") || r.accepts("multipart/related")) {
		return h.bulkMultipart(r, d, asks)
	}
	attachments := slices.ContainsFunc(asks, func(a bulkAsk) bool { return a.q.opts.Attachments })
	done, err := h.inline(r, attachments)
	if err != nil {
		return err
	}
	defer done()
	r.w.beginJSON(http.StatusOK)
	if err := r.w.writeString(`{"results":[`); err != nil {
		return err
	}
	sep := ""
	for b, err := range serve.Ahead(each(asks), atOnce(attachments), func(a bulkAsk) ([]byte, error) { return h.bulkResult(d, a) }) {
		if err != nil {
			return err
		}
		if err := r.w.writeString(sep); err != nil {
			return err
		}
		if _, err := r.w.Write(b); err != nil {
			return err
		}
		sep = ","
	}
	return r.w.writeString("]}")
}

// each iterates over a list.
func each[T any](list []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// bulkAskOf reads what one document is asked with.
func bulkAskOf(doc ejson.Value, base docQuery) bulkAsk {
	bad := func(id, rev ejson.Value, name, reason string) bulkAsk {
		return bulkAsk{id: id, rev: rev, failure: &fail{name: name, reason: reason}}
	}
	o, ok := doc.(ejson.Object)
	if !ok || len(o) == 0 {
		return bad(nil, nil, "bad_request", "document must be a JSON object")
	}
	id, ok := o.Get("id")
	if !ok {
		return bad(nil, nil, "bad_request", "document id missed")
	}
	if err := checkDocID(id); err != nil {
		return bad(id, nil, err.name, err.reason)
	}
	ask := bulkAsk{id: id, q: base}
	ask.q.openAll, ask.q.openRevs = true, nil
	if rev, ok := o.Get("rev"); ok {
		s, isText := rev.(string)
		want, err := parseRev(s)
		if !isText || err != nil {
			return bad(id, rev, "bad_request", "Invalid rev format")
		}
		ask.q.openAll, ask.q.openRevs = false, []couchfile.Rev{want}
	}
	if since, ok := o.Get("atts_since"); ok {
		list, isList := since.(ejson.Array)
		if !isList {
			return bad(id, since, "bad_request", "att_since value must be array of revs.")
		}
		for _, e := range list {
			s, isText := e.(string)
			rev, err := parseRev(s)
			if !isText || err != nil {
				return bad(id, e, "bad_request", "Invalid rev format")
			}
			ask.q.attsSince = append(ask.q.attsSince, rev)
			ask.q.opts.Attachments = true
		}
	}
	return ask
}

// checkDocID refuses ids that no document can have.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_doc.erl, validate_docid.
func checkDocID(v ejson.Value) *fail {
	id, ok := v.(string)
	reason := ""
	switch {
	case !ok:
		reason = "Document id must be a string"
	case id == "":
		reason = "Document id must not be empty"
	case id == "_design/":
		reason = "Illegal document id `_design/`"
	case id == "_local/":
		reason = "Illegal document id `_local/`"
	case len(id) > 512*1024*1024:
		reason = "Document id is too long"
	case strings.HasPrefix(id, "_") && !strings.HasPrefix(id, "_design/") && !strings.HasPrefix(id, "_local/"):
		reason = "Only reserved document ids may start with underscore."
	default:
		return nil
	}
	return &fail{status: http.StatusBadRequest, name: "illegal_docid", reason: reason}
}

// lookUp finds the revisions of a document that is asked for.
func (h *Handler) lookUp(d *serve.Database, ask bulkAsk) (*couchfile.DB, *couchfile.DocInfo, []opened, error) {
	id, _ := ask.id.(string)
	db, err := h.find(d, id)
	if err != nil {
		return nil, nil, nil, err
	}
	info, err := db.DocInfo(id)
	if errors.Is(err, couchfile.ErrNotFound) {
		if ask.q.openAll {
			return db, nil, nil, nil
		}
	} else if err != nil {
		return nil, nil, nil, err
	}
	list := ask.q.revisions(info)
	slices.SortFunc(list, func(a, b opened) int { return compareLeaves(branch(info, a.rev.Rev), branch(info, b.rev.Rev)) })
	return db, info, list, nil
}

// compareLeaves is the order in which CouchDB lists the leaves of a revision tree: the trees from the last to the first,
// the branches of each by their ids.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_key_tree.erl, get_all_leafs.
func compareLeaves(a, b []couchfile.Rev) int {
	if c := compareRevs(b[0], a[0]); c != 0 {
		return c
	}
	return slices.CompareFunc(a, b, compareRevs)
}

// wrong is what is wrong with one document, in the order that CouchDB's maps have.
func (ask bulkAsk) wrong(rev ejson.Value, name, reason string) ejson.Object {
	return ejson.Object{{Name: "rev", Value: rev}, {Name: "reason", Value: reason}, {Name: "id", Value: ask.id}, {Name: "error", Value: name}}
}

// bulkResult is what is answered of one document.
func (h *Handler) bulkResult(d *serve.Database, ask bulkAsk) ([]byte, error) {
	b := append(ejson.Append([]byte(`{"id":`), ask.id), `,"docs":[`...)
	if ask.failure != nil {
		b = ejson.Append(b, ejson.Object{{Name: "error", Value: ask.wrong(ask.rev, ask.failure.name, ask.failure.reason)}})
	} else {
		db, info, list, err := h.lookUp(d, ask)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			b = ejson.Append(b, ejson.Object{{Name: "error", Value: ask.wrong("undefined", "not_found", "missing")}})
		}
		for i, o := range list {
			if i > 0 {
				b = append(b, ',')
			}
			if o.missing {
				b = ejson.Append(b, ejson.Object{{Name: "error", Value: ask.wrong(o.rev.String(), "not_found", "missing")}})
				continue
			}
			doc, err := db.RevisionJSON(info, o.rev, bare(ask.q.since(info, o.rev)))
			if err != nil {
				return nil, err
			}
			b = append(append(append(b, `{"ok":`...), doc...), '}')
		}
	}
	return append(b, "]}"...), nil
}

func (h *Handler) bulkMultipart(r *request, d *serve.Database, asks []bulkAsk) error {
	kind := "multipart/related"
	if r.accepts("multipart/mixed") {
		kind = "multipart/mixed"
	}
	outer := "--" + uuid()
	r.w.w.Header().Set("Content-Type", kind+`; boundary="`+outer+`"`)
	r.w.beginChunked(http.StatusOK)
	wrong := func(o ejson.Object) error {
		return r.w.writeString("\r\n--" + outer + "\r\nContent-Type: application/json; error=\"true\"\r\n\r\n" + ejson.String(o))
	}
	for _, ask := range asks {
		if ask.failure != nil {
			if err := wrong(ask.wrong(ask.rev, ask.failure.name, ask.failure.reason)); err != nil {
				return err
			}
			continue
		}
		db, info, list, err := h.lookUp(d, ask)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			if err := wrong(ask.wrong("undefined", "not_found", "missing")); err != nil {
				return err
			}
		}
		for _, o := range list {
			if o.missing {
				err = wrong(ejson.Object{{Name: "rev", Value: o.rev.String()}, {Name: "error", Value: "not_found"}, {Name: "reason", Value: "missing"}})
			} else {
				err = r.bulkPart(db, info, o.rev, bare(ask.q.since(info, o.rev)), outer)
			}
			if err != nil {
				return err
			}
		}
	}
	if len(asks) == 0 {
		return nil
	}
	return r.w.writeString("\r\n--" + outer + "--\r\n")
}

func (r *request) bulkPart(db *couchfile.DB, info *couchfile.DocInfo, rev couchfile.Revision, opts couchfile.DocOptions, outer string) error {
	inner := "--" + uuid()
	doc, atts, err := following(db, info, rev, opts)
	if err != nil {
		return err
	}
	head := "\r\n--" + outer + "\r\nContent-Type: application/json\r\n\r\n"
	if len(atts) > 0 {
		head = "\r\n--" + outer + "\r\nX-Doc-Id: " + info.ID + "\r\nX-Rev-Id: " + rev.String() + "\r\nContent-Type: multipart/related; boundary=" + inner + "\r\n\r\n"
	}
	if err := r.w.writeString(head); err != nil {
		return err
	}
	return r.writeRelated(db, inner, doc, atts)
}
