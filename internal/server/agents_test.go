package server_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// Which repository an agent has is known to all servers at once, not only to the one that
// it told: any of them may be asked next for what needs that repository.
func TestRepositoryIsShared(t *testing.T) {
	b := openBus(t)
	first := start(t, b, server.Config{})
	p := join(t, first, "db1", "p")
	second := start(t, b, server.Config{})
	p.hello()
	ask[job.HelloReply](p, job.VerbHello, job.Hello{Session: p.session, Repository: job.Repository{ID: "repo-2"},
		Instances: []job.Seen{{Instance: p.node, Up: true, Version: "3.5.0", CanRestart: true}}})
	for _, s := range []*service{first, second} {
		servertest.Eventually(t, "the repository is known", func() bool {
			l := s.Agents()
			return len(l) == 1 && l[0].Hello.Repository.ID == "repo-2"
		})
	}
}
