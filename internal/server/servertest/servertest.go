// Package servertest is what the tests of the server and of the APIs over it have in
// common: a server over an embedded bus, an API that is asked over HTTP, and an agent's
// side of the bus, spoken by the test. What an agent says there is for each test.
package servertest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TB is what is needed of a test. *testing.T, *testing.B and *testing.F have it.
type TB interface {
	testenv.TB
	Context() context.Context
	Errorf(format string, args ...any)
}

// OpenBus opens an embedded bus for the test, in a new folder unless o names one.
func OpenBus(t TB, o bus.Options) *bus.Bus {
	t.Helper()
	o.Dir = cmp.Or(o.Dir, t.TempDir())
	b, err := bus.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("bus: %v", err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// Background runs something that ends without an error when its context does: when stop
// is called, or at the test's end. stop waits for the end.
func Background(t TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Patience is how long tests wait for what must come, on a machine of any speed.
const Patience = 5 * time.Minute

// Eventually waits for what another goroutine or process brings about.
func Eventually(t TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", Patience, what)
		}
	}
}

// World is a server on a bus, with tokens of our own, and an API over it.
type World struct {
	Bus    *bus.Bus
	Server *server.Server
	Tokens *access.Tokens
	Log    *slog.Logger     // of warnings, shown when the test fails
	HTTP   *httptest.Server // nil before Serve
	Audit  *httpd.Audit

	t      TB
	logged buffer
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// New starts a server on a bus, with small quotas unless cfg has others.
func New(t TB, o bus.Options, cfg server.Config) *World {
	t.Helper()
	w := &World{t: t, Bus: OpenBus(t, o)}
	w.Log = slog.New(slog.NewTextHandler(&w.logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
	t.Cleanup(func() {
		if log := w.Logged(); t.Failed() && log != "" {
			t.Logf("log:\n%s", log)
		}
	})
	var err error
	if w.Audit, err = httpd.OpenAudit(filepath.Join(t.TempDir(), "audit.log"), w.Log, prometheus.NewRegistry()); err != nil {
		t.Fatalf("audit log: %v", err)
	}
	t.Cleanup(func() { _ = w.Audit.Close() })
	table, err := w.Bus.Table(t.Context(), "tokens")
	if err != nil {
		t.Fatalf("tokens: %v", err)
	}
	w.Tokens = access.NewTokens(table)
	cfg.Bus, cfg.Log, cfg.Every = w.Bus, w.Log, time.Second
	cfg.Offline = cmp.Or(cfg.Offline, time.Hour) // no agent is, however long a test pauses
	cfg.Quota = cmp.Or(cfg.Quota, job.Quota{Instances: 5, Backups: 50, Volumes: 20})
	if w.Server, err = server.New(t.Context(), cfg); err != nil {
		t.Fatalf("server: %v", err)
	}
	Background(t, w.Server.Run)
	if err := w.Server.WaitReady(t.Context()); err != nil {
		t.Fatalf("server: %v", err)
	}
	return w
}

// Serve serves an API, whose log and audit log are the world's.
func (w *World) Serve(api httpd.API, routes http.Handler) {
	w.t.Helper()
	api.Log, api.Audit = w.Log, w.Audit
	w.HTTP = httptest.NewServer(api.Handler(routes))
	w.t.Cleanup(w.HTTP.Close)
}

// Logged returns the lines of the log.
func (w *World) Logged() string {
	w.logged.mu.Lock()
	defer w.logged.mu.Unlock()
	return w.logged.b.String()
}

// Audited returns the lines of the audit log.
func (w *World) Audited() string {
	w.t.Helper()
	text, err := os.ReadFile(w.Audit.Path())
	if err != nil {
		w.t.Fatalf("audit log: %v", err)
	}
	return string(text)
}

// Token makes a token of our own.
func (w *World) Token(project string, role access.Role) string {
	w.t.Helper()
	_, secret, err := w.Tokens.Create(w.t.Context(), access.Token{Name: "test", Project: project, Role: role})
	if err != nil {
		w.t.Fatalf("token: %v", err)
	}
	return secret.Reveal()
}

// Answer is one of the API.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Do sends a request. Its body is sent as JSON unless the headers, which are pairs of a
// name and a value, say otherwise.
func Do(t TB, method, url, token, body string, header ...string) Answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	if token != "" {
		r.Header.Set("X-Auth-Token", token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return Answer{resp.StatusCode, resp.Header, string(text)}
}

// Into reads the answer, which must have a status, and what its body has under a key,
// or the whole body if key is empty. Without to, the status is all.
func (a Answer) Into(t TB, status int, key string, to any) {
	t.Helper()
	if a.Status != status {
		t.Fatalf("got %d, want %d: %s", a.Status, status, a.Body)
	}
	if to == nil {
		return
	}
	text := []byte(a.Body)
	if key != "" {
		body := map[string]json.RawMessage{}
		if err := json.Unmarshal(text, &body); err != nil {
			t.Fatalf("%v in %s", err, a.Body)
		}
		text = body[key]
	}
	if err := json.Unmarshal(text, to); err != nil {
		t.Fatalf("%v in %s of %s", err, key, a.Body)
	}
}
