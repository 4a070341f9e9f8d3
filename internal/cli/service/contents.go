package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/job"
)

// Commands that look through a server into backups: those of the group "Looking" for whoever has a token and no key. Each is one
// request of docs/service-api.md, and with --json its answer.

func newContents(env *core.Env, g *core.Global) *cobra.Command {
	c := &cobra.Command{
		Use:   "contents",
		Short: "Look through a server into backups and moments, and put documents back",
		Long: `Look through a server into the backups and moments of an instance, named by its name or id: what "slipcover points", "find",
"get", "history", "diff", "changes" and "cluster compare" show where the repository and its key are, for those who have a token. What is read of
documents is in the server's audit log.

A backup is named by its id or "latest", a moment by a time: 2026-11-22T10:32:00Z, "2026-11-22 10:32", "yesterday 18:00", "90m
ago". Without either it is the newest moment.`,
	}
	core.AsGroup(c)
	c.AddCommand(newContentsPoints(env, g), newContentsDatabases(env, g), newContentsDatabase(env, g), newContentsDocuments(env, g), newContentsGet(env, g), newContentsHistory(env, g),
		newContentsDiff(env, g), newContentsChanges(env, g), newContentsRestoreDoc(env, g), newContentsCluster(env, g), newContentsCompare(env, g))
	return c
}

// looking is what these commands have in common.
type looking struct {
	env     *core.Env
	project string
	zone    string
	backup  string
	at      string
	limit   int
}

// command makes one; use begins with its name and the arguments behind the instance.
func (o *looking) command(env *core.Env, g *core.Global, use, short string, least, most int, what string, run func(ctx context.Context, c *serviceClient, args []string) error) *cobra.Command {
	o.env = env
	c := &cobra.Command{Use: use, Short: short, Args: core.Arguments(least, most, what),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			return run(ctx, c, args)
		})}
	projectFlag(c.Flags(), &o.project, "whose it is")
	serviceFlags(c.Flags())
	return c
}

func (o *looking) stateFlags(f *pflag.FlagSet) {
	f.StringVar(&o.backup, "backup", "", "out of this backup: its `ID`, or \"latest\"")
	f.StringVar(&o.at, "at", "", "the state at that `TIME`, out of what was shipped")
	o.zoneFlag(f)
}

func (o *looking) zoneFlag(f *pflag.FlagSet) {
	f.StringVar(&o.zone, "zone", "", "time `ZONE` of times that name none, such as Europe/Berlin (default: this machine's)")
}

func (o *looking) limitFlag(f *pflag.FlagSet, what string) {
	f.IntVar(&o.limit, "limit", contents.DefaultLimit, fmt.Sprintf("how many %s to list, at most %d", what, contents.MostLimit))
}

// time reads a time; its text is that of an API.
func (o *looking) time(flag, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	zone, err := open.Zone(o.zone)
	if err != nil {
		return "", err
	}
	t, err := calendar.ParseWhen(text, o.env.Now(), zone)
	if err != nil {
		return "", core.Usage("%s: %v", flag, err)
	}
	return t.UTC().Format(time.RFC3339Nano), nil
}

// state reads what names a backup or a time.
func (o *looking) state(flag, text string) (string, error) {
	if _, err := uuid.Parse(text); err == nil || text == "latest" || text == "now" || text == "" {
		return text, nil
	}
	return o.time(flag, text)
}

// query has the parameters that are named, and the state.
func (o *looking) query(pairs ...string) (url.Values, error) {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if o.limit > 0 {
		q.Set("limit", fmt.Sprint(o.limit))
	}
	if o.project != "" {
		q.Set("project", o.project)
	}
	if o.backup != "" {
		q.Set("backup", o.backup)
	}
	at, err := o.time("--at", o.at)
	if at != "" && strings.TrimSpace(o.at) != "now" { // which is the newest, whatever the clocks say
		q.Set("at", at)
	}
	return q, err
}

// ask asks for something of an instance, and prints the answer.
func ask[T any](ctx context.Context, o *looking, c *serviceClient, instance, what string, print func(*T) error, pairs ...string) error {
	q, err := o.query(pairs...)
	if err != nil {
		return err
	}
	id, err := c.findInstance(ctx, instance, o.project)
	if err != nil {
		return err
	}
	return show(ctx, o.env, c, "instances/"+id+"/"+what+"?"+q.Encode(), print)
}

