package restores

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/takeout"
)

type indexOptions struct {
	open.Chosen
}

func newRestoreIndex(env *core.Env, g *core.Global) *cobra.Command {
	o := &indexOptions{}
	c := &cobra.Command{
		Use:   "restore-index DB DDOC",
		Short: "Put the index of a design document's earlier version back, before it is reverted",
		Long: `Put the index files of a design document, as a backup (--backup) or a moment has it, back into the index directory of this
node. CouchDB names them after what the design document says, and since 3.5.2 removes those of a version that was replaced;
reverting it would build them anew. Run this first, then revert the design document: its views answer at once, and what was
written since is indexed.

A file is only put where none is, and only if its shard is the one that it was built of and went on from there.`,
		Args: core.Arguments(2, 2, "a DB and a DDOC"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runRestoreIndex(ctx, env, s, o, args[0], args[1])
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "whose index it is (default: the only one)")
	o.When.Flags(f)
	f.StringVar(&o.Backup, "backup", "", "out of this backup: its `ID`, name, or \"latest\"")
	f.String("data-dir", "", "CouchDB's data `DIR`, with _dbs.couch and shards")
	f.String("config-dir", "", "`DIR` of default.ini and local.ini, which says where the data is")
	f.String("couch-url", "", "`URL` of the running node on this machine, which says where its data is")
	return c
}

type indexJSON struct {
	State     string                `json:"state"`
	Design    string                `json:"design"`
	Signature string                `json:"signature"`
	Files     []takeout.PlacedIndex `json:"files"`
	Storage   *core.TrafficJSON     `json:"storage"`
}

func runRestoreIndex(ctx context.Context, env *core.Env, s *core.Settings, o *indexOptions, name, ddoc string) error {
	at, err := node.Locate(ctx, node.Options{DataDir: s.DataDir, ConfigDir: s.ConfigDir, URL: s.CouchURL,
		NodeName: s.NodeName, User: s.CouchUser, Password: s.CouchPassword.Reveal(), Getenv: env.Getenv})
	if err != nil {
		return err
	}
	n, done, err := o.Node(ctx, env, s)
	if err != nil {
		return err
	}
	defer done()
	db, err := open.Database(n, name)
	if err != nil {
		return err
	}
	ddoc = "_design/" + strings.TrimPrefix(ddoc, "_design/")
	owner, ok := restore.OwnerOf(filepath.Join(at.DataDir, "_dbs.couch"))
	if !ok {
		return fmt.Errorf("%s is of %s: only root and CouchDB's own user can give it files: %w", at.DataDir, owner, fs.ErrPermission)
	}
	out := indexJSON{State: o.Told, Design: ddoc}
	out.Signature, out.Files, err = takeout.PlaceIndex(ctx, n, db, ddoc, at.DataDir, at.IndexDir)
	if err != nil {
		return err
	}
	put := 0
	for _, f := range out.Files {
		if f.Refused == "" {
			put++
		}
	}
	env.Done("%s of the index were put back", core.Count(put, "file"))
	if env.JSON {
		out.Storage = env.TrafficJSON()
		err = core.PrintJSON(env.Stdout, out)
	} else {
		err = out.print(env.Stdout)
	}
	if err == nil && put < len(out.Files) {
		err = core.Say(core.ErrTarget, "not all of the index is back, and CouchDB builds what is missing: %s", core.Count(len(out.Files)-put, "file"))
	}
	return err
}

func (x *indexJSON) print(w io.Writer) error {
	fmt.Fprintf(w, "index %s of %s, of %s\n", x.Signature, core.Clean(x.Design), x.State)
	for _, f := range x.Files {
		switch {
		case f.Refused != "":
			fmt.Fprintf(w, "%s: not put back, %s\n", core.Clean(f.Path), f.Refused)
		case f.There:
			fmt.Fprintf(w, "%s: is there already\n", core.Clean(f.Path))
		default:
			fmt.Fprintf(w, "%s: put back, %s to index since\n", core.Clean(f.Path), core.Count(int(f.Behind), "change"))
		}
	}
	_, err := fmt.Fprintln(w, "now revert the design document: its views answer out of these")
	return err
}
