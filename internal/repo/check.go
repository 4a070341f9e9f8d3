package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// CheckOptions are the options of Check.
type CheckOptions struct {
	Instance string // "" for all
	// ReadData reads every stored byte and compares its hash, not just sizes. Of backups
	// of earlier versions that needs a key.
	ReadData bool
	// Progress, if not nil, is called with the bytes read so far, of how many.
	Progress func(done, total int64)
}

// CheckReport is what Check found.
type CheckReport struct {
	Backups       int   `json:"backups"`
	Manifests     int   `json:"manifests"` // read and decoded; 0 without a key
	Keys          int   `json:"keys"`      // wrapped keys of instances
	Segments      int   `json:"segments"`
	SegmentBytes  int64 `json:"segment_bytes"`
	ReadBytes     int64 `json:"read_bytes"`
	Unreferenced  int   `json:"unreferenced"` // segments that no backup needs, vanished ones too: left by runs that did not end
	UnreferencedB int64 `json:"unreferenced_bytes"`
	Unfinished    int   `json:"unfinished"` // backups without a record: runs that did not end
	ShippedReport
	Problems []Problem `json:"problems"`
	// Checked says in words what was checked, Unchecked what was not and what that needs.
	Checked   []string `json:"checked"`
	Unchecked []string `json:"unchecked"`
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

	unsized, unhashed, unkeyed int // backups of earlier versions that can't be checked so without a key
}

func (c *checker) problem(instance string, id manifest.BackupID, object, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Problems = append(c.report.Problems, Problem{instance, id, object, what})
}

// Check examines the repository: signatures of records, the hashes of their manifests,
// that each segment they name is stored and has its size, that the keys are there which
// they are encrypted to, and that no record vanished; with a key also what manifests
// say, and the indexes of what was shipped; with ReadData every byte. Problems are in the report; an error means that the check
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
		shipped, err := r.ShippedInstances(ctx)
		if err != nil {
			return nil, err
		}
		for _, instance := range slices.Concat(instances, shipped) {
			if _, ok := byInstance[instance]; !ok {
				byInstance[instance] = nil
			}
		}
	}
	if err := c.single(ctx); err != nil {
		return nil, err
	}
	for instance, list := range byInstance {
		if err := c.instance(ctx, instance, list); err != nil {
			return nil, err
		}
	}
	c.sayWhat()
	return &c.report, nil
}

func (c *checker) instance(ctx context.Context, instance string, list []listing) error {
	var whole []listing
	for _, l := range list {
		if l.record {
			whole = append(whole, l)
		}
	}
	recs, bad, err := c.repo.readRecords(ctx, whole)
	if err != nil {
		return err
	}
	stored, err := c.repo.storedOf(ctx, instance, recs...)
	if err != nil {
		return err
	}
	for _, b := range bad {
		c.problem(instance, b.ID, recordName, b.Err.Error())
	}
	c.report.Backups += len(recs)
	keys, err := c.keys(ctx, instance)
	if err != nil {
		return err
	}
	needed := map[SegmentID]manifest.Segment{}
	closed := []*manifest.Record{} // those whose manifest wasn't opened
	for _, rec := range recs {
		c.key(rec, keys)
		opened, err := c.backup(ctx, rec, stored, needed)
		if err != nil {
			return err
		}
		if !opened {
			closed = append(closed, rec)
		}
	}
	lost, err := c.withoutRecord(ctx, instance, list, stored, needed)
	if err != nil {
		return err
	}
	for id, size := range stored {
		if id.Key != "" { // of a chain
			continue
		}
		c.report.Segments++
		c.report.SegmentBytes += size
		if _, ok := needed[id]; !ok && lost[id.Backup] == "" {
			c.report.Unreferenced++
			c.report.UnreferencedB += size
		}
	}
	if err := c.shipped(ctx, instance, recs); err != nil {
		return err
	}
	if c.opts.ReadData {
		return c.readAll(ctx, instance, needed, closed)
	}
	return nil
}

