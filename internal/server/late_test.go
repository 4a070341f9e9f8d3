package server_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// A backup that is stored is one, whatever was said of its job meanwhile.
func TestABackupThatWasMadeAfterAResetCounts(t *testing.T) {
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	b, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	d, _ := p.next()
	if err := s.ResetStatus(ctx, me, p.node); err != nil {
		t.Fatal(err)
	}
	other := join(t, s, "db2", "q")
	r := made("r1")
	r.Job = d.Job
	other.session = p.session
	other.report(r) // which isn't its to say
	if b, _ := s.Backup(ctx, me, b.ID); b.Status != job.BackupFailed {
		t.Fatalf("after the reset: %+v", b)
	}
	if v := p.report(r); v != job.Stop {
		t.Errorf("verdict: %s, want stop", v)
	}
	if b, err = s.Backup(ctx, me, b.ID); err != nil || b.Status != job.BackupCompleted || b.RepoID != "r1" || b.Fault != "" {
		t.Errorf("backup: %+v, %v", b, err)
	}
	r.State, r.Result, r.Fault = job.Failed, nil, "later"
	p.report(r)
	if b, err = s.Backup(ctx, me, b.ID); err != nil || b.Status != job.BackupCompleted {
		t.Errorf("backup: %+v, %v", b, err)
	}
}

// One that was deleted meanwhile is removed from where it was stored, once.
func TestABackupThatWasMadeAfterItsDeletionIsRemoved(t *testing.T) {
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	b, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	d, _ := p.next()
	if err := s.ResetStatus(ctx, me, p.node); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteBackup(ctx, me, b.ID); err != nil {
		t.Fatal(err)
	}
	r := made("r1")
	r.Job = d.Job
	p.report(r)
	p.report(r) // the answer was lost
	if j := p.do(job.KindDeleteBackup, job.Report{State: job.Done}); j.Spec.RepoID != "r1" || j.Spec.RepoName != "db1" {
		t.Errorf("job: %+v", j)
	}
	n := 0
	for _, j := range s.Jobs(me) {
		if j.Kind == job.KindDeleteBackup {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d deletions, want 1", n)
	}
}

// What began between the two writes of a reset stays.
func TestAResetLeavesWhatBeganMeanwhile(t *testing.T) {
	var instances faulty
	s := startOver(t, openBus(t), server.Config{}, func(name string, t server.Table) server.Table {
		if name != "instances" {
			return t
		}
		instances.Table = t
		return &instances
	})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	n := server.NewBackup{Name: "n", Instance: p.node}
	if _, err := s.CreateBackup(ctx, me, n); err != nil {
		t.Fatal(err)
	}
	p.next()
	var next *job.Backup
	instances.updated = func() { // the job was given up, and its instance let go
		instances.updated = nil
		var err error
		if next, err = s.CreateBackup(ctx, me, n); err != nil {
			t.Error(err)
		}
	}
	if err := s.ResetStatus(ctx, me, p.node); err != nil {
		t.Fatal(err)
	}
	if i, err := s.Instance(ctx, me, p.node); err != nil || next == nil || i.Job != next.Job {
		t.Errorf("instance %+v, %v; want it held by the second backup", i, err)
	}
}

// A family in which one is being deleted already gets no second job for it.
func TestADeletionIsBegunOnce(t *testing.T) {
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	first := backUp(t, s, p, "p", "r1", server.NewBackup{})
	second := backUp(t, s, p, "p", "r2", server.NewBackup{Parent: first.ID})
	for _, id := range []string{second.ID, first.ID} {
		if err := s.DeleteBackup(t.Context(), who("p"), id); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	for _, j := range s.Jobs(who("p")) {
		if j.Kind == job.KindDeleteBackup {
			seen = append(seen, j.Spec.RepoID)
		}
	}
	if len(seen) != 2 {
		t.Errorf("deletions of %v, want one of each", seen)
	}
}
