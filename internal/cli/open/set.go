package open

import (
	"context"
	"slices"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/topology"
)

// FindSet finds the backups that a server of the service made as one set, by its id in their labels, in a repository that is
// open. Backups whose sources were damaged are among them: who names a set wants that one.
func FindSet(ctx context.Context, r *Repository, set string) (*ClusterBackups, error) {
	recs, _, err := r.List(ctx, "")
	if err != nil {
		return nil, err
	}
	recs = slices.DeleteFunc(recs, func(rec *manifest.Record) bool { return rec.Labels[job.LabelSet] != set })
	if len(recs) == 0 {
		return nil, core.Say(core.ErrMissing, "no backup here is of the set %q: \"slipcover sets list\" asks a server for its sets, and a set's id is the label \"set\" of its backups", set)
	}
	all := topology.Clusters(recs)
	if len(all) != 1 {
		return nil, core.Say(core.ErrProblem, "the backups of the set %s are not of one cluster", set)
	}
	out := &ClusterBackups{Of: &all[0]}
	if name := recs[0].Labels[job.LabelCluster]; name != "" { // by fewer backups it may be called otherwise
		out.Of.Name = name
	}
	for _, node := range out.Of.Nodes {
		i := slices.IndexFunc(recs, func(rec *manifest.Record) bool { return rec.NodeName == node })
		if i < 0 {
			out.Lacking = append(out.Lacking, node)
			continue
		}
		out.Backups = append(out.Backups, topology.Backup{Node: node, Instance: recs[i].Instance, ID: recs[i].ID})
		out.Records = append(out.Records, recs[i])
	}
	if len(out.Backups) == 0 {
		return nil, core.Say(core.ErrMissing, "the backups of the set %s don't say of which nodes they are", set)
	}
	return out, nil
}

// OneSet opens the repository for reading, and finds a set in it as FindSet does.
func OneSet(ctx context.Context, env *core.Env, s *core.Settings, set string) (*Repository, *ClusterBackups, error) {
	return opened(ctx, env, s, func(r *Repository) (*ClusterBackups, error) { return FindSet(ctx, r, set) })
}
