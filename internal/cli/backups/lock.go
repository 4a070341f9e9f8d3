package backups

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

func newLock(env *core.Env, g *core.Global) *cobra.Command {
	c := &cobra.Command{
		Use:   "lock",
		Short: "Show who is working on an instance: list locks, free one",
		Long: `Show who is working on an instance. A backup, a copy and a deletion hold the instance's lock until they end. If one was
killed, its own machine notices at once, and others after five minutes of silence. So you will hardly ever have to free a
lock.`,
	}
	core.AsGroup(c)
	c.AddCommand(newLockList(env, g), newLockFree(env, g))
	return c
}

func newLockList(env *core.Env, g *core.Global) *cobra.Command {
	o := &open.Options{}
	c := &cobra.Command{
		Use:   "list",
		Short: "List the locks that are held",
		Args:  core.Arguments(0, 0, ""),
	}
	o.Place(c.Flags())
	c.Flags().StringVar(&o.Instance, "instance", "", "`NAME` of the CouchDB node whose lock is looked at (default: all)")
	c.RunE = core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
		return runLockList(ctx, env, s, o)
	})
	return c
}

// lockJSON is a lock in the output.
type lockJSON struct {
	Instance string    `json:"instance"`
	Purpose  string    `json:"purpose"`
	Host     string    `json:"host"`
	PID      int       `json:"pid"`
	Since    time.Time `json:"since"`
	Renewed  time.Time `json:"renewed"`
	Silent   bool      `json:"silent"`
}

func lockOf(l *repo.HeldLock) lockJSON {
	return lockJSON{l.Instance, l.Purpose, l.Host, l.PID, l.Since, l.Renewed, l.Silent}
}

func runLockList(ctx context.Context, env *core.Env, s *core.Settings, o *open.Options) error {
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	held, err := r.Locks(ctx, o.Instance)
	if err != nil {
		return err
	}
	list := []lockJSON{}
	for i := range held {
		list = append(list, lockOf(&held[i]))
	}
	if env.JSON {
		return core.PrintJSON(env.Stdout, map[string]any{"locks": list})
	}
	return printLocks(env.Stdout, list)
}

func printLocks(w io.Writer, list []lockJSON) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "nobody holds a lock")
		return err
	}
	rows := make([][]string, len(list))
	for i, l := range list {
		state := "held"
		if l.Silent {
			state = "silent"
		}
		rows[i] = []string{l.Instance, l.Purpose, l.Host, fmt.Sprint(l.PID), core.When(l.Since),
			core.When(l.Renewed), state}
	}
	return core.Table(w, []string{"INSTANCE", "PURPOSE", "HOST", "PROCESS", "SINCE", "RENEWED", "STATE"}, rows)
}

func newLockFree(env *core.Env, g *core.Global) *cobra.Command {
	o := &open.Options{}
	force := false
	c := &cobra.Command{
		Use:   "free INSTANCE",
		Short: "End a lock whose holder is gone, without waiting for it",
		Long: `Free the lock of an instance. No data is at risk, even if its holder is alive: the backup that it was making is given up,
and the next one uses what it has stored; a deletion that it had begun is finished here. A holder that showed a sign of
life within the last five minutes, or is alive on this machine, is left alone unless --force is given.`,
		Args: core.Arguments(1, 1, "one instance's name"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runLockFree(ctx, env, s, args[0], force)
		}),
	}
	o.Place(c.Flags())
	c.Flags().BoolVar(&force, "force", false, "even if its holder seems to be alive: its backup will fail")
	return c
}

func runLockFree(ctx context.Context, env *core.Env, s *core.Settings, instance string, force bool) error {
	if !manifest.ValidInstance(instance) {
		return core.Usage("%q can't be the name of an instance", instance)
	}
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	l, err := r.FreeLock(ctx, instance, force)
	if err != nil {
		return err
	}
	if l != nil {
		env.Done("the lock was freed")
	}
	if env.JSON {
		list := []lockJSON{}
		if l != nil {
			list = append(list, lockOf(l))
		}
		return core.PrintJSON(env.Stdout, map[string]any{"freed": list})
	}
	if l == nil {
		_, err = fmt.Fprintf(env.Stdout, "nobody holds the lock of %s\n", core.Clean(instance))
		return err
	}
	_, err = fmt.Fprintf(env.Stdout, "freed %s: a %s on %s, process %d, held its lock since %s\n", core.Clean(instance),
		core.Clean(l.Purpose), core.Clean(l.Host), l.PID, core.When(l.Since))
	return err
}
