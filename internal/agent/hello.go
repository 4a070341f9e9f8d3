package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
)

const (
	measureEvery    = time.Minute     // that files are counted, which takes a walk
	firstMeasure    = 5 * time.Second // that the first hello waits for it
	askTime         = 2 * time.Second
	repositoryEvery = 5 * time.Minute // that the repository is looked for while it isn't known
)

// greet says hello until a server answers. It is false if ctx ended before.
func (a *agent) greet(ctx context.Context) bool {
	var told time.Time
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		err := a.hello(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() == nil && time.Since(told) >= tellNoServer {
			told = time.Now()
			a.log.WarnContext(ctx, "no server answers", "err", err)
		}
		if !pause(ctx, wait) {
			return false
		}
	}
}

// hellos says hello again and again.
func (a *agent) hellos(ctx context.Context) {
	var told time.Time
	for pause(ctx, a.every()) {
		if err := a.hello(ctx); err != nil && ctx.Err() == nil && time.Since(told) >= tellNoServer {
			told = time.Now()
			a.log.WarnContext(ctx, "no server answers", "err", err)
		}
	}
}

func (a *agent) every() time.Duration {
	d := a.lastReply().Every
	if d <= 0 {
		return defaultEvery
	}
	return min(max(d, minEvery), maxEvery)
}

func (a *agent) lastReply() job.HelloReply {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reply
}

func (a *agent) hello(ctx context.Context) error {
	var reply job.HelloReply
	if err := a.ask(ctx, job.VerbHello, a.sayHello(ctx), &reply); err != nil {
		return err
	}
	a.mu.Lock()
	first := !a.greeted
	a.greeted, a.reply = true, reply
	a.mu.Unlock()
	if first {
		a.log.InfoContext(ctx, "a server answers", "node", reply.Node, "name", reply.NodeName)
	}
	a.strangers(ctx, reply.Instances)
	return nil
}

// sayHello asks each CouchDB how it is, all at once.
func (a *agent) sayHello(ctx context.Context) job.Hello {
	h := job.Hello{
		Session: a.session, Version: a.o.Version, Host: a.o.Host, Address: a.o.Address, Recipient: a.identity.Recipient().String(),
		Repository: job.Repository{URL: a.o.RepositoryURL, ID: a.facts.repository()}, CanRead: a.o.CanRead, CanCreate: a.o.InstancesDir != "",
		Instances: []job.Seen{}, Running: a.running(),
	}
	if h.CanCreate {
		h.FreeBytes = freeBytes(a.o.InstancesDir)
	}
	made := a.made.list()
	seen := make([]*job.Seen, 1+len(made))
	var all sync.WaitGroup
	all.Go(func() { seen[0] = a.seeOwn(ctx) })
	for i, m := range made {
		all.Go(func() { seen[1+i] = a.seeMade(ctx, m) })
	}
	all.Wait()
	for _, s := range seen {
		if s != nil {
			h.Instances = append(h.Instances, *s)
		}
	}
	return h
}

// seeOwn looks at the node that was there before; nil if there is none.
func (a *agent) seeOwn(ctx context.Context) *job.Seen {
	m := a.facts.measured("")
	if m == nil {
		return nil
	}
	s := &job.Seen{Instance: a.lastReply().Node, UsedBytes: m.bytes, Databases: m.databases, Version: m.version, CanRestart: a.o.RestartCommand != ""}
	if a.o.CouchURL != "" {
		a.askServer(ctx, s, a.o.CouchURL, a.o.CouchUser, a.o.CouchPassword)
	}
	return s
}

func (a *agent) seeMade(ctx context.Context, i instance) *job.Seen {
	s := &job.Seen{Instance: i.ID, CanRestart: true}
	if m := a.facts.measured(i.ID); m != nil {
		s.UsedBytes, s.Databases, s.Version = m.bytes, m.databases, m.version
	}
	if i.URL != "" {
		a.askServer(ctx, s, i.URL, "", "")
	}
	return s
}

