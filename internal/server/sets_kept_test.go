package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/server"
)

// foundOf is what a repository has of a backup that a job of a set made.
func foundOf(j *job.Job, id, instance, node string, nodes ...string) server.Found {
	r := &manifest.Record{}
	r.ID, r.Instance, r.Name, r.Started, r.Finished, r.Labels = manifest.BackupID(id), instance, j.Spec.Name, time.Now().UTC(), time.Now().UTC(), j.Spec.Labels
	r.NodeName, r.Nodes = node, nodes
	return server.Found{Record: r, Repository: job.Repository{ID: "repo-1", URL: "file:///backups"}, LocationRef: "file:///backups/" + id}
}

// A set of which a backup is lost isn't whole after a rebuild, though no record that is left says which nodes the cluster
// has or what its own is called; and it is when the rest was in another repository.
func TestRebuiltSetIsNotWrongly(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	c := joinThree(t, s, "p")
	i, err := s.CreateSet(t.Context(), who("p"), server.NewSet{Cluster: "a", Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	var found []server.Found
	for n, p := range c.players {
		id := fmt.Sprintf("0199aaaa-0000-7000-8000-00000000000%d", n)
		found = append(found, foundOf(p.do(job.KindBackup, made(id)), id, fmt.Sprintf("db%d", n), ""))
	}
	if i = c.set(i.ID); i.State != server.SetWhole {
		t.Fatalf("made: %+v", i)
	}
	b := openBus(t)
	got, err := server.Rebuild(t.Context(), b, "p", found[:2])
	if err != nil || got.Sets != 1 {
		t.Fatalf("rebuilt: %+v, %v", got, err)
	}
	again := start(t, b, server.Config{})
	is, err := again.Set(t.Context(), who("p"), i.ID)
	if err != nil || is.State != server.SetPartial || is.Usable() != 2 || len(is.Members) != 3 {
		t.Fatalf("two of three backups: %+v, %v", is, err)
	}
	if _, err := server.Rebuild(t.Context(), b, "p", found); err != nil {
		t.Fatal(err)
	}
	whole := start(t, b, server.Config{})
	if is, err = whole.Set(t.Context(), who("p"), i.ID); err != nil || is.State != server.SetWhole || len(is.Members) != 3 {
		t.Errorf("all three backups: %+v, %v", is, err)
	}
}

// What a repository has of another project under the id of a set isn't of the set, nor deleted with it.
func TestSetHasNothingOfOthers(t *testing.T) {
	t.Parallel()
	id := "0199aaaa-0000-7000-8000-0000000000aa"
	of := func(n int, project string) server.Found {
		labels := map[string]string{job.LabelBackup: fmt.Sprintf("b%d", n), job.LabelProject: project, job.LabelInstance: "i1", job.LabelInstanceName: "db1",
			job.LabelSet: id, job.LabelCluster: "a"}
		return foundOf(&job.Job{Spec: job.Spec{Name: "n db1", Labels: labels}}, fmt.Sprintf("0199aaaa-0000-7000-8000-00000000000%d", n), fmt.Sprintf("db%d", n), "couchdb@a", "couchdb@a")
	}
	b := openBus(t)
	if _, err := server.Rebuild(t.Context(), b, "p", []server.Found{of(1, "p"), of(2, "q")}); err != nil {
		t.Fatal(err)
	}
	s := start(t, b, server.Config{})
	is, err := s.Set(t.Context(), who("p"), id)
	if err != nil || len(is.Members) != 1 || is.Backups[0] == nil || is.Backups[0].Project != "p" {
		t.Errorf("the set: %+v, %v", is, err)
	}
}

// A backup that a running restore reads stays, alone and in a set, and none begins of what is being deleted.
func TestRestoreHoldsItsBackups(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	c := joinThree(t, s, "p")
	target := join(t, s, "target", "p")
	ctx, me := t.Context(), who("p")
	i, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "a", Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	plan := "cluster: a\nbackups:\n"
	for n, p := range c.players {
		id := fmt.Sprintf("0199aaaa-0000-7000-8000-00000000000%d", n)
		plan += fmt.Sprintf("- node: %s\n  instance: p-db%d\n  backup: %s\n", nodeNames[n], n+1, id)
		p.do(job.KindBackup, made(id))
	}
	q := server.RestoreRequest{Plan: plan + "nodes:\n- name: couchdb@x\n", Agents: map[string]string{"couchdb@x": "target"}}
	r, err := s.StartRestore(ctx, me, q)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteSet(ctx, me, i.ID); kindOf(err) != server.Busy || !strings.Contains(err.Error(), "restored") {
		t.Errorf("a set that is being restored: %v, want Busy", err)
	}
	target.do(job.KindRestore, job.Report{State: job.Done})
	target.do(job.KindRestore, job.Report{State: job.Done})
	if r, err = s.Restore(ctx, me, r.ID); err != nil || r.State != job.Done {
		t.Fatalf("the restore: %+v, %v", r, err)
	}
	if err := s.DeleteSet(ctx, me, i.ID); err != nil {
		t.Fatalf("a set that was restored: %v", err)
	}
	if _, err := s.StartRestore(ctx, me, q); kindOf(err) != server.Conflict || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("a restore of what is being deleted: %v, want Conflict", err)
	}
}

// A set is completed only until its schedule begins another one, whether that is still there or not: else its backups were
// of two times.
func TestOlderSetIsNotCompleted(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	c := joinThree(t, s, "p")
	ctx, me := t.Context(), who("p")
	sch, err := s.CreateSchedule(ctx, me, &job.Schedule{Name: "h", Cluster: "a", Enabled: true, Cron: "@hourly"})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for n := range 2 {
		now, err := s.Schedule(ctx, me, sch.ID)
		if err != nil {
			t.Fatal(err)
		}
		s.pass(now.Next.Sub(s.now()) + time.Second)
		s.pass(5 * time.Minute) // the third was not heard of for long
		c.hello(0, 1)
		if err := s.Tick(ctx); err != nil {
			t.Fatal(err)
		}
		c.does(fmt.Sprintf("s%d", n), 0, 1)
		now, _ = s.Schedule(ctx, me, sch.ID)
		ids = append(ids, now.Last.Backup)
	}
	if err := s.DeleteSet(ctx, me, ids[1]); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1} {
		c.players[n].do(job.KindDeleteBackup, job.Report{State: job.Done})
	}
	c.sweep()
	c.hello(0, 1, 2)
	c.sweep()
	if i := c.set(ids[0]); i.Backups[2] != nil || i.Usable() != 2 {
		t.Errorf("the older set: %+v", i)
	}
}
