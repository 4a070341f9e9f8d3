package server_test

import (
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/server"
)

func TestRebuild(t *testing.T) {
	t.Parallel()
	record := func(id, instance string, labels map[string]string) server.Found {
		r := &manifest.Record{}
		r.ID, r.Instance, r.Name, r.Started, r.Finished, r.Labels = manifest.BackupID(id), instance, "n "+id, time.Now().UTC(), time.Now().UTC(), labels
		return server.Found{Record: r, Repository: job.Repository{ID: "repo-1", URL: "file:///backups"}, LocationRef: "file:///backups/" + id}
	}
	found := []server.Found{
		record("0199aaaa-0000-7000-8000-000000000001", "db1", map[string]string{"backup": "b1", "project": "p", "instance": "i1", "instance-name": "orders"}),
		record("0199aaaa-0000-7000-8000-000000000002", "db1", map[string]string{"backup": "b2", "project": "p", "instance": "i1", "instance-name": "orders", "parent": "b1"}),
		record("0199aaaa-0000-7000-8000-000000000003", "db2", nil), // made on the command line
	}
	b := openBus(t)
	for n, want := range []server.Rebuilt{{Backups: 3, Instances: 2}, {Known: 3}} {
		got, err := server.Rebuild(t.Context(), b, "other", found)
		if err != nil || got != want {
			t.Fatalf("rebuild %d: %+v, %v; want %+v", n, got, err, want)
		}
	}
	s := start(t, b, server.Config{})
	b2, err := s.Backup(t.Context(), who("p"), "b2")
	if err != nil || b2.Status != job.BackupCompleted || b2.Parent != "b1" || b2.Instance != "i1" || b2.RepoName != "db1" {
		t.Errorf("rebuilt backup: %+v, %v", b2, err)
	}
	if page, _ := s.Backups(who("other"), server.BackupFilter{Limit: 10}); len(page) != 1 {
		t.Errorf("backups of the command line: %+v", page)
	}
	if i, err := s.Instance(t.Context(), who("p"), "i1"); err != nil || i.Name != "orders" || i.Agent != "" {
		t.Errorf("rebuilt instance: %+v, %v", i, err)
	}
	if _, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: "i1"}); kindOf(err) != server.Busy {
		t.Errorf("backup without an agent: %v, want Busy", err)
	}
	p := join(t, s, "db1", "p") // gets its instance back
	if p.node != "i1" {
		t.Errorf("joined as %s, want i1", p.node)
	}
	backUp(t, s, p, "p", "r9", server.NewBackup{Incremental: true})
}
