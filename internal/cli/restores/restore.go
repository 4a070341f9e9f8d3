package restores

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
)

type restoreOptions struct {
	open.Options
	open.When
	to         string
	indexTo    string
	configTo   string
	delta      bool
	ifEmpty    bool
	databases  []string
	as         string
	keepSuffix bool
	noIndexes  bool
	nodeName   string
	plan       string
	asNode     string
	rejoin     bool
	verbose    bool
	history    history
}

func newRestore(env *core.Env, g *core.Global) *cobra.Command {
	o := &restoreOptions{}
	c := &cobra.Command{
		Use:   "restore [ID] --to DIR",
		Short: "Restore a backup or any moment as files: a node's data directory, or chosen databases",
		Long: `Restore a backup, named by its id, its name or "latest", as files. Stop CouchDB, restore into its data directory, and start
it. A restore that was killed goes on when you run it again; until it is done, no file looks like a whole database.

  slipcover restore latest --to /opt/couchdb/data
  slipcover restore latest --to /tmp/orders --db orders        one database, to be moved into a running node
  slipcover restore latest --to /opt/couchdb/data --delta      write only what differs from what is there
  slipcover restore latest --to /opt/couchdb/data --if-empty   before each start of a container: only on a fresh volume
  slipcover restore --at "yesterday 18:00" --to /tmp/then      the state at a moment, out of what was shipped
  slipcover restore --before-change orders/o-17 --to /tmp/was --db orders
                                                               before a document was changed or deleted
  slipcover restore latest --rejoin --to /opt/couchdb/data     a node that was lost, while the others of its cluster run
  slipcover restore --plan plan.yml --as-node couchdb@db4.example --to /opt/couchdb/data
                                                               one node's part of a cluster that comes back on other nodes,
                                                               as "slipcover cluster plan" wrote it
"slipcover points" shows which moments there are.`,
		Args: core.Arguments(0, 1, "one backup's ID, name, or \"latest\""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runRestore(ctx, env, s, o, strings.Join(args, ""))
		}),
	}
	o.Options.Flags(c.Flags(), "whose backup it is")
	o.When.Flags(c.Flags())
	o.bind(c.Flags())
	return c
}

// source is what is restored: a backup, or a moment.
type source struct {
	repo   *open.Repository
	rec    *manifest.Record // the backup, or the one that the moment stands on
	made   *manifest.Manifest
	moment *repo.Moment // nil of a backup
	zone   *time.Location
	db     string    // whose commits were asked for, "" if none were
	at     time.Time // that was asked for; zero is the newest
	what   string    // in words, where it is no backup of one node
}

// openSource opens the backup or moment that is to be restored.
func openSource(ctx context.Context, env *core.Env, s *core.Settings, instance, ref string, when *open.When) (*source, error) {
	switch {
	case !when.Given():
		r, rec, err := toRestore(ctx, env, s, instance, ref)
		return &source{repo: r, rec: rec}, err
	case ref != "":
		return nil, core.Usage("name a backup, or a moment by --at, --at-seq or --before-change, not both: these find the backup themselves")
	}
	s.FromCache = true // every file is held against its hash
	r, m, moment, err := open.Moment(ctx, env, s, instance, when)
	if err != nil {
		return nil, err
	}
	if err := core.CheckStrategy("restore", s.RestoreNamespace, moment.Base.Strategy); err != nil {
		r.Close()
		return nil, err
	}
	out := &source{repo: r, rec: moment.Base, made: m, moment: moment}
	out.db = when.Database()
	if out.zone, err = open.Zone(when.Zone); err == nil {
		out.at, err = when.Time(env.Now())
	}
	return out, err
}

