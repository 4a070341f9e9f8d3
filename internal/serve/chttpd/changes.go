package chttpd

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/sequence"
	"github.com/slipcover/slipcover/internal/serve"
)

const (
	// feedTimeout is for how long a feed without a heartbeat waits for changes, and how often one with it tells that it lives.
	feedTimeout = time.Minute
	// idsLimit is up to how many ids are looked up rather than looked for.
	idsLimit = 100
	// noLimit is how many changes are sent if nothing is said.
	noLimit = 1000000000000000
)

// feed is what is asked of _changes.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_db.erl, parse_changes_query; src/fabric/src/fabric_view_changes.erl.
type feed struct {
	h *Handler
	r *request
	d *serve.Database

	kind        string // normal, longpoll, continuous or eventsource
	descending  bool
	since       string
	limit       int64
	allDocs     bool // style
	heartbeat   time.Duration
	timeout     time.Duration
	includeDocs bool
	opts        couchfile.DocOptions
	interval    int64
	filter      filter

	at      []sequence.Shard // where each shard is
	from    []uint64         // where each began
	pending []uint64         // how many changes of each are left
	sent    int64
	quiet   bool // nothing was sent behind the head
}

// filter says which changes are told.
type filter struct {
	ids    []string        // those documents
	named  map[string]bool // by ids; nil without this filter
	design bool            // design documents
	// doc decides by a revision's JSON, nil for none of these; fields is what is shown of it.
	doc    func(doc ejson.Value) (bool, error)
	fields func(doc ejson.Value) (ejson.Value, error)
}

func (h *Handler) changes(r *request, d *serve.Database) error {
	switch r.method {
	case http.MethodGet:
	case http.MethodPost:
		if err := r.jsonType(); err != nil {
			return err
		}
		if r.ContentLength != 0 {
			if _, err := r.objectBody(); err != nil {
				return err
			}
		}
	default:
		return methods("GET,POST,HEAD")
	}
	f := &feed{h: h, r: r, d: d, kind: "normal", since: "0", limit: noLimit}
	if err := f.parse(); err != nil {
		return err
	}
	if f.kind == "normal" {
		tag, err := f.tag()
		if err != nil {
			return err
		}
		if r.etag(tag) {
			return nil
		}
	}
	if err := f.start(); err != nil {
		return err
	}
	if err := f.send(); err != nil {
		return err
	}
	return f.end()
}

func (f *feed) parse() error {
	style, name := "main_only", ""
	for _, p := range f.r.query {
		switch strings.ToLower(p.Name) {
		case "feed":
			if f.kind = p.Value; p.Value == "live" {
				f.kind = "continuous"
			}
		case "descending":
			f.descending = f.descending || p.Value == "true"
		case "since", "last-event-id":
			f.since = p.Value
		case "limit":
			n, err := strconv.ParseInt(p.Value, 10, 64)
			if err != nil {
				return badRequest("Invalid limit")
			}
			f.limit = n
		case "style":
			style = p.Value
		case "heartbeat":
			if p.Value == "true" {
				f.heartbeat = feedTimeout
				continue
			}
			n, err := strconv.ParseInt(p.Value, 10, 64)
			if err != nil {
				return badRequest("Invalid heartbeat value. Expecting a positive integer value (in milliseconds).")
			}
			if n <= 0 {
				return badRequest("The heartbeat value should be a positive integer (in milliseconds).")
			}
			f.heartbeat = min(feedTimeout, time.Duration(n)*time.Millisecond)
		case "timeout":
			n, err := strconv.ParseInt(p.Value, 10, 64)
			if err != nil {
				return badRequest("Invalid timeout")
			}
			f.timeout = min(feedTimeout, time.Duration(max(1, n))*time.Millisecond)
		case "include_docs":
			f.includeDocs = f.includeDocs || p.Value == "true"
		case "conflicts":
			f.opts.Conflicts = f.opts.Conflicts || p.Value == "true"
		case "attachments":
			f.opts.Attachments = f.opts.Attachments || p.Value == "true"
		case "att_encoding_info":
			f.opts.AttEncodingInfo = f.opts.AttEncodingInfo || p.Value == "true"
		case "filter":
			name = p.Value
		case "seq_interval":
			n, err := strconv.ParseInt(p.Value, 10, 64)
			if err != nil || n <= 0 {
				return badRequest("invalid_seq_interval")
			}
			f.interval = n
		}
	}
	if v := f.r.Header.Get("Last-Event-Id"); f.kind == "eventsource" && v != "" {
		f.since = v
	}
	switch style {
	case "main_only":
	case "all_docs":
		f.allDocs = true
	default:
		return badRequest("Invalid style")
	}
	if err := f.parseFilter(name); err != nil {
		return err
	}
	if !slices.Contains([]string{"normal", "continuous", "longpoll", "eventsource"}, f.kind) {
		return badRequest("Supported `feed` types: normal, continuous, live, longpoll, eventsource")
	}
	return nil
}

