package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/testenv"
)

var databases = []string{"orders", "team/notes"}

// writing starts a CouchDB with databases and writers at work.
func writing(t *testing.T) (*testenv.Couch, *testenv.Running) {
	t.Helper()
	c := testenv.CouchDB(t, testenv.Options{})
	for _, db := range databases {
		must(t, c.Put(testenv.DBPath(db)+"?q=2", nil, nil))
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	load := c.Load(testenv.LoadOptions{Databases: databases, Writers: 2, Duration: 5 * time.Minute, MaxWrites: 3000, Pause: 20 * time.Millisecond, Seed: seed})
	t.Cleanup(func() { load.Stop() })
	await(t, func() bool { return len(load.Journal.Writes()) > 100 })
	return c, load
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same holds a CouchDB against what was acknowledged before a backup began.
func same(t *testing.T, c *testenv.Client, load *testenv.Running, cut time.Time) {
	t.Helper()
	wrong, err := load.Journal.Compare(cut, c.State)
	must(t, err)
	for _, line := range wrong {
		t.Error(line)
	}
}

// withCouch lets an agent ask the node, and restart it by a command.
func withCouch(c *testenv.Couch) func(*agent.Options) {
	return func(o *agent.Options) { o.CouchURL = c.URL }
}

// What a job has changed is told before its end is, not with the next hello in turn: who
// hears of the end may ask at once for what depends on it.
func TestNews(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	s.reply.Every = time.Hour
	a := s.start(w, copyFixture(t))
	b := s.do(backupJob(t))
	s.mu.Lock()
	if s.hello.Repository.ID != b.Repository.ID {
		t.Errorf("the backup is done, and the repository %q, want %q", s.hello.Repository.ID, b.Repository.ID)
	}
	s.mu.Unlock()
	if _, missing := testenv.CouchDBBinary(); missing != "" {
		testenv.Missing(t, "couchdb", missing)
	}
	id := newID(t)
	t.Cleanup(func() { remove(t, w, id) })
	s.do(job.Job{Kind: job.KindCreate, Instance: id, Spec: job.Spec{RepoName: nodeName, RepoID: b.Result.RepoID, Repository: *b.Repository}})
	s.mu.Lock()
	defer s.mu.Unlock()
	silent := strings.Contains(a.said(), "CouchDB does not answer") // within askTime, on a slow machine
	if !slices.ContainsFunc(s.hello.Instances, func(i job.Seen) bool { return i.Instance == id && (i.Up || silent) }) {
		t.Errorf("the instance is made, and not up: %+v", s.hello.Instances)
	}
}

// oneHello is a link that looks whether hellos overlap.
type oneHello struct {
	agent.Link
	saying chan struct{} // full while one is said
	lapped atomic.Int32
}

func (l *oneHello) Request(ctx context.Context, verb string, data []byte) ([]byte, error) {
	if verb != job.VerbHello {
		return l.Link.Request(ctx, verb, data)
	}
	select {
	case l.saying <- struct{}{}:
		defer func() { <-l.saying }()
		select { // time for another one to come
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	default:
		l.lapped.Add(1)
	}
	return l.Link.Request(ctx, verb, data)
}

// News of the repository that come while the first hello is said don't overtake it: the
// server would take the older one for what is.
func TestHellosInOrder(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	a := s.start(w, copyFixture(t))
	b := s.do(backupJob(t))
	a.stop()
	s.mu.Lock()
	s.hello, s.hellos = job.Hello{}, 0
	s.reply.Every = time.Hour
	s.mu.Unlock()
	l := &oneHello{saying: make(chan struct{}, 1)}
	s.start(w, copyFixture(t), func(o *agent.Options) {
		dial := o.Dial
		o.Dial = func(ctx context.Context) (agent.Link, error) {
			link, err := dial(ctx)
			l.Link = link
			return l, err
		}
	})
	s.until("two hellos", func() bool { return s.hellos >= 2 })
	s.until("the repository in the last hello", func() bool { return s.hello.Repository.ID == b.Repository.ID })
	if n := l.lapped.Load(); n > 0 {
		t.Errorf("%d hellos were said beside another one", n)
	}
}

// A node with writers is backed up, an instance made of the backup, used, restarted,
// found again by the agent's next start, and deleted.
func TestCreateFromBackup(t *testing.T) {
	t.Parallel()
	c, load := writing(t)
	s, w := newServer(t), newWorld(t)
	a := s.start(w, c.DataDir, withCouch(c))
	s.seen(nodeID, func(i job.Seen) bool { return i.Up && strings.HasPrefix(i.Version, "3.") })
	cut := time.Now()
	b := s.do(backupJob(t))
	if !strings.HasPrefix(b.CouchDBVersion, "3.") {
		t.Errorf("the backup is of version %q", b.CouchDBVersion)
	}
	load.Stop()

	id := newID(t)
	s.mu.Lock()
	s.reply.Instances = []string{id}
	s.mu.Unlock()
	create := job.Job{Kind: job.KindCreate, Instance: id, Spec: job.Spec{Name: "any name", RepoName: nodeName, RepoID: b.Result.RepoID, Repository: *b.Repository,
		Sealed: s.seal(job.Secrets{Password: "geheim"})}}
	made := s.do(create)
	t.Cleanup(func() { remove(t, w, id) })
	copied := &testenv.Client{URL: made.URL, Admin: "admin", Password: "geheim"}
	same(t, copied, load, cut)
	if !strings.HasPrefix(made.CouchDBVersion, "3.") || made.Repository != nil {
		t.Errorf("got %+v", made)
	}
	if again := s.do(create); again.URL != made.URL {
		t.Errorf("the same job again made %s, not %s", again.URL, made.URL)
	}
	s.seen(id, func(i job.Seen) bool { return i.Up && i.CanRestart && i.Databases >= 2 && i.UsedBytes > 0 })
	for _, instance := range []string{id, nodeID} {
		if got := s.databases(instance); !contains(got, databases...) {
			t.Errorf("databases of %s: %q", instance, got)
		}
	}
	// A backup of the new instance has its own name in the repository.
	own := backupJob(t)
	own.Instance, own.Spec.RepoName = id, "copy"
	s.do(own)

	pid, err := restore.Running(filepath.Join(w.path("instances"), id))
	must(t, err)
	s.do(job.Job{Kind: job.KindRestart, Instance: id})
	if now, err := restore.Running(filepath.Join(w.path("instances"), id)); err != nil || now == pid || now == 0 {
		t.Errorf("process %d, was %d: %v", now, pid, err)
	}
	same(t, copied, load, cut)

	// The machine goes down; the next start of the agent starts what ran.
	a.stop()
	must(t, restore.Stop(t.Context(), filepath.Join(w.path("instances"), id), 0))
	a = s.start(w, c.DataDir, withCouch(c))
	s.seen(id, func(i job.Seen) bool { return i.Up })
	same(t, copied, load, cut)

	s.fail(job.Job{Kind: job.KindDeleteInstance, Instance: nodeID}, "did not make")
	for range 2 {
		s.do(job.Job{Kind: job.KindDeleteInstance, Instance: id})
	}
	if _, err := os.Stat(filepath.Join(w.path("instances"), id)); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
	if text := a.said(); strings.Contains(text, "geheim") {
		t.Error("the log has the password")
	}
}

// remove removes an instance that a failed test left.
func remove(t *testing.T, w *world, id string) {
	if err := restore.Remove(context.Background(), filepath.Join(w.path("instances"), id)); err != nil {
		t.Error(err)
	}
}

func contains(list []string, want ...string) bool {
	have := map[string]bool{}
	for _, s := range list {
		have[s] = true
	}
	for _, s := range want {
		if !have[s] {
			return false
		}
	}
	return true
}

// An empty instance gets a password of its own, which stays on the machine.
func TestCreateEmpty(t *testing.T) {
	t.Parallel()
	if bin, missing := testenv.CouchDBBinary(); bin == "" {
		testenv.Missing(t, "couchdb", missing)
	}
	s, w := newServer(t), newWorld(t)
	s.start(w, "")
	id := newID(t)
	dir := filepath.Join(w.path("instances"), id)
	t.Cleanup(func() { remove(t, w, id) })
	r := s.do(job.Job{Kind: job.KindCreate, Instance: id, Spec: job.Spec{Name: "new"}})
	path := filepath.Join(dir, "admin-password")
	if len(r.Result.Notes) == 0 || !strings.Contains(r.Result.Notes[len(r.Result.Notes)-1], path) {
		t.Errorf("notes %q", r.Result.Notes)
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	c := &testenv.Client{URL: r.URL, Admin: "admin", Password: strings.TrimSpace(read(t, path))}
	must(t, c.Put("/db", nil, nil))
	if got := s.databases(id); !contains(got, "db") {
		t.Errorf("got %q", got)
	}
	// What isn't the agent's is not removed.
	stranger := uuid.NewString()
	must(t, os.MkdirAll(filepath.Join(w.path("instances"), stranger), 0o700))
	s.fail(job.Job{Kind: job.KindDeleteInstance, Instance: stranger}, "has no record")
	s.fail(job.Job{Kind: job.KindCreate, Instance: stranger}, "did not make")
	s.fail(job.Job{Kind: job.KindDeleteInstance, Instance: "../x"}, "does not have the instance")
	s.fail(job.Job{Kind: job.KindCreate, Instance: "../x"}, "not the id of an instance")
	s.do(job.Job{Kind: job.KindDeleteInstance, Instance: uuid.NewString()})
	s.do(job.Job{Kind: job.KindDeleteInstance, Instance: id})
}

func TestRestartOfTheNode(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	s, w := newServer(t), newWorld(t)
	out := w.path("restarted")
	s.start(w, c.DataDir, withCouch(c), func(o *agent.Options) { o.RestartCommand = "echo yes >" + out })
	s.seen(nodeID, func(i job.Seen) bool { return i.CanRestart })
	if r := s.do(job.Job{Kind: job.KindRestart, Instance: nodeID}); !strings.HasPrefix(r.CouchDBVersion, "3.") || read(t, out) != "yes\n" {
		t.Errorf("got %+v", r)
	}
}

// A restore test starts a CouchDB on the backup and compares; what doesn't restore is
// what the proof says, and the job is done.
func TestProve(t *testing.T) {
	t.Parallel()
	c, load := writing(t)
	s, w := newServer(t), newWorld(t)
	first := s.start(w, c.DataDir)
	load.Stop()
	documents := uint64(0)
	for _, db := range databases {
		var info struct {
			Docs uint64 `json:"doc_count"`
		}
		must(t, c.Get(testenv.DBPath(db), &info))
		documents += info.Docs
	}
	b := s.do(backupJob(t))
	spec := job.Spec{RepoName: nodeName, RepoID: b.Result.RepoID, Repository: *b.Repository}
	r := s.do(job.Job{Kind: job.KindProve, Instance: nodeID, Spec: spec})
	if p := r.Proof; !p.OK || !p.Server || p.Databases < len(databases) || documents == 0 || p.Documents < documents || p.Took <= 0 || p.Problem != "" {
		t.Errorf("got %+v", p)
	}
	marks, err := w.repo(t).Marks(t.Context(), nodeName)
	must(t, err)
	if m := marks[onlyBackup(t, w.repo(t), b.Result.RepoID).ID]; m.Verified == nil || m.Verified.Tool != "slipcover test" {
		t.Errorf("marks %+v", m)
	}
	left, err := os.ReadDir(filepath.Join(w.path("instances"), "trials"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	// Without a CouchDB it is read, opened and asked, and the proof says that it is no more than that.
	none := func(o *agent.Options) { o.CouchDBBin = w.path("none") }
	first.stop()
	s.start(w, c.DataDir, none)
	withMoment := spec
	withMoment.Moment = true
	r = s.do(job.Job{Kind: job.KindProve, Instance: nodeID, Spec: withMoment})
	if p := r.Proof; !p.OK || p.Server || !p.Served || p.Sampled < len(databases) || p.Databases < len(databases) || p.Documents < documents || p.Problem != "" {
		t.Errorf("without a CouchDB: got %+v", p)
	}
	// A segment that is damaged can't be restored.
	damage(t, filepath.Join(w.path("repo"), "segments", nodeName, b.Result.RepoID))
	r = s.do(job.Job{Kind: job.KindProve, Instance: nodeID, Spec: spec})
	if p := r.Proof; p.OK || !strings.Contains(p.Problem, "damaged") {
		t.Errorf("a damaged backup: got %+v", p)
	}
	spec.RepoID = newID(t)
	s.fail(job.Job{Kind: job.KindProve, Instance: nodeID, Spec: spec}, "no such backup")
}

// damage changes a byte in the middle of each file below dir.
func damage(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	must(t, err)
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		b, err := os.ReadFile(path)
		must(t, err)
		b[len(b)/2] ^= 1
		must(t, os.WriteFile(path, b, 0o600))
	}
}

// An agent that finds no bus is ready all the same, and ends in order; one that is refused
// says so.
func TestNoBus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.options(nopLink{}, "", slog.New(slog.DiscardHandler))
	ready, dialling := make(chan struct{}), make(chan struct{})
	o.Ready = func() { close(ready) }
	o.Dial = func(ctx context.Context) (agent.Link, error) {
		close(dialling)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx, o) }()
	<-ready
	<-dialling
	cancel()
	if err := <-done; err != nil {
		t.Errorf("it ended with %v", err)
	}
	refused := errors.New("refused")
	o.Ready, o.Dial = nil, func(context.Context) (agent.Link, error) { return nil, refused }
	if err := agent.Run(t.Context(), o); !errors.Is(err, refused) {
		t.Errorf("it ended with %v", err)
	}
}
