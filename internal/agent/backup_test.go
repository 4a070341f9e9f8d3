package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
)

func TestBackup(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	s.start(w, copyFixture(t))
	s.seen(nodeID, func(i job.Seen) bool { return i.UsedBytes > 0 && i.Databases > 0 && !i.CanRestart })
	j := backupJob(t)
	r := s.do(j)
	re := w.repo(t)
	rec := onlyBackup(t, re, j.Backup)
	if string(rec.ID) != j.Backup || r.Result.RepoID != j.Backup || r.Result.Type != "full" || r.Result.Size != rec.SizeBytes || r.Result.Checksum != rec.ManifestSHA256 ||
		r.Result.Databases != rec.DatabaseCount || r.At.BytesDone == 0 || r.Result.Finished.IsZero() {
		t.Errorf("got %+v of %+v", r.Result, rec.Summary)
	}
	if path := strings.TrimPrefix(r.Result.LocationRef, "file://"); !strings.HasPrefix(path, w.path("repo")+"/") {
		t.Errorf("location %q", r.Result.LocationRef)
	} else if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	verify(t, re, j.Backup)
	second := backupJob(t)
	second.Spec.Parent = j.Backup
	if r = s.do(second); r.Result.Type != "incremental" || r.Repository.ID != re.Config().ID || r.Repository.URL != w.url() {
		t.Errorf("got %+v %+v", r.Result, r.Repository)
	}
	s.until("the repository in a hello", func() bool { return s.hello.Repository.ID == re.Config().ID && s.hello.Repository.URL == w.url() })
}

func verify(t *testing.T, r *repo.Repo, id string) {
	t.Helper()
	rep, err := restore.Verify(context.Background(), restore.VerifyOptions{Repo: r, Record: onlyBackup(t, r, id)})
	if err != nil || !rep.OK() {
		t.Errorf("backup %s: %v %+v", id, err, rep)
	}
}

// Files that are looked at again, because their databases lack some, or that grow: what is
// done never is more than there is.
func TestProgressIsNoMoreThanAll(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	data := copyFixture(t)
	shards, err := filepath.Glob(filepath.Join(data, "shards", "*", "*.couch"))
	if err != nil || len(shards) == 0 {
		t.Fatal(shards, err)
	}
	must(t, os.Remove(shards[0]))
	s.start(w, data)
	r := s.do(backupJob(t))
	if p := r.At; r.Result.Damage == 0 || p.Files == 0 || p.FilesDone > p.Files || p.BytesDone == 0 || p.BytesDone > p.Bytes {
		t.Errorf("%+v with %d damaged", p, r.Result.Damage)
	}
}

// A parent that is gone, or that the node knows too little of, costs no backup.
func TestParentGone(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	s.start(w, copyFixture(t))
	s.do(backupJob(t))
	j := backupJob(t)
	j.Spec.Parent = newID(t)
	r := s.do(j)
	if r.Result.Type != "incremental" || len(r.Result.Notes) == 0 || !strings.Contains(r.Result.Notes[0], j.Spec.Parent) {
		t.Errorf("got %+v", r.Result)
	}
}

// An attempt that was begun before under the same number, and came to nothing, is made
// under another id; one that was committed is reported.
func TestSameAttemptTwice(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	s.start(w, copyFixture(t))
	j := backupJob(t)
	first := s.do(j)
	if again := s.do(j); again.Result.RepoID != first.Result.RepoID {
		t.Errorf("made again: %+v", again.Result)
	}
	onlyBackup(t, w.repo(t), j.Backup)
}

