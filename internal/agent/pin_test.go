package agent_test

import (
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

// A backup is pinned in the repository, as the command line has it, and unpinned, each as often as it is asked for. What the
// agent tells of pins, its own and those that others made, is what is there.
func TestPin(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	s.start(w, copyFixture(t))
	j := backupJob(t)
	made := s.do(j)
	if made.Pins == nil || len(made.Pins) > 0 {
		t.Errorf("pins of the first backup: %+v", made.Pins)
	}
	r, id := w.repo(t), manifest.BackupID(made.Result.RepoID)
	spec := job.Spec{RepoName: nodeName, RepoID: string(id), Repository: *made.Repository}
	since := time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)
	for _, reason := range []string{"before the upgrade", "before the upgrade", "legal hold"} {
		of := spec
		of.Pin = &job.Pin{Reason: reason, Since: since}
		s.do(job.Job{Kind: job.KindPin, Spec: of})
		if p, err := r.Pinned(t.Context(), nodeName, id); err != nil || *p != (repo.Pin{Reason: reason, Since: since}) {
			t.Errorf("pinned: %+v, %v", p, err)
		}
	}
	if got := s.fail(job.Job{Kind: job.KindDeleteBackup, Spec: spec}, "pinned"); !got.Kept || got.Pin == nil || got.Pin.Reason != "legal hold" || !got.Pin.Since.Equal(since) {
		t.Errorf("the refusal says %+v", got)
	}
	if got := s.do(job.Job{Kind: job.KindAdopt, Project: "p", Spec: spec}); got.Pin == nil || got.Pin.Reason != "legal hold" {
		t.Errorf("read in, it says %+v", got.Pin)
	}
	locked(t, r, func(l *repo.Lock) error { // as others may
		return r.Pin(t.Context(), l, id, repo.Pin{Reason: strings.Repeat("much\n", 1000), Since: since})
	})
	next := s.do(backupJob(t))
	if p, ok := next.Pins[string(id)]; len(next.Pins) != 1 || !ok || !strings.HasPrefix(p.Reason, "much ") || strings.Contains(p.Reason, "\n") || len(p.Reason) > 1000 {
		t.Errorf("pins that the next backup tells: %+v", next.Pins)
	}
	for range 2 {
		s.do(job.Job{Kind: job.KindUnpin, Spec: spec})
		if p, err := r.Pinned(t.Context(), nodeName, id); err != nil || p != nil {
			t.Errorf("unpinned: %+v, %v", p, err)
		}
	}
	s.do(job.Job{Kind: job.KindDeleteBackup, Spec: spec})
	gone := spec
	gone.Pin = &job.Pin{Reason: "too late"}
	s.fail(job.Job{Kind: job.KindPin, Spec: gone}, repo.ErrNoBackup.Error())
	s.fail(job.Job{Kind: job.KindUnpin, Spec: gone}, repo.ErrNoBackup.Error())
	s.fail(job.Job{Kind: job.KindPin, Spec: job.Spec{RepoName: nodeName, RepoID: newID(t)}}, "doesn't say why")
	s.fail(job.Job{Kind: job.KindPin, Spec: job.Spec{RepoName: nodeName, Pin: gone.Pin}}, "names no backup")
}

// An agent is killed when it has pinned a backup, or unpinned it, and could not say so: its next start says it, and the pin is
// as it was asked for.
func TestPinKilled(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGKILL")
	}
	s, w := newServer(t), newWorld(t)
	c := s.child(w, copyFixture(t))
	defer func() { c.end(syscall.SIGKILL) }()
	j := backupJob(t)
	made := s.do(j)
	r, id := w.repo(t), manifest.BackupID(made.Result.RepoID)
	for n, kind := range []job.Kind{job.KindPin, job.KindUnpin} {
		of := job.Job{Kind: kind, Spec: job.Spec{RepoName: nodeName, RepoID: string(id), Repository: *made.Repository, Pin: &job.Pin{Reason: fmt.Sprint("for ", n)}}}
		there := func() bool {
			p, err := r.Pinned(t.Context(), nodeName, id)
			if err != nil {
				t.Fatal(err)
			}
			return p != nil
		}
		hold, err := r.Lock(t.Context(), nodeName, "test", "") // until its claim was answered, and no report is taken any more
		if err != nil {
			t.Fatal(err)
		}
		job := s.submit(of)
		s.until("a claim", func() bool { return s.jobs[job].Attempt == 1 })
		s.setAway(true)
		if err := hold.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { return there() == (n == 0) })
		c.end(syscall.SIGKILL)
		s.back()
		if s.ended(job) {
			t.Fatal("the agent could say that it was done")
		}
		c = s.child(w, copyFixture(t))
		if got := s.end(job); got.State != "done" {
			t.Fatalf("%s: %s\n%s", kind, got.Fault, c.out.String())
		}
		if s.attempts(job) < 2 || there() != (n == 0) {
			t.Errorf("%s after %d attempts: pinned is %v", kind, s.attempts(job), there())
		}
	}
}