func yes(b bool) string {
	if b {
		return "true"
	}
	return ""
}

// tell prints a line.
func (o *looking) tell(format string, args ...any) error {
	_, err := fmt.Fprintf(o.env.Stdout, format+"\n", args...)
	return err
}

// of says which state an answer is of.
func (o *looking) of(s contents.State) error {
	switch {
	case s.Backup != "":
		return o.tell("in the backup of %s (%s)", core.When(s.State), s.Backup)
	case s.Moment:
		return o.tell("at %s", core.When(s.State))
	}
	return o.tell("at %s, as a backup has it", core.When(s.State))
}

func newContentsPoints(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{}
	db, from, to := "", "", ""
	c := o.command(env, g, "points INSTANCE", "Show which moments can be had back, and where there are gaps", 1, 1, "one INSTANCE", func(ctx context.Context, c *serviceClient, args []string) error {
		begin, err := o.time("--from", from)
		if err != nil {
			return err
		}
		end, err := o.time("--to", to)
		if err != nil {
			return err
		}
		return ask(ctx, o, c, args[0], "moments", o.printPoints, "db", db, "from", begin, "to", end)
	})
	f := c.Flags()
	f.StringVar(&db, "db", "", "what happened to databases whose name fits this `GLOB`, too")
	f.StringVar(&from, "from", "", "not what was before that `TIME`")
	f.StringVar(&to, "to", "", "not what was after that `TIME`")
	o.zoneFlag(f)
	o.limitFlag(f, "backups")
	return c
}

