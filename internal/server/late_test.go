package server_test

import (
	"slices"
	"testing"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// A backup that is stored is one, whatever was said of its job meanwhile.
func TestABackupThatWasMadeAfterAResetCounts(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	if _, err := s.Backup(ctx, me, b.ID); kindOf(err) != server.NotFound {
		t.Errorf("after its deletion: %v", err)
	}
	r := made("r1")
	r.Job = d.Job
	p.report(r)
	p.report(r) // the answer was lost
	if j := p.do(job.KindDeleteBackup, job.Report{State: job.Done}); j.Backup != b.ID || j.Spec.RepoID != "" || j.Spec.RepoName != "db1" {
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
	t.Parallel()
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
	t.Parallel()
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

// Of a failed backup that is deleted, an agent removes what may be stored: when its job
// was given up after it had begun. Otherwise, or when there is no agent to ask, it is gone
// at once.
func TestAFailedBackupIsDeleted(t *testing.T) {
	t.Parallel()
	ctx, me := t.Context(), who("p")
	for name, c := range map[string]struct {
		fail func(t *testing.T, s *service, p *player)
		job  bool
	}{
		"given up": {func(t *testing.T, s *service, p *player) {
			p.next()
			if err := s.ResetStatus(ctx, me, p.node); err != nil {
				t.Fatal(err)
			}
		}, true},
		"given up before it began": {func(t *testing.T, s *service, p *player) {
			if err := s.ResetStatus(ctx, me, p.node); err != nil {
				t.Fatal(err)
			}
		}, false},
		"failed by the agent's word": {func(_ *testing.T, _ *service, p *player) {
			p.do(job.KindBackup, job.Report{State: job.Failed, Fault: "the disk is broken"})
		}, false},
		"without its agent": {func(t *testing.T, s *service, p *player) {
			p.next()
			if err := s.RemoveAgent(ctx, p.id); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, openBus(t), server.Config{})
			p := join(t, s, "db1", "p")
			join(t, s, "db2", "p") // has another repository, for all that is known
			b, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node})
			if err != nil {
				t.Fatal(err)
			}
			c.fail(t, s, p)
			if b, err := s.Backup(ctx, me, b.ID); err != nil || b.Status != job.BackupFailed || b.RepoID != "" {
				t.Fatalf("it is %+v, %v", b, err)
			}
			if err := s.DeleteBackup(ctx, me, b.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Backup(ctx, me, b.ID); kindOf(err) != server.NotFound {
				t.Errorf("after its deletion: %v", err)
			}
			var jobs []*job.Job
			for _, j := range s.Jobs(me) {
				if j.Kind == job.KindDeleteBackup {
					jobs = append(jobs, j)
				}
			}
			if !c.job && len(jobs) > 0 || c.job && (len(jobs) != 1 || jobs[0].Agent != p.id || jobs[0].Backup != b.ID || jobs[0].Spec.RepoID != "") {
				t.Errorf("deletions: %+v", jobs)
			}
		})
	}
}

// What was taken in of a backup that was given up stays when that is deleted.
func TestWhatWasTakenInIsKept(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	b, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	p.next()
	if err := s.ResetStatus(ctx, me, p.node); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AdoptBackup(ctx, me, server.Adoption{Name: "found", Location: "file:///backups/backups/db1/" + b.ID + "/manifest.json.zst.age"}); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindAdopt, made(b.ID))
	if err := s.DeleteBackup(ctx, me, b.ID); err != nil {
		t.Fatal(err)
	}
	if j := p.do(job.KindDeleteBackup, job.Report{State: job.Done}); !slices.Equal(j.Spec.Keep, []string{b.ID}) {
		t.Errorf("of %s it keeps %q", b.ID, j.Spec.Keep)
	}
}
