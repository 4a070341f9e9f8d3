package restores

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/takeout"
)

type documentOptions struct {
	open.Chosen
	target   target
	rev      string
	ids      string
	selector string
	since    string
	until    string
	exact    bool
	replace  bool
	dryRun   bool
}

func newRestoreDoc(env *core.Env, g *core.Global) *cobra.Command {
	o := &documentOptions{}
	c := &cobra.Command{
		Use:   "restore-doc DB [DOC] --to URL",
		Short: "Put documents of a backup or moment back into a running CouchDB",
		Long: `Write documents as they were into a running CouchDB, with their attachments: one by its id, or those of --ids, --selector or
--deleted-since. Each becomes a new revision on top of the one that wins there, a deletion too, so it is what clients and
replications get. Nothing is deleted, and a document that is the same already is left alone; so what was interrupted goes on
when it is run again.

  slipcover restore-doc orders o-17 --before-change orders/o-17 --to https://admin@db.example.org:6984
  slipcover restore-doc orders --deleted-since "yesterday 18:00" --to https://admin@db.example.org:6984

One DOC is written also if the server has another content of it: what changes is shown, and --dry-run shows it beforehand. Of
many, those that the server has with another content are left alone and counted; --replace replaces them too. Who writes a
document meanwhile loses nothing: it is looked at again. --exact writes revisions as they were, as a replication does, which
win only where nothing newer is. URL may name another database, such as https://admin@db.example.org:6984/other.`,
		Args: core.Arguments(1, 2, "a DB, and a DOC or which documents"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			s.FromCache = true // every frame is held against its hash
			return runRestoreDoc(ctx, env, s, o, args)
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "whose documents they are (default: the only one)")
	o.When.Flags(f)
	f.StringVar(&o.Backup, "backup", "", "out of this backup: its `ID`, name, or \"latest\"")
	o.target.flags(f, "to", "the server, or a database on it: `URL`, with a user and no password")
	f.StringVar(&o.rev, "rev", "", "of one DOC, this revision instead of the winner")
	f.StringVar(&o.ids, "ids", "", "the documents whose ids are in this `FILE`, one a line; - is standard input")
	f.StringVar(&o.selector, "selector", "", "the documents that this selector means, `JSON` as _find takes it")
	f.StringVar(&o.since, "deleted-since", "", "the documents that were deleted since that `STATE`, as it has them: a backup or a time")
	f.StringVar(&o.until, "until", "now", "with --deleted-since: until that `STATE`")
	f.BoolVar(&o.exact, "exact", false, "write the revisions as they were, with their history; they may lose")
	f.BoolVar(&o.replace, "replace", false, "of many documents, replace also those that the server has with another content")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would change, and write nothing")
	core.ProgressFlag(f)
	return c
}

// check refuses what doesn't go together.
func (o *documentOptions) check(args []string) error {
	ways := 0
	for _, given := range []bool{len(args) == 2, o.ids != "", o.selector != "", o.since != ""} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return core.Usage("restore-doc needs to know which documents: name one DOC, or pass one of --ids, --selector and --deleted-since")
	case o.target.url == "":
		return core.Usage("restore-doc needs --to with the URL of the server, such as https://admin@db.example.org:6984")
	case o.rev != "" && len(args) < 2:
		return core.Usage("--rev is for one DOC: each document has revisions of its own")
	case o.since != "" && (o.Backup != "" || o.At != "" || len(o.AtSeq) > 0 || o.BeforeChange != ""):
		return core.Usage("--deleted-since names the state that the documents come out of: leave out --backup, --at, --at-seq and --before-change")
	}
	return nil
}

type documentsJSON struct {
	State     string                  `json:"state"` // which backup or moment
	Server    string                  `json:"server"`
	Database  string                  `json:"database"`
	DryRun    bool                    `json:"dry_run"`
	Counts    map[takeout.Outcome]int `json:"counts"`
	Purged    int                     `json:"purged,omitempty"`
	Documents []takeout.DocResult     `json:"documents"` // not those that are the same, nor, of many, those that were written
	More      int                     `json:"more"`      // that are left out of it
	Notes     []string                `json:"notes"`
	Took      float64                 `json:"took_seconds"`
	Storage   *core.TrafficJSON       `json:"storage"`
}

// mostTold is how many documents are told by their names.
const mostTold = 1000

