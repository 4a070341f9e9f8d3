package service

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/job"
)

func newSets(env *core.Env, g *core.Global) *cobra.Command {
	c := &cobra.Command{
		Use:   "sets",
		Short: "See and delete the backups of a server's clusters, each set of all nodes as one",
		Long: `See and delete the backups of a server's clusters: each set is of all nodes, begun at one moment. "backup create --cluster" and
schedules with --cluster make them, and "cluster plan --set" plans how one comes back.`,
	}
	core.AsGroup(c)
	c.AddCommand(newSetsClusters(env, g), newSetsList(env, g), newSetsShow(env, g), newSetsDelete(env, g))
	return c
}

type setJSON struct {
	ID            string    `json:"id"`
	Name          string    `json:"name"`
	Project       string    `json:"project"`
	Cluster       string    `json:"cluster"`
	State         string    `json:"state"`
	Proven        bool      `json:"proven"`
	Members       []member  `json:"members"`
	SpreadSeconds float64   `json:"spread_seconds"`
	SizeBytes     int64     `json:"size_bytes"`
	Created       time.Time `json:"created"`
}

type member struct {
	Node         string        `json:"node"`
	InstanceName string        `json:"instance_name"`
	Backup       string        `json:"backup"`
	Status       string        `json:"status"`
	Lacks        string        `json:"lacks"`
	Fault        string        `json:"fault"`
	Progress     *core.Reading `json:"progress"`
	SizeBytes    int64         `json:"size_bytes"`
	Damage       int           `json:"damage"`
	Pin          *job.Pin      `json:"pin"`
	Started      time.Time     `json:"started"`
}

type oneSetJSON struct {
	Set setJSON `json:"set"`
}

// have returns how many nodes have a backup that can be restored.
func (s *setJSON) have() (n int) {
	for _, m := range s.Members {
		if m.Status == "COMPLETED" || m.Status == "RESTORED" {
			n++
		}
	}
	return n
}

// lacking says which nodes have none, and why.
func (s *setJSON) lacking() string {
	var out []string
	for _, m := range s.Members {
		if m.Lacks != "" {
			out = append(out, m.Node+": "+m.Lacks)
		}
	}
	return strings.Join(out, "; ")
}

func (s *setJSON) print(w io.Writer) error {
	proven, spread := "", ""
	if s.Proven {
		proven = "yes"
	}
	if s.have() > 1 {
		spread = "within " + core.Took(time.Duration(s.SpreadSeconds*float64(time.Second)))
	}
	if err := core.Facts(w, []core.Fact{{"set", s.ID}, {"name", s.Name}, {"project", s.Project}, {"cluster", s.Cluster}, {"state", s.State},
		{"nodes", fmt.Sprintf("%d of %d backed up", s.have(), len(s.Members))}, {"begun (UTC)", core.When(s.Created)}, {"starts", spread},
		{"size", core.Size(s.SizeBytes)}, {"proven", proven}}); err != nil {
		return err
	}
	var rows [][]string
	for _, m := range s.Members {
		why := cmp.Or(m.Lacks, m.Fault)
		if m.Pin != nil {
			why = "pinned, so all of the set stays: " + m.Pin.Reason
		}
		rows = append(rows, []string{m.Node, m.InstanceName, m.Backup, cmp.Or(m.Status, "-"), moment(m.Started), core.Size(m.SizeBytes), why})
	}
	return core.Table(w, []string{"NODE", "INSTANCE", "BACKUP", "STATUS", "STARTED (UTC)", "SIZE", "WHY"}, rows)
}

