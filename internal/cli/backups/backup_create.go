package backups

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/state"
)

type backupCreateOptions struct {
	open.Options
	name        string
	description string
	full        bool
	parent      string
	prove       bool
	takeOver    bool
	verbose     bool
}

func newBackupCreate(env *core.Env, g *core.Global, of ClusterBackup) *cobra.Command {
	o := &backupCreateOptions{}
	cluster := ""
	var with []string // flags that go with --cluster alone
	c := &cobra.Command{
		Use:   "create",
		Short: "Back up a CouchDB node: what is new since its last backup",
		Long: `Back up the files of a CouchDB node while it runs. The first backup is a full one; the next ones read and store only what
was added since, and each restores alone. Nothing in CouchDB is changed, locked or paused.

A backup is refused (exit code 11) if the files have nothing in common with the instance's last backup, as when a disk
isn't mounted and CouchDB has made fresh ones, or if another node backs up under the same name. If this CouchDB has replaced
that one, pass --take-over once.

Writing needs no secret. Damage in the source is backed up as it is and reported: exit code 3.

The backup is then copied to the setting "repositories". If the first repository can't be reached, it is made in the next
one that can. If it is missing somewhere, the output says where, and the exit code why: 10 if that storage can't be reached.

With --cluster a server has all nodes of a CouchDB cluster backed up by their agents, at one moment, as one set: see "slipcover
sets". Exit code 4 if a node could not be backed up. What is backed up how is then said by the settings of the agents. The name
of the cluster that this node is of is the setting "cluster".`,
		Args: core.Arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("cluster") {
				return o.askServer(cmd, of, cluster, with)
			}
			for _, name := range with {
				if cmd.Flags().Changed(name) {
					return core.Usage("--%s goes with --cluster, which asks a server", name)
				}
			}
			return o.run(cmd, env, g)
		},
	}
	f := c.Flags()
	o.flags(f)
	f.StringVar(&cluster, "cluster", "", "have a server back up all nodes of the CouchDB cluster `NAME` at one moment, and not this node from here")
	with = of.Flags(f)
	core.OwnFlags(f, append([]string{"cluster"}, with...)...)
	return c
}

// askServer has a server back up a cluster.
func (o *backupCreateOptions) askServer(cmd *cobra.Command, of ClusterBackup, cluster string, with []string) error {
	if cluster == "" {
		return core.Usage("--cluster needs the name of a cluster: \"slipcover sets clusters\" lists those of a server")
	}
	var wrong error
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if !slices.Contains(append(with, "cluster", "name", "description", "config", "json", "progress"), flag.Name) {
			wrong = core.Usage("--%s is of a backup from here, and --cluster asks a server: what is backed up how the settings of its agents say", flag.Name)
		}
	})
	if wrong != nil {
		return wrong
	}
	return of.Run(cmd, cluster, o.name, o.description)
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
	o.Options.Flags(f, "to back up (default: that of its backups before; at first the name of this machine)")
	core.NodeFlags(f)
	core.ProgressFlag(f)
}

func (o *backupCreateOptions) run(cmd *cobra.Command, env *core.Env, g *core.Global) error {
	s, err := g.Load(env, cmd)
	if err != nil {
		return err
	}
	return runBackupCreate(cmd.Context(), env, s, o)
}

func (o *backupCreateOptions) check(s *core.Settings) error {
	if o.full && o.parent != "" {
		return core.Usage("--full and --parent: a full backup builds on none")
	}
	if err := core.CheckStrategy("backup", s.BackupNamespace, s.BackupStrategy); err != nil {
		return err
	}
	return nil
}

func runBackupCreate(ctx context.Context, env *core.Env, s *core.Settings, o *backupCreateOptions) error {
	if err := o.check(s); err != nil {
		return err
	}
	places, err := openPlaces(ctx, env, s)
	if err != nil {
		return err
	}
	defer places.close()
	n, err := node.Locate(ctx, node.Options{DataDir: s.DataDir, ConfigDir: s.ConfigDir, URL: s.CouchURL,
		NodeName: s.NodeName, User: s.CouchUser, Password: s.CouchPassword.Reveal(), Getenv: env.Getenv})
	if err != nil {
		return err
	}
	if err := places.nameInstance(ctx, n); err != nil {
		return err
	}
	p := &backup.Progress{}
	stop := core.StartProgress(env, s.Progress, "backing up", func() core.Reading {
		of, done := p.Bytes()
		return core.Reading{Files: p.Files.Load(), FilesDone: p.FilesDone.Load(), Bytes: of, BytesDone: done, Stored: p.Stored.Load()}
	})
	defer stop()
	began := time.Now()
	opts := backup.Options{
		Node: n, Instance: s.Instance, Cluster: s.Cluster, StateDir: s.StateDir,
		Name:        cmp.Or(o.name, s.Instance+"-"+env.Now().UTC().Format("20060102-150405")),
		Description: o.description, Tool: "slipcover " + core.ToolVersion(), Strategy: s.BackupStrategy, Namespace: s.BackupNamespace,
		Full: o.full, Parent: o.parent, TakeOver: o.takeOver, Prove: o.prove, ProveInterval: s.ProveInterval, Compaction: s.Compaction, Tails: s.Tails, Strict: s.Strict,
		Recipients: s.Recipients, Indexes: s.Indexes, Parallel: s.Parallel, Progress: p, Now: env.Now,
	}
	res, err := places.backup(ctx, opts)
	stop()
	if err != nil {
		return core.WhenStopped(ctx, err, "no backup was made; the next run takes up what is stored already")
	}
	env.Done("backup %s was made", res.Record.ID)
	out := newBackupResult(res, time.Since(began))
	missing := places.copy(ctx, env, res, out)
	if key, err := state.WriterKey(s.StateDir); err == nil {
		out.Backup.Writer = base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	}
	out.Storage = env.TrafficJSON()
	if env.JSON {
		_ = core.PrintJSON(env.Stdout, out) // Finish tells of it, unless there is worse
	} else {
		_ = out.print(env.Stdout, o.verbose)
		if o.verbose {
			fmt.Fprintln(env.Stdout, env.TrafficLine())
		}
	}
	if missing != nil {
		return missing
	}
	if len(res.Problems) > 0 {
		return core.Say(core.ErrProblem, "the backup is complete, but keys in the repository were not as they should be: %s", res.Problems[0])
	}
	if len(res.Damage) > 0 {
		return core.Say(core.ErrDamaged, "the backup is complete and holds the source as it is, but the source is damaged: %s in %s",
			core.Count(len(res.Damage), "finding"), core.Count(out.damagedFiles(), "file"))
	}
	return nil
}

