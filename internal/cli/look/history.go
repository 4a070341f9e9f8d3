package look

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
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
		Long: `List every revision of a document whose body a backup, or a moment that was shipped, still has: leaves, and older ones that no compaction
has removed from that file. Of each it tells the first and the last backup or moment that has it, what became of the document by it, what it was in the
newest one that has the document, and the newest backup that has it. "get --backup ID --rev REV" prints one, "diff" compares two states. It tells when a
document was purged, too. With --json it lists the states as well: the winning revision and the other leaves.

Of backups and moments whose file goes on from one to the next the last one is opened, and none in which the document can't be another one.`,
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
	*serve.DocHistory
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
	return printHistory(env.Stdout, list, zone)
}

func printHistory(w io.Writer, h *serve.DocHistory, zone *time.Location) error {
	at := func(t time.Time) string { return t.In(zone).Format("2006-01-02 15:04:05") }
	last := h.States[len(h.States)-1]
	is := map[string]string{}
	for _, l := range last.Leaves {
		is[l.Rev] = "conflict"
		if l.Deleted {
			is[l.Rev] = "deleted leaf"
		}
	}
	if last.Kind != serve.DocPurged {
		is[last.Rev] = "winner"
	}
	row := func(first, last time.Time, kind serve.ChangeKind, rev, is string, backup manifest.BackupID) []string {
		return []string{at(first), at(last), string(kind), rev, is, cmp.Or(string(backup), "only moments")}
	}
	purges := slices.DeleteFunc(slices.Clone(h.States), func(s serve.DocState) bool { return s.Kind != serve.DocPurged })
	var rows [][]string
	for _, r := range h.Revisions {
		for len(purges) > 0 && !purges[0].First.After(r.First) {
			rows = append(rows, row(purges[0].First, purges[0].Last, serve.DocPurged, "-", "", purges[0].From))
			purges = purges[1:]
		}
		rows = append(rows, row(r.First, r.Last, r.Kind, r.Rev, cmp.Or(is[r.Rev], "older"), r.From))
	}
	for _, p := range purges {
		rows = append(rows, row(p.First, p.Last, serve.DocPurged, "-", "", p.From))
	}
	name, _ := h.States[0].First.In(zone).Zone()
	return core.Table(w, []string{"FIRST SEEN (" + name + ")", "LAST SEEN", "WHAT", "REVISION", "NOW", "BACKUP"}, rows)
}
