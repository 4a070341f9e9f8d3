package server_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// Two projects whose agents share a repository have nothing of each other's.
func TestProjectsKeepApart(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	ours, theirs := join(t, s, "db1", "p"), join(t, s, "db2", "q")
	parent := backUp(t, s, ours, "p", "r1", server.NewBackup{})
	ours.helloAs(true, 1<<30)
	theirs.helloAs(true, 1<<50)

	i, err := s.CreateInstance(t.Context(), who("p"), server.NewInstance{Name: "copy", Flavor: "1", VolumeGB: 1, Backup: parent.ID})
	if err != nil || i.Agent != ours.id {
		t.Fatalf("a restore was given to %+v, %v", i, err)
	}
	ours.do(job.KindCreate, job.Report{State: job.Done, URL: "http://127.0.0.1:1"})
	if _, err := s.CreateInstance(t.Context(), who("p"), server.NewInstance{Name: "there", Flavor: "1", VolumeGB: 1, Agent: theirs.id}); kindOf(err) != server.Invalid {
		t.Errorf("an instance on the other's agent: %v, want Invalid", err)
	}
	const repoID = "01890000-0000-7000-8000-000000000000"
	if _, err := s.AdoptBackup(t.Context(), who("r"), server.Adoption{Name: "old", Location: "file:///backups/backups/elsewhere/" + repoID + "/manifest.json.zst"}); kindOf(err) != server.NotFound {
		t.Errorf("a backup taken in by a project without an agent: %v, want NotFound", err)
	}

	// A backup that says it was made on the other's isn't deleted with it.
	child := *parent
	child.ID, child.RepoID, child.Project, child.Instance, child.Parent = uuid.NewString(), "r2", "q", theirs.node, parent.ID
	table, err := b.Table(t.Context(), "backups")
	if err != nil {
		t.Fatal(err)
	}
	put(t, table, child.ID, child)
	servertest.Eventually(t, "the child is known", func() bool {
		_, err := s.Backup(t.Context(), who("q"), child.ID)
		return err == nil
	})
	if err := s.DeleteBackup(t.Context(), who("p"), parent.ID); err != nil {
		t.Fatal(err)
	}
	ours.do(job.KindDeleteBackup, job.Report{State: job.Done})
	if c, err := s.Backup(t.Context(), who("q"), child.ID); err != nil || c.Status != job.BackupCompleted {
		t.Errorf("the other's backup: %+v, %v", c, err)
	}

	// Without an agent of its own, the other's doesn't remove a project's backup.
	last := backUp(t, s, ours, "p", "r3", server.NewBackup{})
	if err := s.RemoveAgent(t.Context(), ours.id); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteBackup(t.Context(), who("p"), last.ID); kindOf(err) != server.Busy {
		t.Errorf("a deletion without an agent: %v, want Busy", err)
	}
	if jobs := s.Jobs(who("q")); len(jobs) > 0 {
		t.Errorf("the other project has jobs: %+v", jobs)
	}
}

// Retention keeps the newest backup that was proven, and what another was made on.
func TestRetentionKeepsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Enabled: true, Cron: "@hourly", Keep: job.Keep{Last: 1}})
	if err != nil {
		t.Fatal(err)
	}
	fire := func(repoID string) string { t.Helper(); return s.fire(p, c, repoID) }
	kept := func(want ...string) {
		t.Helper()
		var got []string
		page, _ := s.Backups(who("p"), server.BackupFilter{Limit: 10})
		for _, b := range page {
			if b.Status.Usable() {
				got = append(got, b.RepoID)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("there are %q, want %q", got, want)
		}
	}
	r0 := fire("r0")
	if _, err := s.Prove(t.Context(), who("p"), r0); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindProve, job.Report{State: job.Done, Proof: &job.Proof{At: s.now(), OK: true, Databases: 3, Documents: 10}})
	r1 := fire("r1") // r0 is the one that is proven
	kept("r0", "r1")
	backUp(t, s, p, "p", "r1-child", server.NewBackup{Parent: r1})
	fire("r2") // r1 has a child
	kept("r0", "r1", "r1-child", "r2")
	fire("r3")
	p.do(job.KindDeleteBackup, job.Report{State: job.Done})
	kept("r0", "r1", "r1-child", "r3")
}
