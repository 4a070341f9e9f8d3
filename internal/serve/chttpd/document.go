package chttpd

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/serve"
)

// docQuery is what the query of a document asks for.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_db.erl, parse_doc_query.
type docQuery struct {
	opts      couchfile.DocOptions
	rev       *couchfile.Rev
	openAll   bool            // all leaves
	openRevs  []couchfile.Rev // these revisions
	open      bool            // open_revs is there
	latest    bool
	deleted   bool
	attsSince []couchfile.Rev
}

func (r *request) docQuery() (q docQuery, err error) {
	for _, p := range r.query {
		if p.Value == "true" {
			switch p.Name {
			case "attachments":
				q.opts.Attachments = true
			case "meta":
				q.opts.RevsInfo, q.opts.Conflicts, q.opts.DeletedConflicts = true, true, true
			case "revs":
				q.opts.Revs = true
			case "local_seq":
				q.opts.LocalSeq = true
			case "revs_info":
				q.opts.RevsInfo = true
			case "conflicts":
				q.opts.Conflicts = true
			case "deleted_conflicts":
				q.opts.DeletedConflicts = true
			case "att_encoding_info":
				q.opts.AttEncodingInfo = true
			case "latest":
				q.latest = true
			case "deleted":
				q.deleted = true
			}
		}
		switch p.Name {
		case "rev":
			rev, err := parseRev(p.Value)
			if err != nil {
				return q, err
			}
			q.rev = &rev
		case "open_revs":
			if q.open = true; p.Value == "all" {
				q.openAll, q.openRevs = true, nil
			} else if q.openRevs, err = parseRevs(p.Value); err != nil {
				return q, err
			} else {
				q.openAll, q.open = false, len(q.openRevs) > 0
			}
		case "atts_since":
			if q.attsSince, err = parseRevs(p.Value); err != nil {
				return q, err
			}
			q.opts.Attachments = true
		}
	}
	return q, nil
}

// parseRev reads a revision as CouchDB does.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_doc.erl, parse_rev.
func parseRev(s string) (couchfile.Rev, error) {
	pos, id, ok := strings.Cut(s, "-")
	n, err := strconv.ParseUint(pos, 10, 63)
	if !ok || err != nil {
		return couchfile.Rev{}, badRequest("Invalid rev format")
	}
	if len(id) == 32 {
		b, err := hex.DecodeString(id)
		if err != nil {
			return couchfile.Rev{}, badRequest("Invalid rev format")
		}
		id = string(b)
	}
	return couchfile.Rev{Pos: n, ID: id}, nil
}

// parseRevs reads a JSON array of revisions.
func parseRevs(s string) ([]couchfile.Rev, error) {
	v, err := ejson.Parse([]byte(s))
	if err != nil {
		return nil, err
	}
	return revsOf(v)
}

func revsOf(v ejson.Value) ([]couchfile.Rev, error) {
	list, ok := v.(ejson.Array)
	if !ok {
		return nil, badRequest("Invalid list of revisions")
	}
	out := []couchfile.Rev{}
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			return nil, badRequest("Invalid rev format")
		}
		rev, err := parseRev(s)
		if err != nil {
			return nil, err
		}
		out = append(out, rev)
	}
	return out, nil
}

// ofDocument answers of a document or an attachment.
func (h *Handler) ofDocument(r *request, d *serve.Database) error {
	id, rest := r.parts[1], r.parts[2:]
	switch {
	case strings.HasPrefix(id, "_design/"):
		if r.method == http.MethodGet {
			return redirectDesign(r)
		}
	case id == "_design" && len(rest) > 0:
		id, rest = "_design/"+rest[0], rest[1:]
	case id == "_local" && len(rest) == 0, id == "_local/":
		return badRequest("Invalid _local document id.")
	case id == "_local" && len(rest) == 1:
		id, rest = "_local/"+rest[0], nil
	case id == "_local":
		return badRequest("_local documents do not accept attachments.")
	}
	if len(rest) > 0 {
		return h.attachment(r, d, id, strings.Join(rest, "/"))
	}
	switch r.method {
	case http.MethodGet:
		return h.readDocument(r, d, id)
	case http.MethodPut:
		if strings.HasPrefix(id, "_local/") {
			return h.writeLocal(r, d, id)
		}
		return errReadOnly
	case http.MethodDelete:
		if strings.HasPrefix(id, "_local/") {
			return h.deleteLocal(r, d, id)
		}
		return errReadOnly
	case http.MethodPost, "COPY":
		return errReadOnly
	}
	return methods("DELETE,GET,HEAD,POST,PUT,COPY")
}

