package admin_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/admin"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// world is the API over a real server on a real bus that listens for agents.
type world struct {
	*servertest.World
	t testing.TB
}

const (
	project = "acme"
	session = "s1" // of all players
)

func newWorld(t testing.TB, options ...func(*admin.Options)) *world {
	t.Helper()
	w := &world{World: servertest.New(t, bus.Options{Listen: "127.0.0.1:0"}, server.Config{}), t: t}
	o := admin.Options{Server: w.Server, Checker: w.Tokens, Tokens: w.Tokens, Log: w.Log, Auth: "token", NATSURL: w.Bus.ClientURL(), Audit: w.Audit}
	serves, err := opened.New(opened.Options{Server: w.Server, Checker: w.Tokens, Log: w.Log}) // which opens none
	if err != nil {
		t.Fatal(err)
	}
	o.Serves = serves
	for _, set := range options {
		set(&o)
	}
	w.Serve(httpd.API{Name: "admin", Broken: admin.Broken, TooMany: admin.TooMany}, admin.New(o))
	return w
}

func (w *world) do(method, path, token, body string, header ...string) servertest.Answer {
	w.t.Helper()
	return servertest.Do(w.t, method, w.HTTP.URL+"/slipcover/v1"+path, token, body, header...)
}

func (w *world) into(a servertest.Answer, status int, key string, to any) {
	w.t.Helper()
	a.Into(w.t, status, key, to)
}

// refused holds an answer against a status, a code and a part of the message.
func (w *world) refused(a servertest.Answer, status int, code, message string) {
	w.t.Helper()
	var e struct{ Code, Message string }
	w.into(a, status, "error", &e)
	if e.Code != code || !strings.Contains(e.Message, message) {
		w.t.Errorf("got %s, want %s: …%s…", a.Body, code, message)
	}
}

// node is what an agent needs to join, and then what it got.
type node struct {
	servertest.Keys `json:"-"`
	AgentID         string `json:"agent_id"`
	Instance        string `json:"instance"`
	Name            string `json:"name"`
	Project         string `json:"project"`
	JWT             string `json:"jwt"`
	NATSURL         string `json:"nats_url"`
	NATSCA          string `json:"nats_ca"`
	Recipients      []string
}

func newNode(t testing.TB) *node {
	t.Helper()
	return &node{Keys: servertest.NewKeys(t)}
}

func (n *node) request(token string) string {
	b, err := json.Marshal(map[string]any{"token": token, "public_key": n.Public, "recipient": n.Recipient(),
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
	// member is what its hellos say of its cluster; nil: nothing.
	member atomic.Pointer[job.Member]
	saying sync.Mutex // one hello at a time, so that none overtakes a newer one
}

func (w *world) play(token, name string) *player {
	w.t.Helper()
	p := &player{node: newNode(w.t), w: w, free: make(chan job.Report, 10)}
	w.into(w.do("POST", "/join", "", p.request(w.joinToken(token, name))), 201, "", p.node)
	p.link = servertest.Dial(w.t, bus.LinkOptions{URL: p.NATSURL, Agent: p.AgentID, JWT: p.JWT, Seed: p.Seed})
	servertest.Eventually(w.t, "a hello is answered", func() bool { return p.greet(w.t.Context()) == nil })
	servertest.Background(w.t, func(ctx context.Context) error { // else it is offline before long
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(2 * time.Second):
				_ = p.greet(ctx) // an agent that was removed gets no answer
			}
		}
	})
	servertest.Work(w.t, p.link, session, p.work)
	return p
}

func (p *player) greet(ctx context.Context) error {
	p.saying.Lock()
	defer p.saying.Unlock()
	return p.ask(ctx, job.VerbHello, job.Hello{Session: session, Version: "slipcover test", Host: "h", Recipient: p.Recipient(),
		Repository: job.Repository{URL: "file:///backups", ID: "r1"}, CanRead: true, CanCreate: true, Moments: true, FreeBytes: 1 << 40,
		Instances: []job.Seen{{Up: true, Version: "3.5.0", UsedBytes: 1 << 20, Databases: 3, Member: p.member.Load()}}}, nil)
}

func (p *player) ask(ctx context.Context, verb string, in, out any) error {
	return servertest.Ask(ctx, p.link, verb, in, out)
}

func (p *player) work(ctx context.Context, j *job.Job) (r job.Report, ok bool) {
	at := job.Progress{Files: 4, FilesDone: 1, Bytes: 100, BytesDone: 40, Stored: 10}
	_ = p.ask(ctx, job.VerbReport, job.Report{Session: session, Job: j.ID, State: job.Running, At: at}, nil)
	select {
	case r := <-p.free:
		return r, true
	case <-ctx.Done():
		return r, false
	}
}
