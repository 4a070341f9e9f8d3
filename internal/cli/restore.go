package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/restore"
)

type restoreOptions struct {
	repoOptions
	to         string
	indexTo    string
	configTo   string
	delta      bool
	databases  []string
	as         string
	keepSuffix bool
	noIndexes  bool
	nodeName   string
	verbose    bool
}

func newRestore(env *Env, g *globalOptions) *cobra.Command {
	o := &restoreOptions{}
	c := &cobra.Command{
		Use:   "restore ID --to DIR",
		Short: "Bring a backup back as files: a node's data directory, or chosen databases",
		Long: `Bring a backup, named by its id, its name or "latest", back as files. With CouchDB stopped, restore into its data
directory and start it. A restore that was killed goes on when it is run again, and until it is done no file looks like
a whole database.

  slipcover restore latest --to /opt/couchdb/data
  slipcover restore latest --to /tmp/orders --db orders        one database, to be moved into a running node
  slipcover restore latest --to /opt/couchdb/data --delta      write only what differs from what is there`,
		Args: arguments(1, 1, "one backup's ID, name, or \"latest\""),
		RunE: withSettings(env, g, func(ctx context.Context, s *settings, args []string) error {
			return runRestore(ctx, env, s, o, args[0])
		}),
	}
	o.repoOptions.flags(c.Flags(), "whose backup it is")
	o.bind(c.Flags())
	return c
}

func (o *restoreOptions) bind(f *pflag.FlagSet) {
	f.StringVar(&o.to, "to", "", "the `DIR` to restore to; made if it isn't there, and must be empty")
	f.BoolVar(&o.delta, "delta", false, "turn what is in the directory into the backup: keep files that are right, replace others")
	f.StringArrayVar(&o.databases, "db", nil, "only databases whose name fits this `GLOB` (* is any text); may be repeated")
	f.StringVar(&o.as, "as", "", "with --db for one database: its new `NAME`")
	f.BoolVar(&o.keepSuffix, "keep-suffix", false, "with --db: keep the creation stamp in the files' names instead of a new one")
	f.StringVar(&o.nodeName, "node-name", "", "Erlang `NAME` of the CouchDB that gets the files: shard maps are rewritten for it (default: the one that they know)")
	f.StringVar(&o.indexTo, "index-to", "", "`DIR` for view indexes (default: the one of --to)")
	f.BoolVar(&o.noIndexes, "no-indexes", false, "leave view indexes out; CouchDB builds them anew")
	f.StringVar(&o.configTo, "config-to", "", "`DIR` for ini files and vm.args (default: they are not restored)")
	f.BoolVar(&o.verbose, "verbose", false, "list every file that was dropped, removed or left alone")
	f.String("owner", "", "`USER:GROUP` that the files shall belong to, or '' to leave it (default: couchdb:couchdb)")
	f.String("parallel", "", "write `N` files at once (default: the number of CPUs, at most 4)")
	progressFlag(f)
}

func runRestore(ctx context.Context, env *Env, s *settings, o *restoreOptions, ref string) error {
	if o.to == "" {
		return usage("restore needs --to DIR, where the files shall go")
	}
	s.fromCache = true // every file is held against its hash
	r, rec, err := openBackup(ctx, env, s, o.instance, ref)
	if err != nil {
		return err
	}
	defer r.close()
	if err := checkStrategy("restore", s.RestoreNamespace, rec.Strategy); err != nil {
		return err
	}
	p := &restore.Progress{}
	stop := startProgress(env, s.Progress, "restoring", restoreReading(p))
	defer stop()
	res, err := restore.Files(ctx, restore.Options{Repo: r.Repo, Record: rec, To: o.to, IndexTo: o.indexTo, ConfigTo: o.configTo,
		Delta: o.delta, Databases: o.databases, As: o.as, KeepSuffix: o.keepSuffix, NoIndexes: o.noIndexes, NodeName: o.nodeName, Owner: s.Owner, Parallel: s.Parallel, Progress: p})
	stop()
	if err != nil {
		return explainRestore(ctx, err)
	}
	if env.json {
		err = printJSON(env.Stdout, newRestoreJSON(env, rec, res))
	} else {
		printRestore(env.Stdout, rec, res, o.verbose)
		if o.verbose {
			fmt.Fprintln(env.Stdout, env.trafficLine())
		}
	}
	if err == nil && !res.OK() {
		err = say(errProblem, "what could be restored is in place, but it is not all: %s", count(len(res.Problems)+len(res.Damaged), "problem"))
	}
	return err
}

// explainRestore adds what is left behind to the error of a restore that was stopped.
func explainRestore(ctx context.Context, err error) error {
	var sig interrupted
	if errors.As(context.Cause(ctx), &sig) {
		return fmt.Errorf("%w: the target is marked as incomplete, and the same command goes on with it", sig)
	}
	return err
}

type restoreJSON struct {
	Backup summaryJSON `json:"backup"`
	*restore.Result
	Took    float64      `json:"took_seconds"`
	NoID    *struct{}    `json:"took_ns,omitempty"` // hides Result's
	Storage *trafficJSON `json:"storage"`
}

func newRestoreJSON(env *Env, rec *manifest.Record, r *restore.Result) restoreJSON {
	for _, list := range []*[]string{&r.Databases, &r.Damaged, &r.Removed, &r.Aside, &r.LeftAlone, &r.Problems, &r.Warnings, &r.Notes, &r.Commands} {
		*list = nonNil(*list)
	}
	r.Dropped, r.Lost = nonNil(r.Dropped), nonNil(r.Lost)
	return restoreJSON{Backup: summaryOf(rec), Result: r, Took: seconds(r.Took), Storage: env.trafficJSON()}
}

func printRestore(w io.Writer, rec *manifest.Record, r *restore.Result, verbose bool) {
	rate := ""
	if s := r.Took.Seconds(); s > 0.001 {
		rate = fmt.Sprintf(", %s/s", size(int64(float64(r.Bytes)/s)))
	}
	fmt.Fprintf(w, "restored %s (%s) to %s\n", rec.ID, clean(rec.Name), r.To)
	every := "every file has the hash that it was backed up with"
	if r.LostCount > 0 {
		every = fmt.Sprintf("%s can't be read back, the others have the hashes that they were backed up with", count(r.LostCount, "more file"))
	}
	fmt.Fprintf(w, "%s, %s in %s%s; %s\n", count(int(r.Files), "file"), size(r.Bytes), took(r.Took), rate, every)
	if r.KeptFiles > 0 {
		fmt.Fprintf(w, "kept %s (%s) that were right already\n", count(int(r.KeptFiles), "file"), size(r.KeptBytes))
	}
	if r.Continued {
		fmt.Fprintln(w, "went on with a restore that was not finished")
	}
	dropped := make([]manifest.LeftOut, len(r.Dropped))
	for i, d := range r.Dropped {
		dropped[i] = manifest.LeftOut{Path: d.Path, Reason: d.Reason}
	}
	printGrouped(w, "index not restored", dropped, verbose)
	printPaths(w, "removed", r.Removed, verbose)
	printPaths(w, "left alone", r.LeftAlone, verbose)
	printPaths(w, "set aside", r.Aside, true)
	for _, list := range []struct {
		word  string
		lines []string
	}{{"note", r.Notes}, {"warning", r.Warnings}, {"damaged", r.Damaged}, {"problem", r.Problems}} {
		for _, l := range list.lines {
			fmt.Fprintf(w, "%s: %s\n", list.word, clean(l))
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
	printGrouped(w, word, list, verbose)
}
