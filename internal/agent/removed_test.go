package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/bus"
)

// An agent that was removed while it runs ends, and says so, whether NATS refuses it from
// then on or only the servers don't know it. Of a server that is away it thinks no such thing.
func TestRemovedAgentEnds(t *testing.T) {
	t.Parallel()
	for how, remove := range map[string]func(*server) error{
		"NATS refuses it": func(s *server) error { return s.bus.RemoveAgent(t.Context(), agentID) },
		"servers don't know it": func(s *server) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.forgot = true
			return nil
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s, w := newServer(t), newWorld(t)
			seed, public, err := bus.NewKey()
			must(t, err)
			jwt, err := s.bus.Issue(t.Context(), agentID, public)
			must(t, err)
			link, err := bus.Dial(t.Context(), bus.LinkOptions{URL: s.bus.ClientURL(), Agent: agentID, JWT: jwt, Seed: seed, AckWait: 3 * time.Second})
			must(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- agent.Run(ctx, w.options(link, "", slog.New(slog.DiscardHandler))) }()
			s.until("the first hello", func() bool { return s.hellos > 0 })
			s.setAway(true)
			for end := time.Now().Add(patience); s.refused() == 0 && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			s.mu.Lock()
			before := s.hellos
			s.mu.Unlock()
			s.setAway(false)
			s.until("a hello after that", func() bool { return s.hellos > before })
			must(t, remove(s))
			select {
			case err := <-done:
				if !errors.Is(err, agent.ErrRemoved) {
					t.Errorf("it ended with %v, want ErrRemoved", err)
				}
			case <-time.After(patience):
				t.Error("it runs on")
			}
		})
	}
}