func (o *restoreOptions) bind(f *pflag.FlagSet) {
	f.StringVar(&o.to, "to", "", "the `DIR` to restore to; made if it isn't there, and must be empty")
	f.BoolVar(&o.delta, "delta", false, "turn what is in the directory into the backup: keep files that are right, replace others")
	f.BoolVar(&o.ifEmpty, "if-empty", false, "do nothing, and succeed, if a CouchDB's data is there; go on with a restore that was killed, also if \"latest\" is another backup by now")
	f.StringArrayVar(&o.databases, "db", nil, "only databases whose name fits this `GLOB` (* is any text); may be repeated")
	f.StringVar(&o.as, "as", "", "with --db for one database: its new `NAME`")
	f.BoolVar(&o.keepSuffix, "keep-suffix", false,
		"with --db: keep the creation stamp in the files' names instead of a new one")
	f.StringVar(&o.nodeName, "node-name", "", "Erlang `NAME` of the CouchDB that gets the files: shard maps are rewritten for it (default: the one that they know)")
	f.StringVar(&o.plan, "plan", "", "`FILE` with the plan of a cluster: its backups come back on the nodes that it names")
	f.StringVar(&o.asNode, "as-node", "", "with --plan: the `NAME` of the node whose part is restored here")
	f.BoolVar(&o.rejoin, "rejoin", false, "the backup is of a node that was lost, of a cluster whose other nodes run: they bring it what was written since")
	f.StringVar(&o.indexTo, "index-to", "", "`DIR` for view indexes (default: the one of --to)")
	f.BoolVar(&o.noIndexes, "no-indexes", false, "leave view indexes out; CouchDB builds them anew")
	f.StringVar(&o.configTo, "config-to", "", "`DIR` for ini files and vm.args (default: they are not restored); with --plan made right for the restored cluster")
	o.history.flags(f, "chosen databases, moments and backups that aren't the newest get one, the newest keeps it")
	f.BoolVar(&o.verbose, "verbose", false, "list every file that was dropped, removed or left alone")
	f.String("owner", "", "`USER:GROUP` to own the files, or '' to leave them as they are (default: couchdb:couchdb)")
	f.String("parallel", "", "write `N` files at once (default: the number of CPUs, at most 4)")
	core.ProgressFlag(f)
}

func runRestore(ctx context.Context, env *core.Env, s *core.Settings, o *restoreOptions, ref string) error {
	if err := o.checkPart(ref); err != nil {
		return err
	}
	if o.plan == "" && !o.Given() && ref == "" {
		return core.Usage("restore needs one backup's ID, name, or \"latest\"; or --at with a time")
	}
	history, err := o.history.chosen()
	if err != nil {
		return err
	}
	ref, done, err := o.checkEmpty(env, ref)
	if err != nil || done {
		return err
	}
	from, part, err := o.open(ctx, env, s, ref)
	if err != nil {
		return err
	}
	defer from.repo.Close()
	if o.rejoin {
		if history, err = o.rejoining(from); err != nil {
			return err
		}
	}
	if err := from.only(o.databases); err != nil {
		return err
	}
	p := &restore.Progress{}
	stop := core.StartProgress(env, s.Progress, "restoring", core.RestoreReading(p))
	defer stop()
	res, err := restore.Files(ctx, restore.Options{
		Repo: from.repo.Repo, Record: from.rec, Moment: from.made, To: o.to, IndexTo: o.indexTo, ConfigTo: o.configTo, Delta: o.delta,
		Databases: o.databases, As: o.as, KeepSuffix: o.keepSuffix, NoIndexes: o.noIndexes, NodeName: o.nodeName, Part: part,
		History: history, Tell: tellComesBack(env), Owner: s.Owner, Parallel: s.Parallel, Progress: p,
	})
	stop()
	if err != nil {
		return core.WhenStopped(ctx, err, marked)
	}
	if o.rejoin {
		res.Notes = append(res.Notes, "start it as "+res.NodeName+" with the cookie of the others: they bring it what was written, deleted and purged since, and lists may lack that until then")
	}
	env.Done("the backup was restored to %s", o.to)
	if env.JSON {
		_ = core.PrintJSON(env.Stdout, newRestoreJSON(env, from, res)) // Finish tells of it, unless there is worse
	} else {
		printRestore(env.Stdout, from, res, o.verbose)
		if o.verbose {
			fmt.Fprintln(env.Stdout, env.TrafficLine())
		}
	}
	if err == nil && !res.OK() {
		err = core.Say(core.ErrProblem, "what could be restored is in place, but it is not all: %s",
			core.Count(len(res.Problems)+len(res.Damaged), "problem"))
	}
	return err
}

// open opens what is restored; part is nil unless it is a node's of a cluster.
func (o *restoreOptions) open(ctx context.Context, env *core.Env, s *core.Settings, ref string) (from *source, part *restore.Part, err error) {
	if o.plan != "" {
		return o.openPart(ctx, env, s)
	}
	if o.to == "" {
		return nil, nil, needsTo()
	}
	from, err = openSource(ctx, env, s, o.Instance, ref, &o.When)
	return from, nil, err
}