// backupResult is what backup create tells.
type backupResult struct {
	Backup       core.SummaryJSON `json:"backup"`
	TookSeconds  float64          `json:"took_seconds"`
	ResumedBytes int64            `json:"resumed_bytes"` // stored by an interrupted run and taken up
	// ReplayedBytes are those that a restore computes.
	ReplayedBytes int64 `json:"replayed_bytes"`
	// TakenOverBytes are those that shipping had stored, and the backup neither read nor stored.
	TakenOverBytes int64 `json:"taken_over_bytes,omitempty"`

	LeftOut []manifest.LeftOut `json:"left_out"`
	Damage  []manifest.Damage  `json:"damage"`
	Notes   []string           `json:"notes"`
	// Problems are what was wrong with stored keys, also if this backup put it right.
	Problems []string `json:"problems,omitempty"`
	// Repository is where the backup was made, and Copies are the others; only with
	// the setting repositories.
	Repository string            `json:"repository,omitempty"`
	Copies     []copyJSON        `json:"copies,omitempty"`
	Storage    *core.TrafficJSON `json:"storage"`
}

func newBackupResult(r *backup.Result, d time.Duration) *backupResult {
	return &backupResult{Backup: core.SummaryOf(r.Record), TookSeconds: core.Seconds(d), ResumedBytes: r.Resumed, ReplayedBytes: r.Replayed, TakenOverBytes: r.TakenOver,
		LeftOut: core.NonNil(r.LeftOut), Damage: core.NonNil(r.Damage), Notes: core.NonNil(r.Notes), Problems: r.Problems}
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
	list := []core.Fact{
		{"backup", string(b.ID)},
		{"name", b.Name},
		{"instance", b.Instance},
		{"type", kind},
		{"files", fmt.Sprintf("%d, %s", b.FileCount, core.Count(b.DatabaseCount, "database"))},
		{"size", core.Size(b.SizeBytes)},
		{"read", fmt.Sprintf("%s in %s", core.Size(b.ReadBytes),
			core.Took(time.Duration(r.TookSeconds*float64(time.Second))))},
		{"stored", stored(b.AddedBytes, b.StoredBytes)},
	}
	if r.ReplayedBytes > 0 {
		list = append(list, core.Fact{"replayed", core.Size(r.ReplayedBytes) + ", which a restore computes out of what is stored"})
	}
	if r.TakenOverBytes > 0 {
		list = append(list, core.Fact{"taken over", core.Size(r.TakenOverBytes) + " that shipping had stored"})
	}
	if r.ResumedBytes > 0 {
		list = append(list, core.Fact{"taken up", core.Size(r.ResumedBytes) + " that an interrupted backup had stored"})
	}
	list = append(list, core.Fact{"repository", r.Repository})
	for i := range r.Copies {
		list = append(list, r.Copies[i].fact())
	}
	if err := core.Facts(w, list); err != nil {
		return err
	}
	printLeftOut(w, r.LeftOut, verbose)
	printDamage(w, r.Damage, verbose)
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", core.Clean(n))
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "problem: %s\n", core.Clean(p))
	}
	return nil
}

// stored says what new bytes became in the repository.
func stored(added, stored int64) string {
	s := core.Size(stored)
	if added > 0 && stored > 0 {
		s += fmt.Sprintf(" for %s of new bytes (%.2f of them)", core.Size(added), float64(stored)/float64(added))
	}
	return s
}

// printLeftOut says what isn't in a backup, and why.
func printLeftOut(w io.Writer, list []manifest.LeftOut, verbose bool) {
	core.PrintGrouped(w, "left out", list, verbose)
}

// fewFindings is how many findings are listed without --verbose.
const fewFindings = 10

func printDamage(w io.Writer, list []manifest.Damage, verbose bool) {
	for i, d := range list {
		if i == fewFindings && !verbose {
			fmt.Fprintf(w, "damage: %d more; --verbose lists them\n", len(list)-i)
			return
		}
		fmt.Fprintf(w, "damage: %s\n", core.DamageText(d))
	}
}
