package look

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/storage/drivers"
	"github.com/slipcover/slipcover/internal/storage/probe"
)

type probeOptions struct {
	place string
	size  string
}

func newProbe(env *core.Env, g *core.Global) *cobra.Command {
	o := &probeOptions{}
	c := &cobra.Command{
		Use:   "probe URL",
		Short: "Check that a storage does what a repository needs, and how fast it is",
		Long: `Check that a storage (` + strings.Join(drivers.Forms(), ", ") + `) does what a repository needs, and measure
how fast it is: what was put is there at once and whole, only one of several who create an object wins, listings are
complete and in order, and so on. No request is repeated, so every fault shows.

It works below a prefix of its own, touches nothing else, and removes what it put, even after Ctrl-C. Exit code 4 if
the storage fails a check, 10 if it can't be reached.`,
		Args: core.Arguments(1, 1, "the URL or folder of one storage"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) (err error) {
			if o.place, err = core.RepositoryURL(args[0]); err != nil {
				return err
			}
			return runProbe(ctx, env, s, o)
		}),
	}
	c.Flags().StringVar(&o.size, "size", "32MiB", "how many `BYTES` the large object has, and are put and read at a time to measure")
	core.TrafficFlags(c.Flags())
	return c
}

type probeResult struct {
	OK      bool              `json:"ok"`
	URL     string            `json:"url"`
	Checks  []checkJSON       `json:"checks"`
	Speed   *speedJSON        `json:"speed"` // null if it wasn't measured
	Storage *core.TrafficJSON `json:"storage"`
}

type checkJSON struct {
	Name  string  `json:"name"`
	OK    bool    `json:"ok"`
	Took  float64 `json:"took_seconds"`
	Error string  `json:"error,omitempty"`
}

// speedJSON has bytes per second, and times of single requests for small objects.
type speedJSON struct {
	Object    int64       `json:"object_bytes"`
	Put       int64       `json:"put"`
	Get       int64       `json:"get"`
	Parallel  int         `json:"parallel"`
	Put4      int64       `json:"parallel_put"`
	Get4      int64       `json:"parallel_get"`
	SmallPut  latencyJSON `json:"small_put"`
	SmallGet  latencyJSON `json:"small_get"`
	SmallStat latencyJSON `json:"small_stat"`
}

type latencyJSON struct {
	Median float64 `json:"median_seconds"`
	Max    float64 `json:"max_seconds"`
}

func newSpeedJSON(s *probe.Speed) *speedJSON {
	if s == nil {
		return nil
	}
	latency := func(l probe.Latency) latencyJSON { return latencyJSON{l.Median.Seconds(), l.Max.Seconds()} }
	return &speedJSON{s.Object, int64(s.Put1), int64(s.Get1), probe.Parallel, int64(s.Put4), int64(s.Get4),
		latency(s.SmallPut), latency(s.SmallGet), latency(s.SmallStat)}
}

// longestKey is more than any key of a repository has, in bytes, and leaves as much
// for the prefix in the storage's URL: S3 and Swift allow 1024 for both.
const longestKey = 512

func runProbe(ctx context.Context, env *core.Env, s *core.Settings, o *probeOptions) error {
	bytes, err := config.ParseBytes(o.size)
	if err != nil || bytes < 1<<20 || bytes > 1<<40 {
		return core.Usage("--size %q is no size from 1MiB to 1TiB", o.size)
	}
	store, err := open.Bare(ctx, env, s, o.place, false)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	res := probeResult{URL: store.URL(), Checks: []checkJSON{}}
	report := probe.Check(ctx, store, probe.Options{LargeBytes: int64(bytes), LongestKey: longestKey, Each: func(r probe.Result) {
		c := checkJSON{Name: r.Name, OK: r.Err == nil, Took: core.Seconds(r.Took)}
		if r.Err != nil {
			c.Error = core.Mask(core.OneLine(r.Err.Error()))
		}
		res.Checks = append(res.Checks, c)
		if !env.JSON {
			printChecked(env.Stdout, c, r.Took)
		}
	}})
	failed := report.Failed()
	switch first := report.Results[0]; {
	case first.Err != nil && len(report.Results) == 1: // and nothing was put
		return first.Err
	case ctx.Err() != nil:
		return explainProbe(ctx, report)
	}
	res.OK, res.Speed, res.Storage = len(failed) == 0, newSpeedJSON(report.Speed), env.TrafficJSON()
	if err := res.print(env, report.Speed); err != nil {
		return err
	}
	if !res.OK {
		return core.Say(core.ErrProblem, "the storage does not do what a repository needs: %s failed",
			core.Count(len(failed), "check"))
	}
	return nil
}

// explainProbe says what a probe that was stopped has left behind.
func explainProbe(ctx context.Context, r *probe.Report) error {
	err := ctx.Err()
	var sig core.Interrupted
	if errors.As(context.Cause(ctx), &sig) {
		err = sig
	}
	if last := r.Results[len(r.Results)-1]; last.Err != nil {
		return fmt.Errorf("%w: what the probe put could not be removed: %w", err, last.Err)
	}
	return fmt.Errorf("%w: what the probe put is removed", err)
}

func printChecked(w io.Writer, c checkJSON, d time.Duration) {
	word, text := "ok", c.Name
	if !c.OK {
		word, text = "WRONG", c.Name+": "+core.Clean(c.Error)
	}
	fmt.Fprintf(w, "%-5s  %8s  %s\n", word, short(d), text)
}

// short prints times that may be less than a millisecond.
func short(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(time.Microsecond).String()
	}
	return core.Took(d)
}

func (r *probeResult) print(env *core.Env, s *probe.Speed) error {
	if env.JSON {
		return core.PrintJSON(env.Stdout, r)
	}
	w := env.Stdout
	if s != nil {
		rate := func(f float64) string { return core.Size(int64(f)) + "/s" }
		fmt.Fprintln(w)
		err := core.Table(w, []string{"", "PUT", "GET", "STAT"}, [][]string{
			{core.Size(s.Object) + ", one at a time", rate(s.Put1), rate(s.Get1), ""},
			{fmt.Sprintf("%s, %d at a time", core.Size(s.Object), probe.Parallel), rate(s.Put4), rate(s.Get4), ""},
			{"1 KiB, median", short(s.SmallPut.Median), short(s.SmallGet.Median), short(s.SmallStat.Median)},
			{"1 KiB, longest", short(s.SmallPut.Max), short(s.SmallGet.Max), short(s.SmallStat.Max)},
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, env.TrafficLine())
	if r.OK {
		fmt.Fprintf(w, "%s does what a repository needs\n", core.Clean(r.URL))
	}
	return nil
}
