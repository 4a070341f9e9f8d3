// Package opened is the backups that a server has open: each is a CouchDB that can be read, below the server's own APIs, for
// whoever has the password that was made for it.
//
// A backup is open until nobody has asked for a while, until its time is up, until somebody closes it, and never longer than
// the token counts that asked for it, the backup is in the catalog, and the server runs. Then its reads end at once; answers
// under way are cut off. docs/decisions/0014-serving-in-the-service.md says why it is the server that reads.
package opened

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
)

const (
	// DefaultIdle is how long a backup stays open that nobody asks, and MostIdle how long it may.
	DefaultIdle = time.Hour
	MostIdle    = 24 * time.Hour
	leastIdle   = time.Minute
	// Longest is how long one stays open in any case.
	Longest = 7 * 24 * time.Hour
	// CacheSize is how much one may keep in memory of what it has read, in bytes; Memory what it takes in all, about.
	CacheSize = states.CacheSize
	Memory    = states.Memory
	// User is who reads.
	User = "slipcover"

	openTime  = 45 * time.Second // for opening one: who asked has hung up then, or will
	lookEvery = 5 * time.Second
	root      = "/slipcover/v1/serves/"
	below     = "/couchdb"
)

// Options are the options of New. All but Metrics must be there.
type Options struct {
	Server  *server.Server
	Checker access.Checker
	// Repo opens the repository that a backup is in, with a key that reads it, and returns how to close it. An error is a
	// *server.Error in a sentence, or what package repo or a storage says.
	Repo func(ctx context.Context, who *access.Caller, b *job.Backup) (*repo.Repo, func(), error)
	// Most is how many may be open at a time; a project may have half of them, rounded up.
	Most    int
	Version string // of the program
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Set is the backups that are open.
type Set struct {
	o       Options
	views   *states.Set
	changed chan struct{}
	count   *prometheus.CounterVec // ends, by reason

	mu      sync.Mutex
	all     map[string]*Opened // guarded by mu, like what follows
	opening map[string]int     // by project
	ending  bool               // no more are opened
}

// Opened is a backup that is open.
type Opened struct {
	ID       string
	Backup   *job.Backup
	State    time.Time // what is shown was the state then
	Moment   bool      // and is a moment that was shipped, not the backup
	Node     string    // that was backed up, by its Erlang name
	Password string
	Opened   time.Time
	By       string // name of who asked for it
	Idle     time.Duration
	Ends     time.Time // at the latest

	databases int
	token     config.Secret
	handler   http.Handler
	node      *serve.Node
	done      chan struct{} // closed when feeds must end
	cancel    context.CancelFunc
	closeRepo func()

	// What follows is guarded by the set's mu.
	used     time.Time // last begin or end of a request
	requests int64
	under    int // requests under way
	ended    bool
}

// New returns a set without any.
func New(o Options) (*Set, error) {
	s := &Set{o: o, views: states.New(states.Options{Most: o.Most, Readable: o.Server.IsReadable}), changed: make(chan struct{}, 1), all: map[string]*Opened{}, opening: map[string]int{},
		count: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipcover_serves_ended_total", Help: "Backups that were open and are not any more, by why."}, []string{"why"})}
	for _, why := range []string{whyClosed, whyIdle, whyTime, whyToken, whyBackup, whyServer} {
		s.count.WithLabelValues(why)
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slipcover_serves_open", Help: "Backups that this server has open to be read."}, func() float64 { return float64(s.Len()) })
	most := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slipcover_serves_limit", Help: "How many it may have open."}, func() float64 { return float64(o.Most) })
	if o.Metrics != nil {
		for _, c := range []prometheus.Collector{s.count, open, most} {
			if err := o.Metrics.Register(c); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// Why one was ended, as metrics have it.
const (
	whyClosed = "closed"
	whyIdle   = "idle"
	whyTime   = "time"
	whyToken  = "token"
	whyBackup = "backup"
	whyServer = "server"
)

// Request is what is to be opened.
type Request struct {
	Backup string // id
	// At is a moment of the backup's instance, out of what was shipped; zero is the backup itself.
	At   time.Time
	Idle time.Duration // 0 is DefaultIdle
	// Token is the caller's: what is open ends with it.
	Token string
}

// Len is how many are open.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// Changed has something when one was opened.
func (s *Set) Changed() <-chan struct{} { return s.changed }

// Path is where it is below the server's own root, without a slash at its end.
func (o *Opened) Path() string { return root + o.ID + below }

// Databases is how many there are.
func (o *Opened) Databases() int { return o.databases }

// Use is how much one is used.
type Use struct {
	Requests int64 // with those under way
	Used     time.Time
	UnderWay int
}

// Use says how much one is used.
func (s *Set) Use(o *Opened) Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Use{o.requests, o.used, o.under}
}

// Open opens a backup of the caller's project, or a moment of its instance.
func (s *Set) Open(ctx context.Context, who *access.Caller, q Request) (*Opened, error) {
	q.Idle = cmp.Or(q.Idle, DefaultIdle)
	if q.Idle < leastIdle || q.Idle > MostIdle {
		return nil, refuse(server.Invalid, "idle must be between 1m and 24h.")
	}
	if q.At.After(time.Now().Add(time.Minute)) {
		return nil, refuse(server.Invalid, "at is in the future.")
	}
	b, err := s.o.Server.Readable(ctx, who, q.Backup)
	if err != nil {
		return nil, err
	}
	leave, err := s.place(who.Project)
	if err != nil {
		return nil, err
	}
	defer leave()
	o := &Opened{ID: newID(), Backup: b, Password: rand.Text(), By: who.User, Idle: q.Idle, token: config.Secret(q.Token), done: make(chan struct{})}
	if err := s.read(ctx, who, o, q.At); err != nil {
		return nil, err
	}
	now := time.Now()
	o.Opened, o.used, o.Ends = now.UTC(), now, now.Add(Longest).UTC()
	if !who.Expires.IsZero() && who.Expires.Before(o.Ends) {
		o.Ends = who.Expires.UTC()
	}
	s.mu.Lock()
	if s.ending {
		s.mu.Unlock()
		o.release()
		return nil, refuse(server.Unavailable, "This server is ending: ask again in a moment.")
	}
	s.all[o.ID] = o
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
	s.o.Log.InfoContext(ctx, "backup opened to be read", "serve", o.ID, "backup", b.ID, "state", o.State, "project", b.Project, "user", who.User)
	return o, nil
}

// newID makes an id, of which no other can be told.
func newID() string { return uuid.NewString() }

func refuse(k server.Kind, message string) error { return &server.Error{Kind: k, Message: message} }

// place reserves one of the places of a project until leave.
func (s *Set) place(project string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	total, own := len(s.all), s.opening[project]
	for _, n := range s.opening {
		total += n
	}
	for _, o := range s.all {
		if o.Backup.Project == project {
			own++
		}
	}
	switch {
	case s.o.Most == 0:
		return nil, refuse(server.Unsupported, "This server opens no backups: its setting serves is 0.")
	case total >= s.o.Most:
		return nil, refuse(server.Busy, "This server has as many backups open as it may (the setting serves): close one, or wait until one is idle.")
	case own >= (s.o.Most+1)/2:
		return nil, refuse(server.Busy, "Project "+project+" has as many backups open here as it may, which is half of the setting serves: close one.")
	}
	s.opening[project]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.opening[project]--; s.opening[project] == 0 {
			delete(s.opening, project)
		}
	}, nil
}

// read opens what is stored.
func (s *Set) read(asked context.Context, who *access.Caller, o *Opened, at time.Time) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(asked)) // for as long as it is open
	o.cancel = cancel
	defer context.AfterFunc(asked, cancel)()
	late := time.AfterFunc(openTime, cancel)
	defer late.Stop()
	err := s.readState(ctx, who, o, at)
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		o.release()
		return states.Told(ctx, err)
	}
	return nil
}

func (s *Set) readState(ctx context.Context, who *access.Caller, o *Opened, at time.Time) error {
	b := o.Backup
	r, closeRepo, err := s.o.Repo(ctx, who, b)
	if err != nil {
		return err
	}
	o.closeRepo = closeRepo
	if b.Repository.ID != "" && r.Config().ID != b.Repository.ID {
		return refuse(server.Conflict, "The repository that this server reaches there is another one than that of the backup.")
	}
	rec, err := r.Record(ctx, b.RepoName, manifest.BackupID(b.RepoID))
	if err != nil {
		return err
	}
	if err := r.Unlock(ctx); err != nil {
		return err
	}
	var m *manifest.Manifest
	if at.IsZero() {
		m, err = r.Manifest(ctx, rec)
		o.State = rec.Started.UTC()
	} else {
		var moment *repo.Moment
		if m, moment, err = r.At(ctx, b.RepoName, at); err == nil {
			rec, o.State, o.Moment = moment.Base, moment.At.UTC(), true
		}
	}
	if err != nil {
		return err
	}
	// The agents of several projects may share a repository; who has a Swift account has what is in it.
	if job.OfOtherProject(rec.Labels, b.Project) && b.Repository.Storage == "" {
		return refuse(server.Forbidden, "What is stored there is another project's.")
	}
	if o.node, err = serve.OpenNode(ctx, r, m); err != nil {
		return err
	}
	o.Node, o.databases = m.NodeName, len(o.node.Databases())
	o.handler = chttpd.New(ctx, o.node, chttpd.Options{Auth: chttpd.OneUser{Name: User, Password: o.Password}, Vendor: s.o.Version, Prefix: o.Path(),
		Log: s.o.Log.With("serve", o.ID), Done: o.done})
	return nil
}

// release frees what one holds. Nobody reads any more.
func (o *Opened) release() {
	o.cancel()
	if o.node != nil {
		o.node.Close()
	}
	if o.closeRepo != nil {
		o.closeRepo()
	}
}

// List returns those of the caller's project, or all, the oldest first.
func (s *Set) List(who *access.Caller, all bool) []*Opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Opened
	for _, o := range s.all {
		if all || o.Backup.Project == who.Project {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b *Opened) int { return cmp.Or(a.Opened.Compare(b.Opened), strings.Compare(a.ID, b.ID)) })
	return out
}

