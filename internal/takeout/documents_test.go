package takeout_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/testenv"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// oddIDs are ids that need care in URLs and in JSON.
var oddIDs = []string{"a b", "a+b", "a%2Fb", "a/b", "ü", "日本", "\U0001F600", "q\"uote", "back\\slash", "x\u0001y", "~", "a&b=c", "a?b", "a#b", "{}", "_design/odd"}

// world is a server and a backup of it.
type world struct {
	*testenv.Couch
	node *serve.Node
	srv  *takeout.Server
}

func newWorld(t *testing.T, fill func(c *testenv.Couch)) *world {
	t.Helper()
	c := testenv.CouchDB(t, testenv.Options{})
	fill(c)
	w := &world{Couch: c, node: servetest.Node(t, c.DataDir)}
	srv, db, err := takeout.Open(t.Context(), c.URL, c.Admin, c.Password)
	must(t, err)
	if db != "" {
		t.Fatalf("the server's URL is that of %q", db)
	}
	w.srv = srv
	return w
}

func (w *world) from(t *testing.T, db string) *serve.Database {
	t.Helper()
	d, err := w.node.Database(db)
	must(t, err)
	for _, s := range d.Shards { // they are read for as long as the context lasts that opens them
		_, err := d.Open(t.Context(), s)
		must(t, err)
	}
	return d
}

// run restores documents, and returns what became of each.
func (w *world) run(t *testing.T, o takeout.DocOptions, ids ...string) map[string]takeout.DocResult {
	t.Helper()
	out, err := w.try(t.Context(), o, ids...)
	must(t, err)
	return out
}

func (w *world) try(ctx context.Context, o takeout.DocOptions, ids ...string) (map[string]takeout.DocResult, error) {
	out := map[string]takeout.DocResult{}
	o.Server = w.srv
	o.Tell = func(d *takeout.DocResult) error {
		out[d.ID] = *d
		return nil
	}
	_, err := takeout.Documents(ctx, o, each(ids))
	return out, err
}

func each(ids []string) func(func(string) error) error {
	return func(yield func(string) error) error {
		for _, id := range ids {
			if err := yield(id); err != nil {
				return err
			}
		}
		return nil
	}
}

// state is a document with its attachments' bytes, but without its revision.
func (w *world) state(t *testing.T, db, id string) map[string]any {
	t.Helper()
	var doc map[string]any
	must(t, w.Get(testenv.DBPath(db, id)+"?attachments=true", &doc))
	delete(doc, "_rev")
	atts, _ := doc["_attachments"].(map[string]any)
	for _, a := range atts {
		delete(a.(map[string]any), "revpos")
	}
	return doc
}

func (w *world) rev(t *testing.T, db, id string) string {
	t.Helper()
	var doc struct {
		Rev string `json:"_rev"`
	}
	must(t, w.Get(testenv.DBPath(db, id), &doc))
	return doc.Rev
}