func (o *looking) printPoints(m *contents.Moments) error {
	var rows [][]string
	for _, w := range m.Windows {
		what := core.Count(w.Backups, "backup") + " alone"
		if w.Kind == "shipped" {
			what = "any second"
		}
		rows = append(rows, []string{core.When(w.From), core.When(w.To), what})
	}
	for _, gap := range m.Gaps {
		rows = append(rows, []string{core.When(gap.From), moment(gap.To), "gap: " + gap.Why})
	}
	if err := core.Table(o.env.Stdout, []string{"FROM (UTC)", "TO", "WHAT"}, rows); err != nil {
		return err
	}
	rows = nil
	for _, b := range m.Backups {
		rows = append(rows, []string{b.ID, b.Name, core.When(b.Started), core.Size(b.SizeBytes)})
	}
	if err := core.Table(o.env.Stdout, []string{"BACKUP", "NAME", "STARTED (UTC)", "SIZE"}, rows); err != nil {
		return err
	}
	rows = nil
	for _, d := range m.Databases {
		for _, e := range d.Events {
			rows = append(rows, []string{d.Name, core.When(e.At), e.What, e.Note})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	return core.Table(o.env.Stdout, []string{"DATABASE", "AT (UTC)", "WHAT", "NOTE"}, rows)
}

func newContentsDatabases(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{}
	prefix, offset, group := "", 0, false
	c := o.command(env, g, "databases INSTANCE", "List the databases of a backup or moment", 1, 1, "one INSTANCE", func(ctx context.Context, c *serviceClient, args []string) error {
		return ask(ctx, o, c, args[0], "databases", func(d *contents.Databases) error {
			if err := o.of(d.State); err != nil {
				return err
			}
			var rows [][]string
			for _, x := range d.Databases {
				grew := ""
				if x.GrewBytes != nil {
					grew = core.Size(*x.GrewBytes)
				}
				name := x.Name
				if x.Group > 0 {
					name += "... (" + core.Count(x.Group, "database") + ")"
				}
				rows = append(rows, []string{name, core.Num(x.Documents), core.Num(x.Deleted), core.Size(x.FileBytes), grew, x.Problem})
			}
			if err := core.Table(o.env.Stdout, []string{"DATABASE", "DOCUMENTS", "DELETED", "SIZE", "GREW", "PROBLEM"}, rows); err != nil {
				return err
			}
			if len(d.Dropped) > 0 {
				more := ""
				if d.MoreDropped > 0 {
					more = fmt.Sprintf(" and %d more", d.MoreDropped)
				}
				if err := o.tell("dropped since the backup of %s: %s%s", core.When(d.Before), core.Clean(strings.Join(d.Dropped, ", ")), more); err != nil {
					return err
				}
			}
			if group {
				return o.tell("%d of %s of %s", len(d.Databases), core.Count(d.Rows, "row"), core.Count(d.Total, "database"))
			}
			return o.tell("%d of %s", len(d.Databases), core.Count(d.Total, "database"))
		}, "prefix", prefix, "offset", fmt.Sprint(offset), "group", yes(group))
	})
	o.stateFlags(c.Flags())
	c.Flags().StringVar(&prefix, "prefix", "", "only those whose name begins with this `TEXT`")
	c.Flags().IntVar(&offset, "offset", 0, "how many to pass over")
	c.Flags().BoolVar(&group, "group", false, "ten or more whose names begin alike up to a hyphen or underscore in one row, with what the backup says of their files")
	o.limitFlag(c.Flags(), "databases")
	return c
}

func newContentsDatabase(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{}
	c := o.command(env, g, "database INSTANCE DB", "Show what there is beside the documents of a database: security, design documents, conflicts", 2, 2, "an INSTANCE and a DB", func(ctx context.Context, c *serviceClient, args []string) error {
		return ask(ctx, o, c, args[0], "database", func(d *contents.DatabaseDetails) error {
			if err := o.of(d.State); err != nil {
				return err
			}
			conflicts := core.Num(uint64(d.Conflicts))
			if !d.Counted {
				conflicts = "at least " + conflicts
			}
			return core.Facts(o.env.Stdout, []core.Fact{{"documents", core.Num(d.Documents)}, {"deleted", core.Num(d.Deleted)}, {"with conflicts", conflicts}, {"design documents", core.Num(uint64(d.Designs))},
				{"local documents", core.Num(uint64(d.Locals))}, {"size", core.Size(d.FileBytes)}, {"shards", fmt.Sprint(d.Shards)}, {"missing", number(d.Missing)}, {"security", string(d.Security)}, {"problem", d.Problem}})
		}, "db", args[1])
	})
	o.stateFlags(c.Flags())
	return c
}

func newContentsDocuments(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{}
	prefix, after, selector, kind := "", "", "", ""
	deleted, conflicts := false, false
	c := o.command(env, g, "documents INSTANCE DB", "List documents of a database, by id or by a Mango selector", 2, 2, "an INSTANCE and a DB", func(ctx context.Context, c *serviceClient, args []string) error {
		return ask(ctx, o, c, args[0], "documents", func(d *contents.Documents) error {
			var rows [][]string
			for _, x := range d.Documents {
				what := []string{}
				if x.Deleted {
					what = append(what, "deleted")
				}
				if x.Conflicts > 0 {
					what = append(what, core.Count(x.Conflicts, "conflict"))
				}
				if x.Attachments > 0 {
					what = append(what, core.Count(x.Attachments, "attachment"))
				}
				rows = append(rows, []string{x.ID, x.Rev, core.Size(x.Bytes), strings.Join(what, ", ")})
			}
			if err := core.Table(o.env.Stdout, []string{"DOCUMENT", "REVISION", "SIZE", "HAS"}, rows); err != nil {
				return err
			}
			switch {
			case d.Next == "":
				return nil
			case !d.Complete:
				return o.tell("the time was over after %s; go on with --after '%s'", core.Count(d.Looked, "document"), core.Clean(d.Next))
			}
			return o.tell("go on with --after '%s'", core.Clean(d.Next))
		}, "db", args[1], "prefix", prefix, "after", after, "selector", selector, "kind", kind, "deleted", yes(deleted), "conflicts", yes(conflicts))
	})
	f := c.Flags()
	o.stateFlags(f)
	f.StringVar(&prefix, "prefix", "", "only those whose id begins with this `TEXT`")
	f.StringVar(&after, "after", "", "only those behind this `ID`: the next page")
	f.StringVar(&selector, "selector", "", "only those that a Mango selector finds: `JSON`")
	f.StringVar(&kind, "kind", "", "design or local documents in the place of ordinary ones: `KIND`")
	f.BoolVar(&deleted, "deleted", false, "deleted ones, too")
	f.BoolVar(&conflicts, "conflicts", false, "only those with conflicts")
	o.limitFlag(f, "documents")
	return c
}

func newContentsGet(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{}
	rev, attachment := "", ""
	c := o.command(env, g, "get INSTANCE DB DOC", "Print one document, or an attachment of it", 3, 3, "an INSTANCE, a DB and a DOC", func(ctx context.Context, c *serviceClient, args []string) error {
		if attachment == "" {
			return ask(ctx, o, c, args[0], "document", func(d *contents.Document) error {
				if d.Gone {
					return core.Say(core.ErrMissing, "the body of %s isn't in the file any more: a compaction removed it; \"slipcover contents history\" shows which backup has it", d.Rev)
				}
				return o.tell("%s", d.Document)
			}, "db", args[1], "doc", args[2], "rev", rev)
		}
		q, err := o.query("db", args[1], "doc", args[2], "rev", rev, "name", attachment)
		if err != nil {
			return err
		}
		id, err := c.findInstance(ctx, args[0], o.project)
		if err != nil {
			return err
		}
		return c.download(ctx, "instances/"+id+"/attachment?"+q.Encode(), env.Stdout)
	})
	o.stateFlags(c.Flags())
	c.Flags().StringVar(&rev, "rev", "", "this revision instead of the winner")
	c.Flags().StringVar(&attachment, "attachment", "", "write the bytes of the attachment of this `NAME` to standard output")
	return c
}

// download writes the bytes of an answer.
func (c *serviceClient) download(ctx context.Context, path string, w io.Writer) error {
	slow := *c.http
	slow.Timeout = 0 // it may be long
	d := *c
	d.http = &slow
	resp, err := d.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return c.unreachable(ctx, err)
		}
		return c.refusal(resp.StatusCode, text)
	}
	in := &heard{Reader: resp.Body}
	if _, err = io.Copy(w, in); in.err != nil {
		return c.unreachable(ctx, in.err)
	}
	return err
}

