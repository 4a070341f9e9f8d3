package chttpd_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/serve/servetest"
)

// FuzzRequest sends any request to the fixtures' node: it is answered soon, with JSON where CouchDB answers with JSON, and a
// fault of the client's is never one of the server's.
func FuzzRequest(f *testing.F) {
	data := f.TempDir()
	must(f, os.CopyFS(data, os.DirFS(fixtures+"/data")))
	done := make(chan struct{})
	close(done) // feeds don't wait
	h := chttpd.New(context.Background(), servetest.Node(f, data), chttpd.Options{Auth: chttpd.Everybody{}, Done: done})
	for _, s := range [][3]string{
		{"GET", "/conflicted/c00?open_revs=all&revs=true", ""}, {"GET", "/attach/text/readme.txt?rev=2-23ff072041dffdcc5a976968dc606e95", ""}, {"POST", "/viewed/_design/stats/_view/by_kind?group=true", `{"keys":[1]}`},
		{"GET", "/parted/_partition/north/_all_docs?startkey=%22north:%22&limit=2", ""}, {"POST", "/eight/_find", `{"selector":{"_id":{"$gt":null}},"limit":3}`}, {"POST", "/deletions/_bulk_get?revs=true", `{"docs":[{"id":"d000"}]}`},
		{"GET", "/timeline/_changes?since=now&feed=longpoll", ""}, {"POST", "/polyglot/_changes?filter=_selector", `{"selector":{"a":1}}`}, {"PUT", "/plain/_local/x", `{"a":1}`}, {"POST", "/compacted/_revs_diff", `{"a":["1-x"]}`},
		{"GET", "/localdocs/_local_docs?descending=true&startkey=\"_local/z\"", ""}, {"GET", "/_session", ""}, {"POST", "/_session", `{"name":"a","password":"b"}`}, {"GET", "/a%zz", ""}, {"GET", "/team%2Fa+b_$(c)-d%2F2026/_design%2fx", ""},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, method, uri, body string) {
		u, err := url.ParseRequestURI(uri)
		if err != nil || method == "" || strings.ContainsFunc(method, func(c rune) bool { return c < 'A' || c > 'Z' }) {
			return
		}
		r := &http.Request{Method: method, URL: u, RequestURI: uri, Header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}}, Host: "localhost"}
		r.Body = http.NoBody
		if body != "" {
			r = httptest.NewRequest(method, "/", strings.NewReader(body))
			r.URL, r.RequestURI = u, uri
			r.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}}
		}
		w := httptest.NewRecorder()
		began := time.Now()
		func() {
			defer func() {
				if v := recover(); v != nil {
					if err, ok := v.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
						panic(v)
					}
				}
			}()
			h.ServeHTTP(w, r)
		}()
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
		if w.Code >= 500 && w.Code != http.StatusNotImplemented && !strings.Contains(w.Body.String(), "invalid_list_index_params") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if w.Code >= 400 && method != http.MethodHead && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%d %q", w.Code, w.Body)
		}
	})
}
