package trove_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
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
	*servertest.World
	t    testing.TB
	gate *gate
}

const project = "acme"

func newWorld(t testing.TB, options ...func(*server.Config, *trove.Options)) *world {
	t.Helper()
	w := &world{t: t, gate: &gate{}}
	var cfg server.Config
	o := trove.Options{Checker: w.gate, URL: "https://db.example.org:8779"}
	for _, set := range options {
		set(&cfg, &o)
	}
	w.World = servertest.New(t, bus.Options{}, cfg)
	w.gate.Checker, o.Server, o.Log = w.Tokens, w.Server, w.Log
	w.Serve(httpd.API{Name: "trove", Broken: trove.Broken, TooMany: trove.TooMany}, trove.New(o))
	return w
}

func (w *world) do(method, path, token, body string, header ...string) servertest.Answer {
	w.t.Helper()
	return servertest.Do(w.t, method, w.HTTP.URL+path, token, body, header...)
}

func (w *world) into(a servertest.Answer, status int, key string, to any) {
	w.t.Helper()
	a.Into(w.t, status, key, to)
}

// player does what an agent says, without its work.
type player struct {
	w        *world
	link     *bus.Link
	id       string        // of the agent
	instance string        // its node
	free     chan struct{} // a job ends when something comes; closed: at once

	size int64 // of its backups

	saying sync.Mutex // one hello at a time, so that none overtakes a newer one
	mu     sync.Mutex
	hello  job.Hello
	fault  string // of the jobs to come
}

// join lets a player in, whose node has the name.
func (w *world) join(name, project string) *player {
	w.t.Helper()
	keys := servertest.NewKeys(w.t)
	p := &player{w: w, free: make(chan struct{}), size: 332859965}
	p.hello = job.Hello{Session: name + "-1", Version: "slipcover test", Host: name, Address: "10.9.8.7", Recipient: keys.Recipient(),
		Repository: job.Repository{URL: "file:///backups", ID: "r1"}, CanRead: true, CanCreate: true, Moments: true, FreeBytes: 1 << 40,
		Instances: []job.Seen{{Up: true, Version: "3.5.0", UsedBytes: 332859965, Databases: 3, CanRestart: true}}}
	joined, err := w.Server.Join(w.t.Context(), server.Joining{Name: name, Project: project, Admin: true, PublicKey: keys.Public, Recipient: p.hello.Recipient, Hello: p.hello})
	if err != nil {
		w.t.Fatal(err)
	}
	p.id, p.instance = joined.AgentID, joined.Instance
	p.link = servertest.Dial(w.t, bus.LinkOptions{InProcess: w.Bus, Agent: p.id, JWT: joined.JWT, Seed: keys.Seed})
	p.greet(w.t.Context())
	servertest.Background(w.t, func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(2 * time.Second):
				p.greet(ctx)
			}
		}
	})
	servertest.Background(w.t, func(ctx context.Context) error {
		return p.link.Answer(ctx, func(context.Context, []byte) ([]byte, error) {
			return json.Marshal(job.Answer{Databases: []string{"invoices", "orders"}})
		})
	})
	servertest.Work(w.t, p.link, p.hello.Session, p.work)
	return p
}

func (p *player) greet(ctx context.Context) {
	p.saying.Lock()
	defer p.saying.Unlock()
	p.mu.Lock()
	h := p.hello
	p.mu.Unlock()
	if err := p.ask(ctx, job.VerbHello, h, nil); err != nil && ctx.Err() == nil {
		p.w.t.Errorf("hello: %v", err)
	}
}

func (p *player) ask(ctx context.Context, verb string, in, out any) error {
	return servertest.Ask(ctx, p.link, verb, in, out)
}

func (p *player) work(ctx context.Context, j *job.Job) (r job.Report, ok bool) {
	select {
	case <-p.free:
		return p.report(j), true
	case <-ctx.Done():
		return r, false
	}
}

func (p *player) report(j *job.Job) job.Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := job.Report{State: job.Done}
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

// idle waits until nothing occupies an instance of the project.
func (w *world) idle(instance, token string) {
	w.t.Helper()
	servertest.Eventually(w.t, "the instance is free", func() bool {
		var i struct{ Status string }
		w.into(w.do("GET", "/v1.0/"+project+"/instances/"+instance, token, ""), 200, "instance", &i)
		return i.Status == "ACTIVE"
	})
}
