package restores

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/diverge"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/topology"
)

type unionOptions struct {
	planned
	databases []string
	dryRun    bool
}

func newRestoreUnion(env *core.Env, g *core.Global) *cobra.Command {
	o := &unionOptions{}
	c := &cobra.Command{
		Use:   "restore-union --plan FILE --to-server URL",
		Short: "Bring into a cluster that came back by a plan what only copies have that were left out",
		Long: `Where fewer copies of a range come back than there were, as on one node, those that were left out may have documents or
revisions that no other had: writes that had not reached all nodes when the backups were made. This compares the copies out of
their backups, asks the running cluster what it lacks of what they disagree about, and writes that into it as a replication does:
with histories, conflicts, deletions and attachments. What a restored copy knows as purged stays away, and local documents stay
as they are. A database that was deleted since, or made again, is left alone and named.

Run it once all nodes of the plan answer, before anything is purged there, and again if it was stopped: what came through isn't
sent twice. --dry-run tells what it would write.`,
		Args: core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
			return runRestoreUnion(ctx, env, s, o)
		}),
	}
	f := c.Flags()
	o.flags(f)
	f.StringArrayVar(&o.databases, "db", nil, "only databases whose name fits this `GLOB` (* is any text); may be repeated")
	f.BoolVar(&o.dryRun, "dry-run", false, "write nothing, and tell what would be written")
	core.ProgressFlag(f)
	return c
}

type unionJSON struct {
	Server    string                     `json:"server"`
	DryRun    bool                       `json:"dry_run"`
	Ranges    int                        `json:"ranges"`    // that were compared
	Databases map[string]*takeout.United `json:"databases"` // of which copies differ
	Problems  []string                   `json:"problems"`
	Took      float64                    `json:"took_seconds"`
	Storage   *core.TrafficJSON          `json:"storage"`
}

func runRestoreUnion(ctx context.Context, env *core.Env, s *core.Settings, o *unionOptions) error {
	began := time.Now()
	c, placed, r, err := o.openPlan(ctx, env, s, "restore-union")
	if err != nil {
		return err
	}
	defer r.Close()
	wanted, err := restore.Choose(c.Names(), o.databases)
	if err != nil {
		return err
	}
	srv, _, err := o.target.open(ctx, env, s)
	if err != nil {
		return err
	}
	p := &takeout.Progress{}
	stop := core.StartProgress(env, s.Progress, "comparing", core.TakeoutReading(p))
	defer stop()
	out := &unionJSON{Server: srv.URL, DryRun: o.dryRun, Databases: map[string]*takeout.United{}, Problems: []string{}}
	copies := c.Copies(r.Repo)
	defer copies.Close()
	last, other := "", "" // the ranges of a database follow each other
	for i := range placed.Left {
		l := &placed.Left[i]
		if !wanted(l.Name.DB) {
			continue
		}
		if l.Name.DB != last {
			if other, err = srv.Remade(ctx, l.Name.DB, l.Name.Suffix); err != nil {
				return fmt.Errorf("%s: %w", l.Name.DB, err)
			}
			if last = l.Name.DB; other != "" {
				out.Problems = append(out.Problems, fmt.Sprintf("%s: %s: nothing is brought into it", last, other))
			}
		}
		if other == "" {
			if err := out.unite(ctx, c, copies, l, takeout.UnionOptions{Server: srv, DB: l.Name.DB, DryRun: o.dryRun, Gone: repo.Damaged, Progress: p}); err != nil {
				return fmt.Errorf("%s: %w", l.Name.Path(), err)
			}
		}
	}
	stop()
	out.Took, out.Storage = core.Seconds(time.Since(began)), env.TrafficJSON()
	if env.JSON {
		err = core.PrintJSON(env.Stdout, out)
	} else {
		out.print(env.Stdout)
	}
	if n := len(out.Problems); err == nil && n > 0 {
		return core.Say(core.ErrProblem, "not all could be brought in: %s", core.Count(n, "problem"))
	}
	return err
}

// unite brings in what is missing of one range.
func (u *unionJSON) unite(ctx context.Context, c *cluster.Cluster, copies *cluster.Copies, l *topology.Left, o takeout.UnionOptions) error {
	var done []func()
	defer func() {
		for _, f := range done {
			f()
		}
	}()
	opened := func(list []topology.Copy) (out []diverge.Copy, err error) {
		for _, one := range list {
			m := c.Members[one.Backup].Manifest
			db, end, err := copies.Open(ctx, one.Backup, l.Name)
			if ctx.Err() != nil {
				return nil, err
			}
			if err != nil { // the other ranges, and copies, may be whole
				u.Problems = append(u.Problems, fmt.Sprintf("the copy of %s can't be read, and what only it has is not known: %s: %v", m.NodeName, l.Name.Path(), err))
				continue
			}
			done = append(done, end)
			out = append(out, diverge.Copy{Node: m.NodeName, Moment: m.Started, DB: db})
		}
		return out, nil
	}
	var err error
	if o.Used, err = opened(l.Used); err == nil {
		o.Others, err = opened(l.Unused)
	}
	if err != nil || len(o.Used)+len(o.Others) < 2 {
		return err
	}
	u.Ranges++
	one, err := takeout.Union(ctx, o)
	if err != nil {
		return err
	}
	for _, r := range one.Refused {
		u.Problems = append(u.Problems, fmt.Sprintf("%s: the server refuses %s of document %q: %s", l.Name.DB, r.From, r.ID, r.Reason))
	}
	for _, d := range one.Damaged {
		u.Problems = append(u.Problems, fmt.Sprintf("%s: no copy gives the revision %s of document %q whole: %s", l.Name.DB, d.From, d.ID, d.Reason))
	}
	if one.Unread > 0 {
		u.Problems = append(u.Problems, fmt.Sprintf("%s: %s can't be read in some copy: what only that has is not known", l.Name.Path(), core.Count(int(one.Unread), "document")))
	}
	if one.Documents+one.Purged+one.Local == 0 {
		return nil
	}
	all := u.Databases[l.Name.DB]
	if all == nil {
		all = &takeout.United{Refused: []takeout.DocResult{}, Damaged: []takeout.DocResult{}}
		u.Databases[l.Name.DB] = all
	}
	all.Add(one)
	return nil
}

func (u *unionJSON) print(w io.Writer) {
	would := ""
	if u.DryRun {
		would = "would be "
	}
	for _, name := range slices.Sorted(maps.Keys(u.Databases)) {
		d := u.Databases[name]
		fmt.Fprintf(w, "%s: %s of %s %sbrought in\n", core.Clean(name), core.Count(d.Revisions, "revision"), core.Count(d.Documents, "document"), would)
		if d.Purged > 0 {
			fmt.Fprintf(w, "note: %s: %s stay away, since a restored copy knows that they were purged\n", core.Clean(name), core.Count(d.Purged, "document"))
		}
		if d.Local > 0 {
			fmt.Fprintf(w, "note: %s: %s differ and stay as they were restored\n", core.Clean(name), core.Count(d.Local, "local document"))
		}
		if d.Gone > 0 {
			fmt.Fprintf(w, "note: %s: of %s no copy has the body any more\n", core.Clean(name), core.Count(d.Gone, "revision"))
		}
	}
	for _, p := range u.Problems {
		fmt.Fprintf(w, "problem: %s\n", core.Clean(p))
	}
	fmt.Fprintf(w, "%s compared in %s; copies of %s differ\n", core.Count(u.Ranges, "range"), core.Took(time.Duration(u.Took*float64(time.Second))), core.Count(len(u.Databases), "database"))
}