func runRestoreDoc(ctx context.Context, env *core.Env, s *core.Settings, o *documentOptions, args []string) error {
	if err := o.check(args); err != nil {
		return err
	}
	if len(args) == 2 && strings.HasPrefix(args[1], "_local/") {
		return core.Usage("local documents belong to one server, as checkpoints do, and are not taken into another: `slipcover get %s %s` prints it", args[0], args[1])
	}
	started := time.Now()
	from, err := o.openStates(ctx, env, s, args[0])
	if err != nil {
		return err
	}
	defer from.close()
	ids, err := o.chosen(ctx, env, from, args)
	if err != nil {
		return err
	}
	srv, db, err := o.target.open(ctx, env, s)
	if err != nil {
		return err
	}
	if db == "" {
		db = args[0]
	}
	one := len(args) == 2
	out := &documentsJSON{State: from.state, Server: srv.URL, Database: db, DryRun: o.dryRun, Documents: []takeout.DocResult{}, Notes: []string{}}
	design := false
	p := &takeout.Progress{}
	stop := core.StartProgress(env, s.Progress, "restoring", core.TakeoutReading(p))
	defer stop()
	out.Counts, err = takeout.Documents(ctx, takeout.DocOptions{Server: srv, Target: db, From: from.db, Rev: o.rev, Exact: o.exact,
		Replace: o.replace || one, DryRun: o.dryRun, Diff: one, Progress: p, Tell: func(d *takeout.DocResult) error {
			design = design || d.Outcome == takeout.Written && strings.HasPrefix(d.ID, "_design/")
			if !one && (d.Outcome == takeout.Written || d.Outcome == takeout.Same) {
				return nil
			}
			if len(out.Documents) == mostTold {
				out.More++
				return nil
			}
			out.Documents = append(out.Documents, *d)
			return nil
		}}, ids)
	stop()
	out.Purged = from.purged
	if design {
		out.Notes = append(out.Notes, "the server builds the indexes of a design document anew when its views changed; `slipcover restore-index` puts the old ones back beforehand")
	}
	if err != nil {
		if n := out.Counts[takeout.Written]; n > 0 && !o.dryRun {
			return fmt.Errorf("%w; %s were written before, and the same command goes on", core.WhenStopped(ctx, err, "it was stopped"), core.Count(n, "document"))
		}
		return core.WhenStopped(ctx, err, "nothing was written")
	}
	if !o.dryRun {
		env.Done("%s were written to %s", core.Count(out.Counts[takeout.Written], "document"), db)
	}
	out.Took = core.Seconds(time.Since(started))
	if env.JSON {
		out.Storage = env.TrafficJSON()
		err = core.PrintJSON(env.Stdout, out)
	} else {
		err = out.print(env.Stdout, one)
	}
	if err != nil {
		return err
	}
	return out.failed(args)
}

// states is what documents come out of.
type states struct {
	repo   *open.Repository
	nodes  []*serve.Node
	db     *serve.Database
	until  *serve.Database // with --deleted-since
	state  string
	purged int // between the two
}

func (x *states) close() {
	for _, n := range x.nodes {
		n.Close()
	}
	x.repo.Close()
}

// openStates opens the state, or the two of --deleted-since.
func (o *documentOptions) openStates(ctx context.Context, env *core.Env, s *core.Settings, db string) (_ *states, err error) {
	if o.since == "" {
		r, m, err := o.Open(ctx, env, s)
		if err != nil {
			return nil, err
		}
		x := &states{repo: r, state: o.Told}
		if x.db, err = x.open(ctx, m, db); err != nil {
			x.close()
			return nil, err
		}
		return x, nil
	}
	zone, err := open.Zone(o.Zone)
	if err != nil {
		return nil, err
	}
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return nil, err
	}
	x := &states{repo: r}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	for _, side := range []struct {
		text string
		db   **serve.Database
	}{{o.since, &x.db}, {o.until, &x.until}} {
		m, state, err := open.State(ctx, r, o.Instance, side.text, env.Now(), zone)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", side.text, err)
		}
		if x.state == "" {
			x.state = state
		}
		if *side.db, err = x.open(ctx, m, db); err != nil {
			return nil, fmt.Errorf("%s: %w", side.text, err)
		}
	}
	return x, nil
}

// open opens a database of a state.
func (x *states) open(ctx context.Context, m *manifest.Manifest, name string) (*serve.Database, error) {
	node, err := serve.OpenNode(ctx, x.repo.Repo, m)
	if err != nil {
		return nil, err
	}
	x.nodes = append(x.nodes, node)
	return open.Database(node, name)
}

// chosen returns what yields the ids of the documents. What can be wrong with it is looked at first.
func (o *documentOptions) chosen(ctx context.Context, env *core.Env, from *states, args []string) (func(func(string) error) error, error) {
	switch {
	case len(args) == 2:
		return func(yield func(string) error) error { return yield(args[1]) }, nil
	case o.since != "":
		return func(yield func(string) error) (err error) {
			from.purged, err = takeout.DeletedBetween(ctx, from.db, from.until, yield)
			return err
		}, nil
	case o.selector != "":
		v, err := ejson.Parse([]byte(o.selector))
		if err != nil {
			return nil, core.Usage("--selector: %v", err)
		}
		sel, err := mango.Parse(v)
		if err != nil {
			return nil, core.Usage("--selector: %v", err)
		}
		return func(yield func(string) error) error { return takeout.Matching(ctx, from.db, sel, yield) }, nil
	}
	in := env.Stdin
	if o.ids != "-" {
		f, err := os.Open(o.ids)
		if err != nil {
			return nil, core.FileError("read the ids", err)
		}
		context.AfterFunc(ctx, func() { _ = f.Close() }) // at the end at the latest
		in = f
	}
	return func(yield func(string) error) error { return eachLine(in, yield) }, nil
}

