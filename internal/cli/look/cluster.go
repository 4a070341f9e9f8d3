package look

import (
	"cmp"
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
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/topology"
)

func newCluster(env *core.Env, g *core.Global, more ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   "cluster",
		Short: "See CouchDB clusters as what they are, out of the backups of their nodes",
	}
	core.AsGroup(c)
	c.AddCommand(newClusterList(env, g), newClusterShow(env, g), newClusterCompare(env, g), newClusterPlan(env, g))
	c.AddCommand(more...)
	return c
}

func newClusterList(env *core.Env, g *core.Global) *cobra.Command {
	o := &open.Options{}
	c := &cobra.Command{
		Use:   "list",
		Short: "List the clusters: their nodes, how old the oldest of their newest backups is, and what is missing",
		Long: `List the CouchDB clusters whose nodes are backed up into the repository: how many nodes each has, how many of them have a
backup that isn't damaged, how old the oldest of the nodes' newest ones is, and what is missing.

Which instances are one cluster is made out of what their newest backups say (docs/clusters.md). It needs no key.`,
		Args: core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
			return runClusterList(ctx, env, s)
		}),
	}
	o.Place(c.Flags())
	return c
}

type clusterListResult struct {
	Clusters   []clusterJSON          `json:"clusters"`
	Alone      []string               `json:"alone"`
	Unreadable []unreadableBackupJSON `json:"unreadable"`
}

type clusterJSON struct {
	Name     string            `json:"name"`
	Nodes    []clusterNodeJSON `json:"nodes"`
	BackedUp int               `json:"backed_up"`
	Oldest   *string           `json:"oldest"` // the node of the oldest one
	Age      *float64          `json:"age_seconds"`
	Missing  []string          `json:"missing"`
}

type clusterNodeJSON struct {
	Name      string            `json:"name"`
	Instances []string          `json:"instances"`
	Newest    *newestBackupJSON `json:"newest"`
}

// newestBackupJSON is the newest backup of a node that isn't damaged.
type newestBackupJSON struct {
	Instance string            `json:"instance"`
	ID       manifest.BackupID `json:"id"`
	Started  time.Time         `json:"started"`
}

// unreadableBackupJSON is a backup whose record can't be used.
type unreadableBackupJSON struct {
	Instance string `json:"instance"`
	ID       string `json:"id"`
	Error    string `json:"error"`
}

func runClusterList(ctx context.Context, env *core.Env, s *core.Settings) error {
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	recs, bad, err := r.List(ctx, "")
	if err != nil {
		return err
	}
	out := clustersOf(recs, env.Now())
	for _, b := range bad {
		out.Unreadable = append(out.Unreadable, unreadableBackupJSON{b.Instance, string(b.ID), b.Err.Error()})
	}
	if env.JSON {
		err = core.PrintJSON(env.Stdout, out)
	} else {
		err = out.print(env.Stdout, r.URL())
	}
	if err == nil && len(bad) > 0 {
		return core.Say(core.ErrProblem, "%s can't be used: %s", core.Count(len(bad), "backup"), bad[0].Err)
	}
	return err
}

// clustersOf tells of the clusters that all records, the oldest first, make.
func clustersOf(recs []*manifest.Record, now time.Time) *clusterListResult {
	last := open.NewestOf(recs)
	good := open.NewestOf(slices.DeleteFunc(slices.Clone(recs), func(rec *manifest.Record) bool { return rec.Status != manifest.Completed }))
	var list []*manifest.Record
	for _, rec := range last {
		list = append(list, rec)
	}
	out := &clusterListResult{Clusters: []clusterJSON{}, Alone: []string{}, Unreadable: []unreadableBackupJSON{}}
	clusters := topology.Clusters(list)
	in := map[string]string{} // the cluster of each instance
	for i := range clusters {
		for _, of := range clusters[i].Instances {
			for _, rec := range of {
				in[rec.Instance] = clusters[i].Name
			}
		}
	}
	for name := range last {
		if in[name] == "" {
			out.Alone = append(out.Alone, name)
		}
	}
	slices.Sort(out.Alone)
	for i := range clusters {
		elsewhere := func(node string) (found []string) {
			for name, rec := range last {
				if rec.NodeName == node && in[name] != clusters[i].Name {
					found = append(found, name+" of "+cmp.Or(in[name], "no cluster"))
				}
			}
			slices.Sort(found)
			return found
		}
		out.Clusters = append(out.Clusters, clusterOf(&clusters[i], good, elsewhere, now))
	}
	return out
}

