package chttpd_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// Below a prefix all is as without one, and what leads back to it has the prefix too: addresses and cookies.
func TestPrefix(t *testing.T) {
	t.Parallel()
	const prefix = "/a/b"
	h := chttpd.New(context.Background(), servetest.Node(t, "../../../testdata/couchdb-3.5.0/data"), chttpd.Options{Auth: chttpd.OneUser{Name: "u", Password: "p"}, Prefix: prefix})
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	p := &pair{t: t, live: &testenv.Couch{Client: testenv.Client{Admin: "u", Password: "p"}}, client: client}
	at := s.URL + prefix
	for _, tt := range []struct {
		a      ask
		status int
		body   string
	}{
		{ask{method: "GET", path: ""}, 200, `"Welcome"`},
		{ask{method: "GET", path: "/"}, 200, `"Welcome"`},
		{ask{method: "GET", path: "/_all_dbs"}, 200, `"conflicted"`},
		{ask{method: "GET", path: "/conflicted/c00"}, 200, `"_id":"c00"`},
		{ask{method: "GET", path: "x/conflicted/c00"}, 404, `"missing"`},
	} {
		if r := p.do(at, tt.a); r.status != tt.status || !strings.Contains(r.body, tt.body) {
			t.Errorf("%s: %d %s", tt.a.path, r.status, r.body)
		}
	}
	if r := p.do(s.URL, ask{method: "GET", path: "/conflicted/c00"}); r.status != 404 {
		t.Errorf("without the prefix: %d %s", r.status, r.body)
	}
	put := p.do(at, ask{method: "PUT", path: "/conflicted/_local/x", body: "{}"})
	if where := put.header.Get("Location"); put.status != 201 || where != at+"/conflicted/_local/x" {
		t.Errorf("%d, %q", put.status, where)
	}
	moved := p.do(at, ask{method: "GET", path: "/conflicted/_design%2fd"})
	if where := moved.header.Get("Location"); moved.status != 301 || where != at+"/conflicted/_design/d" {
		t.Errorf("%d, %q", moved.status, where)
	}
	in := p.do(at, ask{method: "POST", path: "/_session", body: `{"name":"u","password":"p"}`})
	if c := in.header.Get("Set-Cookie"); in.status != 200 || !strings.Contains(c, "Path="+prefix+"/;") {
		t.Errorf("%d, %q", in.status, c)
	}
}

// Prometheus is told what a real server tells, under the same names.
func TestMetrics(t *testing.T) {
	t.Parallel()
	p := both(t, func(c *testenv.Couch) { must(t, c.Put("/db", nil, nil)) })
	for range 3 {
		p.do(p.url, ask{method: "GET", path: "/db"})
	}
	p.do(p.url, ask{method: "GET", path: "/nosuch"})
	p.do(p.live.URL, ask{method: "GET", path: "/nosuch"})
	theirs, ours := p.do(p.live.URL, ask{method: "GET", path: "/_node/_local/_prometheus"}), p.do(p.url, ask{method: "GET", path: "/_node/_local/_prometheus"})
	if theirs.status != 200 || ours.status != 200 {
		t.Fatalf("%d, %d: %s", theirs.status, ours.status, ours.body)
	}
	for _, want := range []string{"couchdb_httpd_requests_total", `couchdb_httpd_status_codes{code="404"}`} {
		if !strings.Contains(theirs.body, "\n"+want+" ") {
			t.Errorf("CouchDB has no %s", want)
		}
	}
	for name, n := range map[string]int{"couchdb_httpd_requests_total": 5, `couchdb_httpd_status_codes{code="200"}`: 3, `couchdb_httpd_status_codes{code="404"}`: 1} {
		if !strings.Contains(ours.body, fmt.Sprintf("\n%s %d\n", name, n)) {
			t.Errorf("no %s %d in %s", name, n, ours.body)
		}
	}
}
