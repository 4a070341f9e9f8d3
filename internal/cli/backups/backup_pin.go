package backups

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/repo"
)

type backupPinOptions struct {
	open.Options
	reason string
	remove bool // of the pin
}

func newBackupPin(env *core.Env, g *core.Global) *cobra.Command {
	o := &backupPinOptions{}
	c := pinCommand(env, g, o, "pin ID", "Keep a backup from every deletion, for a reason",
		"Keep a backup: no retention rule and no \"backup delete\" removes it until it is unpinned.")
	c.Flags().StringVar(&o.reason, "reason", "", "why, for those who find it later")
	return c
}

func newBackupUnpin(env *core.Env, g *core.Global) *cobra.Command {
	return pinCommand(env, g, &backupPinOptions{remove: true}, "unpin ID", "Let retention decide about a backup again", "")
}

func pinCommand(env *core.Env, g *core.Global, o *backupPinOptions, use, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: core.Arguments(1, 1, "one backup's ID, name, or \"latest\""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runBackupPin(ctx, env, s, o, args[0])
		}),
	}
	o.Place(c.Flags())
	c.Flags().StringVar(&o.Instance, "instance", "", "`NAME` of the CouchDB node whose backup it is")
	return c
}

type pinResult struct {
	Backup core.SummaryJSON `json:"backup"`
	Pin    *repo.Pin        `json:"pin"` // null once it is unpinned
}

func runBackupPin(ctx context.Context, env *core.Env, s *core.Settings, o *backupPinOptions, ref string) error {
	if !o.remove && o.reason == "" {
		return core.Usage("pass --reason: who finds the pin in a year wants to know why")
	}
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	rec, err := r.Find(ctx, o.Instance, ref)
	if err != nil {
		return err
	}
	out := pinResult{Backup: core.SummaryOf(rec)}
	err = withLock(ctx, r.Repo, rec.Instance, "prune", func(lock *repo.Lock) error {
		if o.remove {
			return r.Unpin(ctx, lock, rec.ID)
		}
		out.Pin = &repo.Pin{Reason: o.reason, Since: env.Now().UTC()}
		return r.Pin(ctx, lock, rec.ID, *out.Pin)
	})
	if err != nil {
		return err
	}
	what := "pinned"
	if o.remove {
		what = "unpinned"
	}
	env.Done("the backup was %s", what)
	if env.JSON {
		return core.PrintJSON(env.Stdout, out)
	}
	_, err = fmt.Fprintf(env.Stdout, "%s %s (%s)\n", what, rec.ID, core.Clean(rec.Name))
	return err
}