func inline(kind string, b []byte) map[string]any {
	return map[string]any{"content_type": kind, "data": base64.StdEncoding.EncodeToString(b)}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func fillDocs(t *testing.T) func(c *testenv.Couch) {
	return func(c *testenv.Couch) {
		must(t, c.Put("/shop?q=2", nil, nil))
		must(t, c.Put("/parted?q=2&partitioned=true", nil, nil))
		must(t, c.Put("/parted/p:one", map[string]any{"n": 1}, nil))
		put := func(id string, doc map[string]any) { must(t, c.Put(testenv.DBPath("shop", id), doc, nil)) }
		for i, id := range oddIDs {
			put(id, map[string]any{"n": i, "text": id, "big": json.Number("12345678901234567890"), "f": json.Number("1.0")})
		}
		put("plain", map[string]any{"z": 1, "a": []any{1, nil, "x"}})
		put("with", map[string]any{"_attachments": map[string]any{
			"a text.txt": inline("text/plain", bytes.Repeat([]byte("compressed "), 3000)), "big.bin": inline("application/octet-stream", random(5<<20)),
			"q\"ü.txt": inline("text/plain; charset=utf-8", []byte("odd")), "empty": inline("image/png", nil)}})
		var z bytes.Buffer
		g := gzip.NewWriter(&z)
		_, _ = io.WriteString(g, strings.Repeat("sent gzipped ", 500))
		must(t, g.Close())
		put("zipped", map[string]any{"k": 1})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, c.URL+testenv.DBPath("shop", "zipped", "z")+"?rev="+(&world{Couch: c}).rev(t, "shop", "zipped"), &z)
		must(t, err)
		req.SetBasicAuth(c.Admin, c.Password)
		req.Header.Set("Content-Type", "text/plain")
		req.Header.Set("Content-Encoding", "gzip")
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatal(resp.Status)
		}
		bulk := map[string]any{"new_edits": false, "docs": []any{
			map[string]any{"_id": "conflicted", "_rev": "2-b", "_revisions": map[string]any{"start": 2, "ids": []string{"b", "a"}}, "v": "loses"},
			map[string]any{"_id": "conflicted", "_rev": "2-c", "_revisions": map[string]any{"start": 2, "ids": []string{"c", "a"}}, "v": "wins"}}}
		must(t, c.Post("/shop/_bulk_docs", bulk, nil))
	}
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fillDocs(t))
	ids := append([]string{"plain", "with", "zipped", "conflicted"}, oddIDs...)
	want := map[string]map[string]any{}
	for _, id := range ids {
		want[id] = w.state(t, "shop", id)
	}
	shop := takeout.DocOptions{Target: "shop", From: w.from(t, "shop")}
	whole := func(t *testing.T, what takeout.Outcome, got map[string]takeout.DocResult) {
		t.Helper()
		for _, id := range ids {
			if got[id].Outcome != what {
				t.Errorf("%q: %+v, not %s", id, got[id], what)
			}
			if s := w.state(t, "shop", id); !reflect.DeepEqual(s, want[id]) {
				t.Errorf("%q is not as it was", id)
			}
		}
	}
	whole(t, takeout.Same, w.run(t, shop, ids...))

	// Deleted ones come back on top of the tombstone.
	for _, id := range ids {
		for id := id; ; {
			var doc struct {
				Rev string `json:"_rev"`
			}
			if err := w.Get(testenv.DBPath("shop", id), &doc); err != nil {
				break
			}
			must(t, w.Delete(testenv.DBPath("shop", id)+"?rev="+doc.Rev))
		}
	}
	dry := shop
	dry.DryRun, dry.Diff = true, true
	got := w.run(t, dry, ids...)
	if d := got["plain"]; d.Outcome != takeout.Written || !d.WasDeleted || len(d.Changes) == 0 || testenv.Status(w.Get("/shop/plain", nil)) != http.StatusNotFound {
		t.Errorf("a dry run: %+v", d)
	}
	if d := w.run(t, takeout.DocOptions{Target: "shop", From: shop.From, Exact: true}, "plain")["plain"]; d.Outcome != takeout.Same || d.Reason == "" {
		t.Errorf("a revision that lies below its tombstone, exactly: %+v", d)
	}
	got = w.run(t, shop, ids...)
	whole(t, takeout.Written, got)
	if d := got["plain"]; d.Rev != w.rev(t, "shop", "plain") || !strings.HasPrefix(d.Rev, "3-") || !d.WasDeleted || !strings.HasPrefix(d.Was, "2-") {
		t.Errorf("a deleted document: %+v", d)
	}
	if d := got["conflicted"]; !strings.HasPrefix(d.From, "2-c") {
		t.Errorf("not the winner: %+v", d)
	}
	whole(t, takeout.Same, w.run(t, shop, ids...))

	// Others are replaced only when asked, and attachments that are there aren't sent.
	for _, id := range ids {
		doc := map[string]any{}
		must(t, w.Get(testenv.DBPath("shop", id), &doc))
		doc["edited"] = true
		must(t, w.Put(testenv.DBPath("shop", id), doc, nil))
	}
	for id, d := range w.run(t, shop, ids...) {
		if d.Outcome != takeout.Left || w.state(t, "shop", id)["edited"] != true {
			t.Errorf("%q: %+v", id, d)
		}
	}
	replace := shop
	replace.Replace, replace.Progress = true, &takeout.Progress{}
	whole(t, takeout.Written, w.run(t, replace, ids...))
	if n := replace.Progress.Bytes.Load(); n > 1<<20 {
		t.Errorf("sent %d bytes, though the attachments were there", n)
	}

	// The database made anew knows nothing: exact ones are the same revisions.
	must(t, w.Delete("/shop"))
	must(t, w.Put("/shop?q=1", nil, nil))
	exact := shop
	exact.Exact = true
	whole(t, takeout.Written, w.run(t, exact, ids...))
	if got, was := w.rev(t, "shop", "with"), w.run(t, exact, "with")["with"]; got != was.From || was.Outcome != takeout.Same {
		t.Errorf("exactly: %s, %+v", got, was)
	}
	if d := w.run(t, takeout.DocOptions{Target: "shop", From: shop.From, Rev: "2-b", Exact: true}, "conflicted")["conflicted"]; d.Outcome != takeout.Beside {
		t.Errorf("a revision that loses: %+v", d)
	}
	if d := w.run(t, takeout.DocOptions{Target: "shop", From: shop.From, Rev: "2-b", Replace: true}, "conflicted")["conflicted"]; d.Outcome != takeout.Written || w.state(t, "shop", "conflicted")["v"] != "loses" {
		t.Errorf("a conflict of the state: %+v", d)
	}

	t.Run("refused", func(t *testing.T) {
		d := w.run(t, shop, "nosuch", "plain")
		if d["nosuch"].Outcome != takeout.Missing || d["plain"].Outcome != takeout.Same {
			t.Errorf("%+v", d)
		}
		if _, err := w.try(t.Context(), shop, "_local/x"); err == nil || !strings.Contains(err.Error(), "local documents") {
			t.Errorf("a local document: %v", err)
		}
		if _, err := w.try(t.Context(), takeout.DocOptions{Target: "nosuch", From: shop.From}, "plain"); !errors.Is(err, takeout.ErrNoTarget) {
			t.Errorf("no database: %v", err)
		}
		must(t, w.Put("/shop/_design/no", map[string]any{"validate_doc_update": "function(d){ if (d.n !== undefined) throw({forbidden: 'no n'}) }"}, nil))
		must(t, w.Delete("/shop/a%20b?rev="+w.rev(t, "shop", "a b")))
		if d := w.run(t, shop, "a b", "plain")["a b"]; d.Outcome != takeout.Refused || !strings.Contains(d.Reason, "no n") {
			t.Errorf("refused by validation: %+v", d)
		}
	})
	t.Run("URL", func(t *testing.T) {
		for path, want := range map[string]string{"/": "", "/shop": "shop", "/shop/": "shop", "/a%2Fb": "a/b"} {
			if _, db, err := takeout.Open(t.Context(), w.URL+path, w.Admin, w.Password); err != nil || db != want {
				t.Errorf("%s: %q, %v", path, db, err)
			}
		}
		if _, _, err := takeout.Open(t.Context(), w.URL+"/shop", w.Admin, "wrong"); !errors.Is(err, takeout.ErrDenied) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("a wrong password: %v", err)
		}
	})
	t.Run("choose", func(t *testing.T) {
		sel, err := ejson.Parse([]byte(`{"n":{"$gt":11}}`))
		must(t, err)
		s, err := mango.Parse(sel)
		must(t, err)
		var found []string
		must(t, takeout.Matching(t.Context(), shop.From, s, func(id string) error { found = append(found, id); return nil }))
		if len(found) != 3 { // 12, 13, 14: the design document is none
			t.Errorf("selected %q", found)
		}
		must(t, w.Delete("/shop"))
		must(t, w.Put("/shop?q=2", nil, nil))
		must(t, w.Put("/shop/more", map[string]any{}, nil))
		_, err = takeout.DeletedBetween(t.Context(), shop.From, shop.From, func(id string) error { return errors.New(id) })
		must(t, err)
	})
}

