package restore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// inMemory is the size up to which a file is verified in memory, in bytes. Tests
// change it.
var inMemory int64 = 8 << 20

const (
	// sampleWhole is the size below which sampling takes or leaves a whole file.
	sampleWhole = 1 << 20
	// maxFindings bounds what is reported of one file.
	maxFindings = 100
)

// VerifyOptions are the options of Verify.
type VerifyOptions struct {
	Repo   *repo.Repo
	Record *manifest.Record

	// Sample, above 0 and below 1, reads less: that share of the files below 1 MiB,
	// chosen anew each time, and of larger ones all trees and that share of the
	// documents, in place by ranges. What it reads in place it can't hold against
	// the file's hash. 0 and 1 read everything.
	Sample float64
	// Scratch is where files above 8 MiB are put, one at a time and process; ""
	// is the system's directory for temporary files. It needs the space of the
	// Parallel largest files.
	Scratch  string
	Parallel int       // files at once; 0 is the number of CPUs, at most 4
	Progress *Progress // counters; may be nil
}

// VerifyReport is what Verify found.
type VerifyReport struct {
	Backup   manifest.BackupID `json:"backup"`
	Sample   float64           `json:"sample,omitempty"`
	Files    int64             `json:"files"`   // read
	Skipped  int64             `json:"skipped"` // left out by sampling
	Bytes    int64             `json:"bytes"`   // of the files that were read
	Docs     uint64            `json:"docs"`    // in the databases that were read, without deleted ones
	Findings []VerifyFinding   `json:"findings"`
	New      int               `json:"new"`     // findings that the backup doesn't record
	Known    int               `json:"known"`   // damage that the source had, which the backup records
	Dropped  []Dropped         `json:"dropped"` // indexes that a restore would leave out
	Took     time.Duration     `json:"took_ns"`
}

// OK reports whether the backup restores exactly what was there, as damaged as its source
// may have been: all stored bytes are right, and nothing is missing that the backup
// doesn't say itself.
func (r *VerifyReport) OK() bool { return r.Unsound() == 0 }

// Unsound returns how many findings are not the source's and not recorded.
func (r *VerifyReport) Unsound() (n int) {
	for _, x := range r.Findings {
		if !x.Known && x.Cause != Source {
			n++
		}
	}
	return n
}

// Cause says where damage comes from.
type Cause string

// The causes.
const (
	Stored  Cause = "stored"  // what the repository holds is not what was backed up
	Source  Cause = "source"  // the bytes are as they were read, and were damaged then
	Missing Cause = "missing" // the shard map names a shard that the backup lacks
)

// VerifyFinding is one thing that is wrong.
type VerifyFinding struct {
	Root   manifest.Root `json:"root"`
	Path   string        `json:"path"`
	Cause  Cause         `json:"cause"`
	Known  bool          `json:"known"`  // the backup records it
	Offset int64         `json:"offset"` // bytes in the file
	What   string        `json:"what"`
	Doc    string        `json:"doc,omitempty"`
	Rev    string        `json:"rev,omitempty"`
}

type verifier struct {
	opts   VerifyOptions
	m      *manifest.Manifest
	reader *repo.Reader
	known  map[rootPath][]manifest.Damage

	mu     sync.Mutex // guards report
	report *VerifyReport
}

type rootPath struct {
	root manifest.Root
	path string
}

// Verify proves that a backup restores: it reads the files back, holds their
// bytes against the manifest, and reads them as CouchDB does. What is wrong goes
// into the report; an error is one of the storage, the key, or ctx.
func Verify(ctx context.Context, opts VerifyOptions) (*VerifyReport, error) {
	started := time.Now()
	if opts.Progress == nil {
		opts.Progress = &Progress{}
	}
	if opts.Parallel <= 0 {
		opts.Parallel = min(4, runtime.GOMAXPROCS(0))
	}
	if opts.Sample < 0 || opts.Sample > 1 {
		return nil, fmt.Errorf("%w: a sample of %v: name a share between 0 and 1, such as 0.05", ErrOptions, opts.Sample)
	}
	if opts.Sample == 1 {
		opts.Sample = 0
	}
	m, err := opts.Repo.Manifest(ctx, opts.Record)
	if err != nil {
		return nil, err
	}
	v := &verifier{opts: opts, m: m, known: map[rootPath][]manifest.Damage{}, report: &VerifyReport{Backup: m.ID, Sample: opts.Sample}}
	for _, d := range m.Damage {
		k := rootPath{d.Root, d.Path}
		v.known[k] = append(v.known[k], d)
	}
	if err := v.all(ctx); err != nil {
		return nil, err
	}
	v.finish()
	v.report.Took = time.Since(started)
	return v.report, nil
}

