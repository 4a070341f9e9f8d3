package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/agent/agenttest"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
)

const (
	agentID  = "agent1"
	nodeID   = "0190a000-0000-7000-8000-000000000001" // the instance of the node that was there before
	nodeName = "node1"                                // its name in repositories
	patience = 5 * time.Minute
)

// server is the other end of the protocol, over a real NATS: it keeps jobs as the
// service does, and counts how they end.
type server struct {
	t   testing.TB
	bus *bus.Bus

	mu       sync.Mutex
	changed  chan struct{} // closed at each change; guarded by mu, like what follows
	away     bool          // answers nothing
	forgot   bool          // knows no agent
	refusals int
	session  string
	hello    job.Hello
	hellos   int
	reply    job.HelloReply
	jobs     map[string]*job.Job
	ends     map[string][]job.Report // accepted last reports
	reports  map[string]int          // others
	stop     map[string]bool         // jobs that are to be stopped
	stopped  []job.Report            // that were answered by stop
}

func newServer(t testing.TB) *server {
	t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	b, err := bus.Open(t.Context(), bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", AckWait: 3 * time.Second, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, bus: b, changed: make(chan struct{}), reply: job.HelloReply{Every: time.Second, Node: nodeID, NodeName: nodeName},
		jobs: map[string]*job.Job{}, ends: map[string][]job.Report{}, reports: map[string]int{}, stop: map[string]bool{}}
	if err := b.AddAgent(t.Context(), agentID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := b.Serve(ctx, s.serve); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wait.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *server) serve(_ context.Context, from, verb string, data []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forgot {
		return nil, &bus.Error{Code: bus.CodeUnknown, Text: "no such agent"}
	}
	if s.away || from != agentID {
		s.refusals++
		return nil, errors.New("not now")
	}
	defer func() {
		close(s.changed)
		s.changed = make(chan struct{})
	}()
	switch verb {
	case job.VerbHello:
		return answer(data, s.helloed)
	case job.VerbClaim:
		return answer(data, s.claimed)
	case job.VerbReport:
		return answer(data, s.reported)
	}
	return nil, errors.New("unknown verb")
}

func answer[Q, A any](data []byte, f func(*Q) A) ([]byte, error) {
	var q Q
	if err := json.Unmarshal(data, &q); err != nil {
		return nil, err
	}
	return json.Marshal(f(&q))
}

func (s *server) helloed(h *job.Hello) job.HelloReply {
	if before := s.hello; h.Number < 1 || h.Session == before.Session && h.Number <= before.Number {
		s.t.Errorf("hello %d of session %s after %d of %s", h.Number, h.Session, before.Number, before.Session)
	}
	if h.Session != s.session && h.Start < s.hello.Start { // it was long under way, and is of a process that has died
		return s.reply
	}
	if (h.Session == s.session) != (h.Start == s.hello.Start) {
		s.t.Errorf("hello of session %s, start %d, after %s, %d", h.Session, h.Start, s.session, s.hello.Start)
	}
	s.session, s.hello = h.Session, *h
	s.hellos++
	return s.reply
}

func (s *server) claimed(c *job.Claim) job.ClaimReply {
	j := s.jobs[c.Job]
	if c.Session != s.session || j == nil || j.State.Ended() || s.stop[c.Job] {
		return job.ClaimReply{Verdict: job.Drop}
	}
	if j.State != job.Running || j.Session != c.Session { // else it was given back
		j.Attempt++
	}
	j.Session, j.State = c.Session, job.Running
	was := *j
	return job.ClaimReply{Verdict: job.Go, Job: &was}
}

func (s *server) reported(r *job.Report) job.ReportReply {
	j := s.jobs[r.Job]
	if j == nil || r.Session != s.session || r.Session != j.Session || j.State.Ended() || s.stop[r.Job] {
		s.stopped = append(s.stopped, *r)
		return job.ReportReply{Verdict: job.Stop}
	}
	j.At = r.At
	if r.State.Ended() {
		j.State, j.Fault = r.State, r.Fault
		s.ends[r.Job] = append(s.ends[r.Job], *r)
	} else {
		s.reports[r.Job]++
	}
	return job.ReportReply{Verdict: job.Go}
}

// until waits until ok, which is called with mu held, is true.
func (s *server) until(what string, ok func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for {
		s.mu.Lock()
		done, changed := ok(), s.changed
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("waited too long for %s", what)
		case <-changed:
		}
	}
}

