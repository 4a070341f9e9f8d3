package server_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// What is taken in is no success of the node that happens to read it.
func TestTakenInIsNoSuccessOfTheNode(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{OwnSwift: true})
	p := join(t, s, "db1", "p")
	me := &access.Caller{Project: "p", User: "u", Role: access.Operator, Token: "tok", SwiftURL: "https://swift/v1/AUTH_p"}
	mine, err := s.CreateBackup(t.Context(), me, server.NewBackup{Name: "own", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindBackup, made("r1"))
	a, err := s.AdoptBackup(t.Context(), me, server.Adoption{Name: "old", Location: "https://swift/v1/AUTH_p/c/backups/elsewhere/01890000-0000-7000-8000-000000000000/manifest.json.zst.age"})
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindAdopt, made("01890000-0000-7000-8000-000000000000"))
	n, err := s.CreateBackup(t.Context(), me, server.NewBackup{Name: "next", Instance: p.node, Incremental: true})
	if err != nil {
		t.Fatal(err)
	}
	if n.Parent != mine.ID {
		t.Errorf("the parent of db1's next is %q, the adopted backup of the node \"elsewhere\" %q; want %q", n.Parent, a.ID, mine.ID)
	}
}

// A restore test that could not be done (its agent was removed, the disk was full) says
// nothing of the backup, and must not take a proof away.
func TestUndoneRestoreTestKeepsTheProof(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	b := backUp(t, s, p, "p", "r1", server.NewBackup{})
	if _, err := s.Prove(t.Context(), who("p"), b.ID); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindProve, job.Report{State: job.Done, Proof: &job.Proof{At: s.now(), OK: true, Server: true, Databases: 3, Documents: 10}})
	if _, err := s.Prove(t.Context(), who("p"), b.ID); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindProve, job.Report{State: job.Failed, Fault: "no space left on device"})
	b, _ = s.Backup(t.Context(), who("p"), b.ID)
	if b.Proof == nil || !b.Proof.OK {
		t.Errorf("the proof is %+v", b.Proof)
	}
}

func (p *player) helloAs(canRead bool, free int64) {
	p.said++
	ask[job.HelloReply](p, job.VerbHello, job.Hello{Session: p.session, Number: p.said, CanRead: canRead, CanCreate: true, FreeBytes: free,
		Repository: job.Repository{ID: "repo-1", URL: "file:///backups"}, Instances: []job.Seen{{Instance: p.node, Up: true, Version: "3.5.0"}}})
}

// An agent without a key can't restore, however much room it has.
func TestRestoreGoesToAnAgentWithAKey(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	reader, writer := join(t, s, "reader", "p"), join(t, s, "writer", "p")
	b := backUp(t, s, writer, "p", "r1", server.NewBackup{})
	reader.helloAs(true, 1<<30)
	writer.helloAs(false, 1<<40)
	i, err := s.CreateInstance(t.Context(), who("p"), server.NewInstance{Name: "copy", Flavor: "1", VolumeGB: 1, Backup: b.ID})
	if err != nil {
		t.Fatal(err)
	}
	if i.Agent != reader.id {
		t.Errorf("the restore was given to the agent that has no key")
	}
	// Until it is restored it must stay.
	if err := s.DeleteBackup(t.Context(), who("p"), b.ID); kindOf(err) != server.Busy {
		t.Errorf("deleted while it is restored: %v", err)
	}
	reader.do(job.KindCreate, job.Report{State: job.Done, URL: "http://127.0.0.1:1"})
	if err := s.DeleteBackup(t.Context(), who("p"), b.ID); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// The newest backup is in a caller's Swift account, for which a schedule has no token; the
// schedule's own one before it could be tested.
func TestScheduledTestTakesABackupThatItCanReach(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{OwnSwift: true})
	p := join(t, s, "db1", "p")
	backUp(t, s, p, "p", "r1", server.NewBackup{}) // without a token, as a schedule's: in the agent's repository
	me := &access.Caller{Project: "p", User: "u", Role: access.Operator, Token: "tok", SwiftURL: "https://swift/v1/AUTH_p"}
	if _, err := s.CreateBackup(t.Context(), me, server.NewBackup{Name: "by hand", Instance: p.node}); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindBackup, made("r2"))
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "w", Instance: p.node, Enabled: true, Cron: "0 0 1 1 *", ProveCron: "@weekly"})
	if err != nil {
		t.Fatal(err)
	}
	s.pass(c.ProveNext.Sub(s.now()) + time.Second)
	_ = s.Tick(t.Context()) // the agent isn't online: it is tried again
	s.pass(3 * time.Minute)
	p.hello()
	if err := s.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	tests := 0
	for _, j := range s.Jobs(who("p")) {
		if j.Kind == job.KindProve {
			tests++
		}
	}
	if tests != 1 {
		t.Errorf("%d restore tests were begun, want 1", tests)
	}
}

