// Package tryout opens a state as a CouchDB that can be read, asks it for all of its databases, and holds what it answers
// against what the manifest says. It is what can be tried of a backup where no CouchDB is: more than that its bytes are
// right, less than that a CouchDB starts on them.
package tryout

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // CouchDB's digests of attachments are MD5
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/chttpd"
)

// Report is what was found.
type Report struct {
	Databases   int      // whose numbers were compared
	Documents   uint64   // in them, without deleted ones
	Partial     []string // databases that lack shards, which other nodes have: not compared
	Sampled     int      // documents that were read, deleted ones too
	Attachments int      // that were read, and have their digests
	Differences []Difference
}

// Difference is a database that is not what the manifest says.
type Difference struct {
	Database string
	What     string
	Known    bool // the backup itself says that one of its shards is damaged or missing
}

// OK reports whether all is as the manifest says, but for what it says is damaged.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Differences, func(d Difference) bool { return !d.Known })
}

const (
	// sample is how many documents are read at each end of a database's ids and at the end of its feed.
	sample = 5
	// mostAttachment is how large an attachment is at most that is read, in bytes, as it is stored.
	mostAttachment = 32 << 20
)

// Run opens a state and asks it. What is wrong with it goes into the report; an error is one of the storage, the key, what
// can't be opened at all, or ctx.
func Run(ctx context.Context, r *repo.Repo, m *manifest.Manifest) (*Report, error) {
	n, err := serve.OpenNode(ctx, r, m)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	t := &trial{ctx: ctx, node: n, h: chttpd.New(ctx, n, chttpd.Options{Auth: chttpd.Everybody{}}), damaged: map[string]bool{}}
	for _, d := range m.Damage {
		t.damaged[d.Path] = true
	}
	for _, l := range m.LeftOut {
		t.damaged[l.Path] = true
	}
	var names []string
	if err := t.get("/_all_dbs", &names); err != nil {
		return nil, err
	}
	if want := n.Databases(); !slices.Equal(names, want) {
		t.differs(&database{}, "it lists %d databases, and the shard map has %d", len(names), len(want))
	}
	for _, name := range n.Databases() {
		if err := t.database(name); err != nil {
			return nil, err
		}
	}
	return &t.report, nil
}

type trial struct {
	ctx     context.Context //nolint:containedctx // of one run
	node    *serve.Node
	h       http.Handler
	damaged map[string]bool // paths of which the manifest says it
	report  Report
}

// database is what the manifest says of one.
type database struct {
	name               string
	path               string
	docs, deleted, seq uint64
	known              bool
}

func (t *trial) differs(d *database, format string, args ...any) {
	t.report.Differences = append(t.report.Differences, Difference{d.name, fmt.Sprintf(format, args...), d.known})
}

// escape makes a segment of a path, in which CouchDB takes + for a space.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// database asks for one, and for some of its documents.
func (t *trial) database(name string) error {
	d := &database{name: name, path: "/" + escape(name)}
	db, err := t.node.Database(name)
	if err != nil {
		return err
	}
	partial := false
	for _, s := range db.Shards {
		switch {
		case s.File == nil:
			partial = true
		case s.File.Header == nil:
			t.differs(&database{name: name, known: t.damaged[s.File.Path]}, "%s can't be read as a database", s.File.Path)
			return nil
		default:
			d.docs, d.deleted, d.seq = d.docs+s.File.Header.Docs, d.deleted+s.File.Header.DeletedDocs, d.seq+s.File.Header.UpdateSeq
			d.known = d.known || t.damaged[s.File.Path]
		}
	}
	if partial {
		t.report.Partial = append(t.report.Partial, name)
		return nil
	}
	err = t.compare(d)
	var bad *answered
	if errors.As(err, &bad) {
		t.differs(d, "%s", bad)
		return nil
	}
	return err
}

