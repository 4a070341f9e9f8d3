package backups

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

type backupDeleteOptions struct {
	open.Options
	yes bool
}

func newBackupDelete(env *core.Env, g *core.Global) *cobra.Command {
	o := &backupDeleteOptions{}
	c := &cobra.Command{
		Use:   "delete ID...",
		Short: "Delete backups; the others stay whole",
		Long: `Delete backups, and the stored bytes that no other backup needs. Backups built on them stay whole: each restores
alone. At a terminal it asks first; otherwise --yes is needed.`,
		Args: core.Arguments(1, -1, "at least one backup's ID"),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, env, g, args) },
	}
	o.bind(c)
	return c
}

func (o *backupDeleteOptions) bind(c *cobra.Command) {
	o.Flags(c.Flags(), "whose backups they are")
	c.Flags().BoolVar(&o.yes, "yes", false, "delete without asking")
}

func (o *backupDeleteOptions) run(cmd *cobra.Command, env *core.Env, g *core.Global, refs []string) error {
	s, err := g.Load(env, cmd)
	if err != nil {
		return err
	}
	return runBackupDelete(cmd.Context(), env, s, o, refs)
}

type backupDeleteResult struct {
	Deleted []deletedJSON `json:"deleted"`
}

type deletedJSON struct {
	ID       manifest.BackupID `json:"id"`
	Instance string            `json:"instance"`
	Name     string            `json:"name"`
	Freed    repo.Freed        `json:"freed"`
}

func runBackupDelete(ctx context.Context, env *core.Env, s *core.Settings, o *backupDeleteOptions, refs []string) error {
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	// All are found before one is deleted, so that a slip of the pen deletes none.
	var recs []*manifest.Record
	seen := map[manifest.BackupID]bool{}
	for _, ref := range refs {
		rec, err := r.Find(ctx, o.Instance, ref)
		if err != nil {
			return err
		}
		if !seen[rec.ID] {
			recs = append(recs, rec)
		}
		seen[rec.ID] = true
	}
	if err := o.ask(env, recs); err != nil {
		return err
	}
	out := backupDeleteResult{Deleted: []deletedJSON{}}
	for _, rec := range recs {
		freed, err := deleteOne(ctx, env, r.Repo, rec, s.KeepMoments)
		if err != nil {
			return errors.Join(out.print(env), fmt.Errorf("delete %s: %w", rec.ID, err))
		}
		out.Deleted = append(out.Deleted, deletedJSON{rec.ID, rec.Instance, rec.Name, freed})
	}
	return out.print(env)
}

func (o *backupDeleteOptions) ask(env *core.Env, recs []*manifest.Record) error {
	if o.yes {
		return nil
	}
	if !env.StdinTerminal {
		return core.Usage("deleting needs --yes, since there is nobody to ask")
	}
	for _, rec := range recs {
		fmt.Fprintf(env.Stderr, "%s  %s  %s  %s  %s\n", rec.ID, rec.Instance, core.Clean(rec.Name),
			core.When(rec.Started), core.Size(rec.SizeBytes))
	}
	yes, err := core.Confirm(env, fmt.Sprintf("Delete %s for good?", core.Count(len(recs), "backup")))
	if err != nil {
		return err
	}
	if !yes {
		return errors.New("nothing was deleted")
	}
	return nil
}

func deleteOne(ctx context.Context, env *core.Env, r *repo.Repo, rec *manifest.Record, moments calendar.Span) (freed repo.Freed, err error) {
	err = withLock(ctx, r, rec.Instance, "prune", func(lock *repo.Lock) error {
		freed, err = r.Prune(ctx, lock, repo.PruneOptions{Remove: []manifest.BackupID{rec.ID}, KeepMoments: moments.After(env.Now()).Sub(env.Now()), Now: env.Now()})
		return err
	})
	return freed, err
}

func (d *backupDeleteResult) print(env *core.Env) error {
	env.Done("%s deleted", core.WasWere(len(d.Deleted), "backup"))
	if env.JSON {
		return core.PrintJSON(env.Stdout, d)
	}
	for _, b := range d.Deleted {
		kept := ""
		if b.Freed.Kept > 0 {
			kept = fmt.Sprintf("; %s stay for other backups", core.Count(b.Freed.Kept, "object"))
		}
		fmt.Fprintf(env.Stdout, "deleted %s (%s): freed %s in %s%s\n", b.ID, core.Clean(b.Name),
			core.Size(b.Freed.Bytes), core.Count(b.Freed.Segments, "object"), kept)
	}
	return nil
}