// heard tells errors of reading from those of writing.
type heard struct {
	io.Reader
	err error
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		h.err = err
	}
	return n, err
}

func newContentsHistory(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{}
	return o.command(env, g, "history INSTANCE DB DOC", "List the revisions of a document that backups and moments still have", 3, 3, "an INSTANCE, a DB and a DOC", func(ctx context.Context, c *serviceClient, args []string) error {
		return ask(ctx, o, c, args[0], "history", func(h *contents.History) error {
			var rows [][]string
			for _, v := range h.Revisions {
				rows = append(rows, []string{core.When(v.First), core.When(v.Last), string(v.Kind), v.Rev, cmp.Or(v.Now, "older"), cmp.Or(v.Backup, "only moments")})
			}
			for _, s := range h.States {
				if s.Kind == "purged" {
					rows = append(rows, []string{core.When(s.First), core.When(s.Last), string(s.Kind), "-", "", s.Backup})
				}
			}
			return core.Table(o.env.Stdout, []string{"FIRST SEEN (UTC)", "LAST SEEN", "WHAT", "REVISION", "NOW", "BACKUP"}, rows)
		}, "db", args[1], "doc", args[2])
	})
}

func newContentsDiff(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{}
	fromRev, toRev := "", ""
	c := o.command(env, g, "diff INSTANCE DB DOC A [B]", "Show what changed in one document between two backups or moments", 4, 5, "an INSTANCE, a DB, a DOC, and one or two backups or times", func(ctx context.Context, c *serviceClient, args []string) error {
		from, err := o.state("A", args[3])
		if err != nil {
			return err
		}
		to, err := o.state("B", strings.Join(args[4:], ""))
		if err != nil {
			return err
		}
		return ask(ctx, o, c, args[0], "diff", func(d *contents.Diff) error {
			for _, x := range []struct {
				name string
				side *contents.Side
			}{{"from", &d.From}, {"to", &d.To}} {
				what := cmp.Or(x.side.Rev, "not there")
				if x.side.Deleted {
					what += ", deleted"
				}
				if err := o.tell("%-5s %s: %s", x.name, core.When(x.side.State.State), what); err != nil {
					return err
				}
			}
			if len(d.Changes) == 0 {
				return o.tell("nothing differs")
			}
			return core.PrintChanges(o.env.Stdout, d.Changes)
		}, "db", args[1], "doc", args[2], "from", from, "to", to, "from_rev", fromRev, "to_rev", toRev)
	})
	o.zoneFlag(c.Flags())
	c.Flags().StringVar(&fromRev, "from-rev", "", "this revision of A instead of the winner")
	c.Flags().StringVar(&toRev, "to-rev", "", "this revision of B instead of the winner")
	return c
}

