package httpd_test

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/httpd"
)

func TestRoutes(t *testing.T) {
	routes := httpd.Routes[string]{Refuse: func(w http.ResponseWriter, status int, message string) { http.Error(w, message, status) }}
	show := func(w http.ResponseWriter, r *http.Request, who string) {
		fmt.Fprintf(w, "%s of %s", r.PathValue("id"), who)
	}
	routes.Handle("GET /ships/{id}", show)
	routes.Handle("DELETE /ships/{id}", show)
	for _, c := range []struct {
		method, path string
		status       int
		body         string
		pattern      string
		allow        string
	}{
		{"GET", "/ships/7", 200, "7 of ann", "GET /ships/{id}", ""},
		{"DELETE", "/ships/7%2F8", 200, "7/8 of ann", "DELETE /ships/{id}", ""},
		{"PUT", "/ships/7", 405, "use DELETE, GET, HEAD.", "", "DELETE, GET, HEAD"},
		{"GET", "/ships", 404, "could not be found", "", ""},
		{"GET", "/ships/7/", 404, "could not be found", "", ""},
		{"GET", "//ships/7", 404, "could not be found", "", ""},
		{"PUT", "/ships/../ships/7", 404, "could not be found", "", ""},
	} {
		r, w := httptest.NewRequest(c.method, c.path, nil), httptest.NewRecorder()
		routes.Serve(w, r, "ann")
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) || r.Pattern != c.pattern || w.Header().Get("Allow") != c.allow {
			t.Errorf("%s %s: %d %q, route %q, Allow %q", c.method, c.path, w.Code, w.Body, r.Pattern, w.Header().Get("Allow"))
		}
	}
}

func TestJSON(t *testing.T) {
	refused := func(status int, message string) error { return fmt.Errorf("%d %s", status, message) }
	for _, c := range []struct{ kind, body, want string }{
		{"application/json", " {}\n", ""},
		{"application/json; charset=utf-8", "0123456789", ""},
		{"application/json", "0123456789a", "413 The body is larger than 10 bytes."},
		{"application/json", " \n", "400 The request has no body"},
		{"text/plain", "{}", "415 "},
		{"", "{}", "415 "},
		{"application/json", "\"\xff\"", "400 The body is not UTF-8."},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		text, err := httpd.ReadJSON(r, 10, refused)
		if c.want == "" && (err != nil || string(text) != strings.TrimSpace(c.body)) || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%q as %q: %q, %v, want %q", c.body, c.kind, text, err, c.want)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "/", broken{})
	if _, err := httpd.ReadJSON(r, 10, refused); err == nil || !strings.HasPrefix(err.Error(), "400 The body could not be read") {
		t.Errorf("a body that breaks off: %v", err)
	}

	w := httptest.NewRecorder()
	if err := httpd.SendJSON(w, http.StatusCreated, map[string]string{"href": "a?b&c"}); err != nil || w.Code != 201 || w.Body.String() != "{\"href\":\"a?b&c\"}\n" ||
		w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%v: %d %v %q", err, w.Code, w.Header(), w.Body)
	}
	w = httptest.NewRecorder()
	if err := httpd.SendJSON(w, http.StatusAccepted, nil); err != nil || w.Code != 202 || w.Body.Len() != 0 || w.Header().Get("Content-Type") != "" {
		t.Errorf("without a body: %v: %d %v %q", err, w.Code, w.Header(), w.Body)
	}
	w = httptest.NewRecorder()
	if err := httpd.SendJSON(w, http.StatusOK, math.Inf(1)); err == nil || w.Body.Len() != 0 || len(w.Header()) != 0 {
		t.Errorf("what is no JSON: %v: %v %q", err, w.Header(), w.Body)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("reset by peer") }
