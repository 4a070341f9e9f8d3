package look

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/restore"
)

type compareOptions struct {
	open.Options
	open.Twins
	when      open.When // its At and Zone
	databases []string
}

func newClusterCompare(env *core.Env, g *core.Global) *cobra.Command {
	o := &compareOptions{}
	c := &cobra.Command{
		Use:   "compare [NAME]",
		Short: "Show what the copies of a cluster's databases disagree about, out of the backups of its nodes",
		Long: `Compare what the nodes of a cluster hold of each range of its databases, out of the newest backup of each node that isn't
damaged, or with --at out of a moment of each: which documents a copy doesn't have, which revisions it lacks of others, what was
purged in one and lives in another, and where local documents, security or limits differ. NAME may be left out if there is but
one cluster.

It reads the lists of documents of all copies, and no bodies. Copies are compared as of when their files were cut: what was
written between the cuts of two nodes is among the differences, so the cuts are told first. docs/clusters.md says what each
word means.

Differences are no error; exit code 4 says that something of a copy couldn't be read.`,
		Args: core.Arguments(0, 1, "at most the NAME of a cluster"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runClusterCompare(ctx, env, s, o, strings.Join(args, ""))
		}),
	}
	o.Flags(c.Flags(), "")
	_ = c.Flags().MarkHidden("instance") // a cluster has several
	f := c.Flags()
	f.StringArrayVar(&o.databases, "db", nil, "only databases whose name fits this `GLOB` (* is any text); may be repeated")
	o.when.ClusterFlags(f)
	o.TwinsFlag(f)
	return c
}

func runClusterCompare(ctx context.Context, env *core.Env, s *core.Settings, o *compareOptions, name string) error {
	at, err := o.when.Time(env.Now())
	if err != nil {
		return err
	}
	r, found, err := open.OneCluster(ctx, env, s, name, &o.Twins)
	if err != nil {
		return err
	}
	defer r.Close()
	members, nodes, err := o.members(ctx, r, found, at)
	if err != nil {
		return err
	}
	c, err := cluster.Open(ctx, r.Repo, members)
	if err == nil {
		err = open.Unmixed(c)
	}
	if err != nil {
		return err
	}
	wanted, err := restore.Choose(c.Names(), o.databases)
	if err != nil {
		return err
	}
	run := &compareRun{env: env, cluster: c, compared: c.Compare(r.Repo, nodes), nodes: nodes, wanted: wanted}
	defer run.compared.Close()
	if err := run.run(ctx, found.Of.Name); err != nil {
		return err
	}
	if run.unread > 0 {
		return core.Say(core.ErrProblem, "of %s something can't be read", core.Count(run.unread, "range"))
	}
	return nil
}

// members returns what of each node is compared: its newest good backup, or the newest moment up to a time, zero being no bound.
func (o *compareOptions) members(ctx context.Context, r *open.Repository, c *open.ClusterBackups, at time.Time) ([]cluster.Member, []cluster.Compared, error) {
	var members []cluster.Member
	var nodes []cluster.Compared
	for i, rec := range c.Records {
		node := c.Backups[i].Node
		var m cluster.Member
		var n cluster.Compared
		var err error
		if o.when.At == "" {
			m, n, err = cluster.Newest(ctx, r.Repo, node, rec)
		} else {
			m, n, err = cluster.Moment(ctx, r.Repo, node, rec.Instance, at)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", node, err)
		}
		members, nodes = append(members, m), append(nodes, n)
	}
	return members, nodes, nil
}

// compareRun compares the copies of a cluster's databases.
type compareRun struct {
	env      *core.Env
	cluster  *cluster.Cluster
	nodes    []cluster.Compared // of the members
	compared *cluster.Comparison
	wanted   func(string) bool // databases

	databases, ranges, agree int
	told                     int // ranges that were printed
	incomplete               int // ranges of which not all copies were compared
	unread                   int // ranges of which something could not be read
	documents, different     uint64
}

