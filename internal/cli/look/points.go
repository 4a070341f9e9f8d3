package look

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
)

type pointsOptions struct {
	open.Options
	databases []string
	zone      string
}

func newPoints(env *core.Env, g *core.Global) *cobra.Command {
	o := &pointsOptions{}
	c := &cobra.Command{
		Use:   "points [INSTANCE]",
		Short: "Show which moments can be had back, and where there are gaps",
		Long: `Show the recovery window: from when to when "restore --at TIME" finds a moment, how exact it is, and where there are
gaps, with the reason. Where only backups are, each is one moment; between them "restore --at-seq" and "--before-change"
still reach older commits that are in their files.

With --db it tells of databases: since when they are there, and when they were made, dropped, re-created or compacted.

It reads what names and indexes of the repository say, and no contents of files. Without the repository's key it shows what
names alone tell.`,
		Args: core.Arguments(0, 1, "at most one INSTANCE"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			if len(args) > 0 {
				o.Instance = args[0]
			}
			return runPoints(ctx, env, s, o)
		}),
	}
	o.Flags(c.Flags(), "whose moments to show (default: all)")
	c.Flags().StringArrayVar(&o.databases, "db", nil, "tell of databases whose name fits this `GLOB` (* is any text); may be repeated")
	c.Flags().StringVar(&o.zone, "zone", "", "time `ZONE` of what is shown, such as Europe/Berlin (default: this machine's)")
	return c
}

type pointsResult struct {
	Instances []instancePoints  `json:"instances"`
	Storage   *core.TrafficJSON `json:"storage"`
}

type instancePoints struct {
	Instance string         `json:"instance"`
	KeyUsed  bool           `json:"key_used"`
	Windows  []windowJSON   `json:"windows"`
	Gaps     []gapJSON      `json:"gaps"`
	Notes    []string       `json:"notes"`
	Objects  int            `json:"objects"`
	Bytes    int64          `json:"bytes"`
	DBs      []databaseJSON `json:"databases,omitempty"`
}

type windowJSON struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Kind    string    `json:"kind"`
	Moments int       `json:"moments"`
	Backups int       `json:"backups"`
	Exact   float64   `json:"exact_seconds,omitempty"`
}

type gapJSON struct {
	From time.Time  `json:"from"`
	To   *time.Time `json:"to,omitempty"`
	Why  string     `json:"why"`
}

type databaseJSON struct {
	Name    string      `json:"name"`
	First   time.Time   `json:"first"`
	Last    time.Time   `json:"last_commit"`
	There   bool        `json:"there"`
	Commits int         `json:"commits"`
	Events  []eventJSON `json:"events"`
}

