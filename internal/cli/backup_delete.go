package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

type backupDeleteOptions struct {
	repoOptions
	yes bool
}

func newBackupDelete(env *Env, g *globalOptions) *cobra.Command {
	o := &backupDeleteOptions{}
	c := &cobra.Command{
		Use:   "delete ID...",
		Short: "Delete backups; others stay whole",
		Long: `Delete backups, and the stored bytes that no other backup needs. Backups built on them stay whole: each restores
alone. At a terminal it asks first; otherwise --yes is needed.`,
		Args: arguments(1, -1, "at least one backup's ID"),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, env, g, args) },
	}
	o.bind(c)
	return c
}

func (o *backupDeleteOptions) bind(c *cobra.Command) {
	o.flags(c.Flags(), "whose backups they are")
	c.Flags().BoolVar(&o.yes, "yes", false, "delete without asking")
}

func (o *backupDeleteOptions) run(cmd *cobra.Command, env *Env, g *globalOptions, refs []string) error {
	s, err := g.load(env, cmd)
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

func runBackupDelete(ctx context.Context, env *Env, s *settings, o *backupDeleteOptions, refs []string) error {
	r, err := openRepo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.close()
	// All are found before one is deleted, so that a slip of the pen deletes none.
	var recs []*manifest.Record
	seen := map[manifest.BackupID]bool{}
	for _, ref := range refs {
		rec, err := r.Find(ctx, o.instance, ref)
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
		freed, err := deleteOne(ctx, env, r.Repo, rec)
		if err != nil {
			return errors.Join(out.print(env), fmt.Errorf("delete %s: %w", rec.ID, err))
		}
		out.Deleted = append(out.Deleted, deletedJSON{rec.ID, rec.Instance, rec.Name, freed})
	}
	return out.print(env)
}

func (o *backupDeleteOptions) ask(env *Env, recs []*manifest.Record) error {
	if o.yes {
		return nil
	}
	if !env.StdinTerminal {
		return usage("deleting needs --yes where nobody can be asked")
	}
	for _, rec := range recs {
		fmt.Fprintf(env.Stderr, "%s  %s  %s  %s  %s\n", rec.ID, rec.Instance, clean(rec.Name), when(rec.Started), size(rec.SizeBytes))
	}
	yes, err := confirm(env, fmt.Sprintf("Delete %s for good?", count(len(recs), "backup")))
	if err != nil {
		return err
	}
	if !yes {
		return errors.New("nothing was deleted")
	}
	return nil
}

func deleteOne(ctx context.Context, env *Env, r *repo.Repo, rec *manifest.Record) (freed repo.Freed, err error) {
	err = withLock(ctx, r, rec.Instance, "prune", func(lock *repo.Lock) error {
		freed, err = r.Prune(ctx, lock, repo.PruneOptions{Remove: []manifest.BackupID{rec.ID}, Now: env.Now()})
		return err
	})
	return freed, err
}

func (d *backupDeleteResult) print(env *Env) error {
	if env.json {
		return printJSON(env.Stdout, d)
	}
	for _, b := range d.Deleted {
		kept := ""
		if b.Freed.Kept > 0 {
			kept = fmt.Sprintf("; %s stay for other backups", count(b.Freed.Kept, "object"))
		}
		fmt.Fprintf(env.Stdout, "deleted %s (%s): freed %s in %s%s\n", b.ID, clean(b.Name), size(b.Freed.Bytes), count(b.Freed.Segments, "object"), kept)
	}
	return nil
}
