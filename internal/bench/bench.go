package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// bench is one run of this program.
type bench struct {
	opts   *options
	dir    string // all that is written is below it
	proc   *runner
	list   []*entry
	report *report
}

func newBench(ctx context.Context, o *options, dir, slipcover string) *bench {
	r := &runner{env: environment(dir, o.getenv("PATH"))}
	b := &bench{opts: o, dir: dir, proc: r, list: entries(ctx, o, dir, slipcover, r)}
	host := environmentOf(dir)
	b.report = &report{Environment: host, Tools: b.list}
	return b
}

// environment is what processes get to see, so that no setting of the user's
// changes what is measured, and nothing is left in their home.
func environment(dir, path string) []string {
	return []string{
		"PATH=" + path, "LC_ALL=C", "HOME=" + filepath.Join(dir, "home"), "TMPDIR=" + filepath.Join(dir, "tmp"),
		"KOPIA_PASSWORD=bench", "KOPIA_CHECK_FOR_UPDATES=false",
	}
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.opts.log, "bench: "+format+"\n", args...)
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// run measures the chosen scenarios. A tool that fails in one is named in the
// report; only Slipcover's failure is an error.
func (b *bench) run(ctx context.Context) error {
	if err := again(b.path("home"), b.path("tmp")); err != nil {
		return err
	}
	if err := os.WriteFile(b.path("password"), []byte(rand.Text()+"\n"), 0o600); err != nil {
		return err
	}
	if b.list[0].Missing != "" {
		return errors.New(b.list[0].Missing)
	}
	if slices.ContainsFunc(b.opts.only, func(s string) bool { return s != "small" && s != "prose" && s != "swift" }) {
		if err := b.mixed(ctx); err != nil {
			return err
		}
	}
	if b.wants("small") {
		if err := b.small(ctx); err != nil {
			return err
		}
	}
	if b.wants("prose") {
		if err := b.prose(ctx); err != nil {
			return err
		}
	}
	if b.wants("swift") {
		if err := b.swift(ctx, b.list[0].tool.(*slipcoverTool).bin); err != nil {
			return err
		}
	}
	for _, sc := range b.report.Scenarios {
		for name, why := range sc.Failed {
			if strings.HasPrefix(name, b.list[0].Name) {
				return fmt.Errorf("%s: %s %s", sc.Title, name, why)
			}
		}
	}
	return ctx.Err()
}

func (b *bench) wants(scenario string) bool { return slices.Contains(b.opts.only, scenario) }

// mixed runs the scenarios over a large shard and 8 with attachments.
func (b *bench) mixed(ctx context.Context) error {
	source := b.path("data")
	data, err := b.generate(ctx, "mixed", source, b.opts.size)
	if err != nil {
		return err
	}
	what := dataText(data)
	if b.wants("full") {
		err = b.full(ctx, b.report.add("full", "full backup", what), source)
	} else {
		err = b.prepare(ctx, source)
	}
	if err == nil && b.wants("restore") {
		err = b.restore(ctx, b.report.add("restore", "restore", what), source)
	}
	if err == nil && b.wants("verify") {
		err = b.verify(ctx, b.report.add("verify", "verify", what))
	}
	if err == nil && b.wants("incremental") {
		err = b.incremental(ctx, b.report.add("incremental", "incremental after 1 % growth", what), source)
	}
	return errors.Join(err, os.RemoveAll(source))
}

// small runs the scenarios over many small files.
func (b *bench) small(ctx context.Context) error {
	source := b.path("small")
	data, err := b.generate(ctx, "small", source, int64(b.opts.smallFiles))
	if err != nil {
		return err
	}
	what := dataText(data)
	err = b.full(ctx, b.report.add("small-full", "small files, full backup", what), source)
	if err == nil {
		err = b.unchanged(ctx, b.report.add("small-unchanged", "small files, nothing new", what), source)
	}
	return errors.Join(err, os.RemoveAll(source))
}

func dataText(m made) string { return fmt.Sprintf("%s in %d files", bytesText(m.Bytes), m.Files) }

func (b *bench) generate(ctx context.Context, what, dir string, n int64) (made, error) {
	b.say("making data: %s", what)
	m, err := runGenerate(ctx, what, dir, n)
	if err != nil || m.Missing != "" {
		return m, err
	}
	return m, warm(ctx, dir)
}

