package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/localhost"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
)

const (
	measureEvery    = time.Minute     // that files are counted, which takes a walk
	firstMeasure    = 5 * time.Second // that the first hello waits for it
	askTime         = 5 * time.Second // for an answer of a CouchDB
	repositoryEvery = 5 * time.Minute // that the repository is looked for while it isn't known
	roomEvery       = 5 * time.Minute // that storages are asked for their room
	roomTime        = time.Minute     // for their answers
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

// hello says one hello at a time, so that none that is older comes after it.
func (a *agent) hello(ctx context.Context) error {
	a.saying.Lock()
	defer a.saying.Unlock()
	h := a.sayHello(ctx)
	a.said++
	h.Number = a.said
	var reply job.HelloReply
	if err := a.ask(ctx, job.VerbHello, h, &reply); err != nil {
		a.isUnknown(err)
		return err
	}
	a.unknown = 0
	a.mu.Lock()
	first := !a.greeted
	a.greeted, a.reply = true, reply
	a.mu.Unlock()
	if first {
		a.log.InfoContext(ctx, "a server answers", "node", reply.Node, "name", reply.NodeName)
	}
	a.strangers(ctx, reply.Instances)
	if err := a.shipping.want(a.wantsShipped(&reply)); err != nil {
		a.log.WarnContext(ctx, "what is to be shipped can't be noted: a start without a server doesn't know it", "err", err)
	}
	return nil
}

// isUnknown ends an agent of which servers say, again and again, that they don't know it. It
// is called while a hello is said.
func (a *agent) isUnknown(err error) {
	var answer *bus.Error
	if !errors.As(err, &answer) || answer.Code != bus.CodeUnknown {
		a.unknown = 0
		return
	}
	if a.unknown++; a.unknown >= unknownTimes {
		a.quit(ErrRemoved)
	}
}

// tellNews says hello out of turn, before a server hears that the job is done that made
// the news: what is asked for next may depend on them. If none answers, the next hello
// tells them.
func (a *agent) tellNews(ctx context.Context) {
	if err := a.hello(ctx); err != nil {
		a.log.DebugContext(ctx, "no server hears the news", "err", err)
	}
}

// sayHello asks each CouchDB how it is, all at once.
func (a *agent) sayHello(ctx context.Context) job.Hello {
	h := job.Hello{
		Session: a.session, Start: a.start, Version: a.o.Version, Host: a.o.Host, Address: a.o.Address, Recipient: a.identity.Recipient().String(),
		Repository: job.Repository{URL: a.o.RepositoryURL, ID: a.facts.repository()}, CanRead: a.o.CanRead, Reads: a.o.AcceptReads, CanCreate: a.o.InstancesDir != "" && restore.CouchDBBinary(a.o.CouchDBBin) != "",
		Moments:   true,
		Writes:    a.o.AcceptWrites,
		WritesAs:  a.o.CouchUser != "",
		Restores:  new(a.o.AcceptRestores && a.o.Target != nil),
		Instances: []job.Seen{}, Running: a.running(),
	}
	if h.CanCreate {
		h.FreeBytes = freeBytes(a.o.InstancesDir)
	}
	h.Rooms = a.facts.roomsNow()
	for i := range h.Rooms {
		if !h.Rooms[i].Copy {
			h.Rooms[i].Repository = h.Repository.ID
		}
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
	s.Ship, s.Member = a.shipping.seen(s.Instance), m.tell()
	if url := cmp.Or(a.o.CouchURL, m.url); url != "" {
		a.askServer(ctx, s, url)
	}
	return s
}

func (a *agent) seeMade(ctx context.Context, i instance) *job.Seen {
	s := &job.Seen{Instance: i.ID, CanRestart: true, Ship: a.shipping.seen(i.ID)}
	if m := a.facts.measured(i.ID); m != nil {
		s.UsedBytes, s.Databases, s.Version, s.Member = m.bytes, m.databases, m.version, m.tell()
	}
	if i.URL != "" {
		a.askServer(ctx, s, i.URL)
	}
	return s
}

// askServer completes s with what the server says.
func (a *agent) askServer(ctx context.Context, s *job.Seen, url string) {
	version, err := askNode(ctx, url)
	if err != nil {
		a.log.DebugContext(ctx, "CouchDB does not answer", "instance", s.Instance, "err", faultOf(err))
		return
	}
	s.Up, s.Version = true, cmp.Or(version, s.Version)
}

// direct asks servers of this machine.
var direct = &http.Client{Transport: localhost.Direct()}

// askNode asks a CouchDB for its version, which is in the header of each answer of it.
// /_up needs no user and is quick; the welcome at / took seconds in our tests, when the
// server looked for a search node that isn't there.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_misc.erl, handle_up_req and
// handle_welcome_req; src/couch/src/couch_httpd.erl, server_header.
func askNode(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(url, "/")+"/_up", nil)
	if err != nil {
		return "", errors.New("the URL of the CouchDB can't be used")
	}
	resp, err := direct.Do(req)
	if err != nil {
		return "", err
	}
	_ = resp.Body.Close()
	name, _, _ := strings.Cut(resp.Header.Get("Server"), " ")
	version, ok := strings.CutPrefix(name, "CouchDB/")
	if !ok {
		return "", fmt.Errorf("what answers is not a CouchDB (%s)", resp.Status)
	}
	return version, nil
}

// versionOf asks the CouchDB of an instance for its version; "" if it doesn't answer.
func (a *agent) versionOf(ctx context.Context, id string, n *node.Node) string {
	url := cmp.Or(a.o.CouchURL, urlOf(n))
	if i, ok := a.made.get(id); ok {
		url = i.URL
	}
	if url == "" {
		return ""
	}
	version, err := askNode(ctx, url)
	if err != nil {
		a.log.DebugContext(ctx, "CouchDB does not answer", "instance", id, "err", faultOf(err))
	}
	return version
}

// urlOf is where a node listens on this machine, by its ini files; "" without any.
//
// Source: CouchDB 3.5.0, rel/overlay/etc/default.ini, section chttpd.
func urlOf(n *node.Node) string {
	if len(n.IniFiles) == 0 {
		return ""
	}
	port, _ := n.Settings.Get("chttpd", "port")
	host, _ := n.Settings.Get("chttpd", "bind_address")
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, cmp.Or(port, "5984"))
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

// measureRooms asks storages for their room, again and again. What one doesn't say is not told.
func (a *agent) measureRooms(ctx context.Context) {
	if a.o.Rooms == nil {
		return
	}
	for {
		in, cancel := context.WithTimeout(ctx, roomTime)
		rooms := a.o.Rooms(in)
		cancel()
		a.facts.setRooms(rooms)
		if !pause(ctx, roomEvery) {
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
	member, at := a.memberOf(ctx, id, n), time.Now()
	if known := a.facts.measured(id); known == nil { // the walk may take long
		a.facts.set(id, measure{version: n.Version, url: urlOf(n), member: member, memberAt: at})
	} else {
		known.member, known.memberAt = member, at
		a.facts.set(id, *known)
	}
	if m, err := measureNode(ctx, n); err == nil {
		m.member, m.memberAt = member, at
		a.facts.set(id, m)
	}
}

// memberOf says which node of which cluster a CouchDB is, as its backups say it.
func (a *agent) memberOf(ctx context.Context, instance string, n *node.Node) *job.Member {
	id, name, nodes := backup.Member(ctx, n)
	return &job.Member{Node: name, Nodes: nodes, ServerUUID: id.ServerUUID, MapUUID: id.MapUUID, Cluster: a.clusterOf(instance)}
}

// clusterOf is what the configuration calls the cluster of an instance: of the node that was there before, and of nothing that
// this agent made.
func (a *agent) clusterOf(instance string) string {
	if _, made := a.made.get(instance); made {
		return ""
	}
	return a.o.Backup.Cluster
}

// measure is what the files of a CouchDB say.
type measure struct {
	bytes     int64
	databases int
	version   string // may be empty
	url       string // where it listens on this machine; empty if the files don't say it
	member    *job.Member
	memberAt  time.Time // when member was read
}

// tell returns the member as a hello says it; nil if it isn't known.
func (m *measure) tell() *job.Member {
	if m.member == nil {
		return nil
	}
	said := *m.member
	said.AgeSeconds = max(0, time.Since(m.memberAt).Seconds())
	return &said
}

// facts are what is not found out anew for each hello.
type facts struct {
	mu       sync.Mutex
	repoID   string             // of the configuration's repository; "" while not known. Guarded by mu
	measures map[string]measure // by instance, "" the node that was there before; guarded by mu
	rooms    []job.Room         // guarded by mu
}

// roomsNow returns the rooms as they were measured last.
func (f *facts) roomsNow() []job.Room {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.rooms)
}

func (f *facts) setRooms(list []job.Room) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rooms = list
}

func (f *facts) repository() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.repoID
}

// setRepository reports whether that is news.
func (f *facts) setRepository(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	news := f.repoID != id
	f.repoID = id
	return news
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
	m := measure{version: n.Version, url: urlOf(n)}
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
			id := r.Config().ID
			done()
			if a.facts.setRepository(id) {
				a.tellNews(ctx)
			}
			return
		case ctx.Err() == nil && !errors.Is(err, repo.ErrNoRepository):
			a.log.InfoContext(ctx, "the repository of the configuration can't be opened yet", "err", faultOf(err))
		}
		if !pause(ctx, repositoryEvery) {
			return
		}
	}
}