func newContentsChanges(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{}
	from, to, kind, prefix, offset := "", "", "", "", 0
	c := o.command(env, g, "changes INSTANCE DB", "List the documents of a database that changed between two backups or moments", 2, 2, "an INSTANCE and a DB", func(ctx context.Context, c *serviceClient, args []string) error {
		if from == "" {
			return core.Usage("changes needs --from with a backup or a time")
		}
		a, err := o.state("--from", from)
		if err != nil {
			return err
		}
		b, err := o.state("--to", to)
		if err != nil {
			return err
		}
		return ask(ctx, o, c, args[0], "changes", func(x *contents.Changes) error {
			var rows [][]string
			for _, d := range x.Changes {
				rows = append(rows, []string{string(d.Kind), d.ID, cmp.Or(d.From, "-"), cmp.Or(d.To, "-")})
			}
			if err := core.Table(o.env.Stdout, []string{"WHAT", "DOCUMENT", "FROM", "TO"}, rows); err != nil {
				return err
			}
			if !x.Complete {
				if err := o.tell("the time was over before all was compared: this is what was seen until then"); err != nil {
					return err
				}
			}
			return o.tell("%d of %s that changed between %s and %s", len(x.Changes), core.Count(x.Total, "document"), core.When(x.From.State), core.When(x.To.State))
		}, "db", args[1], "from", a, "to", b, "kind", kind, "prefix", prefix, "offset", fmt.Sprint(offset))
	})
	f := c.Flags()
	f.StringVar(&from, "from", "", "the `STATE` before: a backup or a time")
	f.StringVar(&to, "to", "now", "the `STATE` after")
	f.StringVar(&kind, "kind", "", "only what was added, changed, deleted, undeleted or purged: `KIND`")
	f.StringVar(&prefix, "prefix", "", "only documents whose id begins with this `TEXT`")
	f.IntVar(&offset, "offset", 0, "how many to pass over")
	o.zoneFlag(f)
	o.limitFlag(f, "documents")
	return c
}

func newContentsCluster(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{}
	prefix, offset := "", 0
	c := o.command(env, g, "cluster NAME", "Show what the newest backups of a cluster's nodes hold together", 1, 1, "the NAME of one cluster", func(ctx context.Context, c *serviceClient, args []string) error {
		q, err := o.query("prefix", prefix, "offset", fmt.Sprint(offset))
		if err != nil {
			return err
		}
		return show(ctx, env, c, "clusters/"+url.PathEscape(args[0])+"/databases?"+q.Encode(), o.printCluster)
	})
	c.Flags().StringVar(&prefix, "prefix", "", "only databases whose name begins with this `TEXT`")
	c.Flags().IntVar(&offset, "offset", 0, "how many to pass over")
	o.limitFlag(c.Flags(), "databases")
	return c
}

func (o *looking) printCluster(x *contents.ClusterDatabases) error {
	if err := o.printNodes(x.Nodes); err != nil {
		return err
	}
	var rows [][]string
	for _, d := range x.Databases {
		held := fmt.Sprintf("%d of %d", d.Held, d.Copies)
		if len(d.Missing) > 0 {
			held += ", none of " + strings.Join(d.Missing, ", ")
		}
		rows = append(rows, []string{d.Name, fmt.Sprint(d.Q), fmt.Sprint(d.N), core.Num(d.Documents), held})
	}
	if err := core.Table(o.env.Stdout, []string{"DATABASE", "Q", "N", "DOCS", "COPIES HELD"}, rows); err != nil {
		return err
	}
	for _, p := range x.Problems {
		if err := o.tell("problem: %s", core.Clean(p)); err != nil {
			return err
		}
	}
	if x.Gaps > 0 {
		return o.tell("of %s a range is in no backup", core.Count(x.Gaps, "database"))
	}
	return o.tell("the backups hold every range of every database")
}

func (o *looking) printNodes(nodes []contents.ClusterNode) error {
	var rows [][]string
	for _, n := range nodes {
		rows = append(rows, []string{n.Node, cmp.Or(n.InstanceName, "-"), cmp.Or(n.Backup, "-"), moment(n.From), moment(n.Until), n.Why})
	}
	return core.Table(o.env.Stdout, []string{"NODE", "INSTANCE", "BACKUP", "CUT FROM (UTC)", "UNTIL", "WHY NOT"}, rows)
}