// clusterOf tells of a cluster. good are the newest backups of instances that aren't damaged; elsewhere names the
// instances of a node that are not of this cluster, and what they are of.
func clusterOf(c *topology.Cluster, good map[string]*manifest.Record, elsewhere func(node string) []string, now time.Time) clusterJSON {
	out := clusterJSON{Name: c.Name, Nodes: []clusterNodeJSON{}, Missing: []string{}}
	missing := func(format string, args ...any) { out.Missing = append(out.Missing, fmt.Sprintf(format, args...)) }
	var oldest time.Time
	for _, name := range c.Nodes {
		node := clusterNodeJSON{Name: name, Instances: []string{}}
		for _, rec := range c.Instances[name] {
			node.Instances = append(node.Instances, rec.Instance)
			if b := good[rec.Instance]; b != nil && node.Newest == nil {
				node.Newest = &newestBackupJSON{b.Instance, b.ID, b.Started}
			}
		}
		switch others := elsewhere(name); {
		case len(node.Instances) == 0 && len(others) > 0:
			missing("no backup of %s: there is %s", name, strings.Join(others, ", "))
		case len(node.Instances) == 0:
			missing("no backup of %s", name)
		case node.Newest == nil:
			missing("only damaged backups of %s", name)
		}
		if len(node.Instances) > 1 {
			missing("%s are all of %s, and the first counts: if these are two clusters, name each by the setting cluster", strings.Join(node.Instances, ", "), name)
		}
		if b := node.Newest; b != nil {
			out.BackedUp++
			if age, ok := newest.Since(b.Started, now); !ok {
				missing("the newest backup of %s is stamped %s, which is not yet: a clock is or was wrong", name, core.When(b.Started))
			} else if out.Oldest == nil || b.Started.Before(oldest) {
				seconds := core.Seconds(age)
				out.Oldest, out.Age, oldest = &node.Name, &seconds, b.Started
			}
		}
		out.Nodes = append(out.Nodes, node)
	}
	for _, name := range c.Removed() {
		missing("%s is no node of it any more: its backups are those of before (%s)", name, c.Instances[name][0].Instance)
	}
	for _, rec := range c.Instances[""] {
		missing("which node %s is of isn't known: set node_name there", rec.Instance)
	}
	return out
}

func (l *clusterListResult) print(w io.Writer, at string) error {
	if len(l.Clusters) == 0 && len(l.Alone) == 0 {
		_, err := fmt.Fprintf(w, "no backups in %s yet\n", at)
		return err
	}
	if len(l.Clusters) == 0 {
		_, err := fmt.Fprintf(w, "no backup in %s is of a node of a cluster; alone are %s\n", at, strings.Join(l.Alone, ", "))
		return err
	}
	var rows [][]string
	for _, c := range l.Clusters {
		oldest := "-"
		if c.Age != nil {
			oldest = age(time.Duration(*c.Age*float64(time.Second))) + ", " + *c.Oldest
		}
		rows = append(rows, []string{c.Name, strconv.Itoa(len(c.Nodes)), strconv.Itoa(c.BackedUp), oldest})
	}
	if err := core.Table(w, []string{"CLUSTER", "NODES", "BACKED UP", "OLDEST"}, rows); err != nil {
		return err
	}
	for _, c := range l.Clusters {
		for _, m := range c.Missing {
			fmt.Fprintf(w, "%s: %s\n", core.Clean(c.Name), core.Clean(m))
		}
	}
	if len(l.Alone) > 0 {
		fmt.Fprintf(w, "of no cluster: %s\n", strings.Join(l.Alone, ", "))
	}
	return nil
}

// age prints how long ago something was, as roughly as people say it.
func age(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
