package look

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/topology"
)

type clusterShowOptions struct {
	open.Options
	databases []string
}

func newClusterShow(env *core.Env, g *core.Global) *cobra.Command {
	o := &clusterShowOptions{}
	c := &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show a cluster's nodes and databases, and whether their backups hold every range",
		Long: `Show what the newest backups of a cluster's nodes hold together: of each node which backup that is, how old, and how many
shards are in it; of each database its ranges and copies, and those ranges that no backup has. It reads the shard maps out
of the backups and asks no server.`,
		Args: core.Arguments(0, 1, "at most the NAME of one cluster"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runClusterShow(ctx, env, s, o, strings.Join(args, ""))
		}),
	}
	o.Flags(c.Flags(), "")
	_ = c.Flags().MarkHidden("instance") // a cluster has several
	c.Flags().StringArrayVar(&o.databases, "db", nil, "only databases whose name fits this `GLOB` (* is any text); may be repeated")
	return c
}

type clusterShowResult struct {
	Cluster   string            `json:"cluster"`
	Nodes     []shownNodeJSON   `json:"nodes"`
	Databases []cluster.Holding `json:"databases"`
	// Complete says that the backups hold at least one copy of each range of the databases that are shown.
	Complete bool     `json:"complete"`
	Problems []string `json:"problems"`
}

type shownNodeJSON struct {
	Name     string            `json:"name"`
	Instance string            `json:"instance,omitempty"`
	Backup   manifest.BackupID `json:"backup,omitempty"`
	Started  time.Time         `json:"started,omitzero"`
	Shards   int               `json:"shards"`
}

func runClusterShow(ctx context.Context, env *core.Env, s *core.Settings, o *clusterShowOptions, name string) error {
	r, found, err := open.NamedCluster(ctx, env, s, name)
	if err != nil {
		return err
	}
	defer r.Close()
	c, err := open.Cluster(ctx, r, &topology.Plan{Backups: found.Backups})
	if err != nil {
		return err
	}
	out, err := showOf(found, c, o.databases)
	if err != nil {
		return err
	}
	if env.JSON {
		err = core.PrintJSON(env.Stdout, out)
	} else {
		err = out.print(env.Stdout, env.Now())
	}
	if err == nil && !out.Complete {
		return core.Say(core.ErrProblem, "the backups do not hold every range of every database")
	}
	return err
}

func showOf(found *open.ClusterBackups, c *cluster.Cluster, globs []string) (*clusterShowResult, error) {
	wanted, err := restore.Choose(c.Names(), globs)
	if err != nil {
		return nil, err
	}
	out := &clusterShowResult{Cluster: found.Of.Name, Nodes: []shownNodeJSON{}, Databases: []cluster.Holding{}, Complete: true, Problems: core.NonNil(slices.Concat(found.Of.Twins(), c.Problems))}
	if c.Mixed != "" {
		out.Problems = append(out.Problems, c.Mixed)
	}
	nodes := make([]string, len(found.Backups))
	for i, b := range found.Backups {
		nodes[i] = b.Node
	}
	list, held := c.Holdings(nodes, wanted)
	for _, d := range list {
		out.Complete = out.Complete && len(d.Missing) == 0
	}
	out.Databases = append(out.Databases, list...)
	for _, node := range found.Of.Nodes {
		n := shownNodeJSON{Name: node}
		if i := slices.IndexFunc(found.Backups, func(b topology.Backup) bool { return b.Node == node }); i >= 0 {
			rec := found.Records[i]
			n.Instance, n.Backup, n.Started, n.Shards = rec.Instance, rec.ID, rec.Started, held[i]
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out, nil
}

func (c *clusterShowResult) print(w io.Writer, now time.Time) error {
	fmt.Fprintf(w, "cluster %s\n\n", core.Clean(c.Cluster))
	var rows [][]string
	for _, n := range c.Nodes {
		if n.Backup == "" {
			rows = append(rows, []string{n.Name, "-", "none that isn't damaged", "", ""})
			continue
		}
		rows = append(rows, []string{n.Name, n.Instance, n.Backup.Short(), age(now.Sub(n.Started)), strconv.Itoa(n.Shards)})
	}
	if err := core.Table(w, []string{"NODE", "INSTANCE", "BACKUP", "AGE", "SHARDS"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for _, d := range c.Databases {
		state := fmt.Sprintf("%d of %d", d.Held, d.Copies)
		if len(d.Missing) > 0 {
			state += ", none of " + strings.Join(d.Missing, ", ")
		}
		rows = append(rows, []string{core.Clean(d.Name), strconv.Itoa(d.Q), strconv.Itoa(d.N), strconv.FormatUint(d.Docs, 10), state})
	}
	if err := core.Table(w, []string{"DATABASE", "Q", "N", "DOCS", "COPIES HELD"}, rows); err != nil {
		return err
	}
	for _, p := range c.Problems {
		fmt.Fprintf(w, "problem: %s\n", core.Clean(p))
	}
	if c.Complete {
		fmt.Fprintln(w, "\nthe backups hold every range of every database")
	}
	return nil
}