// TestDocumentsLookedAtAgain: of a document that others write between the look and the write, it tells the revision that it
// replaced; and of one whose write's answer is lost, the one that was there before it.
func TestDocumentsLookedAtAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fillDocs(t))
	from := w.from(t, "shop")
	edit := func() (rev string) {
		doc := map[string]any{}
		must(t, w.Get("/shop/plain", &doc))
		doc["edited"] = time.Now().String()
		var a struct{ Rev string }
		must(t, w.Put("/shop/plain", doc, &a))
		return a.Rev
	}
	u, err := url.Parse(w.URL)
	must(t, err)
	to := httputil.NewSingleHostReverseProxy(u)
	var first func(answer http.ResponseWriter, r *http.Request) // gets the first write
	between := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		if do := first; do != nil && strings.HasSuffix(r.URL.Path, "/_bulk_docs") {
			first = nil
			do(answer, r)
			return
		}
		to.ServeHTTP(answer, r)
	}))
	defer between.Close()
	w.srv, _, err = takeout.Open(t.Context(), between.URL, w.Admin, w.Password)
	must(t, err)
	o := takeout.DocOptions{Target: "shop", From: from, Replace: true}

	var was string
	edit()
	first = func(answer http.ResponseWriter, r *http.Request) {
		was = edit()
		to.ServeHTTP(answer, r)
	}
	if d := w.run(t, o, "plain")["plain"]; d.Outcome != takeout.Written || d.Was != was || d.Rev != w.rev(t, "shop", "plain") {
		t.Errorf("others wrote %s: %+v", was, d)
	}

	was = edit()
	first = func(_ http.ResponseWriter, r *http.Request) {
		to.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	if d := w.run(t, o, "plain")["plain"]; d.Outcome != takeout.Written || d.Was != was || d.Rev != w.rev(t, "shop", "plain") {
		t.Errorf("the answer was lost, it was %s: %+v", was, d)
	}
}