// withoutRecord looks at what has no record: the leftovers of a run that didn't end, or
// a backup whose record vanished. It returns the latter, with what tells so.
func (c *checker) withoutRecord(ctx context.Context, instance string, list []listing, stored map[SegmentID]int64, needed map[SegmentID]manifest.Segment) (map[manifest.BackupID]string, error) {
	data := map[manifest.BackupID]bool{}
	seen, made := map[manifest.BackupID]bool{}, map[manifest.BackupID]bool{}
	var open []listing
	for _, l := range list {
		seen[l.id] = true
		if l.record {
			made[l.id] = true
		} else {
			open = append(open, l)
		}
	}
	for s := range stored {
		if s.Key != "" {
			continue
		}
		if _, ok := needed[s]; !ok {
			data[s.Backup] = true
		}
		if !seen[s.Backup] {
			seen[s.Backup] = true
			open = append(open, listing{instance: instance, id: s.Backup})
		}
	}
	top, err := c.repo.topLock(ctx, instance)
	if err != nil {
		return nil, err
	}
	locks, err := c.repo.recentLocks(ctx, instance, top)
	if err != nil {
		return nil, err
	}
	lost, err := c.repo.lostBackups(ctx, instance, open, made, data, top, locks)
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(lost)) {
		if !seen[id] {
			c.problem(instance, id, recordName, "is gone with all that was stored of it alone, and "+lost[id]+": "+howLost)
		}
	}
	for _, l := range open {
		switch why, ok := lost[l.id]; {
		case ok && l.givenUp:
			c.problem(instance, l.id, recordName, "is empty, and "+why+": "+howLost)
		case ok:
			c.problem(instance, l.id, recordName, "is gone, and "+why+": "+howLost)
		case l.manifest && !l.givenUp:
			c.report.Unfinished++
		}
	}
	return lost, nil
}

// howLost is what to do about a backup without a record.
const howLost = "no prune removes what is stored of it; copy it back from a repository that has it, or have it forgotten with `slipcover prune --forget ID`"

// backup checks one backup's manifest and that its segments are stored; it adds
// them to needed. opened says that the manifest was read.
func (c *checker) backup(ctx context.Context, rec *manifest.Record, stored map[SegmentID]int64, needed map[SegmentID]manifest.Segment) (opened bool, err error) {
	small := 0
	list := presentOf(rec, stored)
	missing := rec.Counts().Segments - int64(len(list))
	for _, s := range list {
		if _, ok := needed[s]; !ok {
			needed[s] = manifest.Segment{Backup: s.Backup, N: s.N, Key: s.Key, Size: stored[s]}
		}
		if size := stored[s]; size < c.repo.leastSegment() {
			small++
			c.problem(rec.Instance, rec.ID, string(c.repo.keyOf(rec.Instance, s)), fmt.Sprintf("has %d bytes, less than any segment", size))
		}
	}
	switch {
	case missing == 1:
		c.problem(rec.Instance, rec.ID, "", "1 segment is missing: files in it can't be restored")
	case missing > 1:
		c.problem(rec.Instance, rec.ID, "", fmt.Sprintf("%d segments are missing: files in them can't be restored", missing))
	}
	if !c.repo.CanRead() {
		if missing == 0 && small == 0 {
			c.sizes(rec, list, stored)
		}
		return false, c.sealed(ctx, rec)
	}
	m, err := c.repo.Manifest(ctx, rec)
	switch {
	case errors.Is(err, ErrCorrupt) || errors.Is(err, ErrKeyGone) || errors.Is(err, storage.ErrNotExist):
		c.problem(rec.Instance, rec.ID, "manifest", err.Error())
		return false, nil
	case err != nil:
		return false, err
	}
	c.report.Manifests++
	for _, s := range m.Segments {
		id := idOf(s)
		if size, ok := stored[id]; ok && size != s.Size {
			c.problem(rec.Instance, rec.ID, string(c.repo.segmentOf(rec.Instance, s)), fmt.Sprintf("has %d bytes, not %d", size, s.Size))
		}
		if old := needed[id]; old.SHA256 != "" && old.SHA256 != s.SHA256 {
			c.problem(rec.Instance, rec.ID, "manifest", fmt.Sprintf("gives another hash for segment %s than another manifest does", id))
		}
		needed[id] = s
	}
	return true, nil
}
