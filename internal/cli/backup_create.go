package cli

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

// nodeFlags say where CouchDB is.
func nodeFlags(f *pflag.FlagSet) {
	f.String("data-dir", "", "CouchDB's data `DIR`, with _dbs.couch and shards")
	f.String("config-dir", "", "`DIR` of default.ini and local.ini, which says where the data is and is backed up too")
	f.String("couch-url", "", "`URL` of the running node on this machine, which says where its data is")
	f.String("node-name", "", "Erlang `NAME` of the node, such as couchdb@127.0.0.1, if its files don't tell it")
	f.String("state-dir", "", "`DIR` for what the next incremental must know; losing it costs a full backup")
	f.String("parallel", "", "read `N` files at once (default: the number of CPUs, at most 4)")
	f.String("compression", "", "fastest, default or better")
}

type backupCreateOptions struct {
	repoOptions
	name        string
	description string
	full        bool
	parent      string
	prove       bool
	takeOver    bool
	verbose     bool
}

func newBackupCreate(env *Env, g *globalOptions) *cobra.Command {
	o := &backupCreateOptions{}
	c := &cobra.Command{
		Use:   "create",
		Short: "Back up a CouchDB node; only what is new since the backup before",
		Long: `Back up the files of a CouchDB node, which may run meanwhile. The first backup is a full one, the next ones read and
store what was added since; each restores alone. Nothing of CouchDB's is changed, locked or paused.

A backup is refused (exit code 11) if the files have nothing in common with the instance's backup before, as when a disk is
not mounted and CouchDB made fresh ones, or if another node backs up under the same name. If this CouchDB has replaced the
one before, pass --take-over once.

Writing needs no secret. What is damaged in the source is backed up as it is and told: exit code 3.

The backup is copied to the further repositories of the setting "repositories". If the first one can't be reached, it is
made in the next. Where it is missing is told, with the exit code of the reason: 10 if that storage can't be reached.`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd, env, g) },
	}
	o.flags(c.Flags())
	return c
}

func (o *backupCreateOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.name, "name", "", "name of the backup (default: instance and time)")
	o.flagsButName(f)
}

func (o *backupCreateOptions) flagsButName(f *pflag.FlagSet) {
	f.StringVar(&o.description, "description", "", "a sentence about it")
	f.BoolVar(&o.full, "full", false, "read and store everything, whatever is stored already")
	f.StringVar(&o.parent, "parent", "", "build on the backup with this `ID` (default: the newest of this node)")
	f.Bool("strict", false, "make no backup if the source is damaged, and look for damage: files that are new or have grown are read twice")
	f.Bool("no-indexes", false, "leave out view indexes, which CouchDB builds anew")
	f.BoolVar(&o.prove, "prove", false, "read all files whole, to prove that what was backed up of them is unchanged")
	f.BoolVar(&o.takeOver, "take-over", false, "make a full backup though the instance's backups are of another CouchDB, which this one replaces")
	f.BoolVar(&o.verbose, "verbose", false, "list every file that was left out and every finding")
	o.repoOptions.flags(f, "to back up (default: that of its backups before; at first the name of this machine)")
	nodeFlags(f)
	progressFlag(f)
}

func (o *backupCreateOptions) run(cmd *cobra.Command, env *Env, g *globalOptions) error {
	s, err := g.load(env, cmd)
	if err != nil {
		return err
	}
	return runBackupCreate(cmd.Context(), env, s, o)
}

func (o *backupCreateOptions) check(s *settings) error {
	if o.full && o.parent != "" {
		return usage("--full and --parent: a full backup builds on none")
	}
	if err := checkStrategy("backup", s.BackupNamespace, s.BackupStrategy); err != nil {
		return err
	}
	return nil
}