// Close closes one of the caller's project; of all projects if all.
func (s *Set) Close(ctx context.Context, who *access.Caller, all bool, id string) error {
	s.mu.Lock()
	o := s.all[id]
	s.mu.Unlock()
	if o == nil || !all && o.Backup.Project != who.Project {
		return refuse(server.NotFound, "Resource "+id+" cannot be found.")
	}
	s.end(ctx, o, whyClosed)
	return nil
}

// end ends one. What is read is cut off, but for the end of the server, which gives answers under way their time.
func (s *Set) end(ctx context.Context, o *Opened, why string) {
	s.mu.Lock()
	if o.ended {
		s.mu.Unlock()
		return
	}
	o.ended = true
	delete(s.all, o.ID)
	free, requests := o.under == 0, o.requests
	s.mu.Unlock()
	close(o.done)
	if why != whyServer {
		o.cancel()
	}
	if free {
		o.release()
	}
	s.count.WithLabelValues(why).Inc()
	s.o.Log.InfoContext(ctx, "backup closed that was open to be read", "serve", o.ID, "backup", o.Backup.ID, "project", o.Backup.Project, "why", why, "requests", requests)
}

// enter begins a request; nil if there is nothing of that id. leave ends it.
func (s *Set) enter(id string) *Opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.all[id]
	if o != nil {
		o.under++
		o.requests++
		o.used = time.Now()
	}
	return o
}

