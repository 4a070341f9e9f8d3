package web_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/web"
)

// Who isn't signed in gets to the log-in, and from there to where he wanted to go.
func TestSigningIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.Token(project, access.Viewer)
	b := w.open()
	a := b.get("/jobs?page=2")
	if to := a.header.Get("Location"); a.status != http.StatusSeeOther || to != "/login?to=%2Fjobs%3Fpage%3D2" {
		t.Fatalf("got %d to %s", a.status, to)
	}
	b.follow(a).has(200, "Sign in", "Token")
	b.post("/login", "token", "slc_aaaaaaaaaaaa_nothing").has(401, "No such token")
	a = b.post("/login", "token", token, "to", "/jobs?page=2")
	if to := a.header.Get("Location"); a.status != http.StatusSeeOther || to != "/jobs?page=2" {
		t.Fatalf("got %d to %s: %s", a.status, to, a.text())
	}
	cookie := a.header.Get("Set-Cookie")
	for _, want := range []string{"slipcover=", "HttpOnly", "SameSite=Lax", "Path=/"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("the cookie lacks %s: %s", want, cookie)
		}
	}
	if strings.Contains(cookie, token) {
		t.Error("the cookie has the token")
	}
	b.get("/").has(200, "Nothing is backed up yet")
	a = b.post("/login", "token", token, "to", "//evil.example/")
	if to := a.header.Get("Location"); to != "/" {
		t.Errorf("it leads to %s", to)
	}
	if audit := w.Audited(); !strings.Contains(audit, `"user":"token aaaaaaaaaaaa","address":"127.0.0.1","action":"session.create","target":"dashboard","outcome":"failed","status":401`) ||
		!strings.Contains(audit, `"action":"session.create","target":"dashboard","outcome":"ok"`) {
		t.Errorf("audit log: %s", audit)
	}
}

// A session ends by signing out, here or everywhere, with its token, and by itself.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	skew := make(chan time.Duration, 1)
	skew <- 0
	w := newWorld(t, func(o *web.Options) {
		o.Now = func() time.Time {
			d := <-skew
			skew <- d
			return time.Now().Add(d)
		}
	})
	token := w.Token(project, access.Viewer)
	first, second, third := w.open(), w.open(), w.as(access.Viewer)
	first.signIn(token)
	second.signIn(token)
	first.post("/logout")
	if a := first.get("/"); a.status != http.StatusSeeOther {
		t.Errorf("signed out: %d", a.status)
	}
	second.get("/").has(200)
	first.signIn(token)
	first.post("/logout/everywhere")
	for n, b := range []*browser{first, second} {
		if a := b.get("/"); a.status != http.StatusSeeOther {
			t.Errorf("browser %d, signed out everywhere: %d", n, a.status)
		}
	}
	third.get("/").has(200)
	list, err := w.Tokens.List(t.Context(), project)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range list {
		if err := w.Tokens.Revoke(t.Context(), project, k.ID); err != nil {
			t.Fatal(err)
		}
	}
	if a := third.get("/", "Accept", "text/event-stream"); a.status != http.StatusNoContent { // of the page that is open: the next one says why
		t.Errorf("a stream of a session that ended: %d", a.status)
	}
	a := third.get("/")
	third.follow(a).has(200, "Your session ended.")

	idle := w.as(access.Viewer)
	<-skew
	skew <- 8 * time.Hour
	idle.follow(idle.get("/jobs")).has(200, "Your session ended.", "back where you were")
	long := w.as(access.Viewer)
	for h := 12; h <= 32; h += 4 {
		<-skew
		skew <- time.Duration(h) * time.Hour
		want := http.StatusOK
		if h >= 32 {
			want = http.StatusSeeOther
		}
		if a := long.get("/"); a.status != want {
			t.Errorf("after %d h of use: %d, want %d", h-8, a.status, want)
		}
	}
}

// The catalog has no token that is good for anything, and none of what the cookie says.
func TestSessionsAreSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.Token(project, access.Admin)
	b := w.open()
	cookie := b.post("/login", "token", token).header.Get("Set-Cookie")
	cookie, _, _ = strings.Cut(strings.TrimPrefix(cookie, "slipcover="), ";")
	table, err := w.Bus.Table(t.Context(), "sessions")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	ctx, cancel := context.WithCancel(t.Context())
	_ = table.Watch(ctx, func(c bus.Change) {
		if c.Ready {
			cancel()
			return
		}
		seen++
		all := c.Key + string(c.Value)
		_, secret, _ := strings.Cut(strings.TrimPrefix(token, "slc_"), "_")
		if strings.Contains(all, secret) || strings.Contains(all, cookie) {
			t.Errorf("the table has %s", all)
		}
	})
	if seen != 1 {
		t.Errorf("%d sessions", seen)
	}
}

