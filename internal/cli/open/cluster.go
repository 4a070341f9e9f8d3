package open

import (
	"context"
	"fmt"
	"os"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cluster"
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

// Cluster reads the backups that a plan names, or the moment of each that it asks for, out of a repository that is open
// for reading.
func Cluster(ctx context.Context, r *Repository, p *topology.Plan) (*cluster.Cluster, error) {
	members := make([]cluster.Member, len(p.Backups))
	for i, b := range p.Backups {
		m := &members[i]
		var err error
		if m.Record, err = r.Find(ctx, b.Instance, string(b.ID)); err != nil {
			return nil, fmt.Errorf("the plan's backup of %s: %w", b.Node, err)
		}
		if p.At.IsZero() {
			m.Manifest, err = r.Manifest(ctx, m.Record)
		} else {
			m.Manifest, _, err = r.At(ctx, b.Instance, p.At)
		}
		if err != nil {
			return nil, fmt.Errorf("the plan's backup of %s: %w", b.Node, err)
		}
	}
	return cluster.Open(ctx, r.Repo, members)
}
