package look

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/serve"
)

type historyOptions struct {
	open.Options
	zone string
}

func newHistory(env *core.Env, g *core.Global) *cobra.Command {
	o := &historyOptions{}
	c := &cobra.Command{
		Use:   "history DB DOC",
		Short: "List the revisions of a document that backups and moments still have",
		Long: `List every state of a document that a backup, or a moment that was shipped, still has: when it was first and last seen, what
had become of the document, its winning revision with how many other leaves it has, and a backup that has it. "get --at" or "get --backup" prints one, "diff"
compares two.

The sequences of the document's shard tell in which backups and moments it can differ: of those in which its last change is the
same only one is opened.`,
		Args: core.Arguments(2, 2, "a DB and a DOC"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runHistory(ctx, env, s, o, args[0], args[1])
		}),
	}
	o.Flags(c.Flags(), "whose document it is (default: the only one)")
	c.Flags().StringVar(&o.zone, "zone", "", "time `ZONE` of what is shown, such as Europe/Berlin (default: this machine's)")
	return c
}

type historyJSON struct {
	States  []serve.DocState  `json:"states"`
	Storage *core.TrafficJSON `json:"storage"`
}

func runHistory(ctx context.Context, env *core.Env, s *core.Settings, o *historyOptions, db, doc string) error {
	zone, err := open.Zone(o.zone)
	if err != nil {
		return err
	}
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return err
	}
	defer r.Close()
	instance, err := open.OneInstance(ctx, r, o.Instance)
	if err != nil {
		return err
	}
	if err := r.Unlock(ctx); err != nil {
		return err
	}
	list, err := serve.History(ctx, r.Repo, instance, db, doc)
	switch {
	case errors.Is(err, serve.ErrNoDatabase):
		return fmt.Errorf("%w in any backup or moment of %s: %q", serve.ErrNoDatabase, instance, db)
	case errors.Is(err, couchfile.ErrNotFound):
		return fmt.Errorf("no backup or moment of %s has a document %q in %s, nor a deletion of it: %w", instance, doc, db, err)
	case err != nil:
		return err
	}
	if env.JSON {
		return core.PrintJSON(env.Stdout, historyJSON{list, env.TrafficJSON()})
	}
	at := func(t time.Time) string { return t.In(zone).Format("2006-01-02 15:04:05") }
	name, _ := list[0].First.In(zone).Zone()
	rows := make([][]string, len(list))
	for i, x := range list {
		backup, rev := "only moments", x.Rev
		if x.From != "" {
			backup = string(x.From)
		}
		if n := len(x.Leaves); n > 0 {
			rev += fmt.Sprintf(" (+%d)", n)
		}
		if rev == "" {
			rev = "-"
		}
		rows[i] = []string{at(x.First), at(x.Last), string(x.Kind), rev, backup}
	}
	return core.Table(env.Stdout, []string{"FIRST SEEN (" + name + ")", "LAST SEEN", "WHAT", "REVISION", "BACKUP"}, rows)
}