func newSetsList(env *core.Env, g *core.Global) *cobra.Command {
	project, cluster := "", ""
	c := &cobra.Command{
		Use:   "list",
		Short: "List the sets, the newest first, with what each lacks",
		Args:  core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			q := url.Values{}
			if project != "" {
				q.Set("project", project)
			}
			if cluster != "" {
				q.Set("cluster", cluster)
			}
			type list struct {
				Sets []setJSON `json:"sets"`
			}
			return show(ctx, env, c, "sets?"+q.Encode(), func(l *list) error {
				var rows [][]string
				for _, s := range l.Sets {
					rows = append(rows, []string{s.ID, s.Name, s.Cluster, s.State, fmt.Sprintf("%d of %d", s.have(), len(s.Members)), core.When(s.Created), core.Size(s.SizeBytes), s.lacking()})
				}
				return core.Table(env.Stdout, []string{"ID", "NAME", "CLUSTER", "STATE", "NODES", "BEGUN (UTC)", "SIZE", "LACKS"}, rows)
			})
		}),
	}
	c.Flags().StringVar(&cluster, "cluster", "", "`NAME` of the cluster whose sets to list (default: all)")
	c.Flags().StringVar(&project, "project", "", "`ID` of the project whose sets to list (default: all that the token may see)")
	serviceFlags(c.Flags())
	return c
}

func newSetsShow(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "show SET",
		Short: "Show a set, with the backup of each node and when it was begun, or why there is none",
		Args:  core.Arguments(1, 1, "the ID of one SET"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			return show(ctx, env, c, inProject("sets/"+url.PathEscape(args[0]), project), func(s *oneSetJSON) error { return s.Set.print(env.Stdout) })
		}),
	}
	projectFlag(c.Flags(), &project, "whose set it is")
	serviceFlags(c.Flags())
	return c
}

func newSetsDelete(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "delete SET",
		Short: "Delete all backups of a set, and those that were made on them",
		Long: `Delete all backups of a set, and those that were made on them with --parent. They are gone from restores at once; their
files are removed by the agents. A set with a pinned backup is refused. If one turns out to be protected, or to have been pinned
in the repository, the set is shown as "going" with what is left of it, and may be deleted again later.`,
		Args: core.Arguments(1, 1, "the ID of one SET"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			return c.remove(ctx, env, inProject("sets/"+url.PathEscape(args[0]), project), args[0], "deleted", "set "+args[0]+" is being deleted")
		}),
	}
	projectFlag(c.Flags(), &project, "whose set it is")
	serviceFlags(c.Flags())
	return c
}

func newSetsClusters(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "clusters",
		Short: "List the clusters that a server can back up, by the names that --cluster takes",
		Args:  core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			return show(ctx, env, c, inProject("clusters", project), func(l *clusterListJSON) error { return l.print(env.Stdout) })
		}),
	}
	c.Flags().StringVar(&project, "project", "", "`ID` of the project whose clusters to list (default: all that the token may see)")
	serviceFlags(c.Flags())
	return c
}

type clusterListJSON struct {
	Clusters []struct {
		Name    string `json:"name"`
		Project string `json:"project"`
		Nodes   []struct {
			Name         string `json:"name"`
			InstanceName string `json:"instance_name"`
			Online       bool   `json:"online"`
		} `json:"nodes"`
		Problem string `json:"problem"`
		Whole   struct {
			ID      string    `json:"id"`
			Created time.Time `json:"created"`
		} `json:"newest_whole"`
	} `json:"clusters"`
}

func (l *clusterListJSON) print(w io.Writer) error {
	var rows [][]string
	var told []string
	for _, c := range l.Clusters {
		online := 0
		for _, n := range c.Nodes {
			switch {
			case n.Online:
				online++
			case n.InstanceName == "":
				told = append(told, fmt.Sprintf("%s: no instance is the node %s", c.Name, n.Name))
			default:
				told = append(told, fmt.Sprintf("%s: the agent of %s, node %s, is not online", c.Name, n.InstanceName, n.Name))
			}
		}
		if c.Problem != "" {
			told = append(told, c.Problem)
		}
		rows = append(rows, []string{c.Name, c.Project, number(len(c.Nodes)), fmt.Sprint(online), moment(c.Whole.Created), c.Whole.ID})
	}
	if err := core.Table(w, []string{"CLUSTER", "PROJECT", "NODES", "ONLINE", "NEWEST WHOLE SET (UTC)", "SET"}, rows); err != nil {
		return err
	}
	for _, line := range told {
		fmt.Fprintln(w, core.Clean(line))
	}
	return nil
}