func (s *Set) leave(o *Opened) {
	s.mu.Lock()
	o.under--
	o.used = time.Now()
	free := o.ended && o.under == 0
	s.mu.Unlock()
	if free {
		o.release()
	}
}

// Owns reports whether a path is one of what is open, or would be.
func Owns(path string) bool {
	_, rest, ok := cutID(path)
	return ok && (rest == "" || rest[0] == '/')
}

func cutID(path string) (id, rest string, ok bool) {
	path, ok = strings.CutPrefix(path, root)
	if !ok {
		return "", "", false
	}
	id, rest, _ = strings.Cut(path, "/")
	rest, ok = strings.CutPrefix("/"+rest, below)
	return id, rest, ok
}

// ServeHTTP answers requests to what is open.
func (s *Set) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, _, _ := cutID(r.URL.EscapedPath())
	r.Pattern = root + "{id}" + below + "/"
	o := s.enter(id)
	if o == nil {
		nothing(w, "Nothing is open here, or not any more.")
		return
	}
	defer s.leave(o)
	log := httpd.Of(r.Context())
	log.Project, log.Target = o.Backup.Project, o.Backup.ID
	if !s.o.Server.IsReadable(o.Backup) { // it was deleted just now
		s.end(r.Context(), o, whyBackup)
		nothing(w, "The backup that was open here was deleted.")
		return
	}
	o.handler.ServeHTTP(&shielded{ResponseWriter: w}, r)
}

