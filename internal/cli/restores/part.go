package restores

import (
	"context"
	"fmt"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/restore"
)

// openPart opens what a node gets by a plan.
func (o *restoreOptions) openPart(ctx context.Context, env *core.Env, s *core.Settings) (from *source, part *restore.Part, err error) {
	plan, err := open.Plan(o.plan)
	if err != nil {
		return nil, nil, err
	}
	s.FromCache = true // every file is held against its hash
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if err := r.Unlock(ctx); err != nil {
		return nil, nil, err
	}
	c, err := open.Cluster(ctx, r, plan)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range c.Members {
		if err := core.CheckStrategy("restore", s.RestoreNamespace, m.Record.Strategy); err != nil {
			return nil, nil, err
		}
	}
	if part, err = restore.PartOf(c, plan, o.asNode); err != nil {
		return nil, nil, core.Usage("%s: %v", o.plan, err)
	}
	if o.to == "" {
		o.to = part.Node.DataDir
	}
	if o.to == "" {
		return nil, nil, needsTo()
	}
	what := fmt.Sprintf("what %s gets of the cluster %s by %s", part.Node.Name, plan.Cluster, o.plan)
	return &source{repo: r, rec: part.Backups[part.Base].Record, what: what}, part, nil
}

// checkPart refuses what a plan decides.
func (o *restoreOptions) checkPart(ref string) error {
	if (o.plan == "") != (o.asNode == "") {
		return core.Usage("--plan and --as-node belong together: the plan of the cluster, and the name of the node that gets its part of it here")
	}
	if o.plan == "" {
		return nil
	}
	for flag, given := range map[string]bool{
		"a backup": ref != "", "--instance": o.Instance != "", "--at, --at-seq and --before-change": o.Given(), "--db": len(o.databases) > 0, "--node-name": o.nodeName != "",
	} {
		if given {
			return core.Usage("--plan says all of what is restored and under which names: leave %s out", flag)
		}
	}
	return nil
}
