package server_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// lags are tables whose changes are told when the test says so.
type lags struct{ mu sync.RWMutex }

type lag struct {
	server.Table
	all *lags
}

func (l *lags) wrap(_ string, t server.Table) server.Table { return lag{t, l} }

func (l lag) Watch(ctx context.Context, fn func(bus.Change)) error {
	return l.Table.Watch(ctx, func(c bus.Change) {
		l.all.mu.RLock()
		defer l.all.mu.RUnlock()
		fn(c)
	})
}

// hold lets a server know nothing of what others write, until the test ends or release
// is called.
func (l *lags) hold(t *testing.T) (release func()) {
	l.mu.Lock()
	release = sync.OnceFunc(l.mu.Unlock)
	t.Cleanup(release)
	return release
}

// Two servers: the first accepts, the second, which hears of it late, answers the agent.
func acceptedByOneAnsweredByAnother(t *testing.T) (front, back *service, p *player) {
	t.Helper()
	b := openBus(t)
	var l lags
	front = start(t, b, server.Config{})
	p = join(t, front, "db1", "p")
	i, err := front.Instance(t.Context(), who("p"), p.node)
	if err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the agent is online", func() bool { return front.Live(i).Online })
	back = startOver(t, b, server.Config{}, l.wrap)
	front.stop()
	l.hold(t)
	return front, back, p
}

// slow is a table of instances that are let go late, and counts how often one is looked up.
type slow struct {
	server.Table
	looks *atomic.Int64
}

func (s slow) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	s.looks.Add(1)
	return s.Table.Get(ctx, key)
}

func (s slow) Update(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if !bytes.Contains(value, []byte(`"task"`)) {
		time.Sleep(200 * time.Millisecond)
	}
	return s.Table.Update(ctx, key, value, rev)
}

// Who sees that a backup has ended may ask for the next one at once.
func TestTheNextBackupRightBehindOne(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	first := start(t, b, server.Config{})
	p := join(t, first, "db1", "p")
	first.stop()
	var looks atomic.Int64
	s := startOver(t, b, server.Config{}, func(name string, table server.Table) server.Table {
		if name == "instances" {
			return slow{table, &looks}
		}
		return table
	})
	p.hello()
	ctx, me := t.Context(), who("p")
	for range 3 {
		var b *job.Backup
		servertest.Eventually(t, "the agent is online", func() (ok bool) {
			var err error
			if b, err = s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node}); err != nil && !strings.Contains(err.Error(), "not online") {
				t.Fatal(err)
			}
			return err == nil
		})
		var told sync.WaitGroup
		told.Go(func() { p.do(job.KindBackup, made("r-"+b.ID)) })
		servertest.Eventually(t, "the backup ends", func() bool {
			now, err := s.Backup(ctx, me, b.ID)
			return err == nil && now.Status == job.BackupCompleted
		})
		if _, err := s.Idle(ctx, me, p.node); err != nil {
			t.Error(err)
		}
		told.Wait()
	}
	// One that runs is, at once.
	if _, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node}); err != nil {
		t.Fatal(err)
	}
	looks.Store(0)
	if _, err := s.Idle(ctx, me, p.node); kindOf(err) != server.Busy || looks.Load() != 1 {
		t.Errorf("beside one that runs: %v after %d looks", err, looks.Load())
	}
}

func TestAnInstanceIsLetGoByAServerThatLags(t *testing.T) {
	t.Parallel()
	front, _, p := acceptedByOneAnsweredByAnother(t)
	if _, err := front.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node}); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindBackup, made("r1"))
	var i job.Instance
	get(t, front.bus, "instances", p.node, &i)
	if i.Task != "" || i.Job != "" {
		t.Errorf("held after the end of the job: %+v", i)
	}
}

// What another server ended just now is not refused as running.
func TestNothingIsRefusedByACopyThatLags(t *testing.T) {
	t.Parallel()
	front, _, p := acceptedByOneAnsweredByAnother(t)
	ctx, me := t.Context(), who("p")
	b, err := front.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindBackup, made("r1"))
	if _, err = front.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node, Parent: b.ID}); err != nil {
		t.Errorf("a child: %v", err)
	}
	p.do(job.KindBackup, job.Report{State: job.Failed, Fault: "x"})
	if _, err := front.Prove(ctx, me, b.ID); err != nil {
		t.Errorf("a restore test: %v", err)
	}
	p.do(job.KindProve, job.Report{State: job.Done, Proof: &job.Proof{OK: true}})
	if err := front.DeleteBackup(ctx, me, b.ID); err != nil {
		t.Errorf("a deletion: %v", err)
	}
	if j := p.do(job.KindDeleteBackup, job.Report{State: job.Done}); j.Spec.RepoID != "r1" {
		t.Errorf("deleted: %+v", j.Spec)
	}
}

// What a server heard of a job or an agent goes when another one ends it.
func TestNothingIsRememberedForEver(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	p := join(t, s, "db1", "p")
	bk, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	if bk.Created != bk.Created.Round(0) {
		t.Error("a stored time has what the table doesn't keep")
	}
	d, _ := p.next()
	p.report(job.Report{Job: d.Job, State: job.Running, At: job.Progress{Bytes: 1}})
	if agents, jobs := server.Remembered(s.Server); agents != 1 || jobs != 1 {
		t.Fatalf("remembered: %d agents, %d jobs", agents, jobs)
	}
	other := start(t, b, server.Config{})
	if err := other.RemoveAgent(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "all is forgotten", func() bool {
		agents, jobs := server.Remembered(s.Server)
		return agents+jobs == 0
	})
}