// redirectDesign tells where a design document is whose slash was encoded.
func redirectDesign(r *request) error {
	low := strings.ToLower(r.RequestURI)
	at := strings.Index(low, "_design%2f")
	if at < 0 {
		return errMissing
	}
	r.w.w.Header().Set("Location", r.absolute(r.RequestURI[:at]+"_design/"+r.RequestURI[at+len("_design%2f"):]))
	r.w.begin(http.StatusMovedPermanently)
	return nil
}

func (r *request) absolute(path string) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host + path
}

func (h *Handler) readDocument(r *request, d *serve.Database, id string) error {
	q, err := r.docQuery()
	if err != nil {
		return err
	}
	if strings.HasPrefix(id, "_local/") {
		return h.readLocal(r, d, id, q)
	}
	db, err := h.find(d, id)
	if err != nil {
		return err
	}
	if q.open {
		return h.openRevs(r, db, id, q)
	}
	info, rev, opts, err := q.find(db, id)
	if err != nil {
		return err
	}
	var atts []couchfile.Attachment
	if opts.Attachments && r.accepts("multipart/related") {
		if atts, err = db.Attachments(id, rev); err != nil {
			return err
		}
	}
	meta := opts.LocalSeq || opts.RevsInfo || opts.Conflicts && len(info.Conflicts(false)) > 0 || opts.DeletedConflicts && len(info.Conflicts(true)) > 0
	if !meta && r.etag(`"`+rev.String()+`"`) {
		return nil
	}
	if len(atts) > 0 {
		return r.related(db, info, rev, opts, atts)
	}
	done, err := h.inline(r, opts.Attachments)
	if err != nil {
		return err
	}
	defer done()
	b, err := db.RevisionJSON(info, rev, opts)
	if err != nil {
		return err
	}
	return r.raw(http.StatusOK, b)
}

// find finds the revision that a query asks for, and with which options it is shown: CouchDB tells of conflicts and the
// like only of a document that wasn't asked for by its revision.
func (q docQuery) find(db *couchfile.DB, id string) (*couchfile.DocInfo, couchfile.Revision, couchfile.DocOptions, error) {
	info, err := db.DocInfo(id)
	if err != nil {
		return nil, couchfile.Revision{}, q.opts, err
	}
	rev := info.Winner()
	if q.rev == nil || q.latest {
		if rev.Deleted && !q.deleted {
			return nil, rev, q.opts, fmt.Errorf("document %q: %w", id, couchfile.ErrDeleted)
		}
		return info, rev, q.since(info, rev), nil
	}
	var ok bool
	if rev, ok = info.Revision(*q.rev); !ok || !rev.Stored {
		return nil, rev, q.opts, errMissing
	}
	return info, rev, bare(q.since(info, rev)), nil
}

// since sets which attachments stay stubs, because the client has an ancestor with them.
func (q docQuery) since(info *couchfile.DocInfo, rev couchfile.Revision) couchfile.DocOptions {
	opts := q.opts
	if q.attsSince == nil {
		return opts
	}
	opts.StubsUpTo = new(uint64) // what has no position stays a stub, whatever the client has
	for _, r := range slices.Backward(branch(info, rev.Rev)) {
		if slices.Contains(q.attsSince, r) {
			*opts.StubsUpTo = r.Pos
			break
		}
	}
	return opts
}

