package look

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
)

type getOptions struct {
	open.Chosen
	rev        string
	attachment string
}

func newGet(env *core.Env, g *core.Global) *cobra.Command {
	o := &getOptions{}
	c := &cobra.Command{
		Use:   "get DB DOC",
		Short: "Print one document out of a backup or moment, without restoring it",
		Long: `Print a document as the server's JSON, as the newest moment has it, or that of --at, --at-seq or --before-change, or a
backup. A deleted document is told with the revision that it had before, which --rev shows for as long as its bytes are in the
database's file; --before-change DB/DOC goes back to the moment before it was deleted.

It reads in place: the shard map and the nodes of the trees that lead to the document, and no other file. What is stored as a
replay (docs/compaction.md) is computed first.`,
		Args: core.Arguments(2, 2, "a DB and a DOC"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runGet(ctx, env, s, o, args[0], args[1])
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "whose document it is (default: the only one)")
	o.When.Flags(f)
	o.ClusterFlag(f)
	f.StringVar(&o.Backup, "backup", "", "out of this backup: its `ID`, name, or \"latest\"")
	f.StringVar(&o.rev, "rev", "", "this revision instead of the winner")
	f.StringVar(&o.attachment, "attachment", "", "write the bytes of the attachment of this `NAME` to standard output")
	return c
}

func runGet(ctx context.Context, env *core.Env, s *core.Settings, o *getOptions, db, doc string) error {
	node, done, err := o.Node(ctx, env, s)
	if err != nil {
		return err
	}
	defer done()
	d, err := open.Database(node, db)
	if err != nil {
		return err
	}
	file, err := d.Find(ctx, doc)
	if err != nil {
		return err
	}
	return showDocument(env, file, doc, o.rev, o.attachment)
}