func TestRefused(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	s.start(w, copyFixture(t), func(o *agent.Options) { o.Accept = []string{"http://127.0.0.1:1/v1/"} })
	other := backupJob(t)
	other.Instance = newID(t)
	s.fail(other, "does not have the instance")
	name := backupJob(t)
	name.Spec.RepoName = "../up"
	s.fail(name, "names no instance")
	token := backupJob(t)
	token.Spec.Repository = job.Repository{URL: "swift://box", Storage: "http://127.0.0.1:1/v1/AUTH_x"}
	s.fail(token, "no token")
	sealed := backupJob(t)
	sealed.Spec.Sealed = []byte("nonsense")
	s.fail(sealed, "encrypted to another agent's key")
	s.do(backupJob(t))
	id := backupJob(t)
	id.Spec.Repository.ID = newID(t)
	s.fail(id, "which the job is for")
	s.fail(job.Job{Kind: "dance"}, "does not know jobs of the kind")
	s.fail(job.Job{Kind: job.KindAdopt, Spec: job.Spec{RepoName: nodeName, RepoID: newID(t)}}, "no such backup")
}

func TestHooks(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	out := w.path("hooks")
	s.start(w, copyFixture(t), func(o *agent.Options) {
		o.HookBefore = `echo "before $SLIPCOVER_BACKUP $SLIPCOVER_INSTANCE" >>` + out
		o.HookAfter = `echo "after $SLIPCOVER_OUTCOME" >>` + out + `; echo almost; echo "went wrong" >&2; exit 3`
	})
	j := backupJob(t)
	r := s.do(j)
	if got := read(t, out); got != "before "+j.Backup+" node1\nafter completed\n" {
		t.Errorf("got %q", got)
	}
	if len(r.Result.Notes) != 1 || r.Result.Notes[0] != "the hook after the backup failed: exit status 3: went wrong" {
		t.Errorf("notes %q", r.Result.Notes)
	}
}

// A hook, or the command that restarts CouchDB, that leaves something running has not
// failed.
func TestCommandsThatStartSomething(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	pids := w.path("pids")
	line := "sleep 600 & echo $! >>" + pids
	t.Cleanup(func() {
		for _, pid := range strings.Fields(read(t, pids)) {
			if n, err := strconv.Atoi(pid); err == nil {
				if p, err := os.FindProcess(n); err == nil {
					_ = p.Kill()
				}
			}
		}
	})
	s.start(w, copyFixture(t), func(o *agent.Options) { o.HookBefore, o.HookAfter, o.RestartCommand = line, line, line })
	if r := s.do(backupJob(t)); len(r.Result.Notes) > 0 {
		t.Errorf("notes %q", r.Result.Notes)
	}
	s.do(job.Job{Kind: job.KindRestart, Instance: nodeID})
	if n := len(strings.Fields(read(t, pids))); n != 3 {
		t.Errorf("%d commands ran, want 3", n)
	}
}

func TestHookBeforeFails(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	out := w.path("hooks")
	s.start(w, copyFixture(t), func(o *agent.Options) {
		o.HookBefore = "echo 'no room'; exit 7"
		o.HookAfter = "echo $SLIPCOVER_OUTCOME >>" + out
	})
	s.fail(backupJob(t), "the hook before it failed: exit status 7: no room")
	if got := read(t, out); got != "failed\n" {
		t.Errorf("got %q", got)
	}
	if recs, _, err := w.repo(t).List(t.Context(), ""); err != nil || len(recs) > 0 {
		t.Error(recs, err)
	}
}

// A hook that takes too long is ended with what it started.
func TestHookTimeout(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	pid := w.path("pid")
	data := copyFixture(t)
	for limit := time.Second; ; limit *= 2 {
		a := s.start(w, data, func(o *agent.Options) {
			o.HookBefore = "sleep 600 & echo $! >" + pid + "; wait"
			o.HookTimeout = limit
		})
		s.fail(backupJob(t), "longer than "+limit.String())
		a.stop()
		if text, err := os.ReadFile(pid); err == nil && len(text) > 0 {
			gone(t, strings.TrimSpace(string(text)))
			return
		} // else the hook did not even begin in that time
	}
}

// gone waits until a process has ended.
func gone(t *testing.T, pid string) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		text, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if os.IsNotExist(err) || strings.Contains(string(text), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %s is still there", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A job waits for the lock of another process.
func TestLocked(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	a := s.start(w, copyFixture(t))
	s.do(backupJob(t))
	lock, err := w.repo(t).Lock(t.Context(), nodeName, "test", "")
	if err != nil {
		t.Fatal(err)
	}
	id := s.submit(backupJob(t))
	await(t, func() bool { return strings.Contains(a.said(), "job waits for the lock") })
	s.mu.Lock()
	ended := len(s.ends[id])
	s.mu.Unlock()
	if ended > 0 {
		t.Error("it did not wait")
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := s.end(id); r.State != job.Done {
		t.Error(r.Fault)
	}
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited too long")
		}
	}
}