// longestID is how long a line with an id may be, in bytes.
const longestID = 1 << 20

// eachLine calls yield with each line that isn't empty.
func eachLine(in io.Reader, yield func(string) error) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longestID)
	for lines.Scan() {
		id := strings.TrimSuffix(lines.Text(), "\r")
		if id == "" {
			continue
		}
		if err := yield(id); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the ids: %w", err)
	}
	return nil
}

// counted are the outcomes in the order in which they are told, with their words.
var counted = []struct {
	outcome takeout.Outcome
	text    string
	dry     string
}{
	{takeout.Written, "written", "to be written"}, {takeout.Same, "the same already", ""}, {takeout.Left, "left alone, as the server has another content (--replace replaces it)", ""},
	{takeout.Beside, "written, but others win", ""}, {takeout.Missing, "not in that state", ""}, {takeout.Deleted, "deleted in that state", ""},
	{takeout.Gone, "whose body is gone", ""}, {takeout.Conflict, "written by others again and again", ""}, {takeout.Refused, "refused by the server", ""},
}

func (x *documentsJSON) print(w io.Writer, one bool) error {
	if one && len(x.Documents) == 1 {
		if err := printOne(w, &x.Documents[0], x.DryRun); err != nil {
			return err
		}
	} else {
		for _, d := range x.Documents {
			text := string(d.Outcome)
			if d.Reason != "" {
				text += ", " + d.Reason
			}
			fmt.Fprintf(w, "%s: %s\n", core.Clean(d.ID), core.Clean(text))
		}
		if x.More > 0 {
			fmt.Fprintf(w, "and %s more\n", core.Count(x.More, "document"))
		}
	}
	total := 0
	var parts []string
	for _, c := range counted {
		n := x.Counts[c.outcome]
		if total += n; n == 0 {
			continue
		}
		text := c.text
		if x.DryRun && c.dry != "" {
			text = c.dry
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, text))
	}
	if x.Purged > 0 {
		parts = append(parts, fmt.Sprintf("%d more were purged, and stay so (--ids names them)", x.Purged))
	}
	if len(parts) == 0 {
		parts = []string{"none was chosen"}
	}
	_, err := fmt.Fprintf(w, "%s of %s, to %s at %s: %s\n", core.Count(total, "document"), x.State, core.Clean(x.Database), x.Server, strings.Join(parts, ", "))
	for _, n := range x.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	return err
}

// printOne prints what changes in a document.
func printOne(w io.Writer, d *takeout.DocResult, dry bool) error {
	was := d.Was
	switch {
	case was == "":
		was = "not there"
	case d.WasDeleted:
		was += ", deleted"
	}
	fmt.Fprintf(w, "from  %s\non    %s\n", cmp.Or(d.From, "not there"), was)
	if d.Rev != "" && !dry {
		fmt.Fprintf(w, "as    %s\n", d.Rev)
	}
	return core.PrintChanges(w, d.Changes)
}

// failed is what is wrong with the outcome.
func (x *documentsJSON) failed(args []string) error {
	if len(args) == 2 && len(x.Documents) == 1 {
		d := &x.Documents[0]
		because := ""
		if d.Reason != "" {
			because = ": " + d.Reason
		}
		switch d.Outcome {
		case takeout.Missing:
			return fmt.Errorf("document %q is not in %s of %s%s: %w", d.ID, args[0], x.State, because, couchfile.ErrNotFound)
		case takeout.Deleted:
			if because != "" {
				because += "; --rev takes it"
			}
			return fmt.Errorf("document %q of %s in %s: %w%s", d.ID, args[0], x.State, couchfile.ErrDeleted, because)
		case takeout.Gone:
			return fmt.Errorf("document %q: %w%s", d.ID, couchfile.ErrMissing, because)
		}
	}
	bad := 0
	for _, o := range []takeout.Outcome{takeout.Missing, takeout.Gone, takeout.Conflict, takeout.Refused, takeout.Beside, takeout.Deleted} {
		bad += x.Counts[o]
	}
	if bad == 0 {
		return nil
	}
	reason := ""
	if i := slices.IndexFunc(x.Documents, func(d takeout.DocResult) bool { return d.Reason != "" && d.Outcome != takeout.Left }); i >= 0 {
		reason = fmt.Sprintf(", such as %s: %s", core.Clean(x.Documents[i].ID), core.Clean(x.Documents[i].Reason))
	}
	return core.Say(core.ErrProblem, "not all documents are as they were: %s%s", core.Count(bad, "document"), reason)
}