func needsTo() error { return core.Usage("restore needs --to DIR, where the files go") }

// rejoining returns the history of a node that comes back into its cluster. Sequences that the lost node gave for what was
// written after the backup would be given again for other changes, so it begins a new one; the other nodes compare their copies
// with its from the start, and send what is missing.
//
// Source: CouchDB 3.5, src/mem3/src/mem3_rep.erl, make_local_id and calculate_start_seq.
func (o *restoreOptions) rejoining(from *source) (restore.History, error) {
	switch {
	case o.plan != "" || len(o.databases) > 0 || o.nodeName != "":
		return 0, core.Usage("--rejoin brings a node back as it was called: leave out --plan, --db and --node-name")
	case o.history.keep:
		return 0, core.Usage("--rejoin begins a new history, since the cluster went on: leave out --keep-history")
	case len(from.rec.Nodes) < 2:
		return 0, core.Usage("--rejoin is for a node of a cluster, and this backup is of one that is alone, or of before backups recorded the cluster: restore it without")
	}
	return restore.HistoryNew, nil
}

// toRestore opens a backup to be restored, if the settings restore those of its strategy.
func toRestore(ctx context.Context, env *core.Env, s *core.Settings, instance, ref string) (*open.Repository, *manifest.Record, error) {
	s.FromCache = true // every file is held against its hash
	r, rec, err := open.Backup(ctx, env, s, instance, ref)
	if err != nil {
		return nil, nil, err
	}
	if err := core.CheckStrategy("restore", s.RestoreNamespace, rec.Strategy); err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, rec, nil
}

// marked is what a restore that was stopped leaves behind.
const marked = "the target is marked as incomplete, and the same command goes on with it"

// momentJSON is the moment that was restored; BACKUP beside it is the one that it stands on.
type momentJSON struct {
	ID     manifest.BackupID `json:"id"`
	At     time.Time         `json:"at"`
	Until  time.Time         `json:"until"`
	Next   time.Time         `json:"next,omitzero"` // when the moment behind it was
	Chain  manifest.BackupID `json:"chain,omitempty"`
	Tick   int64             `json:"tick,omitempty"`
	Shards []repo.Shard      `json:"shards"`
}

type restoreJSON struct {
	Backup core.SummaryJSON `json:"backup"`
	Moment *momentJSON      `json:"moment,omitempty"`
	*restore.Result
	Took    float64           `json:"took_seconds"`
	NoID    *struct{}         `json:"took_ns,omitempty"` // hides Result's
	Storage *core.TrafficJSON `json:"storage"`
}

func newRestoreJSON(env *core.Env, from *source, r *restore.Result) restoreJSON {
	for _, list := range []*[]string{&r.Databases, &r.Damaged, &r.Removed, &r.Aside, &r.LeftAlone, &r.Problems, &r.Warnings, &r.Notes, &r.Commands} {
		*list = core.NonNil(*list)
	}
	r.Dropped, r.Lost = core.NonNil(r.Dropped), core.NonNil(r.Lost)
	out := restoreJSON{Backup: core.SummaryOf(from.rec), Result: r, Took: core.Seconds(r.Took), Storage: env.TrafficJSON()}
	if m := from.moment; m != nil {
		out.Moment = &momentJSON{from.made.ID, m.At.UTC(), m.Until.UTC(), m.Next.UTC(), m.Chain, m.Tick, core.NonNil(m.Shards)}
	}
	return out
}

// only tells of chosen databases alone.
func (s *source) only(databases []string) error {
	if s.moment == nil || len(databases) == 0 {
		return nil
	}
	chosen, err := restore.Globs(databases)
	if err == nil {
		clustered := s.clustered()
		s.moment.Shards = slices.DeleteFunc(s.moment.Shards, func(x repo.Shard) bool { return !clustered.Has(x.Path) || !chosen(repo.DatabaseName(x.Path)) })
	}
	return err
}

// clustered are the databases that have shards in the moment.
func (s *source) clustered() repo.Clustered {
	return repo.ClusteredIn(func(yield func(string) bool) {
		for _, x := range s.moment.Shards {
			if !yield(x.Path) {
				return
			}
		}
	})
}

