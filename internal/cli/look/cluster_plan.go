package look

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/topology"
)

type clusterPlanOptions struct {
	open.Options
	open.Twins
	nodes     []string
	n         int
	when      open.When // its At and Zone
	placement string
	set       string
	out       string
	all       bool
}

func newClusterPlan(env *core.Env, g *core.Global) *cobra.Command {
	o := &clusterPlanOptions{}
	c := &cobra.Command{
		Use:   "plan [NAME] --nodes NODE,NODE,…",
		Short: "Plan how a cluster, or one node, comes back on other nodes, more or fewer",
		Long: `Print the plan by which the newest backups of a cluster's nodes come back: on nodes of other names, more or fewer, with
another number of copies. NAME may also be the instance of a node that is alone. Each new node then restores its part by itself:

  slipcover cluster plan --nodes couchdb@db4.example,couchdb@db5.example,couchdb@db6.example --out plan.yml
  slipcover restore --plan plan.yml --as-node couchdb@db4.example --to /opt/couchdb/data        on db4, and so on

With as many nodes as there were, each takes the place of one. Else the ranges of all databases are dealt out by size. The
plan is a text to be read and changed: which backups are restored, and under "as" whose place a node takes. What each node
gets is printed to standard error; --verbose tells it of every file.`,
		Args: core.Arguments(0, 1, "at most the NAME of one cluster, or of an instance"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runClusterPlan(ctx, env, s, o, strings.Join(args, ""))
		}),
	}
	o.Flags(c.Flags(), "")
	_ = c.Flags().MarkHidden("instance") // a cluster has several
	f := c.Flags()
	f.StringSliceVar(&o.nodes, "nodes", nil, "Erlang `NAMES` of the nodes, such as couchdb@db1.example, or couchdb@db1.example:ZONE (default: those that there were)")
	f.IntVar(&o.n, "n", 0, "how many nodes get a copy of each range (default: as many as had one)")
	o.when.ClusterFlags(f)
	f.StringVar(&o.placement, "placement", "", "how many nodes of which zone get a copy of each range: `ZONE:N,ZONE:N`, in the place of --n (default: as the backups have it)")
	o.TwinsFlag(f)
	f.StringVar(&o.set, "set", "", "the backups of the set `ID`, which a server had made at one moment, instead of the newest ones")
	f.StringVar(&o.out, "out", "", "write the plan to `FILE` instead of standard output; it must not be there")
	f.BoolVar(&o.all, "verbose", false, "tell of every file which node gets it, out of whose backup")
	return c
}

func runClusterPlan(ctx context.Context, env *core.Env, s *core.Settings, o *clusterPlanOptions, name string) error {
	at, err := o.when.Time(env.Now())
	if err != nil {
		return err
	}
	if at.IsZero() && o.when.At != "" { // now
		at = env.Now()
	}
	r, found, err := o.find(ctx, env, s, name)
	if err != nil {
		return err
	}
	defer r.Close()
	nodes, zones := found.Of.Nodes, map[string]string{}
	if len(o.nodes) > 0 {
		nodes = nil
	}
	for _, text := range o.nodes {
		name, zone, _ := strings.Cut(text, ":")
		nodes, zones[name] = append(nodes, name), zone
	}
	p := topology.New(found.Of.Name, found.Backups, found.Of.Nodes, nodes)
	for i := range p.Nodes {
		p.Nodes[i].Zone = zones[p.Nodes[i].Name]
	}
	p.N, p.At = o.n, at.UTC().Truncate(time.Millisecond)
	if at.IsZero() {
		p.At = time.Time{}
	}
	if err := p.Check(); err != nil {
		return core.Usage("%v", err)
	}
	c, err := planned(ctx, r, found, p)
	if err != nil {
		return err
	}
	if err := open.Unmixed(c); err != nil {
		return err
	}
	had, err := c.Zones(ctx, r.Repo)
	if err != nil {
		return err
	}
	p.Placement = o.placement
	p.Zoned(had, c.Databases)
	placed, err := p.Place(c.Databases)
	if err != nil {
		return core.Usage("%v", err)
	}
	copies := c.Copies(r.Repo)
	purged, err := c.PurgedBack(ctx, copies, placed.Left)
	copies.Close()
	if err != nil {
		return err
	}
	text, err := p.YAML()
	if err != nil {
		return err
	}
	if err := writePlan(env, o.out, text); err != nil {
		return err
	}
	if env.JSON {
		err = core.PrintJSON(env.Stdout, planJSONOf(found, c, p, placed, purged, o.all))
	} else {
		tellPlan(env.Stderr, env.Now(), found, c, p, placed, o.all)
		tellPurged(env.Stderr, purged)
	}
	if err == nil && len(placed.Missing) > 0 {
		return core.Say(core.ErrProblem, "%s in no backup of the plan: their databases will answer with errors for what they hold", core.Count(len(placed.Missing), "range"))
	}
	return err
}

