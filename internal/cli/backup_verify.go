package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
)

type backupVerifyOptions struct {
	repoOptions
	sample  string
	scratch string
}

func newBackupVerify(env *Env, g *globalOptions) *cobra.Command {
	o := &backupVerifyOptions{}
	c := &cobra.Command{
		Use:   "verify ID",
		Short: "Prove that a backup restores: read it back and every document in it",
		Long: `Prove that a backup restores: read its files back, compare their hashes, and read every tree, document and attachment
in them as CouchDB would. Exit code 4 if it doesn't restore what was there, 3 if it does, and the source was damaged.`,
		Args: arguments(1, 1, "one backup's ID, name, or \"latest\""),
		RunE: withSettings(env, g, func(ctx context.Context, s *settings, args []string) error {
			return runBackupVerify(ctx, env, s, o, args[0])
		}),
	}
	o.repoOptions.flags(c.Flags(), "whose backup it is")
	c.Flags().StringVar(&o.sample, "sample", "100%", "read only this share of the documents, such as 5%")
	c.Flags().StringVar(&o.scratch, "scratch", "", "`DIR` for one file at a time that is too large for memory (default: the system's)")
	c.Flags().String("parallel", "", "read `N` files at once (default: the number of CPUs, at most 4)")
	progressFlag(c.Flags())
	return c
}

func runBackupVerify(ctx context.Context, env *Env, s *settings, o *backupVerifyOptions, ref string) error {
	sample, err := share(o.sample)
	if err != nil {
		return err
	}
	r, rec, err := openBackup(ctx, env, s, o.instance, ref)
	if err != nil {
		return err
	}
	defer r.close()
	p := &restore.Progress{}
	stop := startProgress(env, s.Progress, "verifying", restoreReading(p))
	defer stop()
	rep, err := restore.Verify(ctx, restore.VerifyOptions{Repo: r.Repo, Record: rec, Sample: sample, Scratch: o.scratch, Parallel: s.Parallel, Progress: p})
	stop()
	if err != nil {
		return err
	}
	// Retention keeps the newest verified backup; who may only read can't say it.
	if len(rep.Findings) == 0 && rep.Skipped == 0 && sample == 1 {
		if err := r.MarkVerified(ctx, rec, repo.Verified{At: env.Now().UTC(), Tool: "slipcover " + toolVersion()}); err != nil {
			fmt.Fprintf(env.Stderr, "slipcover: warning: the backup is sound, but that could not be noted beside it: %s\n", oneLine(err.Error()))
		}
	}
	rep.Findings, rep.Dropped = nonNil(rep.Findings), nonNil(rep.Dropped)
	if env.json {
		err = printJSON(env.Stdout, verifyJSON{OK: rep.OK(), Backup: summaryOf(rec), VerifyReport: rep, Took: seconds(rep.Took), Storage: env.trafficJSON()})
	} else {
		printVerified(env.Stdout, rec, rep)
	}
	switch {
	case err != nil:
		return err
	case !rep.OK():
		return say(errProblem, "the backup does not restore as it was made: %s", count(rep.Unsound(), "finding"))
	case rep.New > 0:
		return say(errDamaged, "the backup restores exactly what was there, and the source was damaged: %s, %d of which the backup doesn't record", count(len(rep.Findings), "finding"), rep.New)
	case rep.Known > 0:
		return say(errDamaged, "the backup restores as it was made, and holds damage that the source had: %s", count(rep.Known, "finding"))
	}
	return nil
}

func printVerified(w io.Writer, rec *manifest.Record, r *restore.VerifyReport) {
	skipped := ""
	if r.Skipped > 0 {
		skipped = fmt.Sprintf(" (a sample: %s left out)", count(int(r.Skipped), "file"))
	}
	fmt.Fprintf(w, "read back %s (%s): %s, %s, %s in %s%s\n", rec.ID, clean(rec.Name), count(int(r.Files), "file"), size(r.Bytes),
		count(int(r.Docs), "document"), took(r.Took), skipped)
	for _, f := range r.Findings {
		d := manifest.Damage{Root: f.Root, Path: f.Path, Offset: f.Offset, What: f.What, Doc: f.Doc, Rev: f.Rev}
		cause := map[restore.Cause]string{restore.Stored: "damaged in the repository", restore.Source: "damaged at the source", restore.Missing: "missing"}[f.Cause]
		switch {
		case f.Known:
			cause += ", as the backup says"
		case f.Cause == restore.Source:
			cause += ", which the backup doesn't record"
		}
		text := damageText(d)
		if strings.HasPrefix(f.What, "at ") { // it says all of it
			text = clean(f.Path) + " " + clean(f.What)
		}
		fmt.Fprintf(w, "%s: %s\n", cause, text)
	}
	dropped := make([]manifest.LeftOut, len(r.Dropped))
	for i, d := range r.Dropped {
		dropped[i] = manifest.LeftOut{Path: d.Path, Reason: d.Reason}
	}
	printGrouped(w, "a restore would leave out", dropped, false)
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
		return 0, usage("--sample %q is no share of the documents, such as 5%%", text)
	}
	return f, nil
}
