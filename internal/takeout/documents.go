package takeout

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/serve"
)

// Documents of one request: so many, or of so many bytes.
const (
	pageDocs  = 500
	pageBytes = 4 << 20
	// sendAtOnce is how many documents with attachments are sent at once.
	sendAtOnce = 4
	// conflictTries is how often a document is tried that others write meanwhile.
	conflictTries = 5
)

// Outcome is what became of a document.
type Outcome string

// What can become of a document.
const (
	Written  Outcome = "written"   // its old content is the winning revision now
	Same     Outcome = "same"      // the target has that content, or with Exact that revision
	Left     Outcome = "left"      // the target has another content, which Replace would replace
	Missing  Outcome = "missing"   // the state has no such document
	Deleted  Outcome = "deleted"   // in the state it is deleted
	Conflict Outcome = "conflict"  // others wrote it again and again
	Refused  Outcome = "refused"   // the target refuses it, as its validation does
	Beside   Outcome = "beside"    // of Exact: it is there, and another revision wins
	Gone     Outcome = "body_gone" // the body of the revision is not in the file any more
)

// DocResult is what became of one document.
type DocResult struct {
	ID      string  `json:"id"`
	Outcome Outcome `json:"outcome"`
	From    string  `json:"from,omitempty"` // the revision in the backup or moment
	Was     string  `json:"was,omitempty"`  // the one that won at the target; "" if there was none
	// WasDeleted says that it was a deletion.
	WasDeleted bool   `json:"was_deleted,omitempty"`
	Rev        string `json:"rev,omitempty"` // the new one
	Reason     string `json:"reason,omitempty"`
	// Changes are what differs between what the target had and the content of the state, of a document that was or
	// would be written.
	Changes []serve.Change `json:"changes,omitempty"`
}

// DocOptions say what Documents does.
type DocOptions struct {
	Server *Server
	Target string          // the database on it
	From   *serve.Database // a state
	Rev    string          // of each document, in place of the one that wins in the state
	// Exact writes the revisions as they were, with their histories, as a replication does. They win or not.
	Exact bool
	// On is the revision that must win at the target, "" if it must have nothing; nil is whatever there is. What others wrote
	// since it was looked at is not overwritten.
	On *string
	// Replace replaces documents that are there with another content. Deleted ones come back without it.
	Replace bool
	DryRun  bool // writes nothing
	Diff    bool // tells Changes
	// Tell is told of each document, in no order; one call at a time.
	Tell     func(*DocResult) error
	Progress *Progress // may be nil
}

// Progress counts. Its fields may be read at any time.
type Progress struct {
	Docs, Bytes atomic.Int64
}

// docRun is one call of Documents.
type docRun struct {
	DocOptions
	counts map[Outcome]int
}

// doc is a document on its way.
type doc struct {
	id   string
	db   *couchfile.DB
	info *couchfile.DocInfo
	rev  couchfile.Revision
	body []byte // as the server's JSON
	atts []couchfile.Attachment

	live liveDoc
	sent bool // a write of it may have come through
	res  DocResult
}

// liveDoc is what the target has of a document.
type liveDoc struct {
	rev     string // "" if it has nothing
	deleted bool
	same    bool
	body    []byte // if it was read
}

// Documents writes documents of a state into a living database, under the ids that ids yields, and returns how many had
// which outcome. Local documents are none of them. It keeps a page of them in memory. An error ends it: what was written until
// then is there, and another call goes on.
func Documents(ctx context.Context, o DocOptions, ids func(yield func(id string) error) error) (map[Outcome]int, error) {
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	r := &docRun{o, map[Outcome]int{}}
	if err := r.Server.call(ctx, http.MethodGet, dbPath(r.Target), nil, nil); err != nil {
		if statusOf(err) == http.StatusNotFound {
			err = fmt.Errorf("%w: %q", ErrNoTarget, r.Target)
		}
		return r.counts, err
	}
	seen := map[string]bool{}
	var page []string
	flush := func() error {
		err := r.page(ctx, page)
		page = page[:0]
		clear(seen)
		return err
	}
	err := ids(func(id string) error {
		if strings.HasPrefix(id, "_local/") {
			return fmt.Errorf("%q: local documents belong to one server, as checkpoints do, and are not taken into another; `slipcover get` prints them", id)
		}
		if seen[id] {
			return nil
		}
		seen[id] = true
		if page = append(page, id); len(page) < pageDocs {
			return nil
		}
		return flush()
	})
	if err != nil {
		return r.counts, err
	}
	return r.counts, flush()
}

