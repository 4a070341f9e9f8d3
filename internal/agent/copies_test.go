package agent_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/agent/agenttest"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
)

// copies are an agent's further repositories, of which the last one may be away.
type copies struct {
	t      *testing.T
	w      *world
	names  []string
	away   atomic.Bool
	opened atomic.Int64
}

// newCopies makes repositories.
func newCopies(t *testing.T, w *world, names ...string) *copies {
	t.Helper()
	c := &copies{t: t, w: w, names: names}
	for _, name := range names {
		_, done, err := agenttest.Opener("file://"+w.path(name), w.identity)(t.Context(), agent.Open{Make: true})
		if err != nil {
			t.Fatal(err)
		}
		done()
	}
	return c
}

func (c *copies) options(o *agent.Options) {
	o.OpenCopies = func(ctx context.Context, _ *repo.Repo) (list []agent.Place, closeAll func()) {
		c.opened.Add(1)
		var all []func()
		for i, name := range c.names {
			p := agent.Place{URL: "file://" + c.w.path(name)}
			if p.Err = storage.ErrUnavailable; i < len(c.names)-1 || !c.away.Load() {
				var done func()
				if p.Repo, done, p.Err = agenttest.Opener(p.URL, c.w.identity)(ctx, agent.Open{}); p.Err == nil {
					all = append(all, done)
				}
			}
			list = append(list, p)
		}
		return list, func() {
			for _, done := range all {
				done()
			}
		}
	}
}

func (c *copies) ids(name string) []manifest.BackupID {
	c.t.Helper()
	r, done, err := agenttest.Opener("file://"+c.w.path(name), c.w.identity)(c.t.Context(), agent.Open{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer done()
	ids, err := r.IDs(c.t.Context(), nodeName)
	if err != nil {
		c.t.Fatal(err)
	}
	return ids
}

// Each backup is copied to the further repositories. One that is away fails no backup, is
// told, and made up for by the next one. A deletion leaves the copies.
func TestBackupsAreCopied(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	c := newCopies(t, w, "near", "far")
	a := s.start(w, copyFixture(t), c.options)
	var want []manifest.BackupID
	for i, away := range []bool{false, true, false} {
		c.away.Store(away)
		r := s.do(backupJob(t))
		want = append(want, manifest.BackupID(r.Result.RepoID))
		told := slices.ContainsFunc(r.Result.Notes, func(n string) bool { return strings.Contains(n, "could not be copied to file://"+w.path("far")) })
		if told != away || (r.Result.Uncopied == 1) != away || r.Result.Uncopied > 1 {
			t.Errorf("backup %d, away %v: %d uncopied, notes %q", i, away, r.Result.Uncopied, r.Result.Notes)
		}
		if near := c.ids("near"); !slices.Equal(near, want) {
			t.Errorf("backup %d: near has %v, want %v", i, near, want)
		}
		if far := c.ids("far"); !away && !slices.Equal(far, want) || away && len(far) != i {
			t.Errorf("backup %d, away %v: far has %v of %v", i, away, far, want)
		}
	}
	if said := a.said(); !strings.Contains(said, "could not be copied") {
		t.Error("nothing in the log")
	}
	far, done, err := agenttest.Opener("file://"+w.path("far"), w.identity)(t.Context(), agent.Open{})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	for _, id := range want {
		verify(t, far, string(id))
	}
	s.do(job.Job{Kind: job.KindDeleteBackup, Spec: job.Spec{RepoName: nodeName, RepoID: string(want[0])}})
	if got := c.ids("far"); !slices.Equal(got, want) {
		t.Errorf("after a deletion far has %v, want %v", got, want)
	}
}

// An attempt that finds the backup made copies it, as the one before may not have.
func TestCopiedByALaterAttempt(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	c := newCopies(t, w, "far")
	s.start(w, copyFixture(t), c.options)
	c.away.Store(true)
	j := backupJob(t)
	if r := s.do(j); r.Result.Uncopied != 1 {
		t.Fatalf("it was copied: %+v", r.Result)
	}
	c.away.Store(false)
	j.Attempt = 1
	if r := s.do(j); r.Result.Uncopied != 0 || r.Result.RepoID != j.Backup {
		t.Errorf("got %+v", r.Result)
	}
	if got := c.ids("far"); !slices.Equal(got, []manifest.BackupID{manifest.BackupID(j.Backup)}) {
		t.Errorf("far has %v", got)
	}
}
