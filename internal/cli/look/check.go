package look

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/repo"
)

type checkOptions struct {
	open.Options
	readData bool
	maxAge   string
}

func newCheck(env *core.Env, g *core.Global) *cobra.Command {
	o := &checkOptions{}
	c := &cobra.Command{
		Use:   "check",
		Short: "Check that the repository holds what its backups need",
		Long: `Check the repository: that signatures are right, that every object that a backup needs is there and has its size, that keys
are unchanged, and that no record vanished; of what was shipped between backups, that no object is missing. With the
repository's key it also reads the manifests, and the indexes of what was shipped; with --read-data every stored byte. At the
end it says what was checked and what wasn't. Exit code 4 if something is wrong. "backup verify" goes further: it restores a
backup and reads every document.

With --max-age it is also a problem if an instance's newest backup is older than that, or if there is no backup at all.
Nothing else shows that backups have stopped, or that somebody with access to the storage has removed the newest.`,
		Args: core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
			return runCheck(ctx, env, s, o)
		}),
	}
	o.Flags(c.Flags(), "whose backups to check (default: all)")
	core.ProgressFlag(c.Flags())
	c.Flags().BoolVar(&o.readData, "read-data", false,
		"read every stored byte and compare its hash; of backups of earlier versions that needs the repository's key")
	c.Flags().StringVar(&o.maxAge, "max-age", "", "a newest backup that is older than this `TIME`, such as 26h or 2d, is a problem")
	return c
}

type checkResult struct {
	OK bool `json:"ok"`
	// KeyUsed says that manifests were read; without a key only their presence and
	// that of the segments is checked.
	KeyUsed bool `json:"key_used"`
	*repo.CheckReport
	Storage *core.TrafficJSON `json:"storage"`
}

func runCheck(ctx context.Context, env *core.Env, s *core.Settings, o *checkOptions) error {
	maxAge, err := calendar.ParseSpan(cmp.Or(o.maxAge, "0"))
	if err != nil {
		return core.Usage("--max-age %q is no time such as 26h or 2d", o.maxAge)
	}
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.CanRead() { // so that a wrong key is told as such, not as damage
		if err := r.Unlock(ctx); err != nil {
			return err
		}
	}
	if o.Instance != "" {
		if err := r.Missing(ctx, o.Instance); err != nil {
			return err
		}
	}
	var done, total atomic.Int64
	stop := func() {}
	if o.readData {
		stop = core.StartProgress(env, s.Progress, "reading",
			func() core.Reading { return core.Reading{Bytes: total.Load(), BytesDone: done.Load()} })
		defer stop()
	}
	report, err := r.Check(ctx, repo.CheckOptions{Instance: o.Instance, ReadData: o.readData, Progress: func(d, t int64) {
		done.Store(d)
		total.Store(t)
	}})
	stop()
	if err != nil {
		return err
	}
	if !maxAge.IsZero() {
		old, err := tooOld(ctx, r.Repo, o.Instance, maxAge, env.Now())
		if err != nil {
			return err
		}
		report.Problems = append(report.Problems, old...)
	}
	out := checkResult{OK: len(report.Problems) == 0, KeyUsed: r.CanRead(), CheckReport: report, Storage: env.TrafficJSON()}
	if err := out.print(env, o.readData); err != nil {
		return err
	}
	if !out.OK {
		return core.Say(core.ErrProblem, "%s in the repository", core.Count(len(report.Problems), "problem"))
	}
	return nil
}

// tooOld returns a problem for each instance whose newest backup was not begun within
// age before now, or of which nobody knows.
func tooOld(ctx context.Context, r *repo.Repo, instance string, age calendar.Span, now time.Time) ([]repo.Problem, error) {
	recs, _, err := r.List(ctx, instance)
	if err != nil {
		return nil, err
	}
	instances := []string{instance}
	if instance == "" {
		if instances, err = r.Known(ctx); err != nil {
			return nil, err
		}
	}
	if len(instances) == 0 {
		return []repo.Problem{{What: "the repository holds no backup"}}, nil
	}
	latest := map[string]*manifest.Record{}
	stamps := map[string][]time.Time{}
	for _, rec := range recs { // in the order that they were made in
		latest[rec.Instance] = rec
		stamps[rec.Instance] = append(stamps[rec.Instance], rec.Started)
	}
	var out []repo.Problem
	for _, name := range instances {
		rec := latest[name]
		if rec == nil {
			out = append(out, repo.Problem{Instance: name, What: "has no backup"})
		} else if what := newest.Late(stamps[name], age.Before(now), now); what != "" {
			out = append(out, repo.Problem{Instance: name, Backup: rec.ID,
				What: fmt.Sprintf("is the newest backup and %s; there must be one not older than %s", what, age)})
		}
	}
	return out, nil
}

func (c *checkResult) print(env *core.Env, readData bool) error {
	if env.JSON {
		return core.PrintJSON(env.Stdout, c)
	}
	w := env.Stdout
	for _, p := range c.Problems {
		where := strings.Join(strings.Fields(fmt.Sprintf("problem: %s %s %s", p.Instance, p.Backup, p.Object)), " ")
		fmt.Fprintf(w, "%s: %s\n", strings.TrimSuffix(where, ":"), core.Clean(p.What))
	}
	fmt.Fprintf(w, "checked %s, %s of data (%s)\n", core.Count(c.Backups, "backup"), core.Count(c.Segments, "object"),
		core.Size(c.SegmentBytes))
	needs := "a backup needs"
	if c.Shipped > 0 {
		fmt.Fprintf(w, "checked what was shipped: %s (%s) with %s\n", core.Count(c.Shipped, "object"), core.Size(c.ShippedBytes), core.Count(c.Moments, "moment"))
		if c.KeyUsed {
			needs = "a backup or a moment needs"
		}
	}
	if readData {
		fmt.Fprintf(w, "read every byte that %s: %s\n", needs, core.Size(c.ReadBytes))
	}
	if c.Unreferenced > 0 {
		fmt.Fprintf(w, "%s (%s) belong to no backup: left by runs that did not end\n",
			core.Count(c.Unreferenced, "object"), core.Size(c.UnreferencedB))
	}
	fmt.Fprintf(w, "what was checked: %s\n", strings.Join(c.Checked, ", "))
	for _, s := range c.Unchecked {
		fmt.Fprintf(w, "not checked: %s\n", s)
	}
	if c.OK {
		fmt.Fprintln(w, "no problem found in what was checked")
	}
	return nil
}
