package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

func newLock(env *Env, g *globalOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "lock",
		Short: "Who works on an instance now: list locks, free one",
		Long: `Who works on an instance now. A backup, a copy and a deletion hold the instance's lock, and let it go at their end. One
that was killed is found dead at once on its own machine, and elsewhere after five minutes of silence; so a lock needs no
hand in nearly all cases.`,
	}
	asGroup(c)
	c.AddCommand(newLockList(env, g), newLockFree(env, g))
	return c
}

func newLockList(env *Env, g *globalOptions) *cobra.Command {
	o := &repoOptions{}
	c := &cobra.Command{
		Use:   "list",
		Short: "List the locks that are held",
		Args:  arguments(0, 0, ""),
	}
	o.place(c.Flags())
	c.Flags().StringVar(&o.instance, "instance", "", "`NAME` of the CouchDB node whose lock is looked at (default: all)")
	c.RunE = withSettings(env, g, func(ctx context.Context, s *settings, _ []string) error { return runLockList(ctx, env, s, o) })
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

func runLockList(ctx context.Context, env *Env, s *settings, o *repoOptions) error {
	r, err := openRepo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.close()
	held, err := r.Locks(ctx, o.instance)
	if err != nil {
		return err
	}
	list := []lockJSON{}
	for i := range held {
		list = append(list, lockOf(&held[i]))
	}
	if env.json {
		return printJSON(env.Stdout, map[string]any{"locks": list})
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
		rows[i] = []string{l.Instance, l.Purpose, l.Host, fmt.Sprint(l.PID), when(l.Since), when(l.Renewed), state}
	}
	return table(w, []string{"INSTANCE", "PURPOSE", "HOST", "PROCESS", "SINCE", "RENEWED", "STATE"}, rows)
}

func newLockFree(env *Env, g *globalOptions) *cobra.Command {
	o := &repoOptions{}
	force := false
	c := &cobra.Command{
		Use:   "free INSTANCE",
		Short: "End a lock whose holder is gone, without waiting for it",
		Long: `End the lock of an instance. No data is at stake, even if its holder lives: the backup that the holder was making is given
up, and what it has stored serves the next one; a deletion that it had begun is ended here. A holder that showed a sign of
life within the last five minutes, or lives on this machine, is left alone unless --force is given.`,
		Args: arguments(1, 1, "one instance's name"),
		RunE: withSettings(env, g, func(ctx context.Context, s *settings, args []string) error {
			return runLockFree(ctx, env, s, args[0], force)
		}),
	}
	o.place(c.Flags())
	c.Flags().BoolVar(&force, "force", false, "also if its holder seems to live: its backup will fail")
	return c
}

func runLockFree(ctx context.Context, env *Env, s *settings, instance string, force bool) error {
	if !manifest.ValidInstance(instance) {
		return usage("%q can't be the name of an instance", instance)
	}
	r, err := openRepo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.close()
	l, err := r.FreeLock(ctx, instance, force)
	if err != nil {
		return err
	}
	if env.json {
		list := []lockJSON{}
		if l != nil {
			list = append(list, lockOf(l))
		}
		return printJSON(env.Stdout, map[string]any{"freed": list})
	}
	if l == nil {
		_, err = fmt.Fprintf(env.Stdout, "nobody holds the lock of %s\n", clean(instance))
		return err
	}
	_, err = fmt.Fprintf(env.Stdout, "freed %s: a %s on %s, process %d, held its lock since %s\n", clean(instance), clean(l.Purpose), clean(l.Host), l.PID, when(l.Since))
	return err
}