// TestDocumentsWhileWritten restores under others' edits, stopped again and again: no acknowledged edit may be lost from
// a document's history, and in the end all is as it was.
func TestDocumentsWhileWritten(t *testing.T) {
	t.Parallel()
	const n = 1500
	var ids []string
	w := newWorld(t, func(c *testenv.Couch) {
		must(t, c.Put("/d?q=2", nil, nil))
		var docs []any
		for i := range n {
			id := fmt.Sprintf("doc-%04d", i)
			ids = append(ids, id)
			doc := map[string]any{"_id": id, "v": "old"}
			if i%50 == 0 {
				doc["_attachments"] = map[string]any{"a": inline("application/x", random(20000+i))}
			}
			docs = append(docs, doc)
		}
		must(t, c.Post("/d/_bulk_docs", map[string]any{"docs": docs}, nil))
	})
	var now struct {
		Rows []struct {
			ID    string
			Value struct{ Rev string }
		}
	}
	must(t, w.Get("/d/_all_docs", &now))
	var docs []any
	for i, r := range now.Rows { // every second is deleted, the others are edited
		docs = append(docs, map[string]any{"_id": r.ID, "_rev": r.Value.Rev, "v": "new", "_deleted": i%2 == 0})
	}
	must(t, w.Post("/d/_bulk_docs", map[string]any{"docs": docs}, nil))

	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var mu sync.Mutex
	acked := map[string][]string{}
	for range 2 {
		writers.Go(func() {
			for ctx.Err() == nil {
				id := ids[rand.IntN(60)] // again and again
				var doc map[string]any
				if w.Get(testenv.DBPath("d", id), &doc) != nil {
					doc = map[string]any{}
				}
				doc["v"] = "edited"
				delete(doc, "_attachments")
				var a struct{ Rev string }
				if w.Put(testenv.DBPath("d", id), doc, &a) == nil {
					mu.Lock()
					acked[id] = append(acked[id], a.Rev)
					mu.Unlock()
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	o := takeout.DocOptions{Target: "d", From: w.from(t, "d"), Replace: true}
	stops := 0
	for i := range 30 {
		c, cancel := context.WithTimeout(t.Context(), time.Duration(20+rand.IntN(150+50*i))*time.Millisecond)
		_, err := w.try(c, o, ids...)
		stopped := c.Err() != nil
		cancel()
		if err == nil {
			break
		}
		if !stopped {
			t.Fatalf("it failed: %v", err)
		}
		stops++
	}
	stop()
	writers.Wait()
	if stops == 0 || len(acked) == 0 {
		t.Errorf("stopped %d times, %d documents were edited: this proves nothing", stops, len(acked))
	}
	for id, d := range w.run(t, o, ids...) {
		if d.Outcome != takeout.Written && d.Outcome != takeout.Same {
			t.Errorf("%s: %+v", id, d)
		}
	}
	for i, id := range ids {
		got := w.state(t, "d", id)
		atts, _ := got["_attachments"].(map[string]any)
		if got["v"] != "old" || len(atts) != 1 && i%50 == 0 {
			t.Errorf("%s is %v", id, got)
		}
	}
	for id, revs := range acked {
		var doc struct {
			Revisions struct {
				Start int
				IDs   []string
			} `json:"_revisions"`
		}
		must(t, w.Get(testenv.DBPath("d", id)+"?revs=true", &doc))
		has := map[string]bool{}
		for i, x := range doc.Revisions.IDs {
			has[fmt.Sprintf("%d-%s", doc.Revisions.Start-i, x)] = true
		}
		for _, r := range revs {
			if !has[r] {
				t.Errorf("%s: the edit %s was lost: %+v", id, r, doc)
			}
		}
	}
}