// bare are the options without what is told of the document rather than of its revision.
func bare(o couchfile.DocOptions) couchfile.DocOptions {
	o.RevsInfo, o.Conflicts, o.DeletedConflicts, o.LocalSeq = false, false, false, false
	return o
}

// opened is a revision that was asked for, or isn't there.
type opened struct {
	rev     couchfile.Revision
	missing bool
}

// revisions finds the revisions that open_revs asks for.
//
// Source: CouchDB 3.5.0, src/fabric/src/fabric_doc_open_revs.erl.
func (q docQuery) revisions(info *couchfile.DocInfo) []opened {
	var out []opened
	add := func(rev couchfile.Revision) {
		if !slices.ContainsFunc(out, func(o opened) bool { return o.rev.Rev == rev.Rev }) {
			out = append(out, opened{rev, !rev.Stored})
		}
	}
	switch {
	case q.openAll:
		for _, l := range info.Leaves() {
			add(l)
		}
	default:
		for _, want := range q.openRevs {
			rev, ok := couchfile.Revision{}, false
			if info != nil {
				rev, ok = info.Revision(want)
			}
			switch {
			case !ok:
				add(couchfile.Revision{Rev: want})
			case q.latest:
				for _, l := range info.Leaves() {
					if slices.Contains(branch(info, l.Rev), want) {
						add(l)
					}
				}
			default:
				add(rev)
			}
		}
	}
	return out
}

// compareOpened is the order of Erlang's terms: {ok, Doc} comes before {{not_found, missing}, Rev}, an atom before a tuple,
// and documents by the positions and ids of their revisions.
func compareOpened(a, b opened) int {
	switch {
	case a.missing == b.missing:
		return compareRevs(a.rev.Rev, b.rev.Rev)
	case b.missing:
		return -1
	}
	return 1
}

// compareRevs is the order of revisions by their positions and ids.
func compareRevs(a, b couchfile.Rev) int {
	return cmp.Or(cmp.Compare(a.Pos, b.Pos), cmp.Compare(a.ID, b.ID))
}

// branch lists a revision and those it comes of, the oldest first.
func branch(info *couchfile.DocInfo, rev couchfile.Rev) []couchfile.Rev {
	var out []couchfile.Rev
	if info != nil {
		for i := slices.IndexFunc(info.Revs, func(r couchfile.Revision) bool { return r.Rev == rev }); i >= 0; i = info.Revs[i].Parent {
			out = append(out, info.Revs[i].Rev)
		}
	}
	if out == nil {
		return []couchfile.Rev{rev}
	}
	slices.Reverse(out)
	return out
}

// openRevs answers with several revisions.
func (h *Handler) openRevs(r *request, db *couchfile.DB, id string, q docQuery) error {
	info, err := db.DocInfo(id)
	switch {
	case errors.Is(err, couchfile.ErrNotFound):
		if q.openAll {
			return errMissing
		}
	case err != nil:
		return err
	}
	list := q.revisions(info)
	slices.SortFunc(list, compareOpened)
	opts := func(rev couchfile.Revision) couchfile.DocOptions { return bare(q.since(info, rev)) }
	if r.accepts("multipart/mixed") {
		return r.mixed(db, info, list, opts)
	}
	done, err := h.inline(r, q.opts.Attachments)
	if err != nil {
		return err
	}
	defer done()
	r.w.beginJSON(http.StatusOK)
	if err := r.w.writeString("["); err != nil {
		return err
	}
	for i, o := range list {
		var b []byte
		if i > 0 {
			b = append(b, ',')
		}
		if o.missing {
			b = ejson.Append(b, ejson.Object{{Name: "missing", Value: o.rev.String()}})
		} else {
			doc, err := db.RevisionJSON(info, o.rev, opts(o.rev))
			if err != nil {
				return err
			}
			b = append(append(append(b, `{"ok":`...), doc...), '}')
		}
		if _, err := r.w.Write(b); err != nil {
			return err
		}
	}
	return r.w.writeString("]")
}