// planned reads the backups of a plan. A node that has no state so old is left out of it, unless none has one.
func planned(ctx context.Context, r *open.Repository, found *open.ClusterBackups, p *topology.Plan) (*cluster.Cluster, error) {
	for {
		c, err := open.Cluster(ctx, r, p)
		var of *open.NodeError
		if !errors.Is(err, repo.ErrNoMoment) || !errors.As(err, &of) {
			return c, err
		}
		if len(p.Backups) == 1 {
			return nil, core.Say(core.ErrMissing, "no node of the cluster has a state of %s or before: %v", core.When(p.At), of.Err)
		}
		p.Backups = slices.DeleteFunc(p.Backups, func(b topology.Backup) bool { return b.Node == of.Backup.Node })
		found.Lacking = append(found.Lacking, of.Backup.Node)
		slices.Sort(found.Lacking)
	}
}

// find opens the repository and finds the backups to plan with.
func (o *clusterPlanOptions) find(ctx context.Context, env *core.Env, s *core.Settings, name string) (*open.Repository, *open.ClusterBackups, error) {
	if o.set == "" {
		return open.OneCluster(ctx, env, s, name, &o.Twins)
	}
	if o.when.At != "" || len(o.Instances) > 0 {
		return nil, nil, core.Usage("--set says which backups are planned with, and goes neither with --at nor with --instances")
	}
	r, found, err := open.OneSet(ctx, env, s, o.set)
	if err != nil {
		return nil, nil, err
	}
	if name != "" && name != found.Of.Name {
		err = core.Usage("the set %s is of the cluster %s, and not of %s", o.set, found.Of.Name, name)
	} else {
		err = o.Choose(ctx, r, found)
	}
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, found, nil
}

