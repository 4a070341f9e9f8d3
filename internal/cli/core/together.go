package core

import (
	"context"
	"strings"

	"github.com/spf13/pflag"
)

// Together is what the agents of several nodes are to restore together, each its node's part.
type Together struct {
	Plan         string            // as topology.Parse reads it
	Agents       map[string]string // by the plan's nodes
	Database, As string            // of one database; both are "" for all of a cluster
	Replace      bool              // the database of that name
	Project      string
	NoWait       bool
}

// AskTogether asks a server for it.
type AskTogether func(ctx context.Context, env *Env, s *Settings, t Together) error

// Pairs reads NODE=AGENT.
func Pairs(flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, p := range list {
		node, agent, ok := strings.Cut(p, "=")
		if node, agent = strings.TrimSpace(node), strings.TrimSpace(agent); !ok || node == "" || agent == "" {
			return nil, Usage("%s takes the agent of each node, as in couchdb@db4.example=db4, and not %q", flag, p)
		}
		if out[node] != "" {
			return nil, Usage("%s names the node %s twice", flag, node)
		}
		out[node] = agent
	}
	return out, nil
}

// ServerFlags are those of commands that ask a server.
func ServerFlags(f *pflag.FlagSet) {
	f.String("server-url", "", "`URL` of the server (default: http://127.0.0.1:8779)")
	f.String("ca-file", "", "PEM `FILE` with the authority that signed the server's certificate")
	f.String("token-file", "", "`FILE` with the token to ask with (default: admin-token in state_dir, if the server is on this machine)")
}