type eventJSON struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`
	Shards int       `json:"shards"`
	Note   string    `json:"note,omitempty"`
}

func runPoints(ctx context.Context, env *core.Env, s *core.Settings, o *pointsOptions) error {
	zone, err := open.Zone(o.zone)
	if err != nil {
		return err
	}
	var wanted func(string) bool
	if len(o.databases) > 0 {
		if wanted, err = restore.Globs(o.databases); err != nil {
			return err
		}
	}
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return err
	}
	defer r.Close()
	names := []string{o.Instance}
	if o.Instance == "" {
		if names, err = r.Instances(ctx); err != nil {
			return err
		}
	} else if err := r.Missing(ctx, o.Instance); err != nil {
		return err
	}
	if r.CanRead() {
		if err := r.Unlock(ctx); err != nil {
			return err
		}
	} else if wanted != nil {
		return fmt.Errorf("%w: names alone tell nothing of databases", repo.ErrNoKey)
	}
	out := pointsResult{Instances: []instancePoints{}}
	for _, name := range names {
		p, err := r.Points(ctx, name, wanted)
		if err != nil {
			return err
		}
		out.Instances = append(out.Instances, pointsJSON(p))
	}
	if env.JSON {
		out.Storage = env.TrafficJSON()
		return core.PrintJSON(env.Stdout, out)
	}
	if len(names) == 0 {
		_, err := fmt.Fprintf(env.Stdout, "no backups in %s yet\n", r.URL())
		return err
	}
	for i := range out.Instances {
		if i > 0 {
			fmt.Fprintln(env.Stdout)
		}
		if err := out.Instances[i].print(env.Stdout, zone, wanted != nil); err != nil {
			return err
		}
	}
	return nil
}

const (
	shippedKind = "shipped"
	backupsKind = "backups"
)

func pointsJSON(p *repo.Points) instancePoints {
	out := instancePoints{Instance: p.Instance, KeyUsed: p.Read, Windows: []windowJSON{}, Gaps: []gapJSON{}, Notes: core.NonNil(p.Notes), Objects: p.Objects, Bytes: p.Bytes}
	for _, w := range p.Windows {
		kind := backupsKind
		if w.Shipped {
			kind = shippedKind
		}
		out.Windows = append(out.Windows, windowJSON{w.From.UTC(), w.To.UTC(), kind, w.Moments, w.Backups, core.Seconds(w.Every)})
	}
	for _, g := range p.Gaps {
		x := gapJSON{From: g.From.UTC(), Why: g.Why}
		if !g.To.IsZero() {
			to := g.To.UTC()
			x.To = &to
		}
		out.Gaps = append(out.Gaps, x)
	}
	for _, d := range p.Databases {
		x := databaseJSON{d.DB, d.First.UTC(), d.Last.UTC(), d.There, d.Commits, []eventJSON{}}
		for _, e := range d.Events {
			x.Events = append(x.Events, eventJSON{e.At.UTC(), string(e.What), e.Shards, e.Note})
		}
		out.DBs = append(out.DBs, x)
	}
	return out
}

func (p *instancePoints) print(w io.Writer, zone *time.Location, dbs bool) error {
	fmt.Fprintf(w, "%s\n", core.Clean(p.Instance))
	if len(p.Windows) == 0 {
		_, err := fmt.Fprintln(w, "no moment can be had back: there is no backup that can be read")
		return err
	}
	at := func(t time.Time) string { return t.In(zone).Format("2006-01-02 15:04:05") }
	type line struct {
		at  time.Time
		row []string
	}
	var lines []line
	onlyBackups := false
	for _, x := range p.Windows {
		what := "only backups"
		if x.Kind == shippedKind {
			what = "shipped"
			if x.Exact > 0 {
				what += ", exact to " + seconds(x.Exact)
			}
		}
		onlyBackups = onlyBackups || x.Kind == backupsKind
		lines = append(lines, line{x.From, []string{at(x.From), at(x.To), strconv.Itoa(x.Moments), what}})
	}
	for _, g := range p.Gaps {
		to, length := "", ""
		if g.To != nil {
			to, length = at(*g.To), " of "+g.To.Sub(g.From).Round(time.Second).String()
		}
		lines = append(lines, line{g.From, []string{at(g.From), to, "-", "gap" + length + ": " + g.Why}})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	rows := make([][]string, len(lines))
	for i, l := range lines {
		rows[i] = l.row
	}
	name, _ := p.Windows[len(p.Windows)-1].To.In(zone).Zone()
	if err := core.Table(w, []string{"FROM (" + name + ")", "TO", "MOMENTS", ""}, rows); err != nil {
		return err
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", core.Clean(n))
	}
	if !p.KeyUsed {
		fmt.Fprintln(w, "without the repository's key this is what names and dates of objects say; --identity or a passphrase reads the rest")
	}
	if onlyBackups {
		fmt.Fprintln(w, "between backups: restore --at-seq DB=N and --before-change DB/DOC reach older commits that are in their files")
	}
	if dbs {
		return p.printDatabases(w, at, name)
	}
	return nil
}

func (p *instancePoints) printDatabases(w io.Writer, at func(time.Time) string, zone string) error {
	fmt.Fprintln(w)
	if len(p.DBs) == 0 {
		_, err := fmt.Fprintln(w, "no database of such a name")
		return err
	}
	var rows [][]string
	for _, d := range p.DBs {
		state := "dropped"
		if d.There {
			state = ""
		}
		rows = append(rows, []string{d.Name, at(d.First), at(d.Last), strconv.Itoa(d.Commits), state})
		for _, e := range d.Events {
			what := e.What
			if e.Shards > 1 {
				what += ", " + core.Count(e.Shards, "shard")
			}
			rows = append(rows, []string{"", at(e.At), "", "", strings.TrimSuffix(what+": "+e.Note, ": ")})
		}
	}
	return core.Table(w, []string{"DATABASE", "FIRST (" + zone + ")", "LAST COMMIT", "SHIPPED", ""}, rows)
}

// seconds prints how exact times are.
func seconds(s float64) string {
	return cmp.Or(strings.TrimSuffix(time.Duration(s*float64(time.Second)).Round(time.Second).String(), "m0s"), "1s")
}
