package open

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/serve"
)

// Chosen names a backup, or a moment, the newest without either.
type Chosen struct {
	Options
	When
	Backup  string
	Cluster string // all nodes of that cluster, of commands that ask for it
	Twins   Twins
	Told    string    // which one that is, in words, once it is open
	Taken   time.Time // of when it is, once it is open
}

// ClusterFlag adds the flag that chooses a cluster, for commands that open it by Node.
func (o *Chosen) ClusterFlag(f *pflag.FlagSet) {
	f.StringVar(&o.Cluster, "cluster", "", "out of the newest backups of all nodes of the cluster `NAME`, or --at a time; of each range the fullest copy")
	o.Twins.TwinsFlag(f)
	core.OwnFlags(f, "cluster")
}

// Open opens it.
func (o *Chosen) Open(ctx context.Context, env *core.Env, s *core.Settings) (*Repository, *manifest.Manifest, error) {
	if o.Backup == "" {
		zone, err := Zone(o.Zone)
		if err != nil {
			return nil, nil, err
		}
		r, m, moment, err := Moment(ctx, env, s, o.Instance, &o.When)
		if err == nil {
			o.Told, o.Taken = MomentText(moment.At, zone), moment.At
		}
		return r, m, err
	}
	if o.Given() {
		return nil, nil, core.Usage("name a backup by --backup, or a moment by --at, --at-seq or --before-change, not both")
	}
	r, rec, err := Backup(ctx, env, s, o.Instance, o.Backup)
	if err != nil {
		return nil, nil, err
	}
	m, err := r.Manifest(ctx, rec)
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	o.Told, o.Taken = backupText(rec), rec.Finished
	return r, m, nil
}

// Node opens it as a node; done closes that, and the repository.
func (o *Chosen) Node(ctx context.Context, env *core.Env, s *core.Settings) (n *serve.Node, done func(), err error) {
	if o.Cluster != "" {
		if o.Backup != "" || o.Instance != "" {
			return nil, nil, core.Usage("--cluster is for the backups of all its nodes: leave out which backup or instance")
		}
		n, o.Told, o.Taken, done, err = ClusterNode(ctx, env, s, o.Cluster, &o.Twins, &o.When)
		return n, done, err
	}
	if err := o.Twins.Alone(); err != nil {
		return nil, nil, err
	}
	r, m, err := o.Open(ctx, env, s)
	if err != nil {
		return nil, nil, err
	}
	n, err = serve.OpenNode(ctx, r.Repo, m)
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return n, func() {
		n.Close()
		r.Close()
	}, nil
}

// Database returns a database of a node.
func Database(n *serve.Node, name string) (*serve.Database, error) {
	d, err := n.Database(name)
	if err != nil {
		return nil, fmt.Errorf("%w; `slipcover points --db %q` tells when it was there", err, name)
	}
	return d, nil
}

func backupText(rec *manifest.Record) string {
	return "backup " + rec.ID.Short() + " (" + core.Clean(rec.Name) + ")"
}

// MomentText names a moment in words.
func MomentText(at time.Time, zone *time.Location) string {
	return "the moment of " + at.In(zone).Format("2006-01-02 15:04:05 MST")
}
