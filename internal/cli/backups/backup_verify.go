package backups

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
)

type backupVerifyOptions struct {
	open.Options
	sample  string
	scratch string
}

func newBackupVerify(env *core.Env, g *core.Global) *cobra.Command {
	o := &backupVerifyOptions{}
	c := &cobra.Command{
		Use:   "verify ID",
		Short: "Prove that a backup restores: read it back, with every document in it",
		Long: `Prove that a backup restores: read its files back, compare their hashes, and read every tree, document and attachment
in them as CouchDB would. Exit code 4 if it doesn't restore what was there; 3 if it does, but the source was damaged.`,
		Args: core.Arguments(1, 1, "one backup's ID, name, or \"latest\""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runBackupVerify(ctx, env, s, o, args[0])
		}),
	}
	o.Options.Flags(c.Flags(), "whose backup it is")
	c.Flags().StringVar(&o.sample, "sample", "100%", "read only this share of the documents, such as 5%")
	c.Flags().StringVar(&o.scratch, "scratch", "",
		"`DIR` for one file at a time that is too large for memory (default: the system's)")
	c.Flags().String("parallel", "", "read `N` files at once (default: the number of CPUs, at most 4)")
	core.ProgressFlag(c.Flags())
	return c
}

func runBackupVerify(ctx context.Context, env *core.Env, s *core.Settings, o *backupVerifyOptions, ref string) error {
	sample, err := share(o.sample)
	if err != nil {
		return err
	}
	r, rec, err := open.Backup(ctx, env, s, o.Instance, ref)
	if err != nil {
		return err
	}
	defer r.Close()
	p := &restore.Progress{}
	stop := core.StartProgress(env, s.Progress, "verifying", core.RestoreReading(p))
	defer stop()
	rep, err := restore.Verify(ctx, restore.VerifyOptions{Repo: r.Repo, Record: rec, Sample: sample, Scratch: o.scratch,
		Parallel: s.Parallel, Progress: p})
	stop()
	if err != nil {
		return err
	}
	// Retention keeps the newest verified backup; who may only read can't say it.
	if len(rep.Findings) == 0 && rep.Skipped == 0 && sample == 1 {
		if err := r.MarkVerified(ctx, rec, repo.Verified{At: env.Now().UTC(), Tool: "slipcover " + core.ToolVersion()}); err != nil {
			fmt.Fprintf(env.Stderr, "slipcover: warning: the backup is sound, but that could not be noted beside it: %s\n", core.OneLine(err.Error()))
		}
	}
	rep.Findings, rep.Dropped = core.NonNil(rep.Findings), core.NonNil(rep.Dropped)
	if env.JSON {
		err = core.PrintJSON(env.Stdout, core.VerifyJSON{OK: rep.OK(), Backup: core.SummaryOf(rec), VerifyReport: rep,
			Took: core.Seconds(rep.Took), Storage: env.TrafficJSON()})
	} else {
		printVerified(env.Stdout, rec, rep)
	}
	switch {
	case err != nil:
		return err
	case !rep.OK():
		return core.Say(core.ErrProblem, "the backup does not restore as it was made: %s",
			core.Count(rep.Unsound(), "finding"))
	case rep.New > 0:
		return core.Say(core.ErrDamaged, "the backup restores exactly what was there, and the source was damaged: %s, %d of which the backup doesn't record", core.Count(len(rep.Findings), "finding"), rep.New)
	case rep.Known > 0:
		return core.Say(core.ErrDamaged, "the backup restores as it was made, and holds damage that the source had: %s",
			core.Count(rep.Known, "finding"))
	}
	return nil
}

func printVerified(w io.Writer, rec *manifest.Record, r *restore.VerifyReport) {
	skipped := ""
	if r.Skipped > 0 {
		skipped = fmt.Sprintf(" (a sample: %s left out)", core.Count(int(r.Skipped), "file"))
	}
	fmt.Fprintf(w, "read back %s (%s): %s, %s, %s in %s%s\n", rec.ID, core.Clean(rec.Name),
		core.Count(int(r.Files), "file"), core.Size(r.Bytes),
		core.Count(int(r.Docs), "document"), core.Took(r.Took), skipped)
	for _, f := range r.Findings {
		d := manifest.Damage{Root: f.Root, Path: f.Path, Offset: f.Offset, What: f.What, Doc: f.Doc, Rev: f.Rev}
		cause := map[restore.Cause]string{restore.Stored: "damaged in the repository",
			restore.Source: "damaged at the source", restore.Missing: "missing"}[f.Cause]
		switch {
		case f.Known:
			cause += ", as the backup says"
		case f.Cause == restore.Source:
			cause += ", which the backup doesn't record"
		}
		text := core.DamageText(d)
		if strings.HasPrefix(f.What, "at ") { // it says all of it
			text = core.Clean(f.Path) + " " + core.Clean(f.What)
		}
		fmt.Fprintf(w, "%s: %s\n", cause, text)
	}
	dropped := make([]manifest.LeftOut, len(r.Dropped))
	for i, d := range r.Dropped {
		dropped[i] = manifest.LeftOut{Path: d.Path, Reason: d.Reason}
	}
	core.PrintGrouped(w, "a restore would leave out", dropped, false)
	if len(r.Findings) == 0 {
		fmt.Fprintln(w, "nothing is wrong")
	}
}

// share reads a fraction such as 5% or 0.05.
func share(text string) (float64, error) {
	var f float64
	var unit string
	n, err := fmt.Sscanf(text, "%g%s", &f, &unit)
	if n == 1 && errors.Is(err, io.EOF) {
		err = nil
	}
	if unit == "%" {
		f /= 100
	} else if unit != "" {
		err = errors.New("unknown unit")
	}
	if err != nil || !(f > 0 && f <= 1) {
		return 0, core.Usage("--sample %q is no share of the documents, such as 5%%", text)
	}
	return f, nil
}