func (v *verifier) all(ctx context.Context) error {
	items := v.pick()
	files := make([]*manifest.File, len(items))
	for i, it := range items {
		files[i] = it.f
		v.opts.Progress.Files.Add(1)
		v.opts.Progress.Bytes.Add(it.f.Size)
	}
	v.reader = v.opts.Repo.NewReader(v.m, files)
	v.reader.Scratch = v.opts.Scratch
	defer v.reader.Close()
	list := groups(items)
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(v.opts.Parallel, len(list)) {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					return nil
				}
				for _, it := range list[i] {
					if err := v.file(ctx, it.f); err != nil {
						return fmt.Errorf("verify %s: %w", it.path, err)
					}
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, d := range v.reader.DamagedSegments() {
		v.add(&manifest.File{Path: string(d.Key)}, VerifyFinding{Cause: Stored, What: "the object can't be read whole: " + d.Err.Error()})
	}
	return nil
}

// pick chooses the files and sorts them as they are stored.
func (v *verifier) pick() []item {
	var items []item
	databases := v.m.Databases()
	for _, f := range v.m.Files {
		if f.Kind == manifest.View {
			if why := unusable(f, databases); why != "" {
				v.report.Dropped = append(v.report.Dropped, Dropped{f.Path, why})
			}
		}
		if v.opts.Sample > 0 && f.Size < sampleWhole && f.Kind != manifest.System && rand.Float64() >= v.opts.Sample {
			v.report.Skipped++
			continue
		}
		items = append(items, item{f, f.Root, f.Path})
	}
	sortItems(items)
	return items
}

// file verifies one file. Its errors end the run.
func (v *verifier) file(ctx context.Context, f *manifest.File) error {
	var err error
	// To read a replay that is no copy is to make all of it, in a scratch file that would stay.
	if v.opts.Sample > 0 && f.Size >= sampleWhole && f.Header != nil && manifest.OnlyCopies(f.Replays) {
		err = v.walk(ctx, f, v.reader.ReaderAt(ctx, f), v.opts.Sample)
		v.opts.Progress.BytesDone.Add(f.Size)
	} else {
		err = v.whole(ctx, f)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case unreadable(err):
		v.add(f, VerifyFinding{Cause: Stored, What: err.Error()})
	case err != nil:
		return err
	}
	v.opts.Progress.FilesDone.Add(1)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Files++
	v.report.Bytes += f.Size
	return nil
}

// whole reads all bytes back, into memory or a scratch file, and walks them.
func (v *verifier) whole(ctx context.Context, f *manifest.File) error {
	if f.Size <= inMemory || f.Header == nil {
		var b bytes.Buffer
		w := io.Writer(&b)
		if f.Header == nil {
			w = io.Discard // nothing to walk
		} else {
			b.Grow(int(f.Size))
		}
		if err := v.fill(ctx, f, w); err != nil || f.Header == nil {
			if err == nil && f.Kind != manifest.Config {
				v.add(f, VerifyFinding{Cause: Source, Known: true, What: "no valid header: a restore gives it the name " + f.Path + damagedEnding})
			}
			return err
		}
		return v.walk(ctx, f, bytes.NewReader(b.Bytes()), 0)
	}
	scratch, err := durable.NewScratch(v.opts.Scratch)
	if err != nil {
		return fmt.Errorf("for %d bytes: %w", f.Size, err)
	}
	defer scratch.Discard()
	if err := preallocate(scratch.File, f.Size); err != nil {
		return err
	}
	if err := v.fill(ctx, f, scratch); err != nil {
		return err
	}
	return v.walk(ctx, f, scratch, 0)
}

// fill reads f into w and holds it against the manifest.
func (v *verifier) fill(ctx context.Context, f *manifest.File, w io.Writer) error {
	sum, n := sha256.New(), int64(0)
	back, _ := w.(io.ReaderAt)
	err := v.reader.StreamBack(ctx, f, back, func(b []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, _ = sum.Write(b)
		n += int64(len(b))
		v.opts.Progress.BytesDone.Add(int64(len(b)))
		_, err := w.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	return sameSum(sum, n, f)
}

// walk reads a file as CouchDB does.
func (v *verifier) walk(ctx context.Context, f *manifest.File, r io.ReaderAt, sample float64) error {
	if f.Kind == manifest.Config {
		return nil
	}
	rep, err := couchfile.Verify(ctx, r, f.Size, couchfile.VerifyOptions{Sample: sample, MaxFindings: maxFindings})
	switch {
	case errors.Is(err, couchfile.ErrNoHeader), errors.Is(err, couchfile.ErrNotDatabase), errors.Is(err, couchfile.ErrNotView), errors.Is(err, couchfile.ErrUnsupportedVersion):
		v.add(f, VerifyFinding{Cause: Source, What: err.Error()})
		return nil
	case err != nil:
		return err
	}
	for _, x := range rep.Findings {
		v.add(f, VerifyFinding{Cause: Source, Offset: x.Offset, What: x.String(), Doc: x.Doc, Rev: x.Rev, Known: v.isKnown(f, x)})
	}
	if rep.Dropped > 0 {
		v.add(f, VerifyFinding{Cause: Source, What: fmt.Sprintf("%d more findings in this file", rep.Dropped), Known: len(v.known[rootPath{f.Root, f.Path}]) > 0})
	}
	if err := checkHeader(r, f); err != nil && len(rep.Findings) == 0 {
		if repo.Damaged(err) || ctx.Err() != nil {
			return err
		}
		v.add(f, VerifyFinding{Cause: Source, What: err.Error()})
	}
	if f.Kind != manifest.View {
		v.mu.Lock()
		v.report.Docs += rep.Docs
		v.mu.Unlock()
	}
	if f.Root == manifest.DataRoot && f.Path == dbsPath {
		return v.maps(ctx, f, r)
	}
	return nil
}

func (v *verifier) isKnown(f *manifest.File, x couchfile.Finding) bool {
	return slices.ContainsFunc(v.known[rootPath{f.Root, f.Path}], func(d manifest.Damage) bool {
		return d.Offset == x.Offset || d.Doc != "" && d.Doc == x.Doc
	})
}

// maps looks for the shards that the shard map names.
func (v *verifier) maps(ctx context.Context, f *manifest.File, r io.ReaderAt) error {
	maps, err := readMaps(ctx, r, f.Size, v.m, "")
	if errors.Is(err, couchfile.ErrCorrupt) {
		return nil // the look at the file's trees has said so
	}
	if err != nil {
		return err
	}
	for _, s := range maps.problems {
		v.add(f, VerifyFinding{Cause: Source, What: s})
	}
	databases := v.m.Databases()
	for _, m := range maps.list {
		for _, rg := range maps.self.Ranges(m.Map) {
			path := shard.Name{Range: rg, DB: m.DB, Suffix: m.Suffix}.Path()
			if databases[path] != nil {
				continue
			}
			_, known := v.known[rootPath{manifest.DataRoot, path}]
			known = known || slices.ContainsFunc(v.m.LeftOut, func(l manifest.LeftOut) bool { return l.Path == path })
			v.add(&manifest.File{Root: manifest.DataRoot, Path: path}, VerifyFinding{Cause: Missing, Known: known,
				What: fmt.Sprintf("database %q has this shard, and the backup doesn't hold it", m.DB)})
		}
	}
	return nil
}

func (v *verifier) add(f *manifest.File, x VerifyFinding) {
	x.Root, x.Path = f.Root, f.Path
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Findings = append(v.report.Findings, x)
}

// finish sorts and counts what was found.
func (v *verifier) finish() {
	r := v.report
	r.Findings, r.Dropped = nonNil(r.Findings), nonNil(r.Dropped)
	slices.SortStableFunc(r.Findings, func(a, b VerifyFinding) int {
		return cmp.Or(cmp.Compare(a.Root, b.Root), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Offset, b.Offset))
	})
	for _, x := range r.Findings {
		if x.Known {
			r.Known++
		} else {
			r.New++
		}
	}
}
