package server_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// nightly is a service with one node and one schedule, which is due at 2:30.
type nightly struct {
	*service
	*player
	id    string
	beats chan string // paths of heartbeats
}

func newNightly(t *testing.T, c job.Schedule) *nightly {
	t.Helper()
	n := &nightly{service: start(t, openBus(t), server.Config{LocalHeartbeats: true}), beats: make(chan string, 100)}
	n.player = join(t, n.service, "db1", "p")
	hc := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { n.beats <- r.URL.Path }))
	t.Cleanup(hc.Close)
	c.Name, c.Instance, c.Enabled, c.Cron, c.Heartbeat = "nightly", n.node, true, "30 2 * * *", hc.URL
	made, err := n.CreateSchedule(t.Context(), who("p"), &c)
	if err != nil {
		t.Fatal(err)
	}
	n.id = made.ID
	return n
}

func (n *nightly) schedule() *job.Schedule {
	n.player.t.Helper()
	c, err := n.Schedule(n.player.t.Context(), who("p"), n.id)
	if err != nil {
		n.player.t.Fatal(err)
	}
	return c
}

// at sets the clock to so long after the next firing, and has the server look at it.
func (n *nightly) at(after time.Duration) {
	n.player.t.Helper()
	n.pass(n.schedule().Next.Sub(n.now()) + after)
	n.tick()
}

func (n *nightly) tick() {
	n.player.t.Helper()
	if err := n.Tick(n.player.t.Context()); err != nil {
		n.player.t.Fatal(err)
	}
}

// is holds the schedule against what it should say.
func (n *nightly) is(outcome string, backups, missed int) {
	n.player.t.Helper()
	c := n.schedule()
	page, _ := n.Backups(who("p"), server.BackupFilter{Limit: 10})
	if !strings.HasPrefix(c.Last.Outcome, outcome) || len(page) != backups || c.Missed != missed || c.Skipped != 0 {
		n.player.t.Errorf("%d backups and %+v, %d missed, %d skipped; want %d, %q, %d, 0", len(page), c.Last, c.Missed, c.Skipped, backups, outcome, missed)
	}
}

func (n *nightly) failed() {
	n.player.t.Helper()
	if got := <-n.beats; got != "/fail" {
		n.player.t.Errorf("heartbeat: %s", got)
	}
}

// After a downtime all agents are taken to be offline when the server first looks at its
// schedules: they say their hellos some seconds later.
func TestCatchingUpWaitsForTheAgent(t *testing.T) {
	t.Parallel()
	n := newNightly(t, job.Schedule{CatchUp: true, Window: 3 * time.Hour})
	n.at(5 * time.Hour)
	n.is("waiting", 0, 0)
	n.pass(9 * time.Second)
	n.tick()
	n.is("waiting", 0, 0)
	n.hello()
	n.tick()
	n.is("started", 1, 0)
	n.do(job.KindBackup, made("r1"))

	// Or not even in that night: the next one makes up for it.
	n.at(time.Minute)
	n.is("waiting", 1, 0)
	n.at(time.Minute)
	n.is("waiting", 1, 0)
	n.hello()
	n.tick()
	n.tick()
	n.is("started", 2, 0)
}

// A node that is restarted when it is due is backed up when it is back, within the window.
func TestAFiringWaitsForTheAgentAsLongAsItsWindow(t *testing.T) {
	t.Parallel()
	n := newNightly(t, job.Schedule{Window: 3 * time.Hour})
	n.at(time.Second)
	n.is("waiting", 0, 0)
	n.pass(3*time.Hour - 2*time.Second)
	n.hello()
	n.tick()
	n.is("started", 1, 0)
	n.do(job.KindBackup, made("r1"))
	if got := <-n.beats; got != "/" {
		t.Errorf("heartbeat of a success: %s", got)
	}

	n.at(time.Second)
	n.is("waiting", 1, 0)
	n.pass(3 * time.Hour)
	n.tick()
	n.tick()
	n.is("missed", 1, 1)
	n.failed()
	n.hello()
	n.tick()
	n.is("missed", 1, 1) // it is too late
}

// Without a window it is the next one that ends the wait.
func TestAFiringWaitsUntilTheNextOne(t *testing.T) {
	t.Parallel()
	n := newNightly(t, job.Schedule{})
	n.at(time.Second)
	n.is("waiting", 0, 0)
	n.at(time.Second)
	n.is("waiting", 0, 1)
	n.failed()
	n.hello()
	n.tick()
	n.is("started", 1, 1)
}

// What waits doesn't begin long after, when the schedule is enabled again.
func TestADisabledScheduleWaitsForNothing(t *testing.T) {
	t.Parallel()
	n := newNightly(t, job.Schedule{})
	n.at(time.Second)
	for _, enabled := range []bool{false, true} {
		if _, err := n.UpdateSchedule(t.Context(), who("p"), n.id, func(c *job.Schedule) error { c.Enabled = enabled; return nil }); err != nil {
			t.Fatal(err)
		}
		n.hello()
		n.tick()
		n.is("missed", 0, 1)
	}
}

// Of two servers, and of a server that looks twice, one begins what waits.
func TestWhatWaitsBeginsOnce(t *testing.T) {
	t.Parallel()
	n := newNightly(t, job.Schedule{})
	other := start(t, n.bus, server.Config{})
	n.at(time.Second)
	other.pass(n.now().Sub(other.now())) // before it hears the agent
	n.hello()
	servertest.Eventually(t, "it begins", func() bool { // one has heard the agent, the other may know it later
		done := make(chan error)
		for _, s := range []*service{n.service, other} {
			go func() { done <- s.Tick(t.Context()) }()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		page, _ := n.Backups(who("p"), server.BackupFilter{Limit: 10})
		return n.schedule().Last.Outcome == "started" && len(page) == 1
	})
	n.is("started", 1, 0)
}