func runBackupCreate(ctx context.Context, env *Env, s *settings, o *backupCreateOptions) error {
	if err := o.check(s); err != nil {
		return err
	}
	places, err := openPlaces(ctx, env, s)
	if err != nil {
		return err
	}
	defer places.close()
	n, err := node.Locate(ctx, node.Options{DataDir: s.DataDir, ConfigDir: s.ConfigDir, URL: s.CouchURL, NodeName: s.NodeName, User: s.CouchUser, Password: s.CouchPassword.Reveal(), Getenv: env.getenv})
	if err != nil {
		return err
	}
	if err := places.nameInstance(ctx, n); err != nil {
		return err
	}
	p := &backup.Progress{}
	stop := startProgress(env, s.Progress, "backing up", func() reading {
		return reading{p.Files.Load(), p.FilesDone.Load(), p.Bytes.Load(), p.BytesDone.Load(), p.Stored.Load()}
	})
	defer stop()
	began := time.Now()
	opts := backup.Options{
		Node: n, Instance: s.Instance, StateDir: s.StateDir,
		Name:        cmp.Or(o.name, s.Instance+"-"+env.Now().UTC().Format("20060102-150405")),
		Description: o.description, Tool: "slipcover " + toolVersion(), Strategy: s.BackupStrategy, Namespace: s.BackupNamespace,
		Full: o.full, Parent: o.parent, TakeOver: o.takeOver, Prove: o.prove, ProveInterval: s.ProveInterval, Strict: s.Strict,
		Recipients: s.Recipients, Indexes: s.Indexes, Parallel: s.Parallel, Progress: p, Now: env.Now,
	}
	res, err := places.backup(ctx, opts)
	stop()
	if err != nil {
		return explainBackup(ctx, err)
	}
	out := newBackupResult(res, time.Since(began))
	missing := places.copy(ctx, env, res, out)
	if key, err := backup.WriterKey(s.StateDir); err == nil {
		out.Backup.Writer = base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	}
	out.Storage = env.trafficJSON()
	if env.json {
		err = printJSON(env.Stdout, out)
	} else {
		err = out.print(env.Stdout, o.verbose)
		if o.verbose {
			fmt.Fprintln(env.Stdout, env.trafficLine())
		}
	}
	if err != nil {
		return err
	}
	if missing != nil {
		return missing
	}
	if len(res.Problems) > 0 {
		return say(errProblem, "the backup is complete, but keys in the repository were not as they should be: %s", res.Problems[0])
	}
	if len(res.Damage) > 0 {
		return say(errDamaged, "the backup is complete and holds the source as it is, but the source is damaged: %s in %s",
			count(len(res.Damage), "finding"), count(out.damagedFiles(), "file"))
	}
	return nil
}

// explainBackup adds what is left behind to the error of a backup that was stopped.
func explainBackup(ctx context.Context, err error) error {
	var sig interrupted
	if errors.As(context.Cause(ctx), &sig) {
		return fmt.Errorf("%w: no backup was made; the next run takes up what is stored already", sig)
	}
	return err
}

// backupResult is what backup create tells.
type backupResult struct {
	Backup       summaryJSON        `json:"backup"`
	TookSeconds  float64            `json:"took_seconds"`
	ResumedBytes int64              `json:"resumed_bytes"` // stored by an interrupted run and taken up
	LeftOut      []manifest.LeftOut `json:"left_out"`
	Damage       []manifest.Damage  `json:"damage"`
	Notes        []string           `json:"notes"`
	// Problems are what was wrong with stored keys, also if this backup put it right.
	Problems []string `json:"problems,omitempty"`
	// Repository is where the backup was made, and Copies are the others; only with
	// the setting repositories.
	Repository string       `json:"repository,omitempty"`
	Copies     []copyJSON   `json:"copies,omitempty"`
	Storage    *trafficJSON `json:"storage"`
}

// summaryJSON is a backup in the output of all commands.
type summaryJSON struct {
	manifest.Summary
	Writer string `json:"writer,omitempty"` // public key of the node that signed it
}

func summaryOf(r *manifest.Record) summaryJSON { return summaryJSON{r.Summary, r.Writer} }

func newBackupResult(r *backup.Result, d time.Duration) *backupResult {
	return &backupResult{Backup: summaryOf(r.Record), TookSeconds: seconds(d), ResumedBytes: r.Resumed,
		LeftOut: nonNil(r.LeftOut), Damage: nonNil(r.Damage), Notes: nonNil(r.Notes), Problems: r.Problems}
}

