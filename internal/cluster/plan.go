package cluster

import (
	"context"
	"fmt"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/topology"
)

// OfPlan reads the backups that a plan names, or the moment of each that it asks for, and holds the plan against them.
func OfPlan(ctx context.Context, r *repo.Repo, p *topology.Plan) (*Cluster, error) {
	members := make([]Member, len(p.Backups))
	records := make([]*manifest.Record, len(members))
	for i, b := range p.Backups {
		m := &members[i]
		var err error
		if m.Record, err = r.Record(ctx, b.Instance, b.ID); err == nil {
			if p.At.IsZero() {
				m.Seen = m.Record.Started
				m.Manifest, err = r.Manifest(ctx, m.Record)
			} else {
				var moment *repo.Moment
				if m.Manifest, moment, err = r.At(ctx, b.Instance, p.At); err == nil {
					m.Seen = moment.Until
				}
			}
		}
		if err != nil {
			return nil, fmt.Errorf("the plan's backup of %s, %s of the instance %s: %w", b.Node, b.ID.Short(), b.Instance, err)
		}
		records[i] = m.Record
	}
	c, err := Open(ctx, r, members)
	if err != nil {
		return nil, err
	}
	return c, p.Fits(records, c.Nodes())
}