func (f *feed) parseFilter(name string) error {
	switch {
	case name == "_doc_ids":
		return f.parseIDs()
	case name == "_design":
		f.filter.design = true
		return nil
	case name == "_selector":
		return f.parseSelector()
	case name == "_view":
		return notImplemented("The filter _view runs a function of a design document, which a backup that is read in place doesn't. Use _selector or _doc_ids, or restore the database.")
	case strings.HasPrefix(name, "_"):
		return badRequest("unknown builtin filter name")
	case strings.Trim(name, "/") == "":
		return nil
	case len(strings.FieldsFunc(name, func(c rune) bool { return c == '/' })) != 2:
		return badRequest("`filter` must be of the form `designname/filtername`")
	}
	return notImplemented("The filter %s is a function of a design document, which a backup that is read in place doesn't run. Use _selector or _doc_ids, or restore the database.", name)
}

func (f *feed) parseIDs() error {
	bad := badRequest("`doc_ids` filter parameter is not a list of doc ids.")
	var v ejson.Value
	if f.r.method == http.MethodPost {
		o, err := f.r.objectBody()
		if err != nil {
			return err
		}
		v, _ = o.Get("doc_ids")
	} else if s, ok := f.r.query.Get("doc_ids"); ok {
		var err error
		if v, err = ejson.Parse([]byte(s)); err != nil {
			return err
		}
	}
	list, ok := v.(ejson.Array)
	if !ok {
		return bad
	}
	f.filter.named = map[string]bool{}
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			return bad
		}
		f.filter.ids = append(f.filter.ids, s)
		f.filter.named[s] = true
	}
	return nil
}

// tag is an entity tag of the database as it is.
func (f *feed) tag() (string, error) {
	sum := sha256.New()
	err := f.h.each(f.d, func(s *serve.Shard, db *couchfile.DB) error {
		hd := db.Header()
		fmt.Fprintf(sum, "%s %s %d %d\n", s.Range, hd.UUID, hd.UpdateSeq, hd.Offset)
		return nil
	})
	return `"` + hex.EncodeToString(sum.Sum(nil)[:16]) + `"`, err
}

// start finds where the feed begins in each shard.
func (f *feed) start() error {
	var since []sequence.Shard
	now := f.descending || f.since == "now"
	if !now && f.since != "0" {
		var err error
		if since, err = sequence.Unpack(f.since); err != nil {
			return badRequest("Malformed sequence supplied in 'since' parameter.")
		}
	}
	return f.h.each(f.d, func(s *serve.Shard, db *couchfile.DB) error {
		hd := db.Header()
		seq := uint64(0)
		begin := sequence.Shard{Node: f.h.nodeName(), Range: s.Range} // of who has seen nothing
		if now {
			seq = hd.UpdateSeq
			begin = f.h.position(s, db, seq)
		}
		for _, at := range since {
			if n := startIn(hd, at); at.Range == s.Range && n >= seq {
				seq, begin = n, at
			}
		}
		left, err := db.CountChanges(seq)
		if err != nil {
			return err
		}
		if f.descending {
			all, err := db.CountChanges(0)
			if err != nil {
				return err
			}
			left = all - left
		}
		f.at, f.from = append(f.at, begin), append(f.from, seq)
		f.pending = append(f.pending, left)
		return nil
	})
}

// startIn returns from where on a shard's changes are told to who has seen those up to a sequence: from the beginning, if
// that is of another file's history.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_db.erl, calculate_start_seq.
func startIn(hd couchfile.Header, at sequence.Shard) uint64 {
	if at.UUID == "" || !strings.HasPrefix(hd.UUID, at.UUID) {
		return 0
	}
	node := at.Owner
	if node == "" {
		node = at.Node
	}
	if owner(hd, at.Seq) == node {
		return at.Seq
	}
	for i, e := range hd.Epochs {
		switch {
		case e.Node == node && at.Seq >= e.UpdateSeq:
			return at.Seq
		case i+1 < len(hd.Epochs) && hd.Epochs[i+1].Node == node && at.Seq >= e.UpdateSeq:
			return e.UpdateSeq
		}
	}
	return 0
}