// page does some documents, in parts whose bodies aren't too large together.
func (r *docRun) page(ctx context.Context, ids []string) error {
	byShard := map[*couchfile.DB][]string{}
	var order []*couchfile.DB
	for _, id := range ids {
		db, err := r.From.Find(ctx, id)
		if err != nil {
			return err
		}
		if byShard[db] == nil {
			order = append(order, db)
		}
		byShard[db] = append(byShard[db], id)
	}
	var part []*doc
	size := 0
	flush := func() error {
		err := r.part(ctx, part)
		part, size = nil, 0
		return err
	}
	for _, db := range order {
		infos := map[string]*couchfile.DocInfo{}
		for info, err := range db.Lookup(slices.Clone(byShard[db])) {
			if err != nil {
				return err
			}
			infos[info.ID] = info
		}
		for _, id := range byShard[db] {
			d := &doc{id: id, db: db, info: infos[id], res: DocResult{ID: id}}
			ok, err := r.read(d)
			if err != nil {
				return fmt.Errorf("document %q: %w", id, err)
			}
			if !ok {
				if err := r.tell(d); err != nil {
					return err
				}
				continue
			}
			part = append(part, d)
			if size += len(d.body); size >= pageBytes {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// read reads a document's revision in the state; ok if it has one that can be written.
func (r *docRun) read(d *doc) (ok bool, err error) {
	if d.info == nil {
		d.res.Outcome = Missing
		return false, nil
	}
	d.rev = d.info.Winner()
	if r.Rev != "" {
		i := slices.IndexFunc(d.info.Revs, func(x couchfile.Revision) bool { return x.String() == r.Rev })
		if i < 0 {
			d.res.Outcome, d.res.Reason = Missing, "it has no revision "+r.Rev
			return false, nil
		}
		d.rev = d.info.Revs[i]
	}
	d.res.From = d.rev.String()
	switch {
	case d.rev.Deleted:
		d.res.Outcome = Deleted
		if h := d.info.History(d.rev.Rev); len(h) > 1 {
			d.res.Reason = fmt.Sprintf("the revision before it was deleted is %d-%s", d.rev.Pos-1, h[1])
		}
		return false, nil
	case !d.rev.Stored:
		d.res.Outcome, d.res.Reason = Gone, "a compaction removed the body of "+d.res.From+"; `slipcover history` tells which backup has it"
		return false, nil
	}
	if d.body, err = d.db.RevisionJSON(d.info, d.rev, couchfile.DocOptions{Revs: r.Exact}); err != nil {
		return false, err
	}
	d.atts, err = d.db.Attachments(d.id, d.rev)
	return true, err
}

func (r *docRun) tell(d *doc) error {
	r.counts[d.res.Outcome]++
	r.Progress.Docs.Add(1)
	d.body, d.live.body = nil, nil
	if r.Tell == nil {
		return nil
	}
	return r.Tell(&d.res)
}

// part looks at the target and writes what is to be written, until all documents have an outcome.
func (r *docRun) part(ctx context.Context, docs []*doc) error {
	for n := 1; len(docs) > 0; n++ {
		if err := r.look(ctx, docs); err != nil {
			return err
		}
		var write []*doc
		for _, d := range docs {
			if err := r.decide(d); err != nil {
				return err
			}
			if d.res.Outcome == "" {
				write = append(write, d)
			} else if err := r.tell(d); err != nil {
				return err
			}
		}
		if err := r.write(ctx, write); err != nil {
			return err
		}
		docs = docs[:0]
		for _, d := range write {
			switch {
			case d.res.Outcome == "": // again
				docs = append(docs, d)
				continue
			case d.res.Outcome == Conflict && n < conflictTries:
				d.res.Outcome, d.res.Reason = "", ""
				docs = append(docs, d)
				continue
			}
			if err := r.tell(d); err != nil {
				return err
			}
		}
		if len(docs) > 0 {
			if n == conflictTries { // answers were lost again and again, and it isn't there
				return fmt.Errorf("write document %q: %w", docs[0].id, ErrUnavailable)
			}
			if n == 1 && r.Exact { // whose look tells
				continue
			}
			if err := sleep(ctx, firstWait/5<<n); err != nil {
				return err
			}
		}
	}
	return nil
}

// row is one of _all_docs with keys.
type row struct {
	ID    string
	Key   string
	Error string
	Value *struct {
		Rev     string
		Deleted bool
	}
	Doc json.RawMessage
}

// look finds out what the target has of documents, and holds their contents against those of the state.
func (r *docRun) look(ctx context.Context, docs []*doc) error {
	byID := map[string]*doc{}
	for _, d := range docs {
		d.live = liveDoc{}
		byID[d.id] = d
	}
	err := r.rows(ctx, docs, func(x *row) (err error) {
		d := byID[x.Key]
		if d == nil || x.Value == nil {
			return nil
		}
		d.live = liveDoc{rev: x.Value.Rev, deleted: x.Value.Deleted}
		if d.live.deleted || r.Exact {
			return nil
		}
		if d.live.same = d.live.rev == d.rev.String(); d.live.same || len(x.Doc) == 0 {
			return nil
		}
		if d.live.same, err = sameContent(d.body, x.Doc); err != nil {
			return fmt.Errorf("document %q: %w", d.id, err)
		}
		if !d.live.same && (r.Diff || len(d.atts) > 0) {
			d.live.body = bytes.Clone(x.Doc)
		}
		return nil
	})
	if err == nil && r.Exact {
		err = r.revsDiff(ctx, docs)
	}
	return err
}

// rows asks the target for documents, and calls fn with each row of the answer. What it decodes lives one row long.
func (r *docRun) rows(ctx context.Context, docs []*doc, fn func(*row) error) error {
	if len(docs) == 0 {
		return nil
	}
	keys := make([]string, len(docs))
	for i, d := range docs {
		keys[i] = d.id
	}
	body, err := json.Marshal(map[string][]string{"keys": keys})
	if err != nil {
		return err
	}
	path := dbPath(r.Target, "_all_docs")
	if !r.Exact {
		path += "?include_docs=true"
	}
	return r.Server.again(ctx, func() error {
		req, err := r.Server.request(ctx, http.MethodPost, path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		resp, err := r.Server.do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n, err := eachRow(json.NewDecoder(resp.Body), fn)
		if err == nil && n != len(keys) {
			err = fmt.Errorf("%w: it answers %d of %d documents", ErrUnavailable, n, len(keys))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	})
}

// eachRow calls fn with each of the rows in an answer.
func eachRow(d *json.Decoder, fn func(*row) error) (n int, err error) {
	cut := func(err error) error { return fmt.Errorf("%w: its answer was cut off: %w", ErrUnavailable, err) }
	for {
		t, err := d.Token()
		if err != nil {
			return n, cut(err)
		}
		if t == "rows" {
			break
		}
	}
	if _, err := d.Token(); err != nil { // [
		return n, cut(err)
	}
	for ; d.More(); n++ {
		var x row
		if err := d.Decode(&x); err != nil {
			return n, cut(err)
		}
		if err := fn(&x); err != nil {
			return n, err
		}
	}
	_, err = d.Token() // ]: an answer that was cut off has none
	if err != nil {
		return n, cut(err)
	}
	return n, nil
}

// revsDiff finds out which revisions the target has.
func (r *docRun) revsDiff(ctx context.Context, docs []*doc) error {
	ask := map[string][]string{}
	for _, d := range docs {
		ask[d.id] = []string{d.rev.String()}
	}
	var lacks map[string]struct{ Missing []string }
	if err := r.Server.call(ctx, http.MethodPost, dbPath(r.Target, "_revs_diff"), ask, &lacks); err != nil {
		return err
	}
	for _, d := range docs {
		_, missing := lacks[d.id]
		d.live.same = !missing
	}
	return nil
}

// decide says what becomes of a document that was looked at; no outcome is that it is written.
func (r *docRun) decide(d *doc) (err error) {
	if !d.sent || !d.live.same { // else it is what was sent
		d.res.Was, d.res.WasDeleted = d.live.rev, d.live.deleted
	}
	switch {
	case d.live.same && r.Exact:
		return r.decideExact(d)
	case d.live.same && d.sent: // and the answer was lost
		d.res.Outcome, d.res.Rev = Written, d.live.rev
		return nil
	case d.live.same:
		d.res.Outcome = Same
		return nil
	}
	if r.Diff {
		live := d.live.body
		if live != nil {
			if live, err = content(live); err != nil {
				return err
			}
		}
		old, err := content(d.body)
		if err != nil {
			return err
		}
		if d.res.Changes, err = serve.Diff(live, old); err != nil {
			return err
		}
		d.res.Changes = slices.DeleteFunc(d.res.Changes, func(c serve.Change) bool { return c.Path == "/_id" }) // of what is not there
	}
	switch {
	case r.On != nil && *r.On != d.live.rev:
		d.res.Outcome, d.res.Reason = Conflict, "it is at "+cmp.Or(d.live.rev, "no revision")+" now, and was at "+cmp.Or(*r.On, "none")+" when it was looked at: nothing was written"
	case d.live.rev != "" && !d.live.deleted && !r.Replace && !r.Exact:
		d.res.Outcome, d.res.Reason = Left, "it is there with another content"
	case r.DryRun:
		d.res.Outcome = Written
	}
	return nil
}

// decideExact says what a revision is that the target has.
func (r *docRun) decideExact(d *doc) error {
	switch wins := d.live.rev == d.rev.String(); {
	case d.sent && wins:
		d.res.Outcome, d.res.Rev = Written, d.live.rev
	case d.sent:
		d.res.Outcome, d.res.Rev, d.res.Reason = Beside, d.rev.String(), "it is there, but "+d.live.rev+" wins"
	case wins:
		d.res.Outcome = Same
	default:
		d.res.Outcome, d.res.Reason = Same, "the server knows that revision, and "+d.live.rev+" wins: it is a conflict, or an older one, whose content only comes back without --exact"
	}
	return nil
}

// write sends documents: in one request, or each alone if its attachments go along. It gives each an outcome, or none if
// it isn't known.
func (r *docRun) write(ctx context.Context, docs []*doc) error {
	var bulk []*doc
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(sendAtOnce)
	for _, d := range docs {
		if len(d.atts) == 0 {
			bulk = append(bulk, d)
			continue
		}
		g.Go(func() error { return r.sendAlone(gctx, d) })
	}
	err := r.sendBulk(ctx, bulk)
	return cmp.Or(g.Wait(), err)
}

// sendBulk sends documents in one request. Where the server refuses that as a whole, as one that is too large, it is halved.
func (r *docRun) sendBulk(ctx context.Context, docs []*doc) error {
	if len(docs) == 0 {
		return nil
	}
	b := []byte(`{"docs":[`)
	for i, d := range docs {
		if i > 0 {
			b = append(b, ',')
		}
		o, err := r.outgoing(d)
		if err != nil {
			return err
		}
		b = ejson.Append(b, o)
		d.sent = true
	}
	if b = append(b, ']'); r.Exact {
		b = append(b, `,"new_edits":false`...)
	}
	var answers []struct{ ID, Rev, Error, Reason string }
	err := r.Server.once(ctx, http.MethodPost, dbPath(r.Target, "_bulk_docs"), append(b, '}'), &answers)
	switch st := statusOf(err); {
	case errors.Is(err, ErrUnavailable): // it may have done some of it
		return sleep(ctx, firstWait)
	case st == http.StatusRequestEntityTooLarge || st == http.StatusBadRequest || st == http.StatusExpectationFailed:
		if len(docs) > 1 {
			half := len(docs) / 2
			return cmp.Or(r.sendBulk(ctx, docs[:half]), r.sendBulk(ctx, docs[half:]))
		}
		docs[0].fail(err)
		return nil
	case err != nil:
		return err
	}
	byID := map[string]*doc{}
	for _, d := range docs {
		byID[d.id] = d
	}
	for _, a := range answers {
		d := byID[a.ID]
		switch {
		case d == nil:
		case a.Error == "conflict":
			d.res.Outcome, d.res.Reason = Conflict, "others wrote it each time"
		case a.Error == "internal_server_error" || a.Error == "timeout": // another try
		case a.Error != "":
			d.res.Outcome, d.res.Reason = Refused, a.Error+": "+a.Reason
		case !r.Exact:
			r.done(d, a.Rev)
		}
	}
	return nil // of an exact one the next look tells
}

// done notes that a document is written.
func (r *docRun) done(d *doc, rev string) {
	d.res.Outcome, d.res.Rev = Written, rev
	r.Progress.Bytes.Add(int64(len(d.body)))
}

// fail notes that the server refuses a document.
func (d *doc) fail(err error) {
	var f *failure
	if errors.As(err, &f) {
		d.res.Outcome, d.res.Reason = Refused, f.Name+": "+f.Reason
	}
}

// outgoing is the document as it is written, with the revision that it follows: none if that is a deletion, for then the
// server refuses it, and puts one without on top of the deletion.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_db_updater.erl, merge_rev_tree.
func (r *docRun) outgoing(d *doc) (ejson.Object, error) {
	o, err := d.object(r.Exact)
	if err != nil || r.Exact {
		return o, err
	}
	if d.live.rev != "" && !d.live.deleted {
		o.Set("_rev", d.live.rev)
		return o, nil
	}
	return slices.DeleteFunc(o, func(m ejson.Member) bool { return m.Name == "_rev" }), nil
}

// object is the document's body, in which all attachments follow, with its history if revs.
func (d *doc) object(revs bool) (ejson.Object, error) {
	b := d.body
	if len(d.atts) > 0 {
		var err error
		if b, err = d.db.RevisionJSON(d.info, d.rev, couchfile.DocOptions{Revs: revs, Attachments: true, Follows: true, AttEncodingInfo: true}); err != nil {
			return nil, fmt.Errorf("document %q: %w", d.id, err)
		}
	}
	v, err := ejson.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("document %q: %w", d.id, err)
	}
	o, ok := v.(ejson.Object)
	if !ok {
		return nil, fmt.Errorf("document %q is no object", d.id)
	}
	return o, nil
}

// content is a document without its revision.
func content(b []byte) ([]byte, error) {
	v, err := ejson.Parse(b)
	if err != nil {
		return nil, err
	}
	o, _ := v.(ejson.Object)
	o = slices.DeleteFunc(o, func(m ejson.Member) bool {
		return m.Name == "_rev" || m.Name == "_revisions"
	})
	return ejson.Append(nil, o), nil
}

// sameContent reports whether two documents are the same but for their revisions, attachments by their digests.
func sameContent(a, b []byte) (bool, error) {
	x, err := content(a)
	if err != nil {
		return false, err
	}
	y, err := content(b)
	if err != nil {
		return false, err
	}
	if bytes.Equal(x, y) {
		return true, nil
	}
	changes, err := serve.Diff(x, y)
	return err == nil && len(changes) == 0, err
}
