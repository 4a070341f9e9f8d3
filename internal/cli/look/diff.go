package look

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/serve"
)

type diffOptions struct {
	open.Options
	zone string
}

func newDiff(env *core.Env, g *core.Global) *cobra.Command {
	o := &diffOptions{}
	c := &cobra.Command{
		Use:   "diff DB DOC A B",
		Short: "Show what changed in one document between two backups or moments",
		Long: `Show what differs in a document between A and B, each of them a backup's ID or name, "latest", or a time as for
restore --at, such as "yesterday 18:00" or "now". Each place that differs is named by a JSON Pointer. Attachments are
compared by digest.

It reads both in place, as "get" does.`,
		Args: core.Arguments(4, 4, "a DB, a DOC, and A and B"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runDiff(ctx, env, s, o, args)
		}),
	}
	o.Flags(c.Flags(), "whose document it is (default: the only one)")
	c.Flags().StringVar(&o.zone, "zone", "", "time `ZONE` of A and B, such as Europe/Berlin (default: this machine's)")
	return c
}

// diffSide is a document as one of the two has it.
type diffSide struct {
	State   string `json:"state"`         // which backup or moment it is, in words
	Rev     string `json:"rev,omitempty"` // "" if it isn't there
	Deleted bool   `json:"deleted,omitempty"`

	doc []byte
}

type diffJSON struct {
	From    diffSide          `json:"from"`
	To      diffSide          `json:"to"`
	Changes []serve.Change    `json:"changes"`
	Storage *core.TrafficJSON `json:"storage"`
}

func runDiff(ctx context.Context, env *core.Env, s *core.Settings, o *diffOptions, args []string) error {
	zone, err := open.Zone(o.zone)
	if err != nil {
		return err
	}
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return err
	}
	defer r.Close()
	var out diffJSON
	for i, side := range []*diffSide{&out.From, &out.To} {
		if err := o.read(ctx, env, r, side, args, args[2+i], zone); err != nil {
			return fmt.Errorf("%s: %w", args[2+i], err)
		}
	}
	if out.From.Rev == "" && out.To.Rev == "" {
		return fmt.Errorf("document %q of %s is in neither of the two: %w", args[1], args[0], couchfile.ErrNotFound)
	}
	if out.Changes, err = serve.Diff(out.From.doc, out.To.doc); err != nil {
		return err
	}
	if env.JSON {
		out.Changes, out.Storage = core.NonNil(out.Changes), env.TrafficJSON()
		return core.PrintJSON(env.Stdout, out)
	}
	return out.print(env.Stdout)
}

// read reads a document as one of the two has it; a database or document that isn't there is none.
func (o *diffOptions) read(ctx context.Context, env *core.Env, r *open.Repository, side *diffSide, args []string, which string, zone *time.Location) error {
	m, what, err := open.State(ctx, r, o.Instance, which, env.Now(), zone)
	if err != nil {
		return err
	}
	side.State = what
	node, err := serve.OpenNode(ctx, r.Repo, m)
	if err != nil {
		return err
	}
	defer node.Close()
	d, err := node.Database(args[0])
	if errors.Is(err, serve.ErrNoDatabase) {
		return nil
	}
	if err != nil {
		return err
	}
	db, err := d.Find(ctx, args[1])
	if err != nil {
		return err
	}
	info, err := db.DocInfo(args[1])
	if errors.Is(err, couchfile.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	w := info.Winner()
	side.Rev, side.Deleted = w.Rev.String(), info.Deleted
	side.doc, err = db.RevisionJSON(info, w, couchfile.DocOptions{Conflicts: true})
	return err
}

func (d *diffJSON) print(w io.Writer) error {
	for _, x := range []struct {
		name string
		side *diffSide
	}{{"from", &d.From}, {"to", &d.To}} {
		what := x.side.Rev
		switch {
		case x.side.Rev == "":
			what = "not there"
		case x.side.Deleted:
			what += ", deleted"
		}
		if _, err := fmt.Fprintf(w, "%-5s %s: %s\n", x.name, x.side.State, what); err != nil {
			return err
		}
	}
	if len(d.Changes) == 0 {
		_, err := fmt.Fprintln(w, "nothing differs")
		return err
	}
	return core.PrintChanges(w, d.Changes)
}
