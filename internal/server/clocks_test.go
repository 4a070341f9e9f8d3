package server_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// watched starts a server whose clock the test sets by pass, and whose watch goes on
// only by the time that watch gets.
func watched(t *testing.T, b *bus.Bus, cfg server.Config) (s *service, watch *atomic.Int64) {
	t.Helper()
	watch = &atomic.Int64{}
	cfg.Watch = func() time.Duration { return time.Duration(watch.Load()) }
	return start(t, b, cfg), watch
}

func online(s *service) bool { return s.Agents()[0].Online }

// A clock that is set forward or back by hours ends no running backup, and makes nobody
// online or offline: that is by the watch.
func TestClockJumpsWhileABackupRuns(t *testing.T) {
	t.Parallel()
	for _, jump := range []time.Duration{7 * time.Hour, -30 * 24 * time.Hour, 365 * 24 * time.Hour} {
		s, watch := watched(t, openBus(t), server.Config{Lost: 6 * time.Hour})
		p := join(t, s, "db1", "p")
		made, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node})
		if err != nil {
			t.Fatal(err)
		}
		d, _ := p.next()
		s.pass(jump)
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b, err := s.Backup(t.Context(), who("p"), made.ID); err != nil || !b.Status.Running() {
			t.Errorf("%v: the backup is %+v (%v)", jump, b, err)
		}
		if !online(s) {
			t.Errorf("%v: the agent is offline", jump)
		}
		watch.Add(int64(2 * time.Minute))
		if online(s) {
			t.Errorf("%v: the agent is online, and was silent for two minutes", jump)
		}
		p.hello()
		if v := p.report(job.Report{Job: d.Job, State: job.Running}); v != job.Go || !online(s) {
			t.Errorf("%v: verdict %s, online %v", jump, v, online(s))
		}
		watch.Add(int64(7 * time.Hour))
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b, _ := s.Backup(t.Context(), who("p"), made.ID); b.Status != job.BackupFailed {
			t.Errorf("%v: the agent was silent for seven hours, and the backup is %s", jump, b.Status)
		}
	}
}

// A server that starts while its clock is behind shows no dead agent online: what is
// stored is of the future.
func TestClockIsBehindAtTheStart(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	first := start(t, b, server.Config{})
	join(t, first, "db1", "p")
	first.stop()
	s, watch := watched(t, b, server.Config{})
	s.pass(-30 * 24 * time.Hour)
	if online(s) {
		t.Error("online by a stamp in the future")
	}
	s.pass(30 * 24 * time.Hour) // as it was: the stored stamp counts, for as long as it takes to hear
	watch.Add(int64(2 * time.Minute))
	if online(s) {
		t.Error("online by what is stored, two minutes after the start")
	}
}

// Schedules that a clock ahead put off are set right at the next look, and not when that
// time has come.
func TestSchedulesOfAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	n := newNightly(t, job.Schedule{ProveCron: "0 4 * * 0"})
	right := *n.schedule()
	n.pass(100 * 24 * time.Hour)
	n.tick() // fires, waits for the agent, and stores what is next by then
	n.pass(-100 * 24 * time.Hour)
	if c := n.schedule(); !c.Next.After(right.Next.AddDate(0, 0, 99)) || !c.ProveNext.After(right.ProveNext.AddDate(0, 0, 90)) {
		t.Fatalf("the clock ahead stored %v and %v", c.Next, c.ProveNext)
	}
	n.tick()
	if c := n.schedule(); !c.Next.Equal(right.Next) || !c.ProveNext.Equal(right.ProveNext) {
		t.Errorf("next are %v and %v, want %v and %v", c.Next, c.ProveNext, right.Next, right.ProveNext)
	}
}

// A backup made while the clock was a year ahead is not the newest one for a year: the
// order that its record has counts.
func TestBackupOfAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	const year = 365 * 24 * time.Hour
	var ids []string
	for i, ahead := range []time.Duration{0, year, 0} {
		s.pass(ahead)
		p.hello()
		b, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Instance: p.node, Name: "b"})
		if err != nil {
			t.Fatal(err)
		}
		r := made(b.ID)
		r.Result.Order = int64(1e15) + int64(i)
		p.do(job.KindBackup, r)
		s.pass(-ahead)
		ids = append(ids, b.ID)
		if got := server.Newest(s.Server, who("p"), p.node); got == nil || got.ID != b.ID {
			t.Errorf("after backup %d the newest is %+v", i, got)
		}
	}
	if err := s.DeleteBackup(t.Context(), who("p"), ids[2]); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindDeleteBackup, job.Report{State: job.Done})
	if got := server.Newest(s.Server, who("p"), p.node); got == nil || got.ID != ids[1] {
		t.Errorf("once the last is deleted the newest is %+v", got)
	}
}
