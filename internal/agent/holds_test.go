package agent_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/agent/agenttest"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/repo"
)

// gate stops jobs that name the repository by its id, and don't make it, when they open it.
type gate struct {
	w      *world
	inside atomic.Int64 // jobs that have come to it
	open   chan struct{}
}

func newGate(w *world) *gate { return &gate{w: w, open: make(chan struct{})} }

func (g *gate) options(o *agent.Options) {
	opener := agenttest.Opener(g.w.url(), g.w.identity)
	o.OpenRepo = func(ctx context.Context, in agent.Open) (*repo.Repo, func(), error) {
		if in.Repository.ID != "" && !in.Make {
			g.inside.Add(1)
			select {
			case <-g.open:
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
		return opener(ctx, in)
	}
}

// spec is of a job that the gate stops.
func (g *gate) spec(t *testing.T, repoID string) job.Spec {
	t.Helper()
	return job.Spec{RepoName: nodeName, RepoID: repoID, Repository: job.Repository{ID: g.w.repo(t).Config().ID}}
}

// Restores and restore tests of an instance, however many, hold off neither its backups nor
// the deletion of others of them; but that of the one that they read.
func TestRestoresHoldOffNoBackups(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	g := newGate(w)
	s.start(w, copyFixture(t), g.options, func(o *agent.Options) { o.CouchDBBin = w.path("none") }) // none is left running
	first, second := s.do(backupJob(t)).Result.RepoID, s.do(backupJob(t)).Result.RepoID
	var reads []string
	for n := range 10 {
		j := job.Job{Kind: job.KindProve, Spec: g.spec(t, second)}
		if n%2 == 1 {
			j = job.Job{Kind: job.KindCreate, Instance: newID(t), Spec: g.spec(t, second)}
		}
		reads = append(reads, s.submit(j))
	}
	await(t, func() bool { return g.inside.Load() == 2 })
	of := s.submit(job.Job{Kind: job.KindDeleteBackup, Spec: job.Spec{RepoName: nodeName, RepoID: second}})
	s.until("the claim of the deletion", func() bool { return s.jobs[of].State == job.Running })
	third := backupJob(t)
	s.do(third)
	s.do(job.Job{Kind: job.KindDeleteBackup, Spec: job.Spec{RepoName: nodeName, RepoID: first}})
	s.mu.Lock()
	if len(s.ends[of]) > 0 {
		t.Errorf("a backup was deleted while it was read: %+v", s.ends[of])
	}
	s.mu.Unlock()
	onlyBackup(t, w.repo(t), second)
	if n := g.inside.Load(); n != 2 {
		t.Errorf("%d restores at once", n)
	}
	close(g.open)
	if r := s.end(of); r.State != job.Done {
		t.Error(r.Fault)
	}
	for _, id := range reads {
		s.end(id)
	}
	verify(t, w.repo(t), third.Backup)
}

// Jobs that wait for one another leave room for those of other instances, and are all done,
// once.
func TestWaitingJobsLeaveRoom(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	g := newGate(w)
	s.start(w, copyFixture(t), g.options)
	stored := s.do(backupJob(t)).Result.RepoID
	ids := []string{s.submit(job.Job{Kind: job.KindDeleteBackup, Spec: g.spec(t, stored)})}
	await(t, func() bool { return g.inside.Load() == 1 })
	for range 12 {
		ids = append(ids, s.submit(job.Job{Kind: job.KindDeleteBackup, Spec: job.Spec{RepoName: nodeName, RepoID: newID(t)}}))
	}
	s.fail(job.Job{Kind: job.KindAdopt, Spec: job.Spec{RepoName: "node2", RepoID: newID(t)}}, "no such backup")
	close(g.open)
	for _, id := range ids {
		if r := s.end(id); r.State != job.Done {
			t.Error(r.Fault)
		}
	}
	s.until("the jobs' end", func() bool { return len(s.hello.Running) == 0 })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if len(s.ends[id]) != 1 || s.jobs[id].Attempt != 1 {
			t.Errorf("%d ends, %d attempts", len(s.ends[id]), s.jobs[id].Attempt)
		}
	}
}