// nothing answers in CouchDB's form that there is nothing.
func nothing(w http.ResponseWriter, reason string) {
	_ = httpd.SendJSON(w, http.StatusNotFound, map[string]string{"error": "not_found", "reason": reason}) // texts always can be sent
}

// shielded is the writer of an answer that a browser must not take for a page of the server: attachments are whatever the
// users of a database stored.
type shielded struct {
	http.ResponseWriter
	begun bool
}

// WriteHeader adds headers.
func (s *shielded) WriteHeader(status int) {
	if !s.begun {
		s.begun = true
		s.Header().Set("Content-Security-Policy", "sandbox")
		s.Header().Set("X-Content-Type-Options", "nosniff")
	}
	s.ResponseWriter.WriteHeader(status)
}

// Write begins the answer if nothing has.
func (s *shielded) Write(p []byte) (int, error) {
	if !s.begun {
		s.WriteHeader(http.StatusOK)
	}
	return s.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (s *shielded) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Run ends what is to end, until ctx does: then all.
func (s *Set) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.look(ctx, time.Now())
			s.views.Look(time.Now())
		case <-ctx.Done():
			s.mu.Lock()
			s.ending = true
			s.mu.Unlock()
			for _, o := range s.List(nil, true) {
				s.end(ctx, o, whyServer)
			}
			s.views.End()
			return nil
		}
	}
}

// look ends what is idle, has no time left, or may not be read any more.
func (s *Set) look(ctx context.Context, now time.Time) {
	for _, o := range s.List(nil, true) {
		use := s.Use(o)
		why := ""
		switch {
		case !now.Before(o.Ends):
			why = whyTime
		case use.UnderWay == 0 && now.Sub(use.Used) >= o.Idle:
			why = whyIdle
		case !s.o.Server.IsReadable(o.Backup):
			why = whyBackup
		case !s.counts(ctx, o):
			why = whyToken
		}
		if why != "" {
			s.end(ctx, o, why)
		}
	}
}

// counts reports whether the token counts that asked for one. If nobody knows now, it does.
func (s *Set) counts(ctx context.Context, o *Opened) bool {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	who, err := s.o.Checker.Check(ctx, o.token.Reveal())
	if errors.Is(err, access.ErrUnauthorized) || errors.Is(err, access.ErrForbidden) {
		return false
	}
	return err != nil || who.May(access.Operator)
}