func newID(t testing.TB) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// submit queues a job.
func (s *server) submit(j job.Job) string {
	s.t.Helper()
	j.ID, j.Agent, j.State = newID(s.t), agentID, job.Queued
	s.mu.Lock()
	s.jobs[j.ID] = &j
	s.mu.Unlock()
	if err := s.bus.Enqueue(s.t.Context(), agentID, j.ID); err != nil {
		s.t.Fatal(err)
	}
	return j.ID
}

// end waits for the last report of a job.
func (s *server) end(id string) job.Report {
	s.t.Helper()
	s.until("the end of a job", func() bool { return len(s.ends[id]) > 0 })
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ends[id][0]
}

// do does a job that must end well.
func (s *server) do(j job.Job) job.Report {
	s.t.Helper()
	r := s.end(s.submit(j))
	if r.State != job.Done {
		s.t.Fatalf("%s: %s: %s", j.Kind, r.State, r.Fault)
	}
	return r
}

// fail does a job that must fail with a fault that has text in it.
func (s *server) fail(j job.Job, text string) job.Report {
	s.t.Helper()
	r := s.end(s.submit(j))
	if r.State != job.Failed || !strings.Contains(r.Fault, text) || strings.Contains(r.Fault, "\n") {
		s.t.Fatalf("%s: got %s %q, want failed with %q", j.Kind, r.State, r.Fault, text)
	}
	return r
}

func (s *server) recipient() age.Recipient {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := age.ParseX25519Recipient(s.hello.Recipient)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// seal seals secrets to the agent.
func (s *server) seal(secrets job.Secrets) []byte {
	s.t.Helper()
	text, err := json.Marshal(secrets)
	if err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	w, err := age.Encrypt(&b, s.recipient())
	if err == nil {
		_, err = w.Write(text)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		s.t.Fatal(err)
	}
	return []byte(b.String())
}

// seen waits until the agent says of an instance what ok wants.
func (s *server) seen(id string, ok func(job.Seen) bool) {
	s.t.Helper()
	s.until("the state of "+id, func() bool {
		for _, i := range s.hello.Instances {
			if i.Instance == id && ok(i) {
				return true
			}
		}
		return false
	})
}

func (s *server) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away, s.refusals = away, 0
}

// back ends setAway when the agent has ended. Its last words may still be on the bus, and are answered like those before them.
func (s *server) back() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away, s.refusals, s.session = false, 0, ""
}

// refused returns how many requests were not answered since setAway.
func (s *server) refused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusals
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// world is an agent's machine: its folders and its repository.
type world struct {
	dir      string
	identity *age.X25519Identity // reads the repository
}

func newWorld(t testing.TB) *world {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return &world{t.TempDir(), id}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }
func (w *world) url() string             { return "file://" + w.path("repo") }

// options are those of an agent for the node with that data directory, "" if none.
func (w *world) options(link agent.Link, dataDir string, log *slog.Logger) agent.Options {
	return agent.Options{
		Dial: func(context.Context) (agent.Link, error) { return link, nil }, Version: "slipcover test", Host: "host1", StateDir: w.path("state"), InstancesDir: w.path("instances"), Log: log,
		Locate: func(ctx context.Context) (*node.Node, error) {
			if dataDir == "" {
				return nil, node.ErrNotFound
			}
			return node.Locate(ctx, node.Options{DataDir: dataDir})
		},
		OpenRepo: agenttest.Opener(w.url(), w.identity), RepositoryURL: w.url(), CanRead: true, Backup: backup.Options{Indexes: true, Parallel: 2},
	}
}

