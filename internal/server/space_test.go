package server_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/server"
)

func TestSpace(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p, q := join(t, s, "db1", "p"), join(t, s, "db2", "q")
	backUp(t, s, p, "p", "one", server.NewBackup{})
	backUp(t, s, p, "p", "two", server.NewBackup{})
	backUp(t, s, q, "q", "other", server.NewBackup{})
	got, times := s.Space(who("p"), false)
	if got.Stored != 600 || got.Size != 1000 || got.Added != 600 || got.Backups != 2 || len(got.Instances) != 1 || len(got.Repositories) != 1 {
		t.Errorf("of project p: %+v", got)
	}
	if i := got.Instances[0]; i.Name != "db1" || i.Gone || i.Points[0] > i.Points[len(times)-1] || i.Points[len(times)-1] != 600 {
		t.Errorf("db1: %+v", i)
	}
	if all, _ := s.Space(&access.Caller{Project: "p", Role: access.Admin}, true); all.Stored != 900 || len(all.Instances) != 2 {
		t.Errorf("of all: %+v", all)
	}
}
