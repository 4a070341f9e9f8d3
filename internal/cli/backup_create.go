package cli

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

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
		return reading{Files: p.Files.Load(), FilesDone: p.FilesDone.Load(), Bytes: p.Bytes.Load(), BytesDone: p.BytesDone.Load(),
			Stored: p.Stored.Load()}
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
