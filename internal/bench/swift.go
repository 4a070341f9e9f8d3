package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// swiftVars are the variables that lead to a Swift. Its stock client and Slipcover
// read the same ones.
var swiftVars = []string{"ST_AUTH", "ST_USER", "ST_KEY"}

const (
	folderName = "slipcover, a folder"
	rawName    = "swift, what was stored"
	swiftName  = "slipcover, Swift"
)

// swiftBound is how many times as long as the same to a folder and the stock
// client's transfer of what was stored there a backup to Swift may take.
const swiftBound = 1.2

// swift measures backups to Swift and restores from there, beside the two parts
// that they can be thought to consist of: the same with a folder, and a transfer of
// the stored objects by the stock client.
func (b *bench) swift(ctx context.Context, slipcover string) (err error) {
	tag := strings.ToLower(rand.Text()[:8])
	const client = "swift"
	proc := &runner{env: environment(b.dir, b.opts.getenv("PATH"))}
	for _, v := range swiftVars {
		if b.opts.getenv(v) == "" {
			return errors.New("swift: " + strings.Join(swiftVars, ", ") + " must be set; internal/testenv/scripts/swift-up starts a Swift and prints them")
		}
		proc.env = append(proc.env, v+"="+b.opts.getenv(v))
	}
	folder := &slipcoverTool{r: proc, bin: slipcover, home: b.path("swift-folder"), compression: b.opts.compression}
	remote := &slipcoverTool{r: proc, bin: slipcover, home: b.path("swift-remote"), compression: b.opts.compression, url: "swift://bench-" + tag}
	raw := &swiftClient{r: proc, bin: client, home: b.path("swift-raw"), container: "bench-raw-" + tag, stored: folder.folder()}
	list := []*entry{{Name: swiftName, tool: remote}, {Name: folderName, tool: folder}, {Name: rawName, tool: raw}}
	// The folder comes first, since its objects are what the stock client sends.
	with := *b
	with.proc, with.list = proc, []*entry{list[1], list[2], list[0]}
	defer func() {
		for _, c := range []string{"bench-" + tag, raw.container} {
			_, derr := proc.quiet(context.WithoutCancel(ctx), client, "delete", c)
			err = errors.Join(err, derr)
		}
	}()
	source := b.path("data")
	data, err := b.generate(ctx, "mixed", source, b.opts.size)
	if err != nil {
		return err
	}
	what := dataText(data)
	up := b.report.add("swift-full", "full backup to Swift", what)
	down := b.report.add("swift-restore", "restore from Swift", what)
	up.Tools, down.Tools = list, list
	if err := with.full(ctx, up, source); err != nil {
		return err
	}
	if err := with.restore(ctx, down, source); err != nil {
		return err
	}
	if err := os.RemoveAll(source); err != nil {
		return err
	}
	small := b.path("small")
	if data, err = b.generate(ctx, "small", small, int64(b.opts.smallFiles)); err != nil {
		return err
	}
	few := b.report.add("swift-small", "small files, full backup to Swift", dataText(data))
	few.Tools = list
	return errors.Join(with.full(ctx, few, small), os.RemoveAll(small))
}

// judgeSwift compares with the sum of the two parts.
func (r *report) judgeSwift(sc *scenario) {
	ours, folder, raw := sc.Samples[swiftName], sc.Samples[folderName], sc.Samples[rawName]
	if len(ours) == 0 || len(folder) == 0 || len(raw) == 0 {
		return
	}
	sum := func(of func([]sample, func(sample) float64) float64) float64 {
		return (of(folder, wall) + of(raw, wall)) / max(of(ours, wall), 1e-6)
	}
	res := result{Scenario: sc.Title, Tool: "both parts together", Best: sum(best), Median: sum(median), Target: 1 / swiftBound}
	res.Verdict = verdict(res.Best, res.Target)
	r.Results = append(r.Results, res)
}

// swiftClient is OpenStack's own command, which sends and fetches files as they are.
type swiftClient struct {
	r                            *runner
	bin, home, container, stored string
}

func (t *swiftClient) start(ctx context.Context) error {
	if err := again(t.home); err != nil {
		return err
	}
	if _, err := t.r.quiet(ctx, t.bin, "post", t.container); err != nil {
		return err
	}
	_, err := t.r.quiet(ctx, t.bin, "delete", t.container)
	if err != nil {
		return err
	}
	_, err = t.r.quiet(ctx, t.bin, "post", t.container)
	return err
}

func (t *swiftClient) backup(string) job {
	return job{pipe: [][]string{{t.bin, "--quiet", "upload", t.container, t.stored}}, in: t.home}
}

func (t *swiftClient) restore(source, _ string) (job, string) {
	to := filepath.Join(t.home, "fetched")
	return job{pipe: [][]string{{t.bin, "--quiet", "download", t.container, "-D", to}}, in: t.home}, source // it has no more to compare with
}