// repo opens the repository for the test.
func (w *world) repo(t testing.TB) *repo.Repo {
	t.Helper()
	r, done, err := agenttest.Opener(w.url(), w.identity)(context.Background(), agent.Open{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	return r
}

// running is an agent at work in this process.
type running struct {
	stop   func()
	out    *syncWriter
	logger *slog.Logger
}

// said returns what the agent logged.
func (r *running) said() string {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	return r.out.text.String()
}

// start starts an agent and waits until it has said hello.
func (s *server) start(w *world, dataDir string, change ...func(*agent.Options)) *running {
	s.t.Helper()
	link, err := bus.Dial(s.t.Context(), bus.LinkOptions{Agent: agentID, InProcess: s.bus, AckWait: 3 * time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	r := &running{out: &syncWriter{}}
	r.logger = slog.New(slog.NewTextHandler(r.out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := w.options(link, dataDir, r.logger)
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s.mu.Lock()
	before := s.session
	s.mu.Unlock()
	go func() { done <- agent.Run(ctx, o) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("the agent ended with %v", err)
		}
	})
	s.t.Cleanup(func() {
		r.stop()
		if s.t.Failed() {
			s.t.Logf("log of the agent:\n%s", r.said())
		}
	})
	s.until("the first hello", func() bool { return s.session != before })
	return r
}

type syncWriter struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (w *syncWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

// nopLink is for agents that must not begin.
type nopLink struct{ agent.Link }

func (nopLink) Close() {}

// backupJob is the job of a new backup of the node.
func backupJob(t testing.TB) job.Job {
	id := newID(t)
	return job.Job{Kind: job.KindBackup, Instance: nodeID, Backup: id, Spec: job.Spec{RepoName: nodeName, Name: "b", Labels: map[string]string{job.LabelBackup: id, job.LabelProject: "p"}}}
}

// onlyBackup returns the one record that has the label of a backup.
func onlyBackup(t testing.TB, r *repo.Repo, id string) *manifest.Record {
	t.Helper()
	recs, bad, err := r.List(context.Background(), nodeName)
	if err != nil || len(bad) > 0 {
		t.Fatal(err, bad)
	}
	var found []*manifest.Record
	for _, rec := range recs {
		if rec.Labels[job.LabelBackup] == id {
			found = append(found, rec)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d records of backup %s", len(found), id)
	}
	return found[0]
}

const fixture = "../../testdata/couchdb-3.5.0"

// copyFixture returns a copy of the fixture's data directory.
func copyFixture(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(fixture+"/data")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func pin(t testing.TB, r *repo.Repo, id string) {
	t.Helper()
	locked(t, r, func(l *repo.Lock) error {
		return r.Pin(t.Context(), l, manifest.BackupID(id), repo.Pin{Reason: "test", Since: time.Now()})
	})
}

func unpin(t testing.TB, r *repo.Repo, id string) {
	t.Helper()
	locked(t, r, func(l *repo.Lock) error { return r.Unpin(t.Context(), l, manifest.BackupID(id)) })
}

func locked(t testing.TB, r *repo.Repo, do func(*repo.Lock) error) {
	t.Helper()
	l, err := r.Lock(t.Context(), nodeName, "test", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(do(l), l.Release(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// databases asks the agent for the databases of an instance.
func (s *server) databases(id string) []string {
	s.t.Helper()
	q, err := json.Marshal(job.Question{Databases: id})
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := s.bus.Ask(s.t.Context(), agentID, q)
	var a job.Answer
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	if err != nil || a.Fault != "" {
		s.t.Fatal(err, a.Fault)
	}
	return a.Databases
}
