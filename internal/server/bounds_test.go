package server_test

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

func TestBoundsOfSchedules(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	p := join(t, s, "db1", "p")
	minutes := "0" + strings.Repeat(",1", 300) + " * * * *"
	for what, c := range map[string]job.Schedule{
		"cron":           {Cron: minutes},
		"blanks":         {Cron: strings.Repeat(" ", 1000) + "@daily"},
		"restore tests":  {ProveCron: minutes},
		"zone":           {TimeZone: strings.Repeat("Mars/", 1000)},
		"heartbeat":      {Heartbeat: "https://hc.example/" + strings.Repeat("x", 5000)},
		"name":           {Name: strings.Repeat("n", 201)},
		"controls":       {Name: "n\x1b[2J"},
		"lines":          {Name: "n\nm"},
		"blanks as name": {Name: "  "},
	} {
		c.Instance = p.node
		if c.Cron == "" {
			c.Cron = "@daily"
		}
		if c.Name == "" {
			c.Name = "x"
		}
		if _, err := s.CreateSchedule(t.Context(), who("p"), &c); kindOf(err) != server.Invalid || len(err.Error()) > 300 {
			t.Errorf("%s: %v, want Invalid, in short", what, err)
		}
	}

	// One of an earlier version can be disabled.
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "x", Instance: p.node, Enabled: true, Cron: "@daily"})
	if err != nil {
		t.Fatal(err)
	}
	table, err := b.Table(t.Context(), "schedules")
	if err != nil {
		t.Fatal(err)
	}
	old := *c
	old.Name, old.Cron, old.Heartbeat = "a\tb", minutes, "http://127.0.0.1/x"
	put(t, table, c.ID, old)
	servertest.Eventually(t, "the server sees it", func() bool {
		now, err := s.Schedule(t.Context(), who("p"), c.ID)
		return err == nil && now.Name == old.Name
	})
	if now, err := s.UpdateSchedule(t.Context(), who("p"), c.ID, func(c *job.Schedule) error { c.Enabled = false; return nil }); err != nil || now.Enabled {
		t.Errorf("it can't be disabled: %v", err)
	}
	for n := 1; ; n++ {
		_, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "x", Instance: p.node, Cron: "@daily"})
		if kindOf(err) == server.OverQuota && n == 50 {
			break
		}
		if err != nil || n > 50 {
			t.Fatalf("after %d schedules: %v", n, err)
		}
	}
}

// Where heartbeats don't go, nobody is told so by their silence.
func TestHeartbeatsAreRefusedWhenMade(t *testing.T) {
	t.Parallel()
	names := map[string]string{"inside.example": "127.0.0.1", "outside.example": "93.184.216.34", "secrets.example": "169.254.169.254", "gate.example": "64:ff9b::7f00:1", "lan.example": "10.0.0.5"}
	lookUp := func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if at, ok := names[host]; ok {
			return []netip.Addr{netip.MustParseAddr(at)}, nil
		}
		return nil, errors.New("no such host")
	}
	b := openBus(t)
	open, shut := start(t, b, server.Config{LocalHeartbeats: true, LookUp: lookUp}), start(t, b, server.Config{LookUp: lookUp})
	p := join(t, open, "db1", "p")
	servertest.Eventually(t, "the other server knows the node", func() bool {
		_, err := shut.Instance(t.Context(), who("p"), p.node)
		return err == nil
	})
	for host, may := range map[string][2]bool{ // with auth none, and else
		"outside.example": {true, true}, "unknown.example": {true, true}, "lan.example": {true, true}, "10.0.0.5:8080": {true, true}, "[64:ff9b::5db8:d822]": {true, true},
		"localhost": {true, false}, "LocalHost.:9": {true, false}, "x.localhost": {true, false}, "127.0.0.1:1": {true, false}, "[::1]": {true, false}, "inside.example": {true, false},
		"gate.example": {true, false}, "[64:ff9b::127.0.0.1]:80": {true, false}, "[::ffff:127.0.0.1]": {true, false}, "[2002:7f00:1::]": {true, false},
		"secrets.example": {}, "169.254.169.254": {}, "[64:ff9b::a9fe:a9fe]": {}, "[fe80::1%25eth0]": {}, "0.0.0.0": {},
	} {
		if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "http", Host: host}}); proxy != nil && err == nil && names[host] != "" {
			may = [2]bool{true, true} // a proxy of this machine looks names up itself
		}
		for n, s := range []*service{open, shut} {
			c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Cron: "@daily", Heartbeat: "http://" + host + "/ping"})
			if may[n] != (err == nil) || err != nil && kindOf(err) != server.Invalid {
				t.Errorf("%s, %d: %v", host, n, err)
			}
			if err != nil {
				continue
			}
			if err := s.DeleteSchedule(t.Context(), who("p"), c.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	c, err := shut.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Cron: "@daily", Heartbeat: "https://outside.example"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shut.UpdateSchedule(t.Context(), who("p"), c.ID, func(c *job.Schedule) error { c.Heartbeat = "https://x.localhost"; return nil }); kindOf(err) != server.Invalid {
		t.Errorf("by an update: %v", err)
	}
	names["outside.example"] = "127.0.0.1" // by now: what isn't changed is not refused, and not asked for either
	if _, err := shut.UpdateSchedule(t.Context(), who("p"), c.ID, func(c *job.Schedule) error { c.Name = "other"; return nil }); err != nil {
		t.Errorf("an update of the rest: %v", err)
	}
}

