package open

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/topology"
)

// Plan reads the plan of a cluster's restore.
func Plan(path string) (*topology.Plan, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, core.FileError("read the plan", err)
	}
	defer f.Close()
	p, err := topology.Parse(f)
	if err != nil {
		return nil, core.Usage("%s: %v", path, err)
	}
	return p, nil
}

// NodeError says of which node of a cluster a backup can't be had.
type NodeError struct {
	Backup topology.Backup
	Err    error
}

func (e *NodeError) Error() string {
	return fmt.Sprintf("the plan's backup of %s (instance %s): %v", e.Backup.Node, e.Backup.Instance, e.Err)
}

func (e *NodeError) Unwrap() error { return e.Err }

// Cluster reads the backups that a plan names, or the moment of each that it asks for, out of a repository that is open
// for reading.
func Cluster(ctx context.Context, r *Repository, p *topology.Plan) (*cluster.Cluster, error) {
	members := make([]cluster.Member, len(p.Backups))
	for i, b := range p.Backups {
		m := &members[i]
		var err error
		if m.Record, err = r.Find(ctx, b.Instance, string(b.ID)); err != nil {
			return nil, &NodeError{b, err}
		}
		if p.At.IsZero() {
			m.Manifest, err = r.Manifest(ctx, m.Record)
			m.Seen = m.Record.Started
		} else {
			var moment *repo.Moment
			if m.Manifest, moment, err = r.At(ctx, b.Instance, p.At); err == nil {
				m.Seen = moment.Until
			}
		}
		if errors.Is(err, repo.ErrWrongKey) {
			err = fmt.Errorf("%w, or not this instance's backups: a plan needs a key that reads those of all its instances", err)
		}
		if err != nil {
			return nil, &NodeError{b, err}
		}
	}
	c, err := cluster.Open(ctx, r.Repo, members)
	if err != nil {
		return nil, err
	}
	records := make([]*manifest.Record, len(members))
	for i, m := range members {
		records[i] = m.Record
	}
	if err := p.Fits(records, c.Nodes()); err != nil {
		return nil, core.Usage("%v", err)
	}
	return c, nil
}

// ClusterBackups are the newest good backups of a cluster's nodes.
type ClusterBackups struct {
	Of      *topology.Cluster
	Backups []topology.Backup  // in the order of the nodes' names
	Records []*manifest.Record // as they are
	Lacking []string           // nodes without one
}

// NewestOf returns the newest of some records, the oldest first, of each instance.
func NewestOf(recs []*manifest.Record) map[string]*manifest.Record {
	out := map[string]*manifest.Record{}
	for _, rec := range recs {
		out[rec.Instance] = rec
	}
	return out
}

// Twins says whose backups count where several CouchDBs have the name of one node.
type Twins struct{ Instances []string }

// TwinsFlag adds its flag.
func (t *Twins) TwinsFlag(f *pflag.FlagSet) {
	f.StringSliceVar(&t.Instances, "instances", nil, "of a cluster only the backups of these `INSTANCES`, where several CouchDBs have the name of one node")
}

// Alone refuses the flag where there is no cluster.
func (t *Twins) Alone() error {
	if len(t.Instances) > 0 {
		return core.Usage("--instances goes with --cluster: it says whose backups of its nodes count; --instance names one")
	}
	return nil
}

// Choose refuses nodes that have several instances, unless those that count are named: names alone can't tell two
// clusters apart, and copies of both would become one.
func (t *Twins) Choose(ctx context.Context, r *Repository, found *ClusterBackups) error {
	if len(t.Instances) > 0 {
		recs, _, err := r.List(ctx, "")
		if err != nil {
			return err
		}
		return found.Only(recs, t.Instances)
	}
	if twins := found.Of.Twins(); len(twins) > 0 {
		return core.Usage("%s: if these are two clusters they would be mixed. Name each by the setting cluster and back them up, or say whose backups count: --instances INSTANCE,INSTANCE,…", strings.Join(twins, "; "))
	}
	return nil
}

// Unmixed refuses backups that are of different clusters and don't say so.
func Unmixed(c *cluster.Cluster) error {
	if c.Mixed == "" {
		return nil
	}
	return core.Usage("%s: name each cluster by the setting cluster and back them up, or say whose backups count with --instances", c.Mixed)
}

// Only leaves the backups of some instances, where nodes have several: those that aren't named don't count.
func (c *ClusterBackups) Only(recs []*manifest.Record, instances []string) error {
	var backups []topology.Backup
	var records []*manifest.Record
	good := NewestOf(slices.DeleteFunc(slices.Clone(recs), func(rec *manifest.Record) bool { return rec.Status != manifest.Completed }))
	c.Lacking = nil
	left := slices.Clone(instances)
	for _, node := range c.Of.Nodes {
		var mine []string
		for _, rec := range c.Of.Instances[node] {
			if slices.Contains(instances, rec.Instance) {
				mine = append(mine, rec.Instance)
				left = slices.DeleteFunc(left, func(s string) bool { return s == rec.Instance })
			}
		}
		switch {
		case len(mine) > 1:
			return core.Usage("--instances names %s, which are all of %s: one counts", strings.Join(mine, " and "), node)
		case len(mine) == 0 || good[mine[0]] == nil || good[mine[0]].NodeName != node:
			c.Lacking = append(c.Lacking, node)
			continue
		}
		rec := good[mine[0]]
		backups = append(backups, topology.Backup{Node: node, Instance: rec.Instance, ID: rec.ID})
		records = append(records, rec)
	}
	switch {
	case len(left) > 0:
		return core.Usage("--instances: %s is no instance of a node of the cluster %s", left[0], c.Of.Name)
	case len(backups) == 0:
		return core.Say(core.ErrMissing, "none of these instances has a backup that isn't damaged")
	}
	c.Backups, c.Records = backups, records
	return nil
}