// askServer completes s with what the server says.
func (a *agent) askServer(ctx context.Context, s *job.Seen, url, user, password string) {
	version, err := askNode(ctx, url, user, password)
	if err != nil {
		a.log.DebugContext(ctx, "CouchDB does not answer", "instance", s.Instance, "err", faultOf(err, password))
		return
	}
	s.Up, s.Version = true, cmp.Or(version, s.Version)
}

// askNode asks a CouchDB for its version. That needs no admin, and mostly no user: one
// who may not ask learns that the server is up, and no version.
func askNode(ctx context.Context, url, user, password string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(url, "/")+"/", nil)
	if err != nil {
		return "", errors.New("the URL of the CouchDB can't be used")
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var welcome struct{ CouchDB, Version string }
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&welcome)
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return "", nil
	case resp.StatusCode != http.StatusOK || err != nil || welcome.CouchDB == "":
		return "", fmt.Errorf("what answers is not a CouchDB that is up (%s)", resp.Status)
	}
	return welcome.Version, nil
}

// measures measures all CouchDBs, again and again. first is called after the first
// time.
func (a *agent) measures(ctx context.Context, first func()) {
	for {
		a.measure(ctx, "", a.o.Locate)
		for _, i := range a.made.list() {
			a.measure(ctx, i.ID, i.locate)
		}
		first()
		if !pause(ctx, measureEvery) {
			return
		}
	}
}

// measure measures a CouchDB. If it can't be, what was known of it stays.
func (a *agent) measure(ctx context.Context, id string, locate func(context.Context) (*node.Node, error)) {
	n, err := locate(ctx)
	if err != nil {
		a.log.DebugContext(ctx, "no CouchDB found", "instance", id, "err", faultOf(err))
		return
	}
	if a.facts.measured(id) == nil { // the walk may take long
		a.facts.set(id, measure{version: n.Version})
	}
	if m, err := measureNode(ctx, n); err == nil {
		a.facts.set(id, m)
	}
}

// measure is what the files of a CouchDB say.
type measure struct {
	bytes     int64
	databases int
	version   string // may be empty
}

// facts are what is not found out anew for each hello.
type facts struct {
	mu       sync.Mutex
	repoID   string             // of the configuration's repository; "" while not known. Guarded by mu
	measures map[string]measure // by instance, "" the node that was there before; guarded by mu
}

func (f *facts) repository() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.repoID
}

func (f *facts) setRepository(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.repoID = id
}

// measured returns the measure of an instance; nil if there is none.
func (f *facts) measured(id string) *measure {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m, ok := f.measures[id]; ok {
		return &m
	}
	return nil
}

func (f *facts) set(id string, m measure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.measures == nil {
		f.measures = map[string]measure{}
	}
	f.measures[id] = m
}

func (f *facts) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.measures, id)
}

// measureNode walks over a node's files. What vanishes meanwhile doesn't count.
func measureNode(ctx context.Context, n *node.Node) (measure, error) {
	m := measure{version: n.Version}
	dirs := []string{n.DataDir}
	if rel, err := filepath.Rel(n.DataDir, n.IndexDir); err != nil || !filepath.IsLocal(rel) {
		dirs = append(dirs, n.IndexDir)
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			if info, err := d.Info(); err == nil {
				m.bytes += info.Size()
			}
			return nil
		})
		if err != nil {
			return m, err
		}
	}
	if list, err := restore.Databases(ctx, n.DataDir); err == nil {
		m.databases = len(list)
	}
	return m, nil
}

// findRepository finds out the id of the configuration's repository. A backup makes
// it if there is none, and tells its id then.
func (a *agent) findRepository(ctx context.Context) {
	if a.o.RepositoryURL == "" {
		return
	}
	for a.facts.repository() == "" {
		r, done, err := a.o.OpenRepo(ctx, Open{})
		switch {
		case err == nil:
			a.facts.setRepository(r.Config().ID)
			done()
			return
		case ctx.Err() == nil && !errors.Is(err, repo.ErrNoRepository):
			a.log.InfoContext(ctx, "the repository of the configuration can't be opened yet", "err", faultOf(err))
		}
		if !pause(ctx, repositoryEvery) {
			return
		}
	}
}
