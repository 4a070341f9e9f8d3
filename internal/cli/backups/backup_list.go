package backups

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/repo"
)

type backupListOptions struct{ open.Options }

func newBackupList(env *core.Env, g *core.Global) *cobra.Command {
	o := &backupListOptions{}
	c := &cobra.Command{
		Use:   "list",
		Short: "List the backups, oldest first",
		Args:  core.Arguments(0, 0, ""),
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.run(cmd, env, g) },
	}
	o.Flags(c.Flags(), "whose backups to list (default: all)")
	return c
}

func (o *backupListOptions) run(cmd *cobra.Command, env *core.Env, g *core.Global) error {
	s, err := g.Load(env, cmd)
	if err != nil {
		return err
	}
	return runBackupList(cmd.Context(), env, s, o)
}

type backupListResult struct {
	Backups    []listedJSON     `json:"backups"`
	Unreadable []unreadableJSON `json:"unreadable"`
}

// listedJSON is a backup with what was noted about it since.
type listedJSON struct {
	core.SummaryJSON
	repo.Marks
}

func (b *listedJSON) marks() string {
	var words []string
	if b.Verified != nil {
		words = append(words, "verified "+core.When(b.Verified.At))
	}
	if b.Pin != nil {
		words = append(words, "pinned: "+b.Pin.Reason)
	}
	return strings.Join(words, ", ")
}

// unreadableJSON is a backup whose record can't be used.
type unreadableJSON struct {
	Instance string `json:"instance"`
	ID       string `json:"id"`
	Error    string `json:"error"`
}

func runBackupList(ctx context.Context, env *core.Env, s *core.Settings, o *backupListOptions) error {
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	recs, bad, err := r.List(ctx, o.Instance)
	if err != nil {
		return err
	}
	marks, err := r.Marks(ctx, o.Instance)
	if err != nil {
		return err
	}
	out := backupListResult{Backups: []listedJSON{}, Unreadable: []unreadableJSON{}}
	for _, rec := range recs {
		out.Backups = append(out.Backups, listedJSON{core.SummaryOf(rec), marks[rec.ID]})
	}
	for _, b := range bad {
		out.Unreadable = append(out.Unreadable, unreadableJSON{b.Instance, string(b.ID), b.Err.Error()})
	}
	if o.Instance != "" && len(recs)+len(bad) == 0 && !env.JSON {
		known, err := r.Known(ctx)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "no backups of %s in %s; instances here: %s\n", o.Instance, r.URL(),
			cmp.Or(strings.Join(known, ", "), "none"))
		return err
	}
	if err := out.print(env, r.Repo); err != nil {
		return err
	}
	if len(bad) > 0 {
		return core.Say(core.ErrProblem, "%s can't be used: %s", core.Count(len(bad), "backup"), bad[0].Err)
	}
	return nil
}

func (l *backupListResult) print(env *core.Env, r *repo.Repo) error {
	if env.JSON {
		return core.PrintJSON(env.Stdout, l)
	}
	if len(l.Backups) == 0 {
		_, err := fmt.Fprintf(env.Stdout, "no backups in %s yet\n", r.URL())
		return err
	}
	var rows [][]string
	for _, b := range l.Backups {
		rows = append(rows, []string{string(b.ID), b.Instance, b.Name, string(b.Type), b.Parent.Short(),
			string(b.Status), core.When(b.Started), core.Size(b.SizeBytes), core.Size(b.StoredBytes), b.marks()})
	}
	return core.Table(env.Stdout, []string{"ID", "INSTANCE", "NAME", "TYPE", "PARENT", "STATUS", "STARTED (UTC)",
		"SIZE", "STORED", ""}, rows)
}