// turns measures the tools by turns: do returns the job of one, and what to do
// after it; no pipe means that the tool has no such thing.
func (b *bench) turns(ctx context.Context, sc *scenario, before func(round int) error, do func(e *entry, round int) (job, func() error, error)) error {
	for round := range b.opts.rounds {
		if before != nil {
			if err := before(round); err != nil {
				return err
			}
		}
		for _, e := range b.list {
			if err := ctx.Err(); err != nil {
				return err
			}
			if e.Missing != "" || sc.Failed[e.Name] != "" || sc.slow(e.Name, b.opts.slow) {
				continue
			}
			if err := b.turn(ctx, sc, e, round, do); err != nil {
				sc.Failed[e.Name] = "failed: " + err.Error()
				b.say("%s: %s %s", sc.Title, e.Name, sc.Failed[e.Name])
			}
		}
	}
	return nil
}

func (b *bench) turn(ctx context.Context, sc *scenario, e *entry, round int, do func(e *entry, round int) (job, func() error, error)) error {
	j, after, err := do(e, round)
	if err != nil || len(j.pipe) == 0 {
		return err
	}
	s, err := b.proc.measure(ctx, j)
	if err != nil {
		return err
	}
	sc.Samples[e.Name] = append(sc.Samples[e.Name], s)
	b.say("%d %-28s %-16s %8.2f s wall %8.2f s CPU, load before %.1f", round+1, sc.Title, e.Name, s.Wall, s.cpu(), s.Load)
	if after != nil {
		return after()
	}
	return nil
}

func (b *bench) full(ctx context.Context, sc *scenario, source string) error {
	return b.turns(ctx, sc, nil, func(e *entry, _ int) (job, func() error, error) {
		if err := e.tool.start(ctx); err != nil {
			return job{}, nil, err
		}
		return e.tool.backup(source), nil, nil
	})
}

// prepare makes the full backups that later scenarios need, without keeping what
// they took.
func (b *bench) prepare(ctx context.Context, source string) error {
	once := *b
	opts := *b.opts
	opts.rounds = 1
	once.opts = &opts
	return once.full(ctx, newScenario("prepare", "preparing", ""), source)
}

func (b *bench) restore(ctx context.Context, sc *scenario, source string) error {
	to := b.path("restored")
	return b.turns(ctx, sc, nil, func(e *entry, round int) (job, func() error, error) {
		if err := again(to); err != nil {
			return job{}, nil, err
		}
		j, found := e.tool.restore(source, to)
		return j, func() error {
			if round == 0 {
				if err := compare(ctx, source, found); err != nil {
					return err
				}
			}
			return os.RemoveAll(to)
		}, nil
	})
}

func (b *bench) verify(ctx context.Context, sc *scenario) error {
	return b.turns(ctx, sc, nil, func(e *entry, _ int) (job, func() error, error) {
		if t, ok := e.tool.(incremental); ok {
			return t.verify(), nil, nil
		}
		return job{}, nil, nil
	})
}

// proof is what an incremental may read of a changed file of that size beyond its growth:
// to prove that it is the same one (docs/consistency.md) it reads a small one whole, and
// 256 KiB of a larger one; and the header.
func proof(size int64) int64 {
	if size <= 1<<20 {
		return size + 64<<10
	}
	return 256<<10 + 64<<10
}

// proofs is that of all database files below a directory.
func proofs(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".couch" {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += proof(info.Size())
		}
		return err
	})
	return n, err
}

func (b *bench) incremental(ctx context.Context, sc *scenario, source string) error {
	grow := func(round int) error {
		more, err := proofs(source) // as it is before it grows
		if err != nil {
			return err
		}
		m, err := b.generate(ctx, "grow", source, int64(round))
		sc.Growth = append(sc.Growth, growth{m.Files, m.Bytes, m.Bytes + more})
		return err
	}
	return b.turns(ctx, sc, grow, func(e *entry, _ int) (job, func() error, error) {
		if t, ok := e.tool.(incremental); ok {
			return t.backup(source), nil, nil
		}
		return job{}, nil, nil
	})
}

func (b *bench) unchanged(ctx context.Context, sc *scenario, source string) error {
	return b.turns(ctx, sc, nil, func(e *entry, _ int) (job, func() error, error) {
		if t, ok := e.tool.(incremental); ok {
			return t.backup(source), nil, nil
		}
		return job{}, nil, nil
	})
}

// environmentOf describes where this runs.
func environmentOf(dir string) host {
	return host{
		Date: time.Now().UTC().Truncate(time.Second), OS: runtime.GOOS + "/" + runtime.GOARCH, CPU: cpuModel(), Cores: runtime.NumCPU(),
		Go: runtime.Version(), FileSystem: fileSystem(dir), Load: loadAverage(),
	}
}