// sleepy makes an agent whose backups wait in their first hook until the file is there.
func sleepy(gate string) func(*agent.Options) {
	return func(o *agent.Options) { o.HookBefore = "until [ -e " + gate + " ]; do sleep 0.05; done" }
}

// A server stops a job: it ends, is out of the queue, and nothing more is said of it.
func TestStop(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	a := s.start(w, copyFixture(t), sleepy(w.path("gate")))
	id := s.submit(backupJob(t))
	s.until("a report", func() bool { return s.reports[id] > 0 })
	s.mu.Lock()
	s.stop[id] = true
	s.mu.Unlock()
	s.until("the job's end", func() bool { return len(s.hello.Running) == 0 })
	await(t, func() bool { return strings.Contains(a.said(), "job stopped by a server") })
	if err := os.WriteFile(w.path("gate"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.do(backupJob(t))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ends[id]) > 0 || s.jobs[id].Attempt != 1 {
		t.Errorf("got %+v, %d attempts", s.ends[id], s.jobs[id].Attempt)
	}
}

// A server stops a job whose backup is stored already: it is told.
func TestStoppedTooLate(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	began, gate := w.path("began"), w.path("gate")
	s.start(w, copyFixture(t), func(o *agent.Options) {
		o.HookAfter = "touch " + began + "; until [ -e " + gate + " ]; do sleep 0.05; done"
	})
	j := backupJob(t)
	id := s.submit(j)
	await(t, func() bool { _, err := os.Stat(began); return err == nil })
	s.mu.Lock()
	s.stop[id] = true
	s.mu.Unlock()
	s.until("a report that is answered by stop", func() bool { return len(s.stopped) > 0 })
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.until("the last report", func() bool {
		last := s.stopped[len(s.stopped)-1]
		return last.State == job.Done && last.Result != nil
	})
	s.until("the job's end", func() bool { return len(s.hello.Running) == 0 })
	verify(t, w.repo(t), j.Backup)
}

// An agent that ends in the middle of a job says nothing; the next one does it.
func TestLeftToTheNextStart(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	data := copyFixture(t)
	a := s.start(w, data, sleepy(w.path("gate")))
	j := backupJob(t)
	id := s.submit(j)
	s.until("a report", func() bool { return s.reports[id] > 0 })
	a.stop()
	s.mu.Lock()
	if len(s.ends[id]) > 0 {
		t.Errorf("it reported %+v", s.ends[id])
	}
	s.mu.Unlock()
	s.start(w, data)
	if r := s.end(id); r.State != job.Done {
		t.Error(r.Fault)
	}
	if s.jobs[id].Attempt != 2 {
		t.Errorf("%d attempts", s.jobs[id].Attempt)
	}
	if rec := onlyBackup(t, w.repo(t), j.Backup); string(rec.ID) == j.Backup {
		t.Error("the second attempt has the id of the first")
	}
	verify(t, w.repo(t), j.Backup)
}

// A backup that was committed, and whose report no server took before the agent ended,
// is not made again.
func TestCommittedAndNotReported(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	data := copyFixture(t)
	a := s.start(w, data, sleepy(w.path("gate")))
	j := backupJob(t)
	id := s.submit(j)
	s.until("a report", func() bool { return s.reports[id] > 0 })
	s.setAway(true)
	if err := os.WriteFile(w.path("gate"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return strings.Contains(a.said(), "job done") })
	a.stop()
	s.back()
	s.start(w, data)
	r := s.end(id)
	if r.State != job.Done || r.Result.RepoID != j.Backup || s.attempts(id) != 2 {
		t.Errorf("got %s %q %+v after %d attempts", r.State, r.Fault, r.Result, s.attempts(id))
	}
	onlyBackup(t, w.repo(t), j.Backup)
}

// While no server answers, claims wait and the last report is repeated.
func TestServerAway(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	s.start(w, copyFixture(t), sleepy(w.path("gate")))
	first := s.submit(backupJob(t))
	s.until("a report", func() bool { return s.reports[first] > 0 })
	s.setAway(true)
	second := s.submit(job.Job{Kind: job.KindAdopt, Spec: job.Spec{RepoName: nodeName, RepoID: newID(t)}})
	if err := os.WriteFile(w.path("gate"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return s.refused() > 5 })
	s.setAway(false)
	if r := s.end(first); r.State != job.Done {
		t.Error(r.Fault)
	}
	s.end(second)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ends[first]) != 1 || s.jobs[first].Attempt != 1 {
		t.Errorf("%d ends, %d attempts", len(s.ends[first]), s.jobs[first].Attempt)
	}
}