// send tells the changes that there are. It has a place among the walks only for as long as that takes.
func (f *feed) send() error {
	leave, err := f.h.walk(f.r, f.includeDocs && f.opts.Attachments)
	if err != nil {
		return err
	}
	defer leave()
	switch f.kind {
	case "normal", "longpoll":
		f.r.w.beginJSON(http.StatusOK)
		if err := f.r.w.writeString("{\"results\":[\n"); err != nil {
			return err
		}
	case "eventsource":
		f.r.w.w.Header().Set("Content-Type", "text/event-stream")
		f.r.w.w.Header().Set("Cache-Control", "no-cache")
		fallthrough
	default:
		f.r.w.beginJSON(http.StatusOK)
	}
	f.quiet = true
	for i, s := range f.d.Shards {
		if f.sent >= f.limit {
			break
		}
		db, err := f.d.Open(f.h.ctx, s)
		if err != nil {
			return err
		}
		if err := f.sendShard(i, s, db); err != nil {
			return err
		}
	}
	return nil
}

// lookups are the changes of documents that are looked up rather than found on the way; ok if they are.
func (f *feed) lookups(db *couchfile.DB, since uint64) (list iter.Seq2[*couchfile.DocInfo, error], ok bool, err error) {
	var infos []*couchfile.DocInfo
	switch {
	case f.filter.named != nil && len(f.filter.ids) <= idsLimit:
		ids := slices.Clone(f.filter.ids)
		for info, err := range db.Lookup(ids) {
			if err != nil {
				return nil, false, err
			}
			infos = append(infos, info)
		}
	case f.filter.design:
		for info, err := range db.Docs(couchfile.DocsOptions{Start: "_design/", Deleted: true}) {
			if err != nil {
				return nil, false, err
			}
			if info.ID >= "_design0" {
				break
			}
			infos = append(infos, info)
		}
	default:
		return nil, false, nil
	}
	infos = slices.DeleteFunc(infos, func(i *couchfile.DocInfo) bool { return !f.descending && i.UpdateSeq <= since })
	slices.SortFunc(infos, func(a, b *couchfile.DocInfo) int { return cmp.Compare(a.UpdateSeq, b.UpdateSeq) })
	if f.descending {
		slices.Reverse(infos)
	}
	return each(infos), true, nil
}

func (f *feed) sendShard(i int, s *serve.Shard, db *couchfile.DB) error {
	list, looked, err := f.lookups(db, f.from[i])
	if err != nil {
		return err
	}
	if !looked {
		since := f.from[i]
		if f.descending {
			since = 0
		}
		list = db.Changes(since, f.descending)
	}
	for row, err := range serve.Ahead(list, f.atOnce(), func(info *couchfile.DocInfo) (change, error) { return f.row(db, info) }) {
		if err != nil {
			return err
		}
		if row.passes() && f.sent >= f.limit {
			return nil
		}
		f.at[i] = f.h.position(s, db, row.info.UpdateSeq)
		if f.sent >= f.limit {
			return nil
		}
		f.pending[i]--
		if !row.passes() {
			continue
		}
		if err := f.write(row); err != nil {
			return err
		}
	}
	if f.sent < f.limit {
		seq := max(f.from[i], f.at[i].Seq)
		switch {
		case looked && !f.descending:
			seq = db.Header().UpdateSeq
		case f.descending:
			seq = f.at[i].Seq
		}
		f.at[i] = f.h.position(s, db, seq)
	}
	return nil
}

// atOnce is how many documents are read at once.
func (f *feed) atOnce() int {
	if !f.includeDocs && f.filter.doc == nil {
		return 1
	}
	return int(min(int64(atOnce(f.opts.Attachments)), f.limit-f.sent+1))
}

// change is what is told of a document.
type change struct {
	info *couchfile.DocInfo
	revs []string // none if it isn't told
	doc  []byte   // nil without include_docs
}

func (c change) passes() bool { return len(c.revs) > 0 }

