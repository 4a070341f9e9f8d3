package server_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// faulty is a table in whose writes a test interferes.
type faulty struct {
	server.Table
	create  func(store func() error) error // nil: as the table
	updated func()                         // after an update; may be nil
}

func (f *faulty) Update(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	rev, err := f.Table.Update(ctx, key, value, rev)
	if err == nil && f.updated != nil {
		f.updated()
	}
	return rev, err
}

func (f *faulty) Create(ctx context.Context, key string, value []byte) (rev uint64, err error) {
	store := func() (err error) { rev, err = f.Table.Create(ctx, key, value); return err }
	if f.create == nil {
		return f.Table.Create(ctx, key, value)
	}
	err = f.create(store)
	return rev, err
}

var errTimeout = errors.New("timeout")

func TestAJobMayHaveBeenStoredThoughItWasSaidNot(t *testing.T) {
	t.Parallel()
	var jobs, backups faulty
	s := startOver(t, openBus(t), server.Config{}, func(name string, t server.Table) server.Table {
		switch name {
		case "jobs":
			jobs.Table = t
			return &jobs
		case "backups":
			backups.Table = t
			return &backups
		}
		return t
	})
	p := join(t, s, "db1", "p")
	ctx, cancel := context.WithCancel(t.Context())
	n := server.NewBackup{Name: "n", Instance: p.node}

	// Stored, and the answer lost; and whoever asked hangs up meanwhile.
	backups.create = func(store func() error) error { cancel(); return store() }
	jobs.create = func(store func() error) error { jobs.create = nil; return errors.Join(store(), errTimeout) }
	b, err := s.CreateBackup(ctx, who("p"), n)
	if err != nil {
		t.Fatalf("a backup whose job is stored: %v", err)
	}
	p.do(job.KindBackup, made("r1"))
	if b, err = s.Backup(t.Context(), who("p"), b.ID); err != nil || b.Status != job.BackupCompleted {
		t.Errorf("backup: %+v, %v", b, err)
	}

	// Not stored: nothing is left.
	backups.create = nil
	jobs.create = func(func() error) error { jobs.create = nil; return errTimeout }
	if _, err := s.CreateBackup(t.Context(), who("p"), n); kindOf(err) != server.Unavailable {
		t.Errorf("a job that can't be stored: %v, want Unavailable", err)
	}
	page, _ := s.Backups(who("p"), server.BackupFilter{Limit: 10})
	if i, err := s.Instance(t.Context(), who("p"), p.node); err != nil || i.Task != "" || len(page) != 1 {
		t.Errorf("left: %+v, %v, %d backups", i, err, len(page))
	}

	// Stored, and then the bus is gone: what was begun goes on.
	lost := true
	jobs.create = func(store func() error) error {
		if lost {
			lost = false
			return errors.Join(store(), errTimeout)
		}
		return errTimeout
	}
	if _, err := s.CreateBackup(t.Context(), who("p"), n); kindOf(err) != server.Unavailable {
		t.Errorf("a job of which nothing is known: %v, want Unavailable", err)
	}
	jobs.create = nil
	servertest.Eventually(t, "the job is known", func() bool { return s.Jobs(who("p"))[0].State == job.Queued })
	p.hello()
	s.pass(2 * time.Minute)
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindBackup, made("r2"))
	page, _ = s.Backups(who("p"), server.BackupFilter{Limit: 10})
	if len(page) != 2 || page[0].Status != job.BackupCompleted || page[0].RepoID != "r2" {
		t.Errorf("backups: %+v", page)
	}
}
