package chttpd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// flipping is a storage of which one byte is another one.
type flipping struct {
	storage.Store

	mu    sync.Mutex
	reads []place     // what was read; guarded by mu, like bad
	bad   storage.Key // "" for none
	at    int64
}

// place is what was read of an object.
type place struct {
	key    storage.Key
	off, n int64
}

func (s *flipping) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	if !strings.HasPrefix(string(key), "segments/") {
		return s.Store.Get(ctx, key, off, n, fn)
	}
	return s.Store.Get(ctx, key, off, n, func(r io.Reader) error {
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.reads = append(s.reads, place{key, off, int64(len(b))})
		if i := s.at - off; key == s.bad && i >= 0 && i < int64(len(b)) {
			b[i] ^= 1 << (s.at % 8)
		}
		s.mu.Unlock()
		return fn(bytes.NewReader(b))
	})
}

func (s *flipping) flip(key storage.Key, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad, s.at = key, at
}

// lines is a log whose lines are counted.
type lines struct {
	mu   sync.Mutex
	text []string // guarded by mu
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(b))
	return len(b), nil
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.text
	l.text = nil
	return out
}

// everything asks for all kinds of things that the fixtures' databases have, as a clean server lists them.
func everything(p *pair, url string) []ask {
	get := func(path string, to any) {
		p.t.Helper()
		r := p.do(url, ask{method: "GET", path: path})
		if r.status != http.StatusOK {
			p.t.Fatalf("%s: %d %s", path, r.status, r.body)
		}
		must(p.t, json.Unmarshal([]byte(r.body), to))
	}
	var dbs []string
	get("/_all_dbs", &dbs)
	out := []ask{{method: "GET", path: "/_all_dbs"}, {method: "GET", path: "/_dbs_info"}, {method: "GET", path: "/_dbs/_all_docs?include_docs=true"}}
	for _, db := range dbs {
		base := testenv.DBPath(db)
		for _, path := range []string{
			"", "/_all_docs?limit=3", "/_all_docs?include_docs=true&conflicts=true", "/_all_docs?descending=true&limit=3", "/_changes?include_docs=true&style=all_docs&attachments=true", "/_changes?filter=_design&include_docs=true",
			"/_design_docs?include_docs=true", "/_local_docs?include_docs=true", "/_security", "/_purged_infos", "/_revs_limit", "/_index", "/_shards",
		} {
			out = append(out, ask{method: "GET", path: base + path})
		}
		out = append(out, ask{method: "HEAD", path: base + "/_all_docs"}, ask{method: "POST", path: base + "/_find", body: `{"selector":{"_id":{"$gt":null}},"limit":1000}`})
		var all struct {
			Rows []struct {
				ID    string `json:"id"`
				Value struct {
					Rev string `json:"rev"`
				} `json:"value"`
				Doc struct {
					Attachments map[string]any `json:"_attachments"`
					Views       map[string]any `json:"views"`
					Language    string         `json:"language"`
				} `json:"doc"`
			} `json:"rows"`
		}
		get(base+"/_all_docs?include_docs=true", &all)
		docs := []any{}
		for i, row := range all.Rows {
			path := docPath(db, row.ID)
			for name := range row.Doc.Attachments {
				out = append(out, ask{method: "GET", path: path + "/" + name}, ask{method: "GET", path: path + "/" + name, header: map[string]string{"Range": "bytes=3-"}})
			}
			for name := range row.Doc.Views {
				if row.Doc.Language != "query" {
					out = append(out, ask{method: "GET", path: path + "/_view/" + name + "?include_docs=true&reduce=false"}, ask{method: "GET", path: path + "/_info"})
				}
			}
			if i%5 > 0 && row.Doc.Attachments == nil {
				continue
			}
			docs = append(docs, map[string]string{"id": row.ID, "rev": row.Value.Rev})
			for _, query := range []string{"", "?revs=true&attachments=true&conflicts=true", "?open_revs=all&revs=true&attachments=true", "?revs_info=true"} {
				out = append(out, ask{method: "GET", path: path + query}, ask{method: "GET", path: path + query, header: map[string]string{"Accept": "multipart/*"}})
			}
		}
		bulk := js(map[string]any{"docs": docs})
		out = append(out, ask{method: "POST", path: base + "/_bulk_get?revs=true&attachments=true", body: bulk},
			ask{method: "POST", path: base + "/_bulk_get", body: bulk, header: map[string]string{"Accept": "multipart/mixed"}}, ask{method: "POST", path: base + "/_revs_diff", body: `{"x":["1-a"]}`})
	}
	return out
}