// FindCluster finds a cluster by its name, the only one for "", in a repository that is open. An instance that is alone is
// one of a single node, by its own name.
func FindCluster(ctx context.Context, r *Repository, name string) (*ClusterBackups, error) {
	recs, _, err := r.List(ctx, "")
	if err != nil {
		return nil, err
	}
	newest := NewestOf(recs)
	c, err := topology.Find(topology.Clusters(slices.Collect(maps.Values(newest))), name)
	if errors.Is(err, topology.ErrNoCluster) && name == "" && len(newest) == 1 {
		name = recs[0].Instance
	}
	if alone := newest[name]; errors.Is(err, topology.ErrNoCluster) && alone != nil {
		node := alone.NodeName
		c, err = &topology.Cluster{Name: name, Nodes: []string{node}, Instances: map[string][]*manifest.Record{node: {alone}}}, nil
	}
	if err != nil {
		return nil, err
	}
	recs = slices.DeleteFunc(recs, func(rec *manifest.Record) bool { return rec.Status != manifest.Completed })
	out := &ClusterBackups{Of: c}
	for _, node := range c.Nodes {
		// Those of before the instance was this node's are another node's.
		good := NewestOf(slices.DeleteFunc(slices.Clone(recs), func(rec *manifest.Record) bool { return rec.NodeName != node }))
		i := slices.IndexFunc(c.Instances[node], func(rec *manifest.Record) bool { return good[rec.Instance] != nil })
		if i < 0 {
			out.Lacking = append(out.Lacking, node)
			continue
		}
		rec := good[c.Instances[node][i].Instance]
		out.Backups = append(out.Backups, topology.Backup{Node: node, Instance: rec.Instance, ID: rec.ID})
		out.Records = append(out.Records, rec)
	}
	if len(out.Backups) == 0 {
		return nil, core.Say(core.ErrMissing, "no node of the cluster %s has a backup that isn't damaged", c.Name)
	}
	return out, nil
}

// NamedCluster opens the repository for reading, and finds a cluster in it as FindCluster does.
func NamedCluster(ctx context.Context, env *core.Env, s *core.Settings, name string) (*Repository, *ClusterBackups, error) {
	return opened(ctx, env, s, func(r *Repository) (*ClusterBackups, error) { return FindCluster(ctx, r, name) })
}

// opened opens the repository for reading, and finds backups in it.
func opened(ctx context.Context, env *core.Env, s *core.Settings, find func(*Repository) (*ClusterBackups, error)) (*Repository, *ClusterBackups, error) {
	r, err := Repo(ctx, env, s, true)
	if err != nil {
		return nil, nil, err
	}
	err = r.Unlock(ctx)
	var found *ClusterBackups
	if err == nil {
		found, err = find(r)
	}
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, found, nil
}

// OneCluster is NamedCluster for what reads copies of all nodes as those of one cluster: it refuses nodes that have several
// CouchDBs' backups, unless t names those that count.
func OneCluster(ctx context.Context, env *core.Env, s *core.Settings, name string, t *Twins) (*Repository, *ClusterBackups, error) {
	r, found, err := NamedCluster(ctx, env, s, name)
	if err != nil {
		return nil, nil, err
	}
	if err := t.Choose(ctx, r, found); err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, found, nil
}

// ClusterNode opens a cluster as one node: the newest backups of its nodes, or a moment of each; done closes that, and the
// repository. The second text names the state.
func ClusterNode(ctx context.Context, env *core.Env, s *core.Settings, name string, t *Twins, w *When) (n *serve.Node, told string, at time.Time, done func(), err error) {
	if w.Database() != "" || w.BeforeChange != "" {
		return nil, "", at, nil, core.Usage("--cluster goes with --at, and not with --at-seq or --before-change, which are of one node's files")
	}
	zone, err := Zone(w.Zone)
	if err != nil {
		return nil, "", at, nil, err
	}
	p := &topology.Plan{}
	if p.At, err = w.Time(env.Now()); err != nil {
		return nil, "", at, nil, err
	}
	r, found, err := OneCluster(ctx, env, s, name, t)
	if err != nil {
		return nil, "", at, nil, err
	}
	p.Backups = found.Backups
	c, err := Cluster(ctx, r, p)
	if err == nil {
		err = Unmixed(c)
	}
	if err != nil {
		r.Close()
		return nil, "", at, nil, err
	}
	n = serve.OpenCluster(r.Repo, c)
	at, told = p.At, MomentText(p.At, zone)
	if at.IsZero() {
		for _, rec := range found.Records {
			if rec.Finished.After(at) {
				at = rec.Finished
			}
		}
		told = fmt.Sprintf("the newest backups of %d of the %d nodes", len(found.Backups), len(found.Of.Nodes))
	}
	return n, told + " of the cluster " + found.Of.Name, at, func() {
		n.Close()
		r.Close()
	}, nil
}
