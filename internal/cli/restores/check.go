package restores

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/takeout"
)

type restoreCheckOptions struct {
	planned
	open bool
	wait time.Duration
}

func newRestoreCheck(env *core.Env, g *core.Global) *cobra.Command {
	o := &restoreCheckOptions{}
	c := &cobra.Command{
		Use:   "restore-check --plan FILE --to-server URL",
		Short: "Check a cluster that came back by a plan, node by node, and open it",
		Long: `Ask all nodes of a cluster that came back by a plan, through one of them: whether they are those of the plan and no others, as
of the original; whether each has the shard maps that were restored; and whether each opens every shard that it was given, with
as many documents at least. It tells database by database what is not so.

Let the nodes start with maintenance_mode = true in the section [couchdb]: then nobody is served before this says that all is
right, and --open takes the nodes out of that mode and brings their copies together.`,
		Args: core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
			return runRestoreCheck(ctx, env, s, o)
		}),
	}
	f := c.Flags()
	o.flags(f)
	f.BoolVar(&o.open, "open", false, "take the nodes out of maintenance mode if all is right")
	f.DurationVar(&o.wait, "wait", 2*time.Minute, "wait for this `TIME` until the nodes see each other")
	return c
}

type restoreCheckJSON struct {
	Server string `json:"server"`
	*takeout.Restored
	Took float64 `json:"took_seconds"`
}

func runRestoreCheck(ctx context.Context, env *core.Env, s *core.Settings, o *restoreCheckOptions) error {
	began := time.Now()
	nodes, maps, err := o.expected(ctx, env, s)
	if err != nil {
		return err
	}
	srv, _, err := o.target.open(ctx, env, s)
	if err != nil {
		return err
	}
	out := &restoreCheckJSON{Server: srv.URL}
	for {
		if out.Restored, err = srv.CheckRestored(ctx, nodes, maps); err != nil {
			return err
		}
		if len(out.Problems) == 0 || time.Since(began) > o.wait {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	if o.open && out.OK() {
		if err := srv.OpenNodes(ctx, out.Restored); err != nil {
			return err
		}
	}
	out.Took = core.Seconds(time.Since(began))
	if env.JSON {
		err = core.PrintJSON(env.Stdout, out)
	} else {
		out.print(env.Stdout, o.open)
	}
	if err == nil && !out.OK() {
		return core.Say(core.ErrProblem, "the cluster is not as it was restored: mend what is told above, and check again")
	}
	return err
}

// expected is what the nodes must have by the plan.
func (o *restoreCheckOptions) expected(ctx context.Context, env *core.Env, s *core.Settings) (nodes []takeout.RestoredNode, maps []shard.Map, err error) {
	_, placed, r, err := o.openPlan(ctx, env, s, "restore-check")
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	for _, part := range placed.Parts {
		n := takeout.RestoredNode{Name: part.Node.Name}
		for _, t := range part.Takes {
			n.Shards = append(n.Shards, takeout.RestoredShard{Name: t.Name, Docs: t.Copy.Docs + t.Copy.Deleted})
		}
		nodes = append(nodes, n)
	}
	for _, m := range placed.Maps {
		maps = append(maps, m.Map)
	}
	return nodes, maps, nil
}

func (x *restoreCheckJSON) print(w io.Writer, opened bool) {
	shards := 0
	for _, d := range x.Databases {
		shards += d.Shards
		for _, p := range d.Problems {
			fmt.Fprintf(w, "problem: database %s: %s\n", core.Clean(d.Name), core.Clean(p))
		}
	}
	for _, p := range x.Problems {
		fmt.Fprintf(w, "problem: %s\n", core.Clean(p))
	}
	fmt.Fprintf(w, "%s, %s answer as they were restored\n", core.Count(len(x.Databases), "database"), core.Count(shards, "shard"))
	for _, n := range x.Opened {
		fmt.Fprintf(w, "%s is out of maintenance mode\n", n)
	}
	if len(x.Maintenance) > len(x.Opened) {
		more := ": --open takes them out of it once all is right"
		if opened {
			more = " still"
		}
		fmt.Fprintf(w, "%s in maintenance mode%s\n", core.Count(len(x.Maintenance)-len(x.Opened), "node"), more)
	}
}
