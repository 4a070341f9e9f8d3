package server_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

func TestScheduleFiresOnceWithTwoServers(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s1, s2 := start(t, b, server.Config{LocalHeartbeats: true}), start(t, b, server.Config{LocalHeartbeats: true})
	p := join(t, s1, "db1", "p")
	beats := make(chan string, 100)
	hc := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { beats <- r.URL.Path }))
	defer hc.Close()
	c, err := s1.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "hourly", Instance: p.node, Enabled: true, Cron: "@hourly", Heartbeat: hc.URL + "/ping"})
	if err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the other server knows it", func() bool { return len(s2.Schedules(who("p"), "")) == 1 })
	tick := func() {
		p.hello()
		// Whichever server heard the agent, both must know it before time goes on by hours.
		servertest.Eventually(t, "both servers know the same", func() bool {
			i1, err1 := s1.Instance(t.Context(), who("p"), p.node)
			i2, err2 := s2.Instance(t.Context(), who("p"), p.node)
			return err1 == nil && err2 == nil && reflect.DeepEqual(i1, i2) && s1.Agents()[0].Online && s2.Agents()[0].Online
		})
		for _, s := range []*service{s1, s2} {
			if err := s.Tick(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	both := func(d time.Duration) { s1.pass(d); s2.pass(d) }
	tick()
	if page, _ := s1.Backups(who("p"), server.BackupFilter{Limit: 10}); len(page) != 0 {
		t.Fatal("too early")
	}
	both(c.Next.Sub(s1.now()) + time.Second)
	tick()
	tick()
	page, _ := s1.Backups(who("p"), server.BackupFilter{Limit: 10, Schedule: c.ID})
	if len(page) != 1 {
		t.Fatalf("%d backups of one firing: %+v", len(page), s1.Schedules(who("p"), "")[0].Last)
	}
	p.do(job.KindBackup, made("r1"))
	if got := <-beats; got != "/ping" {
		t.Errorf("heartbeat: %s", got)
	}
	// The next one finds the instance busy, the one after it fails.
	if _, err := s1.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "by hand", Instance: p.node}); err != nil {
		t.Fatal(err)
	}
	both(time.Hour)
	tick()
	if c, _ := s1.Schedule(t.Context(), who("p"), c.ID); c.Skipped != 1 {
		t.Errorf("busy instance: %+v", c)
	}
	p.do(job.KindBackup, made("r2"))
	both(time.Hour)
	tick()
	p.do(job.KindBackup, job.Report{State: job.Failed, Fault: "no room"})
	if got := <-beats; got != "/ping/fail" {
		t.Errorf("heartbeat of a failure: %s", got)
	}
	if page, _ := s1.Backups(who("p"), server.BackupFilter{Limit: 10, Schedule: c.ID}); len(page) != 2 {
		t.Errorf("%d scheduled backups, want 2", len(page))
	}
}

// fire lets a schedule of project p make its next backup, and returns that one's id.
func (s *service) fire(p *player, c *job.Schedule, repoID string) string {
	s.t.Helper()
	c, err := s.Schedule(s.t.Context(), who("p"), c.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	s.pass(c.Next.Sub(s.now()) + time.Second)
	p.hello()
	if err := s.Tick(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	return p.do(job.KindBackup, made(repoID)).Backup
}

func TestScheduleRetentionAndProof(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	byHand := backUp(t, s, p, "p", "hand", server.NewBackup{})
	at := s.now().Add(48 * time.Hour).UTC() // each week, and not while the first backups are made
	weekly := fmt.Sprintf("%d %d * * %d", at.Minute(), at.Hour(), at.Weekday())
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Enabled: true, Cron: "@hourly", Keep: job.Keep{Last: 2}, ProveCron: weekly})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 4 {
		s.fire(p, c, []string{"r0", "r1", "r2", "r3"}[n])
		if n >= 2 {
			p.do(job.KindDeleteBackup, job.Report{State: job.Done})
		}
	}
	page, _ := s.Backups(who("p"), server.BackupFilter{Limit: 10})
	if len(page) != 3 || page[0].RepoID != "r3" || page[1].RepoID != "r2" || page[2].ID != byHand.ID {
		t.Errorf("kept: %+v", page)
	}
	s.pass(7 * 24 * time.Hour)
	p.hello()
	if err := s.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	backup, proof := 0, 0
	for backup+proof < 2 { // in any order
		d, reply := p.next()
		r := made("r4")
		switch reply.Job.Kind {
		case job.KindDeleteBackup: // which the new one ends the time of, and which may come before the restore test
			r = job.Report{State: job.Done}
		case job.KindBackup:
			backup++
		case job.KindProve:
			proof++
			r = job.Report{State: job.Done, Proof: &job.Proof{At: s.now(), OK: true, Databases: 3, Documents: 10}}
		}
		r.Job = d.Job
		p.report(r)
	}
	if backup != 1 || proof != 1 {
		t.Errorf("%d backups and %d restore tests, want 1 and 1", backup, proof)
	}
	proven := 0
	page, _ = s.Backups(who("p"), server.BackupFilter{Limit: 10})
	for _, b := range page {
		if b.Proof != nil && b.Proof.OK {
			proven++
		}
	}
	if proven != 1 {
		t.Errorf("%d proven backups, want 1", proven)
	}
}

