package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/admin"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// world is the API over a real server on a real bus that listens for agents.
type world struct {
	t      testing.TB
	bus    *bus.Bus
	server *server.Server
	tokens *access.Tokens
	api    *httptest.Server
	audit  string // file
	logged lockedBuffer
}

const project = "acme"

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t testing.TB, options ...func(*admin.Options)) *world {
	t.Helper()
	w := &world{t: t}
	b, err := bus.Open(t.Context(), bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	w.bus = b
	log := slog.New(slog.NewTextHandler(&w.logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
	t.Cleanup(func() {
		if t.Failed() && w.logged.String() != "" {
			t.Logf("log:\n%s", w.logged.String())
		}
	})
	table, err := b.Table(t.Context(), "tokens")
	if err != nil {
		t.Fatal(err)
	}
	w.tokens = access.NewTokens(table)
	w.server, err = server.New(t.Context(), server.Config{Bus: b, Log: log, Quota: job.Quota{Instances: 5, Backups: 50, Volumes: 20}, Every: time.Second, Offline: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	w.background(w.server.Run)
	if err := w.server.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.audit = filepath.Join(t.TempDir(), "audit.log")
	audit, err := httpd.OpenAudit(w.audit, log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { audit.Close() })
	o := admin.Options{Server: w.server, Checker: w.tokens, Tokens: w.tokens, Log: log, Auth: "token", NATSURL: b.ClientURL()}
	for _, set := range options {
		set(&o)
	}
	api := httpd.API{Name: "admin", Log: log, Audit: audit, Broken: admin.Broken, TooMany: admin.TooMany}
	w.api = httptest.NewServer(api.Handler(admin.New(o)))
	t.Cleanup(w.api.Close)
	return w
}

// background runs something until the test's end, and waits for its end.
func (w *world) background(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			w.t.Errorf("it ended with %v", err)
		}
	})
}

func (w *world) token(project string, role access.Role) string {
	w.t.Helper()
	_, secret, err := w.tokens.Create(w.t.Context(), access.Token{Name: "test", Project: project, Role: role})
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Reveal()
}

// answer is one of the API.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request. Its body is sent as JSON unless the headers say otherwise.
func (w *world) do(method, path, token, body string, header ...string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.api.URL+"/slipcover/v1"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
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
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// into reads the answer, which must have a status, and what its body has under a key.
func (w *world) into(a answer, status int, key string, to any) {
	w.t.Helper()
	if a.status != status {
		w.t.Fatalf("got %d, want %d: %s", a.status, status, a.body)
	}
	text := []byte(a.body)
	if key != "" {
		body := map[string]json.RawMessage{}
		if err := json.Unmarshal(text, &body); err != nil {
			w.t.Fatalf("%v in %s", err, a.body)
		}
		text = body[key]
	}
	if err := json.Unmarshal(text, to); err != nil {
		w.t.Fatalf("%v in %s of %s", err, key, a.body)
	}
}

// refused holds an answer against a status, a code and a part of the message.
func (w *world) refused(a answer, status int, code, message string) {
	w.t.Helper()
	var e struct{ Code, Message string }
	w.into(a, status, "error", &e)
	if e.Code != code || !strings.Contains(e.Message, message) {
		w.t.Errorf("got %s, want %s: …%s…", a.body, code, message)
	}
}

// audited returns the lines of the audit log.
func (w *world) audited() string {
	w.t.Helper()
	b, err := os.ReadFile(w.audit)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// node is what an agent needs to join, and then what it got.
type node struct {
	seed, public string
	identity     *age.X25519Identity
	AgentID      string `json:"agent_id"`
	Instance     string `json:"instance"`
	Name         string `json:"name"`
	Project      string `json:"project"`
	JWT          string `json:"jwt"`
	NATSURL      string `json:"nats_url"`
	NATSCA       string `json:"nats_ca"`
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{}
	var err error
	if n.seed, n.public, err = bus.NewKey(); err != nil {
		t.Fatal(err)
	}
	if n.identity, err = age.GenerateX25519Identity(); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) request(token string) string {
	b, err := json.Marshal(map[string]any{"token": token, "public_key": n.public, "recipient": n.identity.Recipient().String(),
		"hello": map[string]any{"version": "slipcover test", "host": "h", "later": true}})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// joinToken makes a join token through the API.
func (w *world) joinToken(token, name string) string {
	w.t.Helper()
	var secret string
	w.into(w.do("POST", "/join-tokens", token, `{"name":"`+name+`"}`), 201, "secret", &secret)
	return secret
}

// player joins and then does what an agent says, without its work: a job ends when
// something comes from free.
type player struct {
	*node
	w    *world
	link *bus.Link
	free chan job.Report
}

func (w *world) play(token, name string) *player {
	w.t.Helper()
	p := &player{node: newNode(w.t), w: w, free: make(chan job.Report, 10)}
	w.into(w.do("POST", "/join", "", p.request(w.joinToken(token, name))), 201, "", p.node)
	var err error
	if p.link, err = bus.Dial(w.t.Context(), bus.LinkOptions{URL: p.NATSURL, Agent: p.AgentID, JWT: p.JWT, Seed: p.seed}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.link.Close)
	p.eventually("a hello is answered", func() bool { return p.greet() == nil })
	w.background(func(ctx context.Context) error { return p.link.Jobs(ctx, p.work) })
	return p
}

func (p *player) eventually(what string, fn func() bool) {
	p.w.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if fn() {
			return
		}
	}
	p.w.t.Fatalf("never: %s", what)
}

func (p *player) greet() error {
	return p.ask(p.w.t.Context(), job.VerbHello, job.Hello{Session: "s1", Version: "slipcover test", Host: "h", Recipient: p.identity.Recipient().String(),
		Repository: job.Repository{URL: "file:///backups", ID: "r1"}, CanRead: true,
		Instances: []job.Seen{{Up: true, Version: "3.5.0", UsedBytes: 1 << 20, Databases: 3}}}, nil)
}

func (p *player) ask(ctx context.Context, verb string, in, out any) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	reply, err := p.link.Request(ctx, verb, text)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(reply, out)
}

func (p *player) work(ctx context.Context, d *bus.Delivery) {
	var claim job.ClaimReply
	if err := p.ask(ctx, job.VerbClaim, job.Claim{Session: "s1", Job: d.Job}, &claim); err != nil {
		_ = d.Later(ctx, 50*time.Millisecond)
		return
	}
	if claim.Verdict == job.Go {
		at := job.Progress{Files: 4, FilesDone: 1, Bytes: 100, BytesDone: 40, Stored: 10}
		_ = p.ask(ctx, job.VerbReport, job.Report{Session: "s1", Job: d.Job, State: job.Running, At: at}, nil)
		select {
		case r := <-p.free:
			r.Session, r.Job = "s1", d.Job
			if err := p.ask(ctx, job.VerbReport, r, nil); err != nil && ctx.Err() == nil {
				p.w.t.Errorf("report: %v", err)
			}
		case <-ctx.Done():
			return
		}
	}
	_ = d.Done(ctx)
}
