package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/looks"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/server"
)

// Options configure the dashboard. Server, Checker, Tokens, Sessions and Log must be there.
type Options struct {
	Server  *server.Server
	Checker access.Checker
	// Tokens makes join tokens, and where Auth isn't keystone the tokens of callers.
	Tokens *access.Tokens
	// Sessions is the table of those who are signed in, in which there is nothing else.
	Sessions *bus.Table
	Log      *slog.Logger
	// Auth is the setting: token, keystone or none.
	Auth string
	// Keystone logs users in where Auth is keystone.
	Keystone *access.Keystone
	// URL is where clients reach the server; empty if that isn't known here.
	URL string
	// NATSURL is where agents reach the bus; empty: none of other machines can join.
	NATSURL string
	// Fingerprint is that of the authority which the server made for its APIs; empty
	// without one.
	Fingerprint string
	// Serves are the backups that this server has open; nil: it opens none.
	Serves *opened.Set
	// Callers limits the requests of each caller; nil doesn't.
	Callers *httpd.Limiter
	// Audit is the audit log, to be read by administrators; nil: there is none.
	Audit *httpd.Audit
	// Version is that of the program, for the foot.
	Version string

	// Now is the clock; for tests.
	Now func() time.Time
}

// Site is the dashboard.
type Site struct {
	o        Options
	sessions *sessions
	routes   httpd.Routes[*call]
	owned    []string               // first segments of paths
	pages    map[string]access.Role // those without a name in the path, and what they need
	origins  *http.CrossOriginProtection
	static   *static
	attempts *httpd.Limiter // log-ins that fail, of an address
	ending   chan struct{}  // closed when streams are to end

	reader *looks.Reader

	mu   sync.Mutex
	sets map[string]*set // templates by time zone; guarded by mu
}

// mostAttempts is how many log-ins a minute may fail from one address.
const mostAttempts = 20

// New returns the dashboard.
func New(o Options) (*Site, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.URL = strings.TrimSuffix(o.URL, "/")
	s := &Site{o: o, sessions: &sessions{o.Sessions, o.Now}, origins: http.NewCrossOriginProtection(), attempts: httpd.NewLimiter(mostAttempts),
		ending: make(chan struct{}), pages: map[string]access.Role{}, sets: map[string]*set{}}
	s.reader = looks.New(o.Serves, o.Server)
	s.routes.Refuse = func(w http.ResponseWriter, status int, message string) {
		w.(*unanswered).c.fail(&api.Refusal{Status: status, Message: message})
	}
	var err error
	if s.static, err = newStatic(); err != nil {
		return nil, err
	}
	if _, err := s.set(time.UTC); err != nil { // a template that can't be read is found at the start
		return nil, err
	}
	for _, r := range allRoutes() {
		s.routes.Handle(r.pattern, r.serve)
		method, p, _ := strings.Cut(r.pattern, " ")
		if method == http.MethodGet {
			s.pages[p] = r.needs
		}
		first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
		if first != "{$}" && !slices.Contains(s.owned, first) {
			s.owned = append(s.owned, first)
		}
	}
	s.owned = append(s.owned, "static")
	return s, nil
}

// Run removes sessions that are over. When ctx ends it ends the streams that are open, so
// that the listener can.
func (s *Site) Run(ctx context.Context) error {
	s.sessions.run(ctx, func(err error) { s.o.Log.WarnContext(ctx, "sessions that are over could not be removed", "err", err) })
	close(s.ending)
	return nil
}

// Owns reports whether a request is for the dashboard. What a browser asks for as a page
// is, unless it is below one of the APIs; they share the root, where Trove's clients ask
// for versions.
func (s *Site) Owns(r *http.Request) bool {
	p := r.URL.EscapedPath()
	first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	switch {
	case first == "v1.0" || first == "auth" || first == "slipcover":
		return false
	case p != "/" && slices.Contains(s.owned, first):
		return true
	}
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && wantsPage(r)
}

// wantsPage says that whoever asks is a browser: no client of an API names HTML.
func wantsPage(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/html") || streams(r)
}

// Known reports whether a request is of somebody who is signed in; see httpd.API.
func (s *Site) Known(r *http.Request) bool {
	c, err := r.Cookie(s.cookieName(r))
	if err != nil {
		return false
	}
	_, err = s.sessions.find(r.Context(), c.Value)
	return err == nil
}

// call is one request of a caller who is known, or who is to sign in.
type call struct {
	*Site
	w   http.ResponseWriter
	r   *http.Request
	who *access.Caller // nil on pages for those who are to sign in
	// session is nil where nobody signs in.
	session *session
	log     *httpd.Request // what the logs are told
	set     *set           // the templates for the reader's time zone
	said    string         // what the last action came to, once
	route   *route
	stood   []*state   // see states
	worked  []*job.Job // see jobs
	roomy   []roomRow  // see rooms
}

// route is what a method and a path do.
type route struct {
	pattern string // of a ServeMux; the root is "GET /{$}"
	// needs is the role without which there is no such page; 0 for those that need no
	// session.
	needs access.Role
	// action is for the audit log; "" of what changes nothing.
	action string
	do     func(*call) (*answer, error)
}

