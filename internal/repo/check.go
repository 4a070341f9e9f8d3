package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// CheckOptions are the options of Check.
type CheckOptions struct {
	Instance string // "" for all
	ReadData bool   // read every stored byte and compare its hash, not just sizes
	// Progress, if not nil, is called with the bytes read so far, of how many.
	Progress func(done, total int64)
}

// CheckReport is what Check found.
type CheckReport struct {
	Backups       int       `json:"backups"`
	Manifests     int       `json:"manifests"` // read and decoded; 0 without a key
	Segments      int       `json:"segments"`
	SegmentBytes  int64     `json:"segment_bytes"`
	ReadBytes     int64     `json:"read_bytes"`
	Unreferenced  int       `json:"unreferenced"` // segments that no backup needs: left by runs that did not end
	UnreferencedB int64     `json:"unreferenced_bytes"`
	Unfinished    int       `json:"unfinished"` // backups without a record: runs that did not end
	Problems      []Problem `json:"problems"`
}

// Problem is something wrong in the repository.
type Problem struct {
	Instance string            `json:"instance"`
	Backup   manifest.BackupID `json:"backup,omitempty"`
	Object   string            `json:"object,omitempty"`
	What     string            `json:"what"`
}

// checker collects; its methods may be called from several goroutines.
type checker struct {
	repo   *Repo
	opts   CheckOptions
	mu     sync.Mutex
	report CheckReport // guarded by mu
	done   int64       // guarded by mu
	total  int64
}

func (c *checker) problem(instance string, id manifest.BackupID, object, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Problems = append(c.report.Problems, Problem{instance, id, object, what})
}

// Check examines the repository: signatures of records, that each segment they
// name is stored; with a key also the manifests and each segment's size; with
// ReadData every byte. Problems are in the report; an error means that the check
// itself couldn't go on.
func (r *Repo) Check(ctx context.Context, opts CheckOptions) (*CheckReport, error) {
	found, err := r.listBackups(ctx, opts.Instance)
	if err != nil {
		return nil, err
	}
	c := &checker{repo: r, opts: opts, report: CheckReport{Problems: []Problem{}}}
	byInstance := map[string][]listing{}
	for _, l := range found {
		byInstance[l.instance] = append(byInstance[l.instance], l)
	}
	if opts.Instance == "" { // segments of instances without any backup count too
		instances, err := r.Instances(ctx)
		if err != nil {
			return nil, err
		}
		for _, instance := range instances {
			if _, ok := byInstance[instance]; !ok {
				byInstance[instance] = nil
			}
		}
	}
	for instance, list := range byInstance {
		if err := c.instance(ctx, instance, list); err != nil {
			return nil, err
		}
	}
	return &c.report, nil
}

func (c *checker) instance(ctx context.Context, instance string, list []listing) error {
	var whole []listing
	for _, l := range list {
		if l.record {
			whole = append(whole, l)
		} else if !l.givenUp {
			c.report.Unfinished++
		}
	}
	stored, err := c.repo.Segments(ctx, instance)
	if err != nil {
		return err
	}
	recs, bad, err := c.repo.readRecords(ctx, whole)
	if err != nil {
		return err
	}
	for _, b := range bad {
		c.problem(instance, b.ID, recordName, b.Err.Error())
	}
	c.report.Backups += len(recs)
	needed := map[SegmentID]manifest.Segment{}
	for _, rec := range recs {
		if err := c.backup(ctx, rec, stored, needed); err != nil {
			return err
		}
	}
	for id, size := range stored {
		c.report.Segments++
		c.report.SegmentBytes += size
		if _, ok := needed[id]; !ok {
			c.report.Unreferenced++
			c.report.UnreferencedB += size
		}
	}
	if c.opts.ReadData {
		return c.readAll(ctx, instance, needed)
	}
	return nil
}

// backup checks one backup's manifest and that its segments are stored; it adds
// them to needed.
func (c *checker) backup(ctx context.Context, rec *manifest.Record, stored map[SegmentID]int64, needed map[SegmentID]manifest.Segment) error {
	missing := 0
	for _, s := range expand(rec.Segments) {
		if _, ok := needed[s]; !ok {
			needed[s] = manifest.Segment{Backup: s.Backup, N: s.N}
		}
		if _, ok := stored[s]; !ok {
			missing++
		}
	}
	if missing > 0 {
		c.problem(rec.Instance, rec.ID, "", fmt.Sprintf("%d of its segments are missing: files in them can't be restored", missing))
	}
	if !c.repo.CanRead() {
		return nil
	}
	m, err := c.repo.Manifest(ctx, rec)
	switch {
	case errors.Is(err, ErrCorrupt) || errors.Is(err, ErrKeyGone) || errors.Is(err, storage.ErrNotExist):
		c.problem(rec.Instance, rec.ID, "manifest", err.Error())
		return nil
	case err != nil:
		return err
	}
	c.report.Manifests++
	for _, s := range m.Segments {
		id := SegmentID{s.Backup, s.N}
		if size, ok := stored[id]; ok && size != s.Size {
			c.problem(rec.Instance, rec.ID, string(c.repo.segmentKey(rec.Instance, s.Backup, s.N)), fmt.Sprintf("has %d bytes, not %d", size, s.Size))
		}
		if old := needed[id]; old.SHA256 != "" && old.SHA256 != s.SHA256 {
			c.problem(rec.Instance, rec.ID, "manifest", fmt.Sprintf("gives another hash for segment %s/%d than another manifest does", s.Backup, s.N))
		}
		needed[id] = s
	}
	return nil
}

// readAll compares the hash of each needed segment.
func (c *checker) readAll(ctx context.Context, instance string, needed map[SegmentID]manifest.Segment) error {
	for _, s := range needed {
		c.total += s.Size
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, s := range needed {
		if s.SHA256 == "" {
			continue // no manifest could be read that gives it
		}
		g.Go(func() error { return c.segment(ctx, instance, s) })
	}
	return g.Wait()
}

func (c *checker) segment(ctx context.Context, instance string, s manifest.Segment) error {
	key := c.repo.segmentKey(instance, s.Backup, s.N)
	var n int64
	var sum string
	err := c.repo.store.Get(ctx, key, 0, -1, func(rd io.Reader) error {
		h := sha256.New()
		var err error
		n, err = io.Copy(h, rd)
		sum = hex.EncodeToString(h.Sum(nil))
		return err
	})
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return nil // reported as missing
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		c.problem(instance, s.Backup, string(key), err.Error())
	case sum != s.SHA256:
		c.problem(instance, s.Backup, string(key), fmt.Sprintf("its %d bytes don't have the recorded hash", n))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.ReadBytes += n
	c.done += n
	if c.opts.Progress != nil {
		c.opts.Progress(c.done, c.total)
	}
	return nil
}