// row makes what is told of a document.
func (f *feed) row(db *couchfile.DB, info *couchfile.DocInfo) (c change, err error) {
	c.info = info
	if f.filter.named != nil && !f.filter.named[info.ID] || f.filter.design && !strings.HasPrefix(info.ID, "_design") {
		return c, nil
	}
	leaves := []couchfile.Revision{info.Winner()}
	if f.allDocs {
		leaves = info.Leaves()
	}
	for _, l := range leaves {
		if f.filter.doc != nil {
			ok, err := f.matches(db, info, l)
			if err != nil {
				return c, err
			}
			if !ok {
				continue
			}
		}
		c.revs = append(c.revs, l.Rev.String())
	}
	if !c.passes() || !f.includeDocs {
		return c, nil
	}
	if c.doc, err = db.RevisionJSON(info, info.Winner(), f.opts); err != nil || f.filter.fields == nil {
		return c, err
	}
	v, err := ejson.Parse(c.doc)
	if err != nil {
		return c, err
	}
	v, err = f.filter.fields(v)
	c.doc = ejson.Append(nil, v)
	return c, err
}

// matches reports whether a revision passes a filter by its content.
func (f *feed) matches(db *couchfile.DB, info *couchfile.DocInfo, rev couchfile.Revision) (bool, error) {
	b, err := db.RevisionJSON(info, rev, couchfile.DocOptions{})
	if errors.Is(err, couchfile.ErrMissing) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	v, err := ejson.Parse(b)
	if err != nil {
		return false, err
	}
	return f.filter.doc(v)
}

func (f *feed) write(c change) error {
	seq := "null"
	if left := f.limit - f.sent; f.interval == 0 || left%f.interval == 0 {
		seq = `"` + sequence.Pack(f.at) + `"`
	}
	b := append(append([]byte(`{"seq":`), seq...), `,"id":`...)
	b = append(appendText(b, c.info.ID), `,"changes":[`...)
	for i, rev := range c.revs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, `{"rev":"`...), rev...), `"}`...)
	}
	b = append(b, ']')
	if c.info.Winner().Deleted {
		b = append(b, `,"deleted":true`...)
	}
	if c.doc != nil {
		b = append(append(b, `,"doc":`...), c.doc...)
	}
	b = append(b, '}')
	switch f.kind {
	case "continuous":
		b = append(b, '\n')
	case "eventsource":
		b = append(append(append(append([]byte("data: "), b...), "\nid: "...), seq...), "\n\n"...)
	default:
		if f.sent > 0 {
			b = append([]byte(",\r\n"), b...)
		}
	}
	f.sent++
	f.quiet = false
	if _, err := f.r.w.Write(b); err != nil {
		return err
	}
	return f.r.Context().Err()
}

// end waits if the feed does, and ends it. Nothing changes in a backup.
func (f *feed) end() error {
	left := uint64(0)
	for _, n := range f.pending {
		left += n
	}
	waits := f.kind == "continuous" || f.kind == "eventsource"
	if f.kind == "longpoll" {
		waits = f.sent == 0
	}
	if f.descending && left == 0 || f.sent >= f.limit && f.kind != "longpoll" {
		waits = false
	}
	if waits && !f.r.w.head {
		if err := f.wait(); err != nil {
			return err
		}
		if f.kind == "eventsource" {
			f.r.w.end = "" // CouchDB's line break comes too late
		}
	}
	last := `"last_seq":"` + sequence.Pack(f.at) + `","pending":` + strconv.FormatUint(left, 10) + "}\n"
	switch f.kind {
	case "continuous":
		return f.r.w.writeString("{" + last)
	case "eventsource":
		return nil
	}
	return f.r.w.writeString("\n],\n" + last)
}

// wait waits until the feed's time is over, and tells that it lives.
func (f *feed) wait() error {
	if f.quiet {
		if err := f.r.w.writeString("\n"); err != nil {
			return err
		}
	}
	if err := f.r.w.flush(); err != nil {
		return err
	}
	timeout := feedTimeout
	if f.timeout > 0 {
		timeout = f.timeout
	}
	if f.heartbeat > 0 {
		timeout = f.heartbeat
	}
	tick := time.NewTicker(timeout)
	defer tick.Stop()
	for {
		select {
		case <-f.r.Context().Done():
			return f.r.Context().Err()
		case <-f.h.o.Done:
			return nil
		case <-tick.C:
		}
		if f.heartbeat == 0 {
			return nil
		}
		beat := "\n"
		if f.kind == "eventsource" {
			beat = "event: heartbeat\ndata: \n\n"
		}
		if err := f.r.w.writeString(beat); err != nil {
			return err
		}
		if err := f.r.w.flush(); err != nil {
			return err
		}
	}
}