func TestBadSchedules(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	for what, c := range map[string]job.Schedule{
		"cron":      {Name: "x", Cron: "every day"},
		"zone":      {Name: "x", Cron: "@daily", TimeZone: "Mars/Olympus"},
		"name":      {Cron: "@daily"},
		"keep":      {Name: "x", Cron: "@daily", Keep: job.Keep{Last: -1}},
		"within":    {Name: "x", Cron: "@daily", Keep: job.Keep{Within: "soon"}},
		"heartbeat": {Name: "x", Cron: "@daily", Heartbeat: "file:///etc/passwd"},
		"window":    {Name: "x", Cron: "@daily", Window: -time.Hour},
		"proof":     {Name: "x", Cron: "@daily", ProveCron: "61 * * * *"},
	} {
		c.Instance = p.node
		if _, err := s.CreateSchedule(t.Context(), who("p"), &c); kindOf(err) != server.Invalid {
			t.Errorf("%s: %v, want Invalid", what, err)
		}
	}
}

// A server that dies between storing a firing and beginning its backup loses nothing.
func TestFiringOfADeadServerIsBegun(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	p := join(t, s, "db1", "p")
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Enabled: true, Cron: "@hourly"})
	if err != nil {
		t.Fatal(err)
	}
	due := c.Next
	table, err := b.Table(t.Context(), "schedules")
	if err != nil {
		t.Fatal(err)
	}
	left := *c
	left.Next, left.Last = due.Add(time.Hour), job.Firing{Due: due, Backup: server.FiringID(c.ID, due), Outcome: "starting"}
	put(t, table, c.ID, left)
	servertest.Eventually(t, "the server sees it", func() bool {
		c, err := s.Schedule(t.Context(), who("p"), c.ID)
		return err == nil && c.Last.Outcome == "starting"
	})
	s.pass(2 * time.Minute)
	p.hello()
	for range 3 {
		if err := s.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	page, _ := s.Backups(who("p"), server.BackupFilter{Limit: 10})
	if len(page) != 1 || page[0].ID != left.Last.Backup {
		t.Errorf("backups: %+v", page)
	}
}

func TestWhereHeartbeatsMayGo(t *testing.T) {
	t.Parallel()
	for address, want := range map[string][2]bool{ // of a service for others, and of one for who runs it
		"93.184.216.34": {true, true}, "10.0.0.5": {true, true}, "192.168.1.1": {true, true}, "2001:db8::1": {true, true}, "fd12::1": {true, true},
		"127.0.0.1": {false, true}, "::1": {false, true}, "::ffff:127.0.0.1": {false, true},
		"169.254.169.254": {}, "::ffff:169.254.169.254": {}, "fe80::1%eth0": {}, "fd00:ec2::254": {}, "100.100.100.200": {}, "168.63.129.16": {},
		"192.0.0.192": {}, "0.1.2.3": {},
		"64:ff9b::93.184.216.34": {true, true}, "64:ff9b::10.0.0.5": {true, true}, "64:ff9b::127.0.0.1": {false, true}, "64:ff9b::169.254.169.254": {},
		"64:ff9b:1::93.184.216.34": {}, "::127.0.0.1": {false, true}, "::169.254.169.254": {}, "2002:7f00:1::1": {false, true}, "2002:a9fe:a9fe::": {}, "2002:5db8:d822::1": {true, true},
		"2001:0:5db8:d822::5601:5601": {}, "2001:0:a9fe:a9fe::a247:27dd": {}, "2001:0:5db8:d822::a247:27dd": {true, true}, "2001:db8::5efe:169.254.169.254": {},
		"2001:db8::200:5efe:127.0.0.1": {false, true}, "0.0.0.0": {}, "::": {}, "224.0.0.1": {}, "ff02::1": {},
	} {
		a := netip.MustParseAddr(address)
		if got := [2]bool{server.MayBeat(a, false), server.MayBeat(a, true)}; got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}

// The address counts at which a name ends up, and redirects aren't followed.
func TestHeartbeatsStayAwayFromTheMachine(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 10)
	hc := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer hc.Close()
	url := strings.Replace(hc.URL, "127.0.0.1", "localhost", 1)
	if resp, err := server.HeartbeatClient(false).Get(url); err == nil {
		resp.Body.Close()
		t.Error("this machine was asked")
	}
	resp, err := server.HeartbeatClient(true).Get(url + "/ping")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := <-asked; got != "/ping" || len(asked) > 0 {
		t.Errorf("asked for %s, and %d more", got, len(asked))
	}
}

// Retention tries a deletion that failed again after the next backup.
func TestRetentionTriesAgain(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Enabled: true, Cron: "@hourly", Keep: job.Keep{Last: 1}})
	if err != nil {
		t.Fatal(err)
	}
	fire := func(repoID string) { t.Helper(); s.fire(p, c, repoID) }
	fire("r0")
	fire("r1")
	p.do(job.KindDeleteBackup, job.Report{State: job.Failed, Fault: "the storage is away"})
	fire("r2")
	gone := map[string]bool{}
	for range 2 {
		gone[p.do(job.KindDeleteBackup, job.Report{State: job.Done}).Spec.RepoID] = true
	}
	if !gone["r0"] || !gone["r1"] {
		t.Errorf("retention removes %v, want r0 and r1", gone)
	}
}