// compare holds the numbers of a database against the manifest's, and reads a sample.
func (t *trial) compare(d *database) error {
	var info struct {
		Docs    uint64 `json:"doc_count"`
		Deleted uint64 `json:"doc_del_count"`
		Seq     string `json:"update_seq"`
	}
	if err := t.get(d.path, &info); err != nil {
		return err
	}
	t.report.Databases++
	t.report.Documents += info.Docs
	if info.Docs != d.docs || info.Deleted != d.deleted {
		t.differs(d, "it counts %d documents and %d deleted ones, the backup says %d and %d", info.Docs, info.Deleted, d.docs, d.deleted)
	}
	if number, _, _ := strings.Cut(info.Seq, "-"); number != strconv.FormatUint(d.seq, 10) {
		t.differs(d, "it is at the sequence %.20s, the backup says %d", number, d.seq)
	}
	revs := map[string]string{}
	for _, query := range []string{"", "&descending=true"} {
		var page struct {
			Total uint64 `json:"total_rows"`
			Rows  []struct {
				ID    string
				Value struct{ Rev string }
			}
		}
		if err := t.get(fmt.Sprintf("%s/_all_docs?limit=%d%s", d.path, sample, query), &page); err != nil {
			return err
		}
		if page.Total != d.docs || uint64(len(page.Rows)) != min(sample, d.docs) {
			t.differs(d, "its list has %d documents and shows %d, the backup says %d", page.Total, len(page.Rows), d.docs)
		}
		for _, row := range page.Rows {
			revs[row.ID] = row.Value.Rev
		}
	}
	var feed struct {
		Results []struct {
			ID      string
			Changes []struct{ Rev string }
		}
	}
	if err := t.get(fmt.Sprintf("%s/_changes?descending=true&limit=%d", d.path, sample), &feed); err != nil {
		return err
	}
	for _, c := range feed.Results {
		if len(c.Changes) > 0 {
			revs[c.ID] = c.Changes[0].Rev
		}
	}
	for id, rev := range revs {
		if err := t.document(d, id, rev); err != nil {
			return err
		}
	}
	return nil
}

// document reads one in the revision that a list names, with its attachments.
func (t *trial) document(d *database, id, rev string) error {
	path := d.path + "/" + escape(id)
	if name, ok := strings.CutPrefix(id, "_design/"); ok {
		path = d.path + "/_design/" + escape(name)
	}
	var doc struct {
		ID          string `json:"_id"`
		Rev         string `json:"_rev"`
		Attachments map[string]struct {
			Digest string `json:"digest"`
			Length int64  `json:"length"`
		} `json:"_attachments"`
	}
	if err := t.get(path+"?rev="+url.QueryEscape(rev), &doc); err != nil {
		return err
	}
	t.report.Sampled++
	if doc.ID != id || doc.Rev != rev {
		t.differs(d, "of the document %.100q in revision %s it has %.100q in %s", id, rev, doc.ID, doc.Rev)
	}
	for name, a := range doc.Attachments {
		if a.Length > mostAttachment {
			continue
		}
		var parts []string
		for p := range strings.SplitSeq(name, "/") {
			parts = append(parts, escape(p))
		}
		sum := md5.New() //nolint:gosec // see above
		if err := t.ask(path+"/"+strings.Join(parts, "/")+"?rev="+url.QueryEscape(rev), sum, nil); err != nil {
			return err
		}
		t.report.Attachments++
		if got := "md5-" + base64.StdEncoding.EncodeToString(sum.Sum(nil)); got != a.Digest {
			t.differs(d, "the attachment %.100q of %.100q has the digest %s, and is to have %s", name, id, got, a.Digest)
		}
	}
	return nil
}

func (t *trial) get(path string, into any) error { return t.ask(path, nil, into) }

// answered is an answer that is none of those that were to come.
type answered struct {
	path   string
	status int
	text   string
}

func (a *answered) Error() string {
	return fmt.Sprintf("the answer to GET %.200s is %d: %.300s", a.path, a.status, strings.TrimSpace(a.text))
}

// ask asks for a path, and reads the answer as JSON, or sums its body up as it is stored. An answer with an error is an
// *answered.
func (t *trial) ask(path string, sum hash.Hash, into any) (err error) {
	r, err := http.NewRequestWithContext(t.ctx, http.MethodGet, path, http.NoBody)
	if err != nil {
		return err
	}
	r.RequestURI = path
	w := &written{header: http.Header{}}
	if sum != nil {
		r.Header.Set("Accept-Encoding", "gzip") // the digest is of what is stored
		w.sum = sum
	}
	func() {
		defer func() {
			if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // this value, as net/http compares it
				w.cut = true
			} else if p != nil {
				panic(p)
			}
		}()
		t.h.ServeHTTP(w, r)
	}()
	switch {
	case t.ctx.Err() != nil:
		return t.ctx.Err()
	case w.cut:
		return &answered{path, w.status, "it is cut off, since what is stored can't be read"}
	case w.status != http.StatusOK:
		return &answered{path, w.status, w.body.String()}
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(w.body.Bytes(), into); err != nil {
		return &answered{path, w.status, err.Error()}
	}
	return nil
}

// written is an answer in memory, or the sum of one.
type written struct {
	header http.Header
	status int
	body   bytes.Buffer
	sum    hash.Hash
	cut    bool
}

// Header is of the answer.
func (w *written) Header() http.Header { return w.header }

// WriteHeader notes the status.
func (w *written) WriteHeader(status int) { w.status = status }

// Write keeps the body of an answer, or adds it to the sum.
func (w *written) Write(p []byte) (int, error) {
	if w.sum != nil && w.status == http.StatusOK {
		return w.sum.Write(p)
	}
	return w.body.Write(p)
}
