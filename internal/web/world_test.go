package web_test

import (
	"context"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/web"
)

const (
	project = "acme"
	agentIs = "s1" // the session of all players
)

// world is the dashboard over a real server on a real bus.
type world struct {
	*servertest.World
	t    testing.TB
	site *web.Site
}

func newWorld(t testing.TB, options ...func(*web.Options)) *world {
	t.Helper()
	return newWorldOf(t, server.Config{Quota: job.Quota{Instances: -1, Backups: -1, Volumes: -1}}, options...)
}

func newWorldOf(t testing.TB, cfg server.Config, options ...func(*web.Options)) *world {
	t.Helper()
	w := &world{World: servertest.New(t, bus.Options{Listen: "127.0.0.1:0"}, cfg), t: t}
	sessions, err := w.Bus.Table(t.Context(), "sessions")
	if err != nil {
		t.Fatal(err)
	}
	o := web.Options{Server: w.Server, Checker: w.Tokens, Tokens: w.Tokens, Sessions: sessions, Log: w.Log, Auth: "token", NATSURL: w.Bus.ClientURL(), Audit: w.Audit, Version: "test"}
	for _, set := range options {
		set(&o)
	}
	if w.site, err = web.New(o); err != nil {
		t.Fatal(err)
	}
	w.Serve(httpd.API{Name: "web", Broken: w.site.Broken, TooMany: w.site.TooMany, Known: w.site.Known}, w.site)
	servertest.Background(t, w.site.Run)
	return w
}

// browser is one that keeps cookies.
type browser struct {
	w   *world
	jar *cookiejar.Jar
}

// open opens a browser that isn't signed in.
func (w *world) open() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return &browser{w, jar}
}

// as opens a browser that is signed in with a new token of a role.
func (w *world) as(role access.Role) *browser {
	w.t.Helper()
	b := w.open()
	b.signIn(w.Token(project, role))
	return b
}

func (b *browser) signIn(token string) {
	b.w.t.Helper()
	if a := b.post("/login", "token", token); a.status != http.StatusSeeOther {
		b.w.t.Fatalf("signing in: %d %s", a.status, a.text())
	}
}

// shown is what a browser got.
type shown struct {
	status int
	header http.Header
	body   string
	t      testing.TB
}

// get asks for a page; headers are pairs.
func (b *browser) get(path string, headers ...string) *shown {
	b.w.t.Helper()
	return b.do(http.MethodGet, path, nil, headers...)
}

