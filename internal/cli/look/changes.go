package look

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/serve"
)

type changesOptions struct {
	open.Options
	from, to string
	zone     string
	docs     bool
}

func newChanges(env *core.Env, g *core.Global) *cobra.Command {
	o := &changesOptions{}
	c := &cobra.Command{
		Use:   "changes DB",
		Short: "List the documents of a database that changed between two backups or moments",
		Long: `List what was added, changed, deleted, undeleted and purged in a database between --from and --to, each of them a backup's
ID or name, "latest", or a time as for restore --at, such as "yesterday 18:00" or "now".

It reads both in place. Where the second went on from the first it reads what was changed since, else the lists of documents of
both. A database that is in one of the two alone is told document by document.`,
		Args: core.Arguments(1, 1, "a DB"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runChanges(ctx, env, s, o, args)
		}),
	}
	o.Flags(c.Flags(), "whose database it is (default: the only one)")
	c.Flags().StringVar(&o.from, "from", "", "the `STATE` before: a backup or a time")
	c.Flags().StringVar(&o.to, "to", "now", "the `STATE` after")
	c.Flags().StringVar(&o.zone, "zone", "", "time `ZONE` of --from and --to, such as Europe/Berlin (default: this machine's)")
	c.Flags().BoolVar(&o.docs, "docs", false, "with each document as it is after, or as it was if it is gone")
	return c
}

// changeJSON is one document that changed.
type changeJSON struct {
	serve.DocChange
	Doc json.RawMessage `json:"doc,omitempty"` // as it is after, or was before if it is gone, with --docs
}

var changeSigns = map[serve.ChangeKind]string{serve.DocAdded: "+", serve.DocChanged: "~", serve.DocDeleted: "-", serve.DocUndeleted: "+", serve.DocPurged: "x"}

func runChanges(ctx context.Context, env *core.Env, s *core.Settings, o *changesOptions, args []string) error {
	if o.from == "" {
		return core.Usage("changes needs --from with a backup or a time")
	}
	zone, err := open.Zone(o.zone)
	if err != nil {
		return err
	}
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return err
	}
	defer r.Close()
	var sides [2]*serve.Database
	var states [2]string
	for i, which := range []string{o.from, o.to} {
		m, state, err := open.State(ctx, r, o.Instance, which, env.Now(), zone)
		if err != nil {
			return fmt.Errorf("%s: %w", which, err)
		}
		node, err := serve.OpenNode(ctx, r.Repo, m)
		if err != nil {
			return fmt.Errorf("%s: %w", which, err)
		}
		defer node.Close()
		states[i] = state
		if sides[i], err = node.Database(args[0]); err != nil && !errors.Is(err, serve.ErrNoDatabase) {
			return err
		}
	}
	if sides[0] == nil && sides[1] == nil {
		return fmt.Errorf("%w in either of the two: %q", serve.ErrNoDatabase, args[0])
	}
	p := &changesPrinter{env: env, from: sides[0], to: sides[1], docs: o.docs, counts: map[serve.ChangeKind]int{}}
	if err := p.begin(states); err != nil {
		return err
	}
	if err := serve.Changes(ctx, sides[0], sides[1], func(c serve.DocChange) error { return p.change(ctx, c) }); err != nil {
		return err
	}
	return p.end()
}

// changesPrinter prints changes as they are found, since there may be millions.
type changesPrinter struct {
	env      *core.Env
	from, to *serve.Database // nil if the database isn't there
	docs     bool
	counts   map[serve.ChangeKind]int
	total    int
}

func (p *changesPrinter) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(p.env.Stdout, format, args...)
	return err
}

func (p *changesPrinter) begin(states [2]string) error {
	if p.env.JSON {
		text, err := json.Marshal(states)
		if err != nil {
			return err
		}
		return p.printf("{\n  \"between\": %s,\n  \"changes\": [", text)
	}
	there := func(d *serve.Database) string {
		if d == nil {
			return ", which has no such database"
		}
		return ""
	}
	return p.printf("from  %s%s\nto    %s%s\n", states[0], there(p.from), states[1], there(p.to))
}

func (p *changesPrinter) change(ctx context.Context, c serve.DocChange) error {
	out := changeJSON{DocChange: c}
	if p.docs {
		var err error
		if out.Doc, err = p.doc(ctx, c); err != nil {
			return err
		}
	}
	p.counts[c.Kind]++
	p.total++
	if p.env.JSON {
		text, err := json.Marshal(out)
		if err != nil {
			return err
		}
		comma := ","
		if p.total == 1 {
			comma = ""
		}
		return p.printf("%s\n    %s", comma, text)
	}
	revs := c.To
	switch {
	case c.To == "":
		revs = c.From
	case c.From != "":
		revs = c.From + " -> " + c.To
	}
	if err := p.printf("%s %s  %s, %s\n", changeSigns[c.Kind], core.Clean(c.ID), c.Kind, revs); err != nil || out.Doc == nil {
		return err
	}
	return p.printf("  %s\n", core.Clean(string(out.Doc)))
}

// doc returns a document as the second state has it, or the first.
func (p *changesPrinter) doc(ctx context.Context, c serve.DocChange) (json.RawMessage, error) {
	d, rev := p.to, c.To
	if c.To == "" || c.Kind == serve.DocDeleted && c.From != "" {
		d, rev = p.from, c.From
	}
	db, err := d.Find(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	b, err := db.Doc(c.ID, couchfile.DocOptions{Rev: rev})
	if errors.Is(err, couchfile.ErrMissing) {
		return nil, nil
	}
	return b, err
}

func (p *changesPrinter) end() error {
	if !p.env.JSON {
		if p.total == 0 {
			return p.printf("nothing changed\n")
		}
		text := core.Count(p.total, "document")
		for _, k := range []serve.ChangeKind{serve.DocAdded, serve.DocChanged, serve.DocDeleted, serve.DocUndeleted, serve.DocPurged} {
			if n := p.counts[k]; n > 0 {
				text += fmt.Sprintf(", %d %s", n, k)
			}
		}
		return p.printf("%s\n", text)
	}
	counts, err := json.Marshal(p.counts)
	if err != nil {
		return err
	}
	storage, err := json.Marshal(p.env.TrafficJSON())
	if err != nil {
		return err
	}
	return p.printf("\n  ],\n  \"counts\": %s,\n  \"storage\": %s\n}\n", counts, storage)
}
