package trove_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/trove"
)

// gate is a Checker that can be shut.
type gate struct {
	access.Checker
	mu   sync.Mutex
	shut error
	who  *access.Caller
}

func (g *gate) Check(ctx context.Context, token string) (*access.Caller, error) {
	g.mu.Lock()
	shut, who := g.shut, g.who
	g.mu.Unlock()
	if shut != nil || who != nil {
		return who, shut
	}
	return g.Checker.Check(ctx, token)
}

func (g *gate) set(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = err
}

// be makes everybody that caller.
func (g *gate) be(who *access.Caller) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.who = who
}

// world is the API over a real server on a real bus, with players in the agents' places.
type world struct {
	t      testing.TB
	bus    *bus.Bus
	server *server.Server
	gate   *gate
	tokens *access.Tokens
	api    *httptest.Server
	audit  string // file
	logged lockedBuffer
	slog   *slog.Logger
}

const project = "acme"

func newWorld(t testing.TB, options ...func(*server.Config, *trove.Options)) *world {
	t.Helper()
	w := &world{t: t}
	b, err := bus.Open(t.Context(), bus.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	w.bus = b
	log := slog.New(slog.NewTextHandler(&w.logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w.slog = log
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
	w.gate = &gate{Checker: w.tokens}
	cfg := server.Config{Bus: b, Log: log, Quota: job.Quota{Instances: 5, Backups: 50, Volumes: 20}, Every: time.Second, Offline: 10 * time.Second}
	o := trove.Options{Checker: w.gate, Log: log, URL: "https://db.example.org:8779"}
	for _, set := range options {
		set(&cfg, &o)
	}
	if w.server, err = server.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	w.background(func(ctx context.Context) error { return w.server.Run(ctx) })
	if err := w.server.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.Server = w.server
	w.audit = filepath.Join(t.TempDir(), "audit.log")
	audit, err := httpd.OpenAudit(w.audit, log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { audit.Close() })
	api := httpd.API{Name: "trove", Log: log, Audit: audit, Broken: trove.Broken, TooMany: trove.TooMany}
	w.api = httptest.NewServer(api.Handler(trove.New(o)))
	t.Cleanup(w.api.Close)
	return w
}

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
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.api.URL+path, strings.NewReader(body))
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
	if key == "" {
		return
	}
	body := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		w.t.Fatalf("%v in %s", err, a.body)
	}
	if err := json.Unmarshal(body[key], to); err != nil {
		w.t.Fatalf("%v in %s of %s", err, key, a.body)
	}
}

// player does what an agent says, without its work.
type player struct {
	w        *world
	link     *bus.Link
	id       string // of the agent
	instance string // its node
	identity *age.X25519Identity
	free     chan struct{} // a job ends when something comes; closed: at once

	size int64 // of its backups

	mu    sync.Mutex
	hello job.Hello
	fault string // of the jobs to come
}

// join lets a player in, whose node has the name.
func (w *world) join(name, project string) *player {
	w.t.Helper()
	seed, public, err := bus.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	p := &player{w: w, free: make(chan struct{}), size: 332859965}
	if p.identity, err = age.GenerateX25519Identity(); err != nil {
		w.t.Fatal(err)
	}
	p.hello = job.Hello{Session: name + "-1", Version: "slipcover test", Host: name, Address: "10.9.8.7", Recipient: p.identity.Recipient().String(),
		Repository: job.Repository{URL: "file:///backups", ID: "r1"}, CanRead: true, CanCreate: true, FreeBytes: 1 << 40,
		Instances: []job.Seen{{Up: true, Version: "3.5.0", UsedBytes: 332859965, Databases: 3, CanRestart: true}}}
	joined, err := w.server.Join(w.t.Context(), server.Joining{Name: name, Project: project, PublicKey: public, Recipient: p.hello.Recipient, Hello: p.hello})
	if err != nil {
		w.t.Fatal(err)
	}
	p.id, p.instance = joined.AgentID, joined.Instance
	if p.link, err = bus.Dial(w.t.Context(), bus.LinkOptions{InProcess: w.bus, Agent: p.id, JWT: joined.JWT, Seed: seed}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.link.Close)
	p.greet(w.t.Context())
	w.background(func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(2 * time.Second):
				p.greet(ctx)
			}
		}
	})
	w.background(func(ctx context.Context) error {
		return p.link.Answer(ctx, func(context.Context, []byte) ([]byte, error) {
			return json.Marshal(job.Answer{Databases: []string{"invoices", "orders"}})
		})
	})
	w.background(func(ctx context.Context) error { return p.link.Jobs(ctx, p.work) })
	return p
}

func (p *player) greet(ctx context.Context) {
	p.mu.Lock()
	h := p.hello
	p.mu.Unlock()
	if err := p.ask(ctx, job.VerbHello, h, nil); err != nil && ctx.Err() == nil {
		p.w.t.Errorf("hello: %v", err)
	}
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
	session := p.hello.Session
	var claim job.ClaimReply
	if err := p.ask(ctx, job.VerbClaim, job.Claim{Session: session, Job: d.Job}, &claim); err != nil {
		_ = d.Later(ctx, 50*time.Millisecond)
		return
	}
	if claim.Verdict == job.Go {
		select {
		case <-p.free:
		case <-ctx.Done():
			return
		}
		if err := p.ask(ctx, job.VerbReport, p.report(claim.Job), nil); err != nil && ctx.Err() == nil {
			p.w.t.Errorf("report: %v", err)
		}
	}
	_ = d.Done(ctx)
}

func (p *player) report(j *job.Job) job.Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := job.Report{Session: p.hello.Session, Job: j.ID, State: job.Done}
	if p.fault != "" {
		r.State, r.Fault = job.Failed, p.fault
		return r
	}
	switch j.Kind {
	case job.KindBackup, job.KindAdopt:
		began, ended := j.Created, j.Created.Add(time.Second)
		r.Result = &job.Result{RepoID: "20310203-040506-full", Type: "full", Size: p.size, Stored: 5000, Databases: 3, Checksum: strings.Repeat("ab", 32),
			LocationRef: "file:///backups/manifests/db1/" + j.Backup, Started: &began, Finished: &ended}
		r.Repository, r.CouchDBVersion = &p.hello.Repository, "3.5.0"
	case job.KindCreate:
		r.URL, r.CouchDBVersion = "http://127.0.0.1:5999", "3.5.0"
		p.hello.Instances = append(p.hello.Instances, job.Seen{Instance: j.Instance, Up: true, Version: "3.5.0", UsedBytes: 1 << 20})
	}
	return r
}

// eventually waits for a condition.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not in 30 s: %s", what)
		}
	}
}

// idle waits until nothing occupies an instance of the project.
func (w *world) idle(instance, token string) {
	w.t.Helper()
	w.eventually("the instance is free", func() bool {
		var i struct{ Status string }
		w.into(w.do("GET", "/v1.0/"+project+"/instances/"+instance, token, ""), 200, "instance", &i)
		return i.Status == "ACTIVE"
	})
}