// told says what was restored.
func (s *source) told(to string) string {
	m := s.moment
	if s.what != "" {
		return "restored " + s.what + " to " + to
	}
	if m == nil {
		return fmt.Sprintf("restored %s (%s) to %s", s.rec.ID, core.Clean(s.rec.Name), to)
	}
	at := func(t time.Time) string { return t.In(s.zone).Format("2006-01-02 15:04:05 MST") }
	what := "as the backup " + s.rec.ID.Short() + " has it"
	if m.Chain != "" {
		what = fmt.Sprintf("tick %d of chain %s on backup %s", m.Tick, m.Chain.Short(), s.rec.ID.Short())
	}
	text := fmt.Sprintf("restored the moment of %s, %s, to %s", at(m.At), what, to)
	if m.Until.After(m.At) {
		text += fmt.Sprintf("\nit was the state until %s at least", at(m.Until))
	}
	switch {
	case s.db != "":
		return text + "\n" + s.sequences()
	case s.at.IsZero() || s.at.Sub(m.Until) < inexact:
	case m.Next.IsZero():
		text += "\nit is the newest there is: what was committed after that time is not in it"
	default:
		text += fmt.Sprintf("\nwhat was committed between that time and %s is not in it, if anything was: the next moment is of %s", at(s.at), at(m.Next))
	}
	return text
}

// inexact is from which time on between the one that was asked for and up to when the moment is known it is told.
const inexact = 3 * time.Second

// sequences says which commits of a database's files were found.
func (s *source) sequences() string {
	var list []string
	clustered := s.clustered()
	for _, x := range s.moment.Shards {
		if clustered.Has(x.Path) && repo.DatabaseName(x.Path) == s.db {
			list = append(list, fmt.Sprintf("%s at %d", x.Path, x.UpdateSeq))
		}
	}
	return "update_seq: " + strings.Join(list, ", ")
}

func printRestore(w io.Writer, from *source, r *restore.Result, verbose bool) {
	rate := ""
	if s := r.Took.Seconds(); s > 0.001 {
		rate = fmt.Sprintf(", %s/s", core.Size(int64(float64(r.Bytes)/s)))
	}
	fmt.Fprintln(w, from.told(r.To))
	every := "every file has the hash that it was backed up with"
	if r.LostCount > 0 {
		every = fmt.Sprintf("%s can't be read back, the others have the hashes that they were backed up with",
			core.Count(r.LostCount, "more file"))
	}
	fmt.Fprintf(w, "%s, %s in %s%s; %s\n", core.Count(int(r.Files), "file"), core.Size(r.Bytes), core.Took(r.Took),
		rate, every)
	if r.KeptFiles > 0 {
		fmt.Fprintf(w, "kept %s (%s) that were right already\n", core.Count(int(r.KeptFiles), "file"),
			core.Size(r.KeptBytes))
	}
	if r.Continued {
		fmt.Fprintln(w, "went on with a restore that was not finished")
	}
	dropped := make([]manifest.LeftOut, len(r.Dropped))
	for i, d := range r.Dropped {
		dropped[i] = manifest.LeftOut{Path: d.Path, Reason: d.Reason}
	}
	core.PrintGrouped(w, "index not restored", dropped, verbose)
	if r.ComesBack != nil {
		fmt.Fprintf(w, "warning: %s\n", core.Clean(r.ComesBack.String()))
	}
	if r.History != nil {
		fmt.Fprintln(w, r.History)
	}
	printPaths(w, "removed", r.Removed, verbose)
	printPaths(w, "left alone", r.LeftAlone, verbose)
	printPaths(w, "set aside", r.Aside, true)
	for _, list := range []struct {
		word  string
		lines []string
	}{{"note", r.Notes}, {"warning", r.Warnings}, {"damaged", r.Damaged}, {"problem", r.Problems}} {
		for _, l := range list.lines {
			fmt.Fprintf(w, "%s: %s\n", list.word, core.Clean(l))
		}
	}
	if len(r.Commands) > 0 {
		fmt.Fprintln(w, "\nto bring it into a running server:")
		for _, c := range r.Commands {
			fmt.Fprintf(w, "  %s\n", c)
		}
	}
}

// printPaths prints how many paths there are, with an example or all of them.
func printPaths(w io.Writer, word string, paths []string, verbose bool) {
	list := make([]manifest.LeftOut, len(paths))
	for i, p := range paths {
		list[i] = manifest.LeftOut{Path: p}
	}
	core.PrintGrouped(w, word, list, verbose)
}