// The test of an old backup that somebody asked for is no success of the schedule.
func TestHeartbeatIsForWhatTheScheduleDid(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{LocalHeartbeats: true})
	p := join(t, s, "db1", "p")
	beats := make(chan string, 100)
	hc := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { beats <- r.URL.Path }))
	defer hc.Close()
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Enabled: true, Cron: "@hourly", Heartbeat: hc.URL + "/ping"})
	if err != nil {
		t.Fatal(err)
	}
	var backups []string
	for n, r := range []job.Report{made("r1"), {State: job.Failed, Fault: "no room"}} {
		s.pass(c.Next.Sub(s.now()) + time.Second)
		p.hello()
		if err := s.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		backups = append(backups, p.do(job.KindBackup, r).Backup)
		t.Logf("backup %d: %s", n, <-beats)
		c, _ = s.Schedule(t.Context(), who("p"), c.ID)
	}
	if _, err := s.Prove(t.Context(), who("p"), backups[0]); err != nil { // by hand, of the old one
		t.Fatal(err)
	}
	p.do(job.KindProve, job.Report{State: job.Done, Proof: &job.Proof{At: s.now(), OK: true}})
	if err := s.DeleteSchedule(t.Context(), who("p"), c.ID); err != nil {
		t.Fatal(err)
	}
	s.stop() // waits for heartbeats
	select {
	case got := <-beats:
		t.Errorf("the last scheduled backup failed, and a test by hand of the one before says %s", got)
	default:
	}
}

// A deletion that is refused leaves the schedules as they are.
func TestRefusedDeletionKeepsSchedules(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := startOver(t, b, server.Config{}, func(name string, tb server.Table) server.Table {
		if name == "jobs" {
			return &noDeletions{tb}
		}
		return tb
	})
	p := join(t, s, "db1", "p")
	i, err := s.CreateInstance(t.Context(), who("p"), server.NewInstance{Name: "copy", Flavor: "1", VolumeGB: 1})
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindCreate, job.Report{State: job.Done, URL: "http://127.0.0.1:1"})
	p.hello()
	if _, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "n", Instance: i.ID, Enabled: true, Cron: "@daily"}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteInstance(t.Context(), who("p"), i.ID); err == nil {
		t.Fatal("it was not refused")
	}
	if n := len(s.Schedules(who("p"), i.ID)); n != 1 {
		t.Errorf("the instance stays, and has %d schedules", n)
	}
	gone := uuid.NewString() // of an instance whose deletion a server did not live to end
	table, err := b.Table(t.Context(), "schedules")
	if err != nil {
		t.Fatal(err)
	}
	put(t, table, gone, &job.Schedule{ID: gone, Name: "left", Project: "p", Instance: uuid.NewString(), Cron: "@daily", Next: s.now().Add(24 * time.Hour)})
	servertest.Eventually(t, "it is known", func() bool { return len(s.Schedules(who("p"), "")) == 2 })
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list := s.Schedules(who("p"), ""); len(list) != 1 || list[0].Instance != i.ID {
		t.Errorf("a sweep left %d schedules", len(list))
	}
}

type noDeletions struct{ server.Table }

func (t *noDeletions) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	if strings.Contains(string(value), `"delete_instance"`) && !strings.Contains(string(value), `"failed"`) {
		return 0, errors.New("no room")
	}
	return t.Table.Create(ctx, key, value)
}