// run compares all ranges, and prints what is to be told as it is found: there may be many.
func (c *compareRun) run(ctx context.Context, name string) error {
	if err := c.begin(name); err != nil {
		return err
	}
	for i := range c.cluster.Databases {
		db := &c.cluster.Databases[i]
		if !c.wanted(db.Map.DB) {
			continue
		}
		c.databases++
		for _, rg := range db.Ranges {
			d, err := c.compared.Range(ctx, db, rg.Range, c.first())
			if err != nil {
				return fmt.Errorf("%s %s: %w", db.Map.DB, rg.Range, err)
			}
			c.count(d)
			if d.Agrees() {
				continue
			}
			if err := c.print(d); err != nil {
				return err
			}
			c.told++
		}
	}
	return c.end()
}

func (c *compareRun) count(d *cluster.Divergence) {
	c.ranges++
	if d.Agrees() {
		c.agree++
	}
	if d.Unread() {
		c.unread++
	}
	if len(d.NotCompared) > 0 {
		c.incomplete++
	}
	if d.Report != nil {
		c.documents += d.Report.Documents
		c.different += d.Report.Different
	}
}

// first is how many documents of each kind are named.
func (c *compareRun) first() int {
	if c.env.JSON {
		return 0
	}
	return core.NamesShown
}

func (c *compareRun) begin(name string) error {
	w := c.env.Stdout
	if c.env.JSON {
		nodes, err := json.Marshal(core.NonNil(c.nodes))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "{\n  \"cluster\": %q,\n  \"nodes\": %s,\n  \"ranges\": [", name, nodes)
		return err
	}
	var rows [][]string
	for _, n := range c.nodes {
		rows = append(rows, []string{n.Node, n.Instance, string(n.Backup), core.When(n.From), core.When(n.Until)})
	}
	if err := core.Table(w, []string{"NODE", "INSTANCE", "BACKUP", "CUT FROM (UTC)", "UNTIL"}, rows); err != nil {
		return err
	}
	if from, until := cluster.Span(c.nodes); len(c.nodes) > 1 && until.After(from) {
		_, err := fmt.Fprintf(w, "the cuts lie within %s: what was written then is among the differences\n", core.Took(until.Sub(from)))
		return err
	}
	return nil
}

func (c *compareRun) print(d *cluster.Divergence) error {
	w := c.env.Stdout
	if !c.env.JSON {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		return core.PrintDivergence(w, d)
	}
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	comma := ","
	if c.told == 0 {
		comma = ""
	}
	_, err = fmt.Fprintf(w, "%s\n    %s", comma, text)
	return err
}

func (c *compareRun) end() error {
	w := c.env.Stdout
	if !c.env.JSON {
		if c.told > 0 {
			fmt.Fprintln(w)
		}
		for _, p := range c.cluster.Problems {
			fmt.Fprintln(w, core.Clean(p))
		}
		text := fmt.Sprintf("compared %s in %s of %s", core.Count(int(c.documents), "document"), core.Count(c.ranges, "range"), core.Count(c.databases, "database"))
		if c.agree == c.ranges {
			_, err := fmt.Fprintf(w, "%s: all copies agree\n", text)
			return err
		}
		text += fmt.Sprintf(": %d %s", c.different, core.Differ(c.different))
		if c.incomplete > 0 {
			text += fmt.Sprintf(", of %s not all copies were compared", core.Count(c.incomplete, "range"))
		}
		_, err := fmt.Fprintln(w, text)
		return err
	}
	counts, err := json.Marshal(map[string]uint64{
		"databases": uint64(c.databases), "ranges": uint64(c.ranges), "agree": uint64(c.agree), "unread": uint64(c.unread), "incomplete": uint64(c.incomplete),
		"documents": c.documents, "different": c.different,
	})
	if err != nil {
		return err
	}
	problems, err := json.Marshal(core.NonNil(c.cluster.Problems))
	if err != nil {
		return err
	}
	storage, err := json.Marshal(c.env.TrafficJSON())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\n  ],\n  \"problems\": %s,\n  \"counts\": %s,\n  \"storage\": %s\n}\n", problems, counts, storage)
	return err
}
