package backups

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
)

type backupShowOptions struct {
	open.Options
	files   bool
	verbose bool
}

func newBackupShow(env *core.Env, g *core.Global) *cobra.Command {
	o := &backupShowOptions{}
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show one backup, by its id, the end of its id, its name or \"latest\"",
		Long: `Show a backup, named by its id, by 4 or more characters of the id's beginning or end, by its name, or as "latest".
With the repository's key, also what was left out of it and what was damaged; --files lists its files.`,
		Args: core.Arguments(1, 1, "one backup's ID, name, or \"latest\""),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, env, g, args[0]) },
	}
	o.bind(c)
	return c
}

func (o *backupShowOptions) bind(c *cobra.Command) {
	o.Flags(c.Flags(), "whose backup it is")
	c.Flags().BoolVar(&o.files, "files", false, "list the files; needs the repository's key")
	c.Flags().BoolVar(&o.verbose, "verbose", false, "list every file that was left out and every finding")
}

func (o *backupShowOptions) run(cmd *cobra.Command, env *core.Env, g *core.Global, ref string) error {
	s, err := g.Load(env, cmd)
	if err != nil {
		return err
	}
	return runBackupShow(cmd.Context(), env, s, o, ref)
}

// backupShowResult leaves out what only the key tells if there is none.
type backupShowResult struct {
	Backup  core.SummaryJSON    `json:"backup"`
	LeftOut *[]manifest.LeftOut `json:"left_out,omitempty"`
	Damage  *[]manifest.Damage  `json:"damage,omitempty"`
	Notes   *[]string           `json:"notes,omitempty"`
	Files   []fileJSON          `json:"files,omitempty"`
}

type fileJSON struct {
	Root      manifest.Root `json:"root"`
	Path      string        `json:"path"`
	Kind      manifest.Kind `json:"kind"`
	SizeBytes int64         `json:"size_bytes"`
	SHA256    string        `json:"sha256"`
	UpdateSeq *uint64       `json:"update_seq,omitempty"`
	Docs      *uint64       `json:"docs,omitempty"`
	Deleted   *uint64       `json:"deleted_docs,omitempty"`
}

func runBackupShow(ctx context.Context, env *core.Env, s *core.Settings, o *backupShowOptions, ref string) error {
	r, err := open.Repo(ctx, env, s, o.files)
	if err != nil {
		return err
	}
	defer r.Close()
	rec, err := r.Find(ctx, o.Instance, ref)
	if err != nil {
		return err
	}
	out := backupShowResult{Backup: core.SummaryOf(rec)}
	if o.files || r.CanRead() {
		m, err := r.Manifest(ctx, rec)
		if err != nil {
			return err
		}
		left, damage, notes := core.NonNil(m.LeftOut), core.NonNil(m.Damage), core.NonNil(m.Notes)
		out.LeftOut, out.Damage, out.Notes = &left, &damage, &notes
		if o.files {
			out.Files = filesOf(m)
		}
	}
	if env.JSON {
		return core.PrintJSON(env.Stdout, out)
	}
	return out.print(env.Stdout, o.verbose)
}

func filesOf(m *manifest.Manifest) []fileJSON {
	list := make([]fileJSON, 0, len(m.Files))
	for _, f := range m.Files {
		j := fileJSON{Root: f.Root, Path: f.Path, Kind: f.Kind, SizeBytes: f.Size, SHA256: f.SHA256}
		if h := f.Header; h != nil {
			j.UpdateSeq = &h.UpdateSeq
			if f.Kind != manifest.View {
				j.Docs, j.Deleted = &h.Docs, &h.DeletedDocs
			}
		}
		list = append(list, j)
	}
	return list
}

// cluster names the cluster of a backup's node and its nodes, as far as the backup says.
func cluster(b *core.SummaryJSON) string {
	nodes := strings.Join(b.Nodes, ", ")
	if b.Cluster == "" || nodes == "" {
		return b.Cluster + nodes
	}
	return b.Cluster + ": " + nodes
}

func (r *backupShowResult) print(w io.Writer, verbose bool) error {
	b := &r.Backup
	err := core.Facts(w, []core.Fact{
		{"backup", string(b.ID)},
		{"name", b.Name},
		{"description", b.Description},
		{"instance", b.Instance},
		{"type", string(b.Type)},
		{"parent", string(b.Parent)},
		{"status", string(b.Status)},
		{"started", b.Started.UTC().Format(time.RFC3339)},
		{"finished", fmt.Sprintf("%s, after %s", b.Finished.UTC().Format(time.RFC3339),
			core.Took(b.Finished.Sub(b.Started)))},
		{"node", b.NodeName},
		{"cluster", cluster(b)},
		{"couchdb", b.CouchDBVersion},
		{"strategy", b.Strategy + " in " + b.Namespace},
		{"made by", b.Tool},
		{"writer", b.Writer},
		{"files", fmt.Sprintf("%d, %s", b.FileCount, core.Count(b.DatabaseCount, "database"))},
		{"size", core.Exact(b.SizeBytes)},
		{"read", core.Exact(b.ReadBytes)},
		{"stored", stored(b.AddedBytes, b.StoredBytes)},
		{"left out", strconv.Itoa(b.LeftOutCount)},
		{"damage", strconv.Itoa(b.DamageCount)},
	})
	if err != nil {
		return err
	}
	if r.LeftOut != nil {
		printLeftOut(w, *r.LeftOut, verbose)
		printDamage(w, *r.Damage, verbose)
		for _, n := range *r.Notes {
			fmt.Fprintf(w, "note: %s\n", core.Clean(n))
		}
	}
	if r.Files == nil {
		return nil
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, f := range r.Files {
		row := []string{string(f.Root), string(f.Kind), strconv.FormatInt(f.SizeBytes, 10), "", "", f.Path}
		if f.UpdateSeq != nil {
			row[3] = core.Num(*f.UpdateSeq)
		}
		if f.Docs != nil {
			row[4] = core.Num(*f.Docs)
		}
		rows = append(rows, row)
	}
	return core.Table(w, []string{"ROOT", "KIND", "BYTES", "UPDATE_SEQ", "DOCS", "PATH"}, rows)
}