// allRoutes are all pages, of each file those that it has.
func allRoutes() []route {
	return slices.Concat(
		loginRoutes,
		overviewRoutes,
		instanceRoutes,
		spaceRoutes,
		jobRoutes,
		backupRoutes,
		agentRoutes,
		tokenRoutes,
		scheduleRoutes,
		auditRoutes,
		findRoutes,
		momentRoutes,
		documentRoutes,
		changesRoutes,
		putBackRoutes,
		restoreRoutes,
		setRoutes,
		clusterRoutes,
	)
}

// ServeHTTP answers.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if strings.HasPrefix(r.URL.Path, staticPrefix) {
		r.Pattern = "GET " + staticPrefix
		s.static.ServeHTTP(w, r)
		return
	}
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept, Cookie") // the root is one of Trove's API too
	c := &call{Site: s, w: w, r: r, log: httpd.Of(r.Context())}
	var err error
	if c.set, err = s.set(zoneOf(r)); err == nil {
		err = s.admit(c) //nolint:contextcheck // the call has the request
	}
	if err != nil {
		c.fail(err) //nolint:contextcheck // the call has the request
		return
	}
	c.takeSaid()
	s.routes.Serve(&unanswered{w, c}, r, c)
}

// policy lets a page load what is the dashboard's own, and nothing run that stands in it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// admit finds out who asks.
func (s *Site) admit(c *call) error {
	if err := s.origins.Check(c.r); err != nil {
		return &api.Refusal{Status: http.StatusForbidden, Message: "Pages of other sites may not send this."}
	}
	if err := s.o.Server.Loaded(); err != nil {
		c.w.Header().Set("Retry-After", "1")
		return err
	}
	if s.open(c.r) {
		return nil
	}
	token := ""
	if s.o.Auth != "none" {
		cookie, err := c.r.Cookie(s.cookieName(c.r))
		if err != nil {
			return errNoSession
		}
		if c.session, err = s.sessions.find(c.r.Context(), cookie.Value); err != nil {
			return err
		}
		if c.session.Choosing {
			return errNoSession
		}
		token = c.session.token
	}
	who, err := s.o.Checker.Check(c.r.Context(), token)
	if errors.Is(err, access.ErrUnauthorized) && c.session != nil { // it was revoked, or has expired
		_ = s.sessions.end(c.r.Context(), c.session.key) // or it is over by itself before long
		return errEnded
	}
	if err != nil {
		return err
	}
	if who.Project == "" { // nobody signs in
		if who, err = who.For(defaultProject); err != nil {
			return err
		}
	}
	var allowed httpd.Allowance
	if c.log, allowed = api.Admit(c.r, who, s.o.Callers); !allowed.OK {
		allowed.SetHeader(c.w)
		return errTooMany
	}
	c.who = who
	if c.session != nil && !streams(c.r) { // who only has a page open doesn't use it
		s.sessions.use(c.r.Context(), c.session)
	}
	return nil
}

// defaultProject is that of those who need not sign in, as in the API.
const defaultProject = "default"

// errTooMany is of a caller who asks for more than a limit allows.
var errTooMany = errors.New("too many requests")

// open reports whether a path is for those who are not signed in.
func (s *Site) open(r *http.Request) bool {
	p := r.URL.Path
	return p == "/login" || strings.HasPrefix(p, "/login/")
}

// serve is what all routes have in common.
func (to route) serve(w http.ResponseWriter, r *http.Request, c *call) {
	if u, ok := w.(*unanswered); ok {
		w = u.ResponseWriter
	}
	c.w, c.r, c.route = w, r, &to
	c.log.Action, c.log.Target = to.action, r.PathValue("id")
	if to.needs > 0 && !c.who.May(to.needs) {
		c.fail(&api.Refusal{Status: http.StatusForbidden, Message: "Your role, " + c.who.Role.String() + ", does not allow this: it needs " + to.needs.String() + "."})
		return
	}
	if streams(r) && to.needs > 0 {
		c.stream()
		return
	}
	a, err := to.do(c)
	if err != nil {
		c.fail(err)
		return
	}
	if a != nil { // else it was sent already
		c.send(a)
	}
}

// unanswered stands in for the writer where httpd.Routes finds no route: its words are
// for APIs.
type unanswered struct {
	http.ResponseWriter
	c *call
}

// own is the caller in a project: that of his token, or as an administrator any.
func (c *call) own(project string) (*access.Caller, bool) {
	switch {
	case project == "":
		return nil, false
	case project == c.who.Project:
		return c.who, true
	case !c.all():
		return nil, false
	}
	d := *c.who
	d.Project, d.ProjectName = project, project
	d.Token, d.SwiftURL = "", "" // of the caller's own project
	return &d, true
}

// all reports whether the caller sees all projects.
func (c *call) all() bool { return c.who.May(access.Admin) }

// as returns the caller with whom to ask package server about a thing by its id: who is in
// the project of that thing. What is another project's is not found.
func (c *call) as(id string) (*access.Caller, error) {
	if id, ok := api.ParseID(id); ok {
		if who, ok := c.own(c.o.Server.ProjectOf(id)); ok {
			return who, nil
		}
		// another server may have made it just now: package server looks it up
		return c.who, nil
	}
	return nil, api.NoResource(id)
}

// now is the time.
func (c *call) now() time.Time { return c.o.Now() }

// local reports whether a path leads to a page of the dashboard, and not elsewhere.
func local(p string) bool {
	return strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "//") && !strings.Contains(p, "\\") && path.Clean("/"+p) != "/login" && !strings.ContainsFunc(p, func(r rune) bool { return r < ' ' })
}
