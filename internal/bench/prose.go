package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/slipcover/slipcover/internal/testenv"
)

const (
	proseDocs = 40_000 // some 42 MB of files
	proseBulk = 1000   // documents in one request
)

// prose runs the scenarios over what people wrote, in files that CouchDB wrote: made
// data compresses better and faster than that.
func (b *bench) prose(ctx context.Context) error {
	source := b.path("prose")
	data, err := b.generate(ctx, "prose", source, proseDocs)
	if err != nil {
		return err
	}
	if data.Missing != "" {
		b.say("prose is left out: %s", data.Missing)
		b.report.LeftOut = append(b.report.LeftOut, "prose: "+data.Missing)
		return nil
	}
	what := dataText(data)
	err = b.full(ctx, b.report.add("prose-full", "package descriptions in a CouchDB, full backup", what), source)
	if err == nil {
		err = b.restore(ctx, b.report.add("prose-restore", "package descriptions, restore", what), source)
	}
	return errors.Join(err, os.RemoveAll(source))
}

// makeProse has a CouchDB write the descriptions of n Debian packages, as apt knows them,
// into dir.
func makeProse(dir string, n int) (m made, err error) {
	if _, missing := testenv.CouchDBBinary(); missing != "" {
		return made{Missing: missing}, nil
	}
	docs, err := packages(n)
	if err != nil || len(docs) == 0 {
		return made{Missing: fmt.Sprintf("apt-cache lists no packages: %v", err)}, nil
	}
	t := &server{}
	defer func() {
		if v := recover(); v != nil && v != t { // what Fatalf panicked with
			panic(v)
		}
		err = errors.Join(err, t.end())
	}()
	c := testenv.CouchDB(t, testenv.Options{DataDir: dir})
	if err := c.Put("/packages?q=2", nil, nil); err != nil {
		return m, err
	}
	for len(docs) > 0 {
		part := docs[:min(proseBulk, len(docs))]
		docs = docs[len(part):]
		if err := c.Post("/packages/_bulk_docs", map[string]any{"docs": part}, nil); err != nil {
			return m, err
		}
	}
	c.Stop()
	return m, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			m.Files++
			m.Bytes += info.Size()
		}
		return err
	})
}

// packages returns the first n packages that apt knows, each once, as documents.
func packages(n int) (docs []map[string]string, err error) {
	c := exec.Command("apt-cache", "dumpavail")
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return nil, err
	}
	docs, err = parsePackages(out, n)
	_ = c.Process.Kill() // it may have more
	_ = c.Wait()
	return docs, err
}

// parsePackages reads fields as apt prints them: "Name: text", lines that go on with a
// blank, and an empty line behind each package.
func parsePackages(r io.Reader, n int) (docs []map[string]string, err error) {
	seen := map[string]bool{}
	doc, last := map[string]string{}, ""
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for len(docs) < n && lines.Scan() {
		line := lines.Text()
		key, text, ok := strings.Cut(line, ": ")
		switch {
		case line == "":
			if id := doc["_id"]; id != "" && !seen[id] {
				seen[id] = true
				docs = append(docs, doc)
			}
			doc = map[string]string{}
		case line[0] == ' ':
			doc[last] += "\n" + line
		case key == "Package":
			doc["_id"], last = text, "_id"
		case ok:
			doc[key], last = text, key
		}
	}
	return docs, lines.Err()
}

// server is a testenv.TB that isn't a test: what fails panics with it.
type server struct {
	failed   error
	cleanups []func()
}

func (p *server) Helper()             {}
func (p *server) Name() string        { return "bench" }
func (p *server) Logf(string, ...any) {}
func (p *server) Failed() bool        { return p.failed != nil }
func (p *server) Cleanup(f func())    { p.cleanups = append(p.cleanups, f) }
func (p *server) Skipf(format string, args ...any) {
	p.Fatalf(format, args...)
}

func (p *server) Fatalf(format string, args ...any) {
	p.failed = fmt.Errorf(format, args...)
	panic(p)
}

func (p *server) TempDir() string {
	dir, err := os.MkdirTemp("", "slipcover-bench-")
	if err != nil {
		p.Fatalf("%w", err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// end does what was put off, the last first, and returns what failed.
func (p *server) end() error {
	for i := len(p.cleanups) - 1; i >= 0; i-- {
		p.cleanups[i]()
	}
	return p.failed
}