// Only one agent runs on a state directory.
func TestTwoAgents(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	a := s.start(w, copyFixture(t))
	o := w.options(nopLink{}, "", a.logger)
	if err := agent.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("got %v", err)
	}
}

func TestDeleteAndAdopt(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	s.start(w, copyFixture(t), func(o *agent.Options) {
		o.RepositoryURL = "sftp://host/as-the-settings-have-it" // which the storage shows as w.url()
		o.Accept = []string{w.path("elsewhere")}
	})
	j := backupJob(t)
	made := s.do(j)
	spec := job.Spec{RepoName: nodeName, RepoID: made.Result.RepoID, Repository: *made.Repository}
	adopted := s.do(job.Job{Kind: job.KindAdopt, Project: "p", Spec: spec})
	s.fail(job.Job{Kind: job.KindAdopt, Project: "q", Spec: spec}, "another project")
	ofMoment := spec // whatever is stored there by then, so that it isn't the backup that tells whose it is
	ofMoment.At = time.Now()
	s.fail(job.Job{Kind: job.KindCreate, Instance: newID(t), Project: "q", Spec: ofMoment}, "another project")
	if adopted.Result.Checksum != made.Result.Checksum || adopted.Result.LocationRef != made.Result.LocationRef || adopted.Repository.ID != made.Repository.ID {
		t.Errorf("got %+v, want %+v", adopted.Result, made.Result)
	}
	r := w.repo(t)
	pin(t, r, made.Result.RepoID)
	if got := s.fail(job.Job{Kind: job.KindDeleteBackup, Instance: nodeID, Spec: spec}, "pinned"); !got.Kept {
		t.Error("it is not said that all of the backup is still there")
	}
	unpin(t, r, made.Result.RepoID)
	for range 2 { // gone already is no error
		s.do(job.Job{Kind: job.KindDeleteBackup, Instance: nodeID, Spec: spec})
	}
	if recs, _, err := r.List(t.Context(), ""); err != nil || len(recs) > 0 {
		t.Error(recs, err)
	}
	other := spec
	other.Repository.URL = "file://" + w.path("elsewhere")
	s.fail(job.Job{Kind: job.KindDeleteBackup, Instance: nodeID, Spec: other}, "no such folder")
}

// A fault shows no password, and neither does the log.
func TestFaultsAreMasked(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	a := s.start(w, copyFixture(t), func(o *agent.Options) {
		o.RepositoryURL = ""
		o.OpenRepo = func(context.Context, agent.Open) (*repo.Repo, func(), error) {
			return nil, nil, os.NewSyscallError("sftp://user:geheim@host/x: tok-123", storage.ErrUnavailable)
		}
	})
	j := backupJob(t)
	j.Spec.Repository = job.Repository{URL: "swift://box", Storage: "http://127.0.0.1:1/v1/AUTH_x"}
	j.Spec.Sealed = s.seal(job.Secrets{Token: "tok-123"})
	r := s.fail(j, "user:***@host/x: ***")
	if strings.Contains(r.Fault+a.said(), "geheim") || strings.Contains(r.Fault+a.said(), "tok-123") {
		t.Errorf("%q\n%s", r.Fault, a.said())
	}
}