// A restore test that takes longer than the time between two is not begun again meanwhile.
func TestRestoreTestsDoNotPileUp(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	b := backUp(t, s, p, "p", "r1", server.NewBackup{})
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Enabled: true, Cron: "0 0 29 2 *", ProveCron: "* * * * *"})
	if err != nil {
		t.Fatal(err)
	}
	tests := func() (n int) {
		for _, j := range s.Jobs(who("p")) {
			if j.Kind == job.KindProve && !j.State.Ended() {
				n++
			}
		}
		return n
	}
	s.pass(c.ProveNext.Sub(s.now()) + time.Second)
	for range 5 {
		p.hello()
		if err := s.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.pass(time.Minute)
	}
	if n := tests(); n != 1 {
		t.Errorf("%d restore tests at once", n)
	}
	if _, err := s.Prove(t.Context(), who("p"), b.ID); kindOf(err) != server.Busy {
		t.Errorf("one more by hand: %v", err)
	}
	p.do(job.KindProve, job.Report{State: job.Done, Proof: &job.Proof{At: s.now(), OK: true}})
	p.hello()
	if err := s.Tick(t.Context()); err != nil || tests() != 1 {
		t.Errorf("the next one: %d, %v", tests(), err)
	}
}

// Who leaves the volume out gets one as large as is needed, which counts.
func TestAVolumeThatIsNotNamedCounts(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{Quota: job.Quota{Instances: 20, Backups: 20, Volumes: 4}})
	p := join(t, s, "db1", "p")
	large := made("r1")
	large.Result.Size = 2<<30 + 1
	b, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindBackup, large)
	for _, c := range []struct {
		n    server.NewInstance
		want int // GB; 0 is refused
	}{
		{server.NewInstance{Name: "empty"}, 1},
		{server.NewInstance{Name: "copy", Backup: b.ID}, 3},
		{server.NewInstance{Name: "another"}, 0},
		{server.NewInstance{Name: "another copy", Backup: b.ID}, 0},
	} {
		c.n.Flavor = "1"
		i, err := s.CreateInstance(t.Context(), who("p"), c.n)
		if c.want == 0 && kindOf(err) != server.OverQuota || c.want > 0 && (err != nil || i.VolumeGB != c.want) {
			t.Errorf("%s: %+v, %v, want %d GB", c.n.Name, i, err, c.want)
		}
	}
}

// What went wrong is told until a good backup shows that it is over.
func TestAFaultGoesWithTheNextGoodBackup(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	fault := func() string {
		i, err := s.Instance(t.Context(), who("p"), p.node)
		if err != nil {
			t.Fatal(err)
		}
		if i.Fault == nil {
			return ""
		}
		return i.Fault.Message
	}
	begin := func() {
		if _, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node}); err != nil {
			t.Fatal(err)
		}
	}
	begin()
	p.do(job.KindBackup, job.Report{State: job.Failed, Fault: "no room"})
	if got := fault(); got != "no room" {
		t.Fatalf("fault %q", got)
	}
	begin()
	p.do(job.KindBackup, job.Report{State: job.Done}) // without what was made
	if fault() == "" {
		t.Error("a backup that isn't one took the fault away")
	}
	begin()
	p.do(job.KindBackup, made("r1"))
	if got := fault(); got != "" {
		t.Errorf("after a good backup: %q", got)
	}

	// One that was given up, and made all the same.
	begin()
	d, _ := p.next()
	if err := s.ResetStatus(t.Context(), who("p"), p.node); err != nil || fault() == "" {
		t.Fatalf("reset: %v, fault %q", err, fault())
	}
	late := made("r2")
	late.Job = d.Job
	p.report(late)
	if got := fault(); got != "" {
		t.Errorf("after one that was late: %q", got)
	}
}

// What an agent says of a CouchDB that it made is told with it.
func TestNotesOfANewInstance(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	i, err := s.CreateInstance(t.Context(), who("p"), server.NewInstance{Name: "n", Flavor: "1"})
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindCreate, job.Report{State: job.Done, URL: "http://127.0.0.1:5999", Result: &job.Result{Notes: []string{"CouchDB runs as\nroot"}}})
	if i, err = s.Instance(t.Context(), who("p"), i.ID); err != nil || len(i.Notes) != 1 || i.Notes[0] != "CouchDB runs as root" {
		t.Errorf("%+v, %v", i, err)
	}
}
