package restores

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/topology"
)

// toCluster has the agents of a running cluster's nodes put a database there by files. It reads which backups there are; what is
// in them the agents read.
func (o *databaseOptions) toCluster(ctx context.Context, env *core.Env, s *core.Settings, name string) error {
	switch {
	case o.ask == nil:
		return core.Usage("this command can't ask a server")
	case o.target.url != "" || o.byHTTP || o.q > 0 || o.history.keep || o.backup != "" || o.Instance != "":
		return core.Usage("--to-cluster is for files, out of the newest backups of all nodes of a cluster (--cluster) or a moment of each (--at): leave out --to-server, --by-http, --q, --keep-history, --backup and --instance")
	case o.Database() != "" || o.BeforeChange != "":
		return core.Usage("--to-cluster goes with --at, and not with --at-seq or --before-change, which are of one node's files")
	}
	agents, err := core.Pairs("--to-cluster", o.agents)
	if err != nil {
		return err
	}
	if o.replace && len(agents) > 1 {
		return core.Usage("--replace is for a CouchDB that is alone: of several nodes some would go on answering out of the old files for a while. Restore it under another name (--as), or drop the old one first")
	}
	at, err := o.Time(env.Now())
	if err != nil {
		return err
	}
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return err
	}
	defer r.Close()
	found, err := open.FindCluster(ctx, r, o.cluster)
	if err == nil {
		err = o.twins.Choose(ctx, r, found)
	}
	if err != nil {
		return err
	}
	p := topology.New(found.Of.Name, found.Backups, found.Of.Nodes, slices.Sorted(maps.Keys(agents)))
	if p.N = o.n; !at.IsZero() {
		p.At = at.UTC().Truncate(time.Millisecond)
	}
	if err := p.Check(); err != nil {
		return core.Usage("%v", err)
	}
	text, err := p.YAML()
	if err != nil {
		return err
	}
	return o.ask(ctx, env, s, core.Together{Plan: string(text), Agents: agents, Database: name, As: o.as, Replace: o.replace, NoWait: o.noWait})
}