func newContentsCompare(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{}
	db, after := "", ""
	c := o.command(env, g, "compare CLUSTER", "Show what the copies of a cluster's databases disagree about, as far as a server gets in 25 seconds", 1, 1, "the name of one CLUSTER", func(ctx context.Context, c *serviceClient, args []string) error {
		q, err := o.query("db", db, "after", after)
		if err != nil {
			return err
		}
		if strings.TrimSpace(o.at) == "now" {
			q.Set("at", env.Now().UTC().Format(time.RFC3339Nano)) // which is not the newest backup
		}
		return show(ctx, env, c, "clusters/"+url.PathEscape(args[0])+"/divergence?"+q.Encode(), o.printCompared)
	})
	f := c.Flags()
	f.StringVar(&db, "db", "", "only databases whose name fits this `GLOB` (* is any text)")
	f.StringVar(&after, "after", "", "go on behind this `RANGE`, as the page before said")
	f.StringVar(&o.at, "at", "", "the newest moment of each node up to this `TIME`, in the place of its newest backup")
	o.zoneFlag(f)
	o.limitFlag(f, "ranges that disagree")
	return c
}

func (o *looking) printCompared(x *contents.Divergence) error {
	if err := o.printNodes(x.Nodes); err != nil {
		return err
	}
	for _, d := range x.Ranges {
		if _, err := fmt.Fprintln(o.env.Stdout); err != nil {
			return err
		}
		if err := core.PrintDivergence(o.env.Stdout, d); err != nil {
			return err
		}
		if d.Report != nil && d.Reached != nil {
			if err := o.tell("the time was over within its %s, behind %q: what comes after that wasn't compared", d.Reached.Part, d.Reached.After); err != nil {
				return err
			}
		}
	}
	n := x.Counts
	what := fmt.Sprintf("%d %s", n.Different, core.Differ(n.Different))
	if n.Agree == n.Ranges {
		what = "all copies agree"
	}
	if err := o.tell("compared %s in %s of %s: %s", core.Count(int(n.Documents), "document"), core.Count(n.Ranges, "range"), core.Count(n.Databases, "database"), what); err != nil || x.Next == "" {
		return err
	}
	return o.tell("there is more: --after '%s'", core.Clean(x.Next))
}

type restoreDocBody struct {
	DB           string  `json:"db"`
	Target       string  `json:"target,omitempty"`
	Doc          string  `json:"doc,omitempty"`
	Rev          string  `json:"rev,omitempty"`
	Backup       string  `json:"backup,omitempty"`
	At           string  `json:"at,omitempty"`
	UntilBackup  string  `json:"until_backup,omitempty"`
	Until        string  `json:"until,omitempty"`
	DeletedSince bool    `json:"deleted_since,omitempty"`
	On           *string `json:"on,omitempty"`
	Replace      bool    `json:"replace,omitempty"`
	DryRun       bool    `json:"dry_run,omitempty"`
	User         string  `json:"user,omitempty"`
	Password     string  `json:"password,omitempty"`
}