// ClusterBackup asks a server to back up all nodes of a cluster: what "backup create --cluster" does.
type ClusterBackup struct {
	env     *core.Env
	g       *core.Global
	project string
	noWait  bool
}

// NewClusterBackup returns one.
func NewClusterBackup(env *core.Env, g *core.Global) *ClusterBackup {
	return &ClusterBackup{env: env, g: g}
}

// Flags adds the flags that go with it, and returns their names.
func (o *ClusterBackup) Flags(f *pflag.FlagSet) []string {
	f.BoolVar(&o.noWait, "no-wait", false, "with --cluster: don't wait for the end")
	f.StringVar(&o.project, "project", "", "with --cluster: `ID` of the project whose cluster it is (default: that of the token)")
	serviceFlags(f)
	return []string{"no-wait", "project", "server-url", "ca-file", "token-file"}
}

// Run asks for the set, and waits for its end.
func (o *ClusterBackup) Run(cmd *cobra.Command, cluster, name, description string) error {
	return serviceCommand(o.env, o.g, func(ctx context.Context, c *serviceClient, s *core.Settings, _ []string) error {
		return o.run(ctx, c, s, cluster, map[string]string{"name": name, "description": description})
	})(cmd, nil)
}

func (o *ClusterBackup) run(ctx context.Context, c *serviceClient, s *core.Settings, cluster string, in map[string]string) error {
	env := o.env
	var begun oneSetJSON
	if err := c.call(ctx, http.MethodPost, inProject("clusters/"+url.PathEscape(cluster)+"/backup", o.project), in, &begun); err != nil {
		return err
	}
	id := begun.Set.ID
	env.Done("the set %s has begun", id)
	path := inProject("sets/"+url.PathEscape(id), o.project)
	if !o.noWait {
		if err := c.awaitSet(ctx, env, s, path); err != nil {
			return core.WhenStopped(ctx, err, "the set "+id+" goes on; \"slipcover sets show "+id+"\" shows it")
		}
	}
	var set oneSetJSON
	if err := show(ctx, env, c, path, func(now *oneSetJSON) error { set = *now; return now.Set.print(env.Stdout) }); err != nil {
		return err
	}
	if env.JSON { // which show printed as it was
		if err := c.call(ctx, http.MethodGet, path, nil, &set); err != nil {
			return err
		}
	}
	if o.noWait {
		return nil
	}
	if set.Set.State != "whole" {
		return core.Say(core.ErrProblem, "the set is %s: %d of %d nodes were backed up (%s)", set.Set.State, set.Set.have(), len(set.Set.Members), core.Clean(set.Set.lacking()))
	}
	for _, m := range set.Set.Members {
		if m.Damage > 0 {
			return core.Say(core.ErrDamaged, "the set is whole and holds the sources as they are, but that of %s is damaged: %s", core.Clean(m.Node), core.Count(m.Damage, "finding"))
		}
	}
	return nil
}

// awaitSet waits until no backup of a set is at work, with their progress shown.
func (c *serviceClient) awaitSet(ctx context.Context, env *core.Env, s *core.Settings, path string) error {
	done := map[string]core.Reading{} // by node, what it said last
	return poll(ctx, env, s, "backing up", func() (sum core.Reading, ended bool, err error) {
		var now oneSetJSON
		err = c.call(ctx, http.MethodGet, path, nil, &now)
		for _, m := range now.Set.Members {
			if m.Progress != nil {
				done[m.Node] = *m.Progress
			}
			sum = plus(sum, done[m.Node])
		}
		return sum, now.Set.State != "running", err
	})
}