func (r *backupResult) damagedFiles() int {
	files := map[string]bool{}
	for _, d := range r.Damage {
		files[string(d.Root)+":"+d.Path] = true
	}
	return len(files)
}

func (r *backupResult) print(w io.Writer, verbose bool) error {
	b := &r.Backup
	kind := string(b.Type)
	if b.Parent != "" {
		kind += ", on " + string(b.Parent)
	}
	list := []fact{
		{"backup", string(b.ID)},
		{"name", b.Name},
		{"instance", b.Instance},
		{"type", kind},
		{"files", fmt.Sprintf("%d, %s", b.FileCount, count(b.DatabaseCount, "database"))},
		{"size", size(b.SizeBytes)},
		{"read", fmt.Sprintf("%s in %s", size(b.ReadBytes), took(time.Duration(r.TookSeconds*float64(time.Second))))},
		{"stored", stored(b.AddedBytes, b.StoredBytes)},
	}
	if r.ResumedBytes > 0 {
		list = append(list, fact{"taken up", size(r.ResumedBytes) + " that an interrupted backup had stored"})
	}
	list = append(list, fact{"repository", r.Repository})
	for i := range r.Copies {
		list = append(list, r.Copies[i].fact())
	}
	if err := facts(w, list); err != nil {
		return err
	}
	printLeftOut(w, r.LeftOut, verbose)
	printDamage(w, r.Damage, verbose)
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", clean(n))
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "problem: %s\n", clean(p))
	}
	return nil
}

// stored says what new bytes became in the repository.
func stored(added, stored int64) string {
	s := size(stored)
	if added > 0 && stored > 0 {
		s += fmt.Sprintf(" for %s of new bytes (%.2f of them)", size(added), float64(stored)/float64(added))
	}
	return s
}

// printLeftOut says what isn't in a backup, and why.
func printLeftOut(w io.Writer, list []manifest.LeftOut, verbose bool) {
	printGrouped(w, "left out", list, verbose)
}

// printGrouped groups paths by reason, the largest group first.
func printGrouped(w io.Writer, word string, list []manifest.LeftOut, verbose bool) {
	byReason := map[string][]string{}
	var reasons []string
	for _, l := range list {
		if byReason[l.Reason] == nil {
			reasons = append(reasons, l.Reason)
		}
		byReason[l.Reason] = append(byReason[l.Reason], l.Path)
	}
	slices.SortStableFunc(reasons, func(a, b string) int { return cmp.Compare(len(byReason[b]), len(byReason[a])) })
	for _, reason := range reasons {
		paths := byReason[reason]
		line := fmt.Sprintf("%s: %s", word, clean(paths[0]))
		if len(paths) > 1 {
			line = fmt.Sprintf("%s: %s", word, count(len(paths), "path"))
			if !verbose {
				line += ", such as " + clean(paths[0])
			}
		}
		if reason != "" {
			line += ": " + clean(reason)
		}
		fmt.Fprintln(w, line)
		if verbose && len(paths) > 1 {
			for _, p := range paths {
				fmt.Fprintf(w, "  %s\n", clean(p))
			}
		}
	}
}

// fewFindings is how many findings are listed without --verbose.
const fewFindings = 10

func printDamage(w io.Writer, list []manifest.Damage, verbose bool) {
	for i, d := range list {
		if i == fewFindings && !verbose {
			fmt.Fprintf(w, "damage: %d more; --verbose lists them\n", len(list)-i)
			return
		}
		fmt.Fprintf(w, "damage: %s\n", damageText(d))
	}
}

// damageText says where the damage is, what it is and what it hurts.
func damageText(d manifest.Damage) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %d", clean(d.Path), d.Offset)
	if d.Doc != "" {
		fmt.Fprintf(&b, ", document %s", clean(d.Doc))
	}
	if d.Rev != "" {
		fmt.Fprintf(&b, " rev %s", d.Rev)
	}
	fmt.Fprintf(&b, ": %s", clean(d.What))
	// The cause of a CorruptError repeats what and where.
	if d.Error != "" && d.Error != d.What && !strings.Contains(d.Error, fmt.Sprintf(" at %d: ", d.Offset)) {
		fmt.Fprintf(&b, ": %s", clean(d.Error))
	}
	return b.String()
}