// Pages of other sites can send no form, and no page runs what isn't the dashboard's own.
func TestPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Admin)
	a := b.do(http.MethodPost, "/logout", strings.NewReader(""), "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "cross-site")
	a.has(403, "Pages of other sites may not send this.")
	a = b.do(http.MethodPost, "/logout", strings.NewReader(""), "Origin", "https://evil.example")
	a.has(403)
	a = b.get("/")
	a.has(200)
	if p := a.header.Get("Content-Security-Policy"); !strings.Contains(p, "default-src 'none'") || strings.Contains(p, "unsafe") {
		t.Errorf("policy %q", p)
	}
	for _, h := range []string{"X-Content-Type-Options", "Referrer-Policy", "Cache-Control", "Cross-Origin-Opener-Policy"} {
		if a.header.Get(h) == "" {
			t.Errorf("no %s", h)
		}
	}
	a.hasNot("<style", " style=", " onclick", "javascript:")
}

// A page that doesn't exist says so in the form of pages, and what is no page of the
// dashboard is left to the APIs.
func TestErrorPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Viewer)
	b.get("/nothing/here").has(404, "There is nothing here", "Overview")
	b.do(http.MethodPut, "/login", nil).has(405)
	for path, want := range map[string]bool{"/": true, "/v1.0/acme/instances": false, "/auth/v1.0": false, "/slipcover/v1/whoami": false, "/whatever": true} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "text/html,application/xhtml+xml")
		if got := w.site.Owns(r); got != want {
			t.Errorf("%s for a browser: %v", path, got)
		}
		r.Header.Set("Accept", "text/event-stream")
		if got := w.site.Owns(r); got != want {
			t.Errorf("%s for a stream: %v", path, got)
		}
		r.Header.Set("Accept", "application/json")
		if w.site.Owns(r) {
			t.Errorf("%s for a client of an API is the dashboard's", path)
		}
	}
}

// Who need not sign in gets in at once.
func TestWithoutLogIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *web.Options) { o.Auth, o.Checker = "none", access.None{} })
	b := w.open()
	a := b.get("/")
	a.has(200, "Nothing is backed up yet", "anyone")
	a.hasNot("Sign out")
	if a := b.get("/login"); a.status != http.StatusSeeOther {
		t.Errorf("log-in: %d", a.status)
	}
}

// Files are kept by browsers for good, since their names change with them.
func TestStatic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.open()
	page := b.get("/login")
	total := 0
	for rest := page.body; ; {
		i := strings.Index(rest, `"/static/`)
		if i < 0 {
			break
		}
		rest = rest[i+1:]
		path, _, _ := strings.Cut(rest, `"`)
		plain := b.get(path, "Accept-Encoding", "identity")
		small := b.get(path, "Accept-Encoding", "gzip")
		if plain.status != 200 || small.status != 200 || !strings.Contains(plain.header.Get("Cache-Control"), "immutable") || small.header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%s: %d, %v", path, plain.status, plain.header)
		}
		total += len(small.body)
	}
	if total < 20_000 || total > 120_000 {
		t.Errorf("all files are %d bytes", total)
	}
	if a := b.get("/static/000000000000/app.js"); a.status != 404 || strings.Contains(a.header.Get("Cache-Control"), "immutable") {
		t.Errorf("an old name: %d %v", a.status, a.header)
	}
}

// What changes is sent as it happens.
func TestStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Viewer)
	until := b.stream("/")
	until("Nothing is backed up yet")
	w.play("db1")
	until(`/instances/`)
}

// stream opens the events of a page. What it returns waits until something is sent.
func (b *browser) stream(path string) (until func(what string)) {
	t := b.w.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.w.HTTP.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	resp, err := (&http.Client{Jar: b.jar}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		resp.Body.Close()
	})
	if resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func(what string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), what) {
				return
			}
		}
		t.Fatalf("the stream ends before %q: %v", what, lines.Err())
	}
}