func newContentsRestoreDoc(env *core.Env, g *core.Global) *cobra.Command {
	o := &looking{env: env}
	in := restoreDocBody{}
	until, on, deleted, send := "", "", false, false
	c := &cobra.Command{
		Use:   "restore-doc INSTANCE DB [DOC]",
		Short: "Have an instance's agent put documents of a backup or moment back into its CouchDB",
		Long: `Have the agent of an instance put a document of a backup or moment back into its CouchDB, on top of what was written or deleted
since; or with --deleted all that are in that state and were deleted in a later one. It is what "slipcover restore-doc" does where the
repository's key is. The agent's node must allow it by accept_writes: true, and have a user of CouchDB in its settings couch_user and
couch_password, unless --send-couch-user sends those of the settings here. The command waits for the end. Exit code 11 if CouchDB refused a document, or others wrote
one meanwhile.`,
		Args: core.Arguments(2, 3, "an INSTANCE, a DB and a DOC, or --deleted"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, s *core.Settings, args []string) error {
			in.DB, in.Doc, in.DeletedSince, in.Backup = args[1], strings.Join(args[2:], ""), deleted, o.backup
			if (in.Doc == "") != deleted {
				return core.Usage("name one DOC, or --deleted for all that were deleted since the state that is named")
			}
			var err error
			if strings.TrimSpace(o.at) != "now" {
				if in.At, err = o.time("--at", o.at); err != nil {
					return err
				}
			}
			switch which, err := o.state("--until", until); {
			case err != nil:
				return err
			case which == "" || which == "now":
			case which == "latest" || uuid.Validate(which) == nil:
				in.UntilBackup = which
			default:
				in.Until = which
			}
			if on != "" {
				if on == "none" {
					on = ""
				}
				in.On = &on
			}
			if send {
				if in.User, in.Password = s.CouchUser, s.CouchPassword.Reveal(); in.User == "" {
					return core.Usage("--send-couch-user needs the settings couch_user and couch_password here")
				}
			}
			return o.restoreDoc(ctx, c, s, args[0], &in)
		}),
	}
	f := c.Flags()
	o.stateFlags(f)
	f.StringVar(&in.Rev, "rev", "", "this revision of DOC instead of the winner")
	f.StringVar(&in.Target, "as", "", "into the database of this `NAME` (default: DB)")
	f.StringVar(&on, "on", "", "only on top of this `REVISION`, or \"none\" if there must be none: what others wrote since you looked stays")
	f.BoolVar(&deleted, "deleted", false, "all documents that are in the state and were deleted since")
	f.StringVar(&until, "until", "", "with --deleted: since then and up to this `STATE`, a backup or a time (default: the newest moment)")
	f.BoolVar(&in.Replace, "replace", false, "with --deleted: those too that are there with another content")
	f.BoolVar(&in.DryRun, "dry-run", false, "write nothing, and say what would be written")
	f.BoolVar(&send, "send-couch-user", false, "as the user of the settings couch_user and couch_password here, in the place of the node's own")
	projectFlag(f, &o.project, "whose instance it is")
	core.ProgressFlag(f)
	serviceFlags(f)
	return c
}

func (o *looking) restoreDoc(ctx context.Context, c *serviceClient, s *core.Settings, instance string, in *restoreDocBody) error {
	env := o.env
	id, err := c.findInstance(ctx, instance, o.project)
	if err != nil {
		return err
	}
	var begun struct {
		Job string `json:"job"`
	}
	if err := c.call(ctx, http.MethodPost, inProject("instances/"+id+"/restore-doc", o.project), in, &begun); err != nil {
		return err
	}
	env.Done("job %s has begun", begun.Job)
	path := inProject("jobs/"+url.PathEscape(begun.Job), o.project)
	fault, err := c.await(ctx, env, s, path, "putting back")
	if err != nil {
		return core.WhenStopped(ctx, err, "the job "+begun.Job+" goes on; \"slipcover jobs\" shows it")
	}
	if fault != "" {
		return fmt.Errorf("nothing more was put back: %s", core.Clean(fault))
	}
	var text json.RawMessage
	if err := c.call(ctx, http.MethodGet, path, nil, &text); err != nil {
		return err
	}
	var now struct {
		Job struct {
			Documents *job.DocumentsDone `json:"documents"`
		} `json:"job"`
	}
	if err := c.decode(text, &now); err != nil {
		return err
	}
	d := now.Job.Documents
	if d == nil {
		return errors.New("the server does not say what became of the documents")
	}
	if env.JSON {
		err = core.PrintJSON(env.Stdout, text)
	} else {
		err = o.printPutBack(d)
	}
	if err == nil && d.Counts["refused"]+d.Counts["conflict"] > 0 {
		return core.Say(core.ErrTarget, "of %s CouchDB refused some, or others wrote them meanwhile", core.Count(d.Counts["refused"]+d.Counts["conflict"], "document"))
	}
	return err
}

func (o *looking) printPutBack(d *job.DocumentsDone) error {
	var rows [][]string
	for _, x := range d.Documents {
		rows = append(rows, []string{x.ID, x.Outcome, cmp.Or(x.From, "-"), cmp.Or(x.Was, "-"), x.Reason})
	}
	if err := core.Table(o.env.Stdout, []string{"DOCUMENT", "OUTCOME", "REVISION", "WAS", "WHY"}, rows); err != nil {
		return err
	}
	did := "put back out of "
	if d.DryRun {
		did = "nothing was written; it would be put back out of "
	}
	return o.tell("%s%s: %d written", did, d.State, d.Counts["written"])
}
