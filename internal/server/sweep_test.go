package server_test

import (
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// A server that hears of others late takes nothing of theirs for left behind.
func TestSweepOfAServerThatLags(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	var late lags
	front := start(t, b, server.Config{})
	p := join(t, front, "db1", "p")
	lagging := startOver(t, b, server.Config{}, func(name string, t server.Table) server.Table {
		if name == "jobs" {
			return late.wrap(name, t)
		}
		return t
	})
	late.hold(t)
	made, err := front.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the other server knows the backup", func() bool {
		page, _ := lagging.Backups(who("p"), server.BackupFilter{Limit: 1})
		i, err := lagging.Instance(t.Context(), who("p"), p.node)
		return len(page) == 1 && err == nil && i.Task != ""
	})
	lagging.pass(2 * time.Minute)
	if err := lagging.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	var i job.Instance
	var stored job.Backup
	get(t, b, "instances", p.node, &i)
	get(t, b, "backups", made.ID, &stored)
	if i.Job != made.Job || stored.Status == job.BackupFailed {
		t.Errorf("swept away: %+v, %+v", i, stored)
	}
}

// A server that dies after it held the instance for a firing loses nothing.
func TestFiringOfADeadServerThatHeldTheInstance(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	p := join(t, s, "db1", "p")
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Enabled: true, Cron: "@hourly"})
	if err != nil {
		t.Fatal(err)
	}
	i, err := s.Instance(t.Context(), who("p"), p.node)
	if err != nil {
		t.Fatal(err)
	}
	left, held := *c, *i
	left.Next, left.Updated = c.Next.Add(time.Hour), s.now()
	left.Last = job.Firing{Due: c.Next, Backup: server.FiringID(c.ID, c.Next), Outcome: "starting"}
	held.Task, held.Job, held.Updated = job.KindBackup, "0199aaaa-0000-7000-8000-000000000001", s.now()
	for table, doc := range map[string]any{"schedules": left, "instances": held} {
		tab, err := b.Table(t.Context(), table)
		if err != nil {
			t.Fatal(err)
		}
		id := left.ID
		if table == "instances" {
			id = held.ID
		}
		put(t, tab, id, doc)
	}
	servertest.Eventually(t, "the server sees it", func() bool {
		c, err := s.Schedule(t.Context(), who("p"), c.ID)
		i, ierr := s.Instance(t.Context(), who("p"), p.node)
		return err == nil && ierr == nil && c.Last.Outcome == "starting" && i.Task != ""
	})
	for range 15 { // as it is done: a tick may come before each sweep
		s.pass(10 * time.Second)
		p.hello()
		if err := s.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	page, _ := s.Backups(who("p"), server.BackupFilter{Limit: 10})
	if len(page) != 1 || page[0].ID != left.Last.Backup || page[0].Status != job.BackupNew {
		c, _ := s.Schedule(t.Context(), who("p"), c.ID)
		t.Errorf("backups: %+v; the firing: %+v", page, c.Last)
	}
}
