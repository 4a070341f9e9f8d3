package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
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

// A process that has died may have said a hello that a server takes in only after the one of
// the process that followed it, whose claims count all the same: until that is silent, when
// what is started then may have no number that is higher, as its state may be an old copy.
func TestAHelloOfADeadProcessIsLate(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s, other := start(t, b, server.Config{}), start(t, b, server.Config{})
	p := join(t, s, "db1", "p")
	say := func(to *service, session string, start, number int64) error {
		_, err := server.Greet(t.Context(), to.Server, p.id, job.Hello{Session: session, Start: start, Number: number, Repository: job.Repository{ID: "repo-1"}})
		return err
	}
	stored := func() string {
		var a job.Agent
		get(t, b, "agents", p.id, &a)
		return a.Session
	}
	must := func(err error, session string) {
		t.Helper()
		if err != nil || stored() != session {
			t.Fatalf("%v, and the session is %s, want %s", err, stored(), session)
		}
	}
	must(say(s, "first", 7, 1), "first")
	must(say(s, "second", 8, 1), "second")
	hears(t, other)
	for name, to := range map[string]*service{"the same server": s, "another one": other} {
		for _, number := range []int64{1, 2} {
			if err := say(to, "first", 7, number); err == nil || stored() != "second" {
				t.Errorf("%s: a late hello %d was taken: %v, the session is %s", name, number, err, stored())
			}
		}
	}
	bk, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	if c := ask[job.ClaimReply](p, job.VerbClaim, job.Claim{Session: "second", Job: bk.Job}); c.Verdict != job.Go {
		t.Errorf("claim of the living process: %s", c.Verdict)
	}

	s.pass(89 * time.Second)
	if err := say(s, "old copy", 3, 1); err == nil {
		t.Error("the hello of a lower start was taken before the living process was silent for 90 s")
	}
	s.pass(2 * time.Second) // and what was refused was no sign of life
	must(say(s, "old copy", 3, 1), "old copy")
	must(say(s, "its next", 4, 1), "its next")
	must(say(s, "of before", 0, 1), "of before") // an agent that says none
	must(say(s, "any", 1, 1), "any")
}

// An agent that has said hello and doesn't listen yet is asked again; one that was heard of before isn't.
func TestAgentListensLater(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	look := func() string {
		_, err := s.Look(t.Context(), p.node, job.Look{Name: "databases", Query: json.RawMessage("{}")})
		if err == nil {
			t.Fatal("a look without an answer")
		}
		return err.Error()
	}
	s.pass(10 * time.Second)
	if got := look(); !strings.Contains(got, "isn't connected any more") {
		t.Errorf("nobody listens: %s", got)
	}
	if _, err := s.Databases(t.Context(), who("p"), p.node); err == nil {
		t.Error("nobody listens, and the databases are listed")
	}
	p.hello()
	servertest.Background(t, func(ctx context.Context) error {
		time.Sleep(200 * time.Millisecond)
		return p.link.Streams(ctx, func(context.Context, []byte, io.Writer) error { return errors.New("it listens") })
	})
	if got := look(); !strings.Contains(got, "gave no answer") {
		t.Errorf("a look: %s", got)
	}
	p.hello()
	servertest.Background(t, func(ctx context.Context) error {
		time.Sleep(200 * time.Millisecond)
		return p.link.Answer(ctx, func(context.Context, []byte) ([]byte, error) { return []byte(`{"databases":["a"]}`), nil })
	})
	if list, err := s.Databases(t.Context(), who("p"), p.node); err != nil || len(list) != 1 {
		t.Errorf("%q, %v", list, err)
	}
}
