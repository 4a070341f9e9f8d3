package agent_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// An agent is killed when it has stored a backup and could not say so, and its job is given
// up. The backup's deletion, which knows no id in the repository, removes what is stored
// of it, and nothing else.
func TestDeleteAfterGivingUp(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGKILL")
	}
	s, w := newServer(t), newWorld(t)
	data, may := copyFixture(t), w.path("may")
	hook := "until [ -e '" + may + "' ]; do sleep 0.1; done" // backups wait for that file
	last := s.child(w, data, hook)
	defer func() { last.end(syscall.SIGKILL) }()
	must(t, os.WriteFile(may, nil, 0o600))
	first := backupJob(t)
	s.do(first)

	var lost []job.Job
	for n := range 2 { // one that is made at its first attempt, and one at its third
		j := backupJob(t)
		j.Attempt = 2 * n
		must(t, os.Remove(may))
		id := s.submit(j)
		s.until("a claim", func() bool { return s.jobs[id].State == job.Running })
		s.setAway(true)
		must(t, os.WriteFile(may, nil, 0o600))
		await(t, func() bool { return slices.Contains(labels(t, w), j.Backup) })
		last.end(syscall.SIGKILL)
		s.mu.Lock()
		s.jobs[id].State = job.Failed
		s.mu.Unlock()
		s.back()
		lost = append(lost, j)
		last = s.child(w, data, hook)
	}

	spec := job.Spec{RepoName: nodeName}
	s.fail(job.Job{Kind: job.KindDeleteBackup, Spec: spec}, "names no backup")
	kept := spec
	for _, rec := range records(t, w) {
		kept.Keep = append(kept.Keep, string(rec.ID))
	}
	s.do(job.Job{Kind: job.KindDeleteBackup, Backup: lost[0].Backup, Spec: kept})
	if got, want := labels(t, w), []string{first.Backup, lost[0].Backup, lost[1].Backup}; !slices.Equal(got, want) {
		t.Errorf("with all to be kept, backups %q are left, want %q", got, want)
	}
	for range 2 { // nothing is there the second time
		for _, j := range lost {
			s.do(job.Job{Kind: job.KindDeleteBackup, Backup: j.Backup, Spec: spec})
		}
	}
	if got, want := labels(t, w), []string{first.Backup}; !slices.Equal(got, want) {
		t.Errorf("backups %q are left, want %q", got, want)
	}
	verify(t, w.repo(t), first.Backup)
}

// A backup that was given up before there was a repository is deleted.
func TestDeleteWithoutRepository(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	s.start(w, copyFixture(t), func(o *agent.Options) {
		o.OpenRepo = func(context.Context, agent.Open) (*repo.Repo, func(), error) {
			return nil, nil, fmt.Errorf("open it: %w", repo.ErrNoRepository)
		}
	})
	spec := job.Spec{RepoName: nodeName}
	s.do(job.Job{Kind: job.KindDeleteBackup, Backup: newID(t), Spec: spec})
	spec.RepoID = newID(t)
	s.fail(job.Job{Kind: job.KindDeleteBackup, Backup: newID(t), Spec: spec}, "no repository")
}

// A deletion that the storage refuses until a date has removed nothing, and says so.
func TestDeleteProtected(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	store := mem.NewRetaining()
	if _, err := repo.Init(t.Context(), store, repo.InitOptions{Recipients: []string{w.identity.Recipient().String()}}); err != nil {
		t.Fatal(err)
	}
	s.start(w, copyFixture(t), func(o *agent.Options) {
		o.OpenRepo = func(ctx context.Context, _ agent.Open) (*repo.Repo, func(), error) {
			r, err := repo.Open(ctx, store, repo.Options{RetainUntil: time.Now().Add(time.Hour)})
			return r, func() {}, err
		}
	})
	j := backupJob(t)
	s.do(j)
	r := s.fail(job.Job{Kind: job.KindDeleteBackup, Backup: j.Backup, Spec: job.Spec{RepoName: nodeName, RepoID: j.Backup}}, "protects the object until")
	if !r.Kept {
		t.Error("it is not said that all of the backup is still there")
	}
}

func records(t *testing.T, w *world) []*manifest.Record {
	t.Helper()
	recs, bad, err := w.repo(t).List(t.Context(), nodeName)
	if err != nil || len(bad) > 0 {
		t.Fatal(err, bad)
	}
	return recs
}

// labels are the ids in the service of the backups that the repository has, in the order
// in which they were made.
func labels(t *testing.T, w *world) (ids []string) {
	t.Helper()
	for _, rec := range records(t, w) {
		ids = append(ids, rec.Labels[job.LabelBackup])
	}
	return ids
}
