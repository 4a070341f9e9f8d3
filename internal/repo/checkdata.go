package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// sealed checks a manifest that can't be opened: it must have the record's hash.
func (c *checker) sealed(ctx context.Context, rec *manifest.Record) error {
	_, err := c.repo.sealedManifest(ctx, rec)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, storage.ErrNotExist) {
		c.problem(rec.Instance, rec.ID, "manifest", err.Error())
		return nil
	}
	return err
}

// sizes compares the sizes of a backup's segments with what the record says of them.
func (c *checker) sizes(rec *manifest.Record, list []SegmentID, stored map[SegmentID]int64) {
	if rec.SegmentSizes == "" {
		c.unsized++
		return
	}
	sortSegments(list)
	all := newSums()
	for _, s := range list {
		all.add(s, stored[s], "")
	}
	switch {
	case all.bytes != rec.SegmentBytes:
		c.problem(rec.Instance, rec.ID, "", fmt.Sprintf("its segments have %d bytes together, not %d: files in them can't be restored; with a key a check names the segment", all.bytes, rec.SegmentBytes))
	case hexOf(all.sizes) != rec.SegmentSizes:
		c.problem(rec.Instance, rec.ID, "", "its segments have other sizes than recorded: files in them can't be restored; with a key a check names the segment")
	}
}

// readAll compares the hash of each needed segment: with that of its manifest, or, of
// those in closed, with what the record says of all hashes.
func (c *checker) readAll(ctx context.Context, instance string, needed map[SegmentID]manifest.Segment, closed []*manifest.Record) error {
	var hashed []*manifest.Record
	for _, rec := range closed {
		if rec.SegmentHashes == "" {
			c.unhashed++
			continue
		}
		hashed = append(hashed, rec)
	}
	for id, s := range needed {
		if s.SHA256 == "" && !slices.ContainsFunc(hashed, func(rec *manifest.Record) bool { return recordNames(rec, id) }) {
			delete(needed, id) // nothing can be read that gives its hash
			continue
		}
		c.total += s.Size
	}
	var mu sync.Mutex
	got := map[SegmentID]string{} // guarded by mu
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for id, s := range needed {
		g.Go(func() error {
			sum, err := c.segment(gctx, instance, s)
			mu.Lock()
			defer mu.Unlock()
			got[id] = sum
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, rec := range closed {
		c.hashes(rec, got)
	}
	return nil
}

// hashes compares the hashes of a backup's segments with what the record says of them.
func (c *checker) hashes(rec *manifest.Record, got map[SegmentID]string) {
	if rec.SegmentHashes == "" {
		return
	}
	list := presentOf(rec, got)
	sortSegments(list)
	all := newSums()
	for _, s := range list {
		if got[s] == "" {
			return // reported as missing
		}
		all.add(s, 0, got[s])
	}
	if int64(len(list)) < rec.Counts().Segments {
		return // as well
	}
	if hexOf(all.hashes) != rec.SegmentHashes {
		c.problem(rec.Instance, rec.ID, "", "its segments don't have the recorded hashes: files in them can't be restored; with a key a check names the segment")
	}
}

// segment reads a segment and returns its hash; "" if it can't be read.
func (c *checker) segment(ctx context.Context, instance string, s manifest.Segment) (sum string, err error) {
	key := c.repo.segmentOf(instance, s)
	var n int64
	err = c.repo.store.Get(ctx, key, 0, -1, func(rd io.Reader) error {
		h := sha256.New()
		var err error
		n, err = io.Copy(h, rd)
		sum = hex.EncodeToString(h.Sum(nil))
		return err
	})
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return "", nil // reported as missing
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		c.problem(instance, s.Backup, string(key), err.Error())
		sum = ""
	case s.SHA256 != "" && sum != s.SHA256:
		c.problem(instance, s.Backup, string(key), fmt.Sprintf("its %d bytes don't have the recorded hash", n))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.ReadBytes += n
	c.done += n
	if c.opts.Progress != nil {
		c.opts.Progress(c.done, c.total)
	}
	return sum, nil
}