func writePlan(env *core.Env, path string, text []byte) error {
	if path == "" {
		if env.JSON {
			return nil // it is in there
		}
		_, err := env.Stdout.Write(text)
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return core.Say(core.ErrTarget, "%s is there already: name another file, or remove it", path)
	}
	if err == nil {
		_, err = f.Write(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return core.FileError("write the plan", err)
	}
	return nil
}

type planNodeJSON struct {
	Name    string         `json:"name"`
	As      string         `json:"as,omitempty"`
	Zone    string         `json:"zone,omitempty"`
	DataDir string         `json:"data_dir,omitempty"`
	Files   int            `json:"files"`
	Bytes   int64          `json:"bytes"`
	Takes   []planTakeJSON `json:"takes,omitempty"` // with --verbose
}

type planTakeJSON struct {
	Shard string `json:"shard"`
	From  string `json:"from"` // node whose backup has it; "" is none
}

// planStateJSON is what comes back of a node that there was.
type planStateJSON struct {
	Node     string            `json:"node"`
	Instance string            `json:"instance"`
	Backup   manifest.BackupID `json:"backup"`
	// Seen is up to when it is known to have been the node's state: all that was written before is in it.
	Seen   time.Time `json:"seen"`
	Behind float64   `json:"behind_seconds"` // the newest of the nodes
}

// farBehind is from when on a node's state is told of as older than those of the others.
const farBehind = time.Hour

func planStates(c *cluster.Cluster, p *topology.Plan) []planStateJSON {
	var last time.Time
	for _, m := range c.Members {
		if m.Seen.After(last) {
			last = m.Seen
		}
	}
	out := make([]planStateJSON, len(c.Members))
	for i, m := range c.Members {
		b := p.Backups[i]
		out[i] = planStateJSON{b.Node, b.Instance, b.ID, m.Seen.UTC(), core.Seconds(last.Sub(m.Seen))}
	}
	return out
}

type planJSON struct {
	Plan      string              `json:"plan"`
	Cluster   string              `json:"cluster"`
	Nodes     []planNodeJSON      `json:"nodes"`
	Databases int                 `json:"databases"`
	States    []planStateJSON     `json:"states"`        // of the old nodes
	ComesBack *cluster.PurgedBack `json:"comes_back"`    // purged on nodes whose copies are left out
	Missing   []string            `json:"missing"`       // shards that no backup has
	Lacking   []string            `json:"lacking"`       // nodes of the cluster without a backup
	Left      int                 `json:"left_ranges"`   // of which not all copies come back
	Unlike    int                 `json:"unlike_ranges"` // of these: those that don't count the same documents
	Problems  []string            `json:"problems"`
}

func planJSONOf(found *open.ClusterBackups, c *cluster.Cluster, p *topology.Plan, placed *topology.Placement, purged *cluster.PurgedBack, all bool) planJSON {
	text, _ := p.YAML() // it was made before
	out := planJSON{Plan: string(text), ComesBack: purged, States: planStates(c, p), Cluster: p.Cluster, Databases: len(placed.Maps), Left: len(placed.Left), Unlike: unlike(placed),
		Missing: []string{}, Lacking: core.NonNil(found.Lacking), Problems: core.NonNil(c.Problems), Nodes: []planNodeJSON{}}
	for _, m := range placed.Missing {
		out.Missing = append(out.Missing, m.Path())
	}
	for _, part := range placed.Parts {
		n := planNodeJSON{Name: part.Node.Name, As: part.Node.As, Zone: part.Node.Zone, DataDir: part.Node.DataDir, Files: len(part.Takes), Bytes: part.Bytes}
		for _, t := range part.Takes {
			if all {
				n.Takes = append(n.Takes, planTakeJSON{t.Name.Path(), from(p, t)})
			}
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out
}

func from(p *topology.Plan, t topology.Take) string {
	if t.Backup < 0 {
		return ""
	}
	return p.Backups[t.Backup].Node
}

// tellPlan says what the plan means, for people.
func tellPlan(w io.Writer, now time.Time, found *open.ClusterBackups, c *cluster.Cluster, p *topology.Plan, placed *topology.Placement, all bool) {
	fmt.Fprintf(w, "cluster %s: %s on %s\n", core.Clean(p.Cluster), core.Count(len(placed.Maps), "database"), core.Count(len(p.Nodes), "node"))
	for _, s := range planStates(c, p) {
		behind := time.Duration(s.Behind * float64(time.Second))
		seen := age(now.Sub(s.Seen)) + " ago"
		if !p.At.IsZero() {
			seen = age(max(0, p.At.Sub(s.Seen))) + " before that time"
		}
		fmt.Fprintf(w, "%s (%s) as of %s, %s\n", s.Node, s.Instance, core.When(s.Seen), seen)
		if behind > farBehind {
			fmt.Fprintf(w, "warning: that is %s older than the newest of the nodes' states: what was written since is not in its copies\n", age(behind))
		}
	}
	for _, part := range placed.Parts {
		as := ""
		if part.Node.As != "" {
			as = " in the place of " + part.Node.As
		}
		if part.Node.Zone != "" {
			as += " in the zone " + part.Node.Zone
		}
		fmt.Fprintf(w, "%s%s: %s, %s\n", part.Node.Name, as, core.Count(len(part.Takes), "file"), core.Size(part.Bytes))
		for _, t := range part.Takes {
			if all {
				fmt.Fprintf(w, "  %s out of the backup of %s\n", core.Clean(t.Name.Path()), from(p, t))
			}
		}
	}
	for _, node := range found.Lacking {
		of := ""
		if !p.At.IsZero() {
			of = "of then "
		}
		fmt.Fprintf(w, "warning: %s has no backup %sthat isn't damaged: what only it held is not restored\n", node, of)
	}
	for _, s := range c.Problems {
		fmt.Fprintf(w, "problem: %s\n", core.Clean(s))
	}
	for _, m := range placed.Missing {
		fmt.Fprintf(w, "problem: no backup holds %s: lists of the database and the documents in that range will answer with errors\n", core.Clean(m.Path()))
	}
	if n := len(placed.Left); n > 0 {
		differ := "they count the same documents"
		if k := unlike(placed); k > 0 {
			differ = fmt.Sprintf("in %d of them they count other documents than those that do", k)
		}
		fmt.Fprintf(w, "warning: not all copies of %s come back; %s. Once the new nodes run, \"slipcover restore-union --plan FILE --to-server URL\" brings in what only the others have\n", core.Count(n, "range"), differ)
	}
}

// tellPurged names what comes back although it was purged.
func tellPurged(w io.Writer, p *cluster.PurgedBack) {
	const most = 10
	if p.Count > 0 {
		var names []string
		for _, d := range p.Docs[:min(most, len(p.Docs))] {
			names = append(names, fmt.Sprintf("%s/%s (purged on %s)", core.Clean(d.Database), core.Clean(d.ID), d.Node))
		}
		more := ""
		if p.Count > len(names) {
			more = fmt.Sprintf(" and %d more", p.Count-len(names))
		}
		fmt.Fprintf(w, "warning: purged on nodes whose copies are left out, and there again by this plan: %s: %s%s; purge again what must not be seen\n", core.Count(p.Count, "document"), strings.Join(names, ", "), more)
	}
	for _, path := range p.Unread {
		fmt.Fprintf(w, "warning: a copy of %s can't be read, so what was purged in it alone is not known\n", core.Clean(path))
	}
}

func unlike(p *topology.Placement) (n int) {
	for i := range p.Left {
		if p.Left[i].Unlike() {
			n++
		}
	}
	return n
}
