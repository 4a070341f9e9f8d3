package restores

import (
	"context"

	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/topology"
)

// planned are the options of what is done with a cluster that came back by a plan.
type planned struct {
	open.Options
	plan   string
	target target
}

func (o *planned) flags(f *pflag.FlagSet) {
	o.Options.Flags(f, "")
	_ = f.MarkHidden("instance") // a plan has several
	f.StringVar(&o.plan, "plan", "", "`FILE` with the plan that was restored")
	o.target.flags(f, "to-server", "a node of the restored cluster: `URL`, with a user and no password")
}

// openPlan reads the plan and the backups that it names out of the repository, which must be closed, and works it out.
func (o *planned) openPlan(ctx context.Context, env *core.Env, s *core.Settings, command string) (c *cluster.Cluster, placed *topology.Placement, r *open.Repository, err error) {
	if o.plan == "" || o.target.url == "" {
		return nil, nil, nil, core.Usage("%s needs --plan with the plan that was restored, and --to-server with the URL of one of its nodes", command)
	}
	plan, err := open.Plan(o.plan)
	if err != nil {
		return nil, nil, nil, err
	}
	if r, err = open.Repo(ctx, env, s, true); err != nil {
		return nil, nil, nil, err
	}
	if err = r.Unlock(ctx); err == nil {
		c, err = open.Cluster(ctx, r, plan)
	}
	if err == nil {
		err = open.Unmixed(c)
	}
	if err == nil {
		if placed, err = plan.Place(c.Databases); err != nil {
			err = core.Usage("%s: %v", o.plan, err)
		}
	}
	if err != nil {
		r.Close()
		return nil, nil, nil, err
	}
	return c, placed, r, nil
}
