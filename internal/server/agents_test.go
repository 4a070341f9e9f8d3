package server_test

import (
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// shows waits until all servers show what an agent has said of its repository.
func shows(t *testing.T, repository string, servers ...*service) {
	t.Helper()
	for _, s := range servers {
		servertest.Eventually(t, repository+" is known", func() bool {
			l := s.Agents()
			return len(l) == 1 && l[0].Hello.Repository.ID == repository
		})
	}
}

// Which repository an agent has is known to all servers at once, not only to the one that
// it told: any of them may be asked next for what needs that repository.
func TestRepositoryIsShared(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	first := start(t, b, server.Config{})
	p := join(t, first, "db1", "p")
	second := start(t, b, server.Config{})
	p.hello()
	p.said++
	ask[job.HelloReply](p, job.VerbHello, job.Hello{Session: p.session, Number: p.said, Repository: job.Repository{ID: "repo-2"},
		Instances: []job.Seen{{Instance: p.node, Up: true, Version: "3.5.0", CanRestart: true}}})
	shows(t, "repo-2", first, second)
}

// Two servers whose clocks differ hear one agent in turn. What it said last counts,
// whichever of them heard it.
func TestServersOfUnequalClocksHearOneAgent(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"the first is ahead": time.Minute, "the second is ahead": -time.Minute} {
		t.Run(name, func(t *testing.T) {
			b := openBus(t)
			first := start(t, b, server.Config{})
			p := join(t, first, "db1", "p")
			second := start(t, b, server.Config{})
			shows(t, "repo-1", first, second)
			first.pass(ahead)
			say := func(s *service, number int64, repository string) {
				t.Helper()
				h := job.Hello{Session: p.session, Number: number, Repository: job.Repository{ID: repository}}
				if _, err := server.Greet(t.Context(), s.Server, p.id, h); err != nil {
					t.Fatal(err)
				}
			}
			say(first, 2, "repo-2")
			say(second, 3, "repo-3")
			shows(t, "repo-3", first, second)
			say(first, 4, "repo-4")
			say(second, 3, "repo-3") // which was long under way
			var stored job.Agent
			if get(t, b, "agents", p.id, &stored); stored.Hello.Number != 4 {
				t.Errorf("an older hello replaced a newer one: %+v", stored.Hello)
			}
			shows(t, "repo-4", first, second)
			p.session = "s2" // which counts anew
			say(second, 1, "repo-5")
			shows(t, "repo-5", first, second)
		})
	}
}
