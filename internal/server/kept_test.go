package server_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// A deletion that removed nothing, since the backup is pinned or protected, leaves it as
// good as it was.
func TestKeptBackupStaysUsable(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	made := backUp(t, s, p, "p", "r1", server.NewBackup{})
	adopted, err := s.AdoptBackup(ctx, me, server.Adoption{Name: "a", Location: "file:///backups/backups/db1/" + uuid.Must(uuid.NewV7()).String() + "/manifest.json.zst.age"})
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindAdopt, job.Report{State: job.Done, Result: &job.Result{RepoID: adopted.RepoID}})
	const pinned = "the backup is pinned: legal hold"
	for b, want := range map[*job.Backup]job.BackupStatus{made: job.BackupCompleted, adopted: job.BackupRestored} {
		for _, c := range []struct {
			report job.Report
			want   job.BackupStatus
		}{
			{job.Report{State: job.Failed, Fault: "the storage says no"}, job.BackupDeleteFailed},
			{job.Report{State: job.Failed, Fault: pinned, Kept: true}, want},
		} {
			if err := s.DeleteBackup(ctx, me, b.ID); err != nil {
				t.Fatal(err)
			}
			p.do(job.KindDeleteBackup, c.report)
			if b, err := s.Backup(ctx, me, b.ID); err != nil || b.Status != c.want || b.Fault != c.report.Fault || b.Job != "" || b.Was != "" == (c.want == want) {
				t.Errorf("after %+v: %+v, %v", c.report, b, err)
			}
		}
	}
	if _, err := s.Prove(ctx, me, made.ID); err != nil {
		t.Error(err)
	}
}
