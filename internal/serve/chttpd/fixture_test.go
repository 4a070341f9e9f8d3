package chttpd_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/sequence"
	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/testenv"
)

const fixtures = "../../../testdata/couchdb-3.5.0"

// fixture is a backup of the node of the fixtures, which was written down what it answered.
type fixture struct {
	*testing.T
	handler http.Handler
	folder  string // of a database's answers
	n       int
}

func (f *fixture) ask(path string, header map[string]string) *httptest.ResponseRecorder {
	f.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for k, v := range header {
		r.Header.Set(k, v)
	}
	f.handler.ServeHTTP(w, r)
	f.n++
	return w
}

// json asks for JSON.
func (f *fixture) json(path string, to any) {
	f.Helper()
	w := f.ask(path, map[string]string{"Accept": "application/json"})
	if w.Code != http.StatusOK {
		f.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), to); err != nil {
		f.Fatalf("%s: %v", path, err)
	}
}

func (f *fixture) expected(name string, to any) bool {
	f.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, "expected", f.folder, name))
	if os.IsNotExist(err) {
		return false
	}
	must(f, err)
	must(f, json.Unmarshal(b, to))
	return true
}

// same compares what is answered with what is written down, sequences by their shards and rows by their ids.
func (f *fixture) same(name, path string) {
	f.Helper()
	var want, got any
	if !f.expected(name, &want) {
		return
	}
	f.json(path, &got)
	if want, got := comparable(want), comparable(got); !reflect.DeepEqual(want, got) {
		f.Errorf("%s: %s", path, clip(js(got), js(want)))
		f.Logf("written down: %s", clip(js(want), js(got)))
	}
}

// comparable makes of an answer what is the same for all servers: rows are in the order in which shards answered, and so are
// the sequences of a feed's rows.
func comparable(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	for _, name := range []string{"update_seq", "purge_seq", "last_seq"} {
		if s, ok := m[name].(string); ok {
			list, err := sequence.Unpack(s)
			if err == nil {
				slices.SortFunc(list, func(a, b sequence.Shard) int { return a.Range.Compare(b.Range) })
				m[name] = fmt.Sprint(list)
			}
		}
	}
	for _, name := range []string{"rows", "results"} {
		rows, ok := m[name].([]any)
		if !ok {
			continue
		}
		slices.SortFunc(rows, func(a, b any) int {
			delete(a.(map[string]any), "seq")
			delete(b.(map[string]any), "seq")
			return strings.Compare(fmt.Sprint(a.(map[string]any)["id"]), fmt.Sprint(b.(map[string]any)["id"]))
		})
		if len(rows) == 1 {
			delete(rows[0].(map[string]any), "seq")
		}
	}
	return m
}

// What a server of 3.5.0 answered before it was stopped is answered out of a backup of its files.
func TestAnswersAsFixtures(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	must(t, os.CopyFS(data, os.DirFS(fixtures+"/data")))
	f := &fixture{T: t, handler: chttpd.New(context.Background(), servetest.Node(t, data), chttpd.Options{Auth: chttpd.Everybody{}})}
	f.same("_all_dbs.json", "/_all_dbs")
	f.same("_membership.json", "/_membership")
	f.same("_dbs_all_docs.json", "/_dbs/_all_docs?include_docs=true")
	var folders map[string]string
	f.expected("_folder_names.json", &folders)
	for db, folder := range folders {
		f.folder = folder
		base := testenv.DBPath(db)
		for name, path := range map[string]string{
			"all_docs.json": "/_all_docs?include_docs=true&conflicts=true", "changes.json": "/_changes?style=all_docs", "info.json": "", "security.json": "/_security", "shards.json": "/_shards",
			"local_docs.json": "/_local_docs?include_docs=true", "local_docs_system.json": "/_local_docs?include_docs=true&include_system=true",
		} {
			f.same(name, base+path)
		}
		var limits, got map[string]int
		f.expected("limits.json", &limits)
		got = map[string]int{}
		for name := range limits {
			var n int
			f.json(base+"/_"+name, &n)
			got[name] = n
		}
		if !reflect.DeepEqual(got, limits) {
			t.Errorf("%s: limits %v, want %v", db, got, limits)
		}
		f.leaves(db)
		f.attachments(db)
	}
	if f.n < 1900 {
		t.Errorf("%d requests were compared", f.n)
	}
	t.Logf("%d requests", f.n)
}

// leaves compares every leaf of every document.
func (f *fixture) leaves(db string) {
	f.Helper()
	var docs map[string]any
	f.expected("leaf_revisions.json", &docs)
	for id, want := range docs {
		var got any
		f.json(docPath(db, id)+"?open_revs=all&revs=true&att_encoding_info=true", &got)
		if !reflect.DeepEqual(got, want) {
			f.Errorf("%s/%s: %s, want %s", db, id, js(got), js(want))
		}
	}
}

// attachments compares the bytes of every attachment.
func (f *fixture) attachments(db string) {
	f.Helper()
	type served struct {
		Encoding *string `json:"http_content_encoding"`
		Bytes    int     `json:"served_bytes"`
		Sum      string  `json:"served_sha256"`
	}
	var docs map[string]map[string]map[string]served
	f.expected("attachments.json", &docs)
	for id, revs := range docs {
		for rev, atts := range revs {
			for name, want := range atts {
				path := docPath(db, id) + "/" + strings.ReplaceAll(strings.TrimPrefix(testenv.DBPath(name), "/"), "%2F", "/") + "?rev=" + rev
				w := f.ask(path, nil)
				sum := fmt.Sprintf("%x", sha256.Sum256(w.Body.Bytes()))
				enc := ""
				if want.Encoding != nil {
					enc = *want.Encoding
				}
				if w.Code != http.StatusOK || w.Body.Len() != want.Bytes || sum != want.Sum || w.Header().Get("Content-Encoding") != enc {
					f.Errorf("%s: %d, %d bytes, %s %q, want %+v", path, w.Code, w.Body.Len(), sum, w.Header().Get("Content-Encoding"), want)
				}
			}
		}
	}
}