// Whatever byte of what is stored is another one, and whatever is asked: the answer is the right one, or one of 500 that the log
// tells of in a line, or it is cut off after a right beginning. Once the byte is right again, all answers are.
func TestDamage(t *testing.T) {
	t.Parallel()
	store := &flipping{Store: mem.New()}
	open := servetest.Init(t, store)
	n, err := node.Locate(t.Context(), node.Options{DataDir: fixtures + "/data"})
	must(t, err)
	res, err := backup.Run(t.Context(), backup.Options{Repo: open(), Node: n, Instance: "node1", StateDir: t.TempDir(), Name: "test", Tool: "test", Indexes: true})
	must(t, err)

	p := newPair(t, &testenv.Couch{})
	rnd := rand.New(rand.NewPCG(testenv.Seed(t), 23))
	store.reads = nil
	url, done := servedBy(t, open(), res.Record, slog.DiscardHandler)
	all := everything(p, url)
	// Few of the many are asked in each round, and those of databases as wholes more often than single documents.
	var asks []ask
	for _, i := range rnd.Perm(len(all)) {
		if whole := strings.Count(all[i].path, "/") <= 2 && !strings.Contains(all[i].path, "rev"); whole && len(asks) < 200 || rnd.IntN(60) == 0 {
			asks = append(asks, all[i])
		}
	}
	clean := make([]reply, len(asks))
	long := 0
	for i, a := range asks {
		if clean[i] = p.do(url, a); clean[i].status == http.StatusInternalServerError {
			t.Errorf("%s %s: %d %s", a.method, a.path, clean[i].status, clean[i].body)
		}
		if len(clean[i].body) > 64<<10 {
			long++
		}
	}
	done()
	reads := slices.Clone(store.reads)
	right, failed, cut, unopened := 0, 0, 0, 0
	for range testenv.Computed(16, 3) {
		at := reads[rnd.IntN(len(reads))]
		store.flip(at.key, at.off+rnd.Int64N(at.n))
		where := fmt.Sprintf("byte %d of %s", store.at, store.bad)
		var log lines
		r := open()
		m, err := r.Manifest(t.Context(), res.Record)
		must(t, err)
		opened, err := serve.OpenNode(context.Background(), r, m)
		if err != nil { // it is of the shard maps, without which nothing can be served
			unopened++
			if !strings.Contains(err.Error(), string(at.key)) && !strings.Contains(err.Error(), "_dbs.couch") {
				t.Errorf("%s: %v", where, err)
			}
			store.flip("", 0)
			continue
		}
		s := httptest.NewServer(chttpd.New(context.Background(), opened, chttpd.Options{Auth: chttpd.Everybody{}, Log: slog.New(slog.NewTextHandler(&log, nil))}))
		for _, i := range rnd.Perm(len(asks)) {
			got, want := p.do(s.URL, asks[i]), clean[i]
			said := log.take()
			begun, _, off := strings.Cut(got.normal(), "(cut off: ")
			switch {
			case got.status == want.status && got.normal() == want.normal():
				right++
				if len(said) > 0 {
					t.Errorf("%s: %s is right, and the log has %q", where, asks[i].path, said)
				}
				continue
			case got.status == http.StatusInternalServerError:
				failed++
			case off && got.status == want.status && strings.HasPrefix(want.normal(), begun):
				cut++
			default:
				t.Errorf("%s: %s %s: %d %s\nand not %d %s", where, asks[i].method, asks[i].path, got.status, clip(got.normal(), want.normal()), want.status, clip(want.normal(), got.normal()))
			}
			if len(said) != 1 || !strings.Contains(said[0], "segments/") {
				t.Errorf("%s: after %s %s the log says %q", where, asks[i].method, asks[i].path, said)
			}
		}
		store.flip("", 0)
		for i, a := range asks {
			if got := p.do(s.URL, a); got.status != clean[i].status || got.normal() != clean[i].normal() {
				t.Errorf("%s, which is right again: %s: %d %s", where, a.path, got.status, clip(got.normal(), clean[i].normal()))
			}
		}
		s.Close()
		opened.Close()
	}
	t.Logf("%d requests in each round, %d with long answers: %d right, %d of 500, %d cut off; %d rounds without a shard map", len(asks), long, right, failed, cut, unopened)
	if failed == 0 {
		t.Error("no request met what is damaged")
	}
}

// servedBy serves a backup until done is called.
func servedBy(t *testing.T, r *repo.Repo, rec *manifest.Record, log slog.Handler) (url string, done func()) {
	t.Helper()
	m, err := r.Manifest(t.Context(), rec)
	must(t, err)
	n, err := serve.OpenNode(context.Background(), r, m)
	must(t, err)
	s := httptest.NewServer(chttpd.New(context.Background(), n, chttpd.Options{Auth: chttpd.Everybody{}, Log: slog.New(log)}))
	return s.URL, func() {
		s.Close()
		n.Close()
	}
}