// post sends a form, pairs of names and values, as a browser does from the same site.
func (b *browser) post(path string, fields ...string) *shown {
	b.w.t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	return b.do(http.MethodPost, path, strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin")
}

func (b *browser) do(method, path string, body io.Reader, headers ...string) *shown {
	t := b.w.t
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, b.w.HTTP.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	c := http.Client{Jar: b.jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return &shown{resp.StatusCode, resp.Header, string(text), t}
}

// follow asks for the page that a form led to.
func (b *browser) follow(a *shown) *shown {
	b.w.t.Helper()
	if a.status != http.StatusSeeOther {
		b.w.t.Fatalf("got %d, want a redirection: %s", a.status, a.text())
	}
	return b.get(a.header.Get("Location"))
}

// text is what a reader sees of a page, in one line.
func (a *shown) text() string {
	text := html.UnescapeString(tags.ReplaceAllString(a.body, " "))
	return strings.Join(strings.Fields(text), " ")
}

var tags = regexp.MustCompile(`(?s)<!--.*?-->|<[^>]*>`)

// has holds a page against a status and words that it must have.
func (a *shown) has(status int, words ...string) {
	a.t.Helper()
	text := a.text()
	if a.status != status {
		a.t.Fatalf("got %d, want %d: %s", a.status, status, text)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			a.t.Errorf("it lacks %q: %s", w, text)
		}
	}
}

// hasNot holds a page against words that it must not have, in its source.
func (a *shown) hasNot(words ...string) {
	a.t.Helper()
	for _, w := range words {
		if strings.Contains(a.body, w) {
			a.t.Errorf("it has %q: %s", w, a.body)
		}
	}
}

// player is an agent without its work: a job ends when something comes from free.
type player struct {
	servertest.Keys
	*server.Joined
	w    *world
	link *bus.Link
	free chan job.Report
}

// play lets an agent of a name join the project, and lets it speak.
func (w *world) play(name string) *player {
	w.t.Helper()
	p := &player{Keys: servertest.NewKeys(w.t), w: w, free: make(chan job.Report, 10)}
	var err error
	if p.Joined, err = w.Server.Join(w.t.Context(), server.Joining{Name: name, Project: project, PublicKey: p.Public, Recipient: p.Recipient(), Admin: true}); err != nil {
		w.t.Fatalf("join: %v", err)
	}
	p.link = servertest.Dial(w.t, bus.LinkOptions{URL: w.Bus.ClientURL(), Agent: p.AgentID, JWT: p.JWT, Seed: p.Seed})
	servertest.Eventually(w.t, "a hello is answered", func() bool { return p.greet(w.t.Context(), nil) == nil })
	servertest.Work(w.t, p.link, agentIs, p.work)
	return p
}

// greet says a hello, with how its CouchDB is.
func (p *player) greet(ctx context.Context, ship *job.Shipping) error {
	return servertest.Ask(ctx, p.link, job.VerbHello, job.Hello{Session: agentIs, Version: "slipcover test", Host: "h", Recipient: p.Recipient(),
		Repository: job.Repository{URL: "file:///backups", ID: "r1"}, CanRead: true, CanCreate: true, Moments: true, FreeBytes: 1 << 40,
		Instances: []job.Seen{{Up: true, Version: "3.5.0", UsedBytes: 1 << 20, Databases: 3, Ship: ship}}}, nil)
}

func (p *player) work(ctx context.Context, j *job.Job) (r job.Report, ok bool) {
	at := job.Progress{Files: 4, FilesDone: 1, Bytes: 100, BytesDone: 40, Stored: 10}
	_ = servertest.Ask(ctx, p.link, job.VerbReport, job.Report{Session: agentIs, Job: j.ID, State: job.Running, At: at}, nil)
	select {
	case r := <-p.free:
		return r, true
	case <-ctx.Done():
		return r, false
	}
}

// job is what is known of a job of the project; nothing at all, as long as nobody knows it.
func (w *world) job(id string) *job.Job {
	for _, j := range w.Server.Jobs(caller()) {
		if j.ID == id {
			return j
		}
	}
	return &job.Job{}
}

// caller is the operator of the project, for asking the server itself.
func caller() *access.Caller {
	return &access.Caller{UserID: "u", User: "test", Project: project, Role: access.Operator}
}

// backup makes a backup of the player's node that ended now, and returns its id.
func (p *player) backup(change ...func(*job.Report)) string {
	p.w.t.Helper()
	ctx := p.w.t.Context()
	b, err := p.w.Server.CreateBackup(ctx, caller(), server.NewBackup{Name: "nightly", Instance: p.Instance})
	if err != nil {
		p.w.t.Fatalf("backup: %v", err)
	}
	end := time.Now().UTC()
	began := end.Add(-3 * time.Second)
	r := job.Report{State: job.Done, At: job.Progress{Files: 4, FilesDone: 4, Bytes: 100, BytesDone: 100, Stored: 10},
		Result:     &job.Result{RepoID: b.ID, Type: "full", Size: 2 << 30, Stored: 1 << 30, Databases: 3, Started: &began, Finished: &end, Node: "couchdb@h"},
		Repository: &job.Repository{URL: "file:///backups", ID: "r1"}, CouchDBVersion: "3.5.0"}
	for _, fn := range change {
		fn(&r)
	}
	p.free <- r
	servertest.Eventually(p.w.t, "the backup ends", func() bool {
		now, err := p.w.Server.Backup(ctx, caller(), b.ID)
		if err != nil || now.Status.Running() {
			return false
		}
		i, err := p.w.Server.Instance(ctx, caller(), p.Instance) // which is let go after that
		return err == nil && i.Task == ""
	})
	return b.ID
}

func mustURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
