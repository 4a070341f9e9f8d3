package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// How the holder of a lock that names a backup ended.
const (
	endedMade   = "made"   // its record was stored
	endedFailed = "failed" // it wasn't
)

// unfinished reports whether the holder of a lock made no backup, or none that it knows
// of, when somebody else holds the lock.
func (i LockInfo) unfinished() bool { return !i.Released || i.Ended == endedFailed }

// recentLocks reads the locks that are stored below and with number top, which all
// the newest are: the newest first.
func (r *Repo) recentLocks(ctx context.Context, instance string, top int) ([]LockInfo, error) {
	locks := make([]LockInfo, min(keptLocks+1, top))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	for i := range locks {
		g.Go(func() error {
			info, err := r.readLock(gctx, instance, top-i)
			if errors.Is(err, storage.ErrNotExist) {
				return nil // with all below it
			}
			locks[i] = info
			return err
		})
	}
	return locks, g.Wait()
}

// lostBackups returns the backups that have no record although they were made, or may
// have been, with what tells so. Their data is nothing that a run which didn't end has
// left.
//
// found are those that may be one, known those with a record, and data those of which
// segments are stored that no record names. locks are the newest ones, of which the
// first has number top. What they say of a backup decides: that it was made, or that its
// run failed or didn't end. Of one whose lock isn't stored any more, or is of an earlier
// version, a manifest or a mark says that it may have been made: the manifest is stored
// right before the record; where that is empty, the backup was given up. A plan that
// names it says that it was deleted. Of a backup whose lock says that it was made nothing
// at all need be stored any more.
func (r *Repo) lostBackups(ctx context.Context, instance string, found []listing, known, data map[manifest.BackupID]bool, top int, locks []LockInfo) (map[manifest.BackupID]string, error) {
	ends := map[manifest.BackupID]LockInfo{}
	for _, l := range locks {
		if _, ok := ends[l.Backup]; !ok && l.Backup != "" { // a copy may need several
			ends[l.Backup] = l
		}
	}
	lost := map[manifest.BackupID]string{}
	for _, l := range found {
		if known[l.id] || !l.manifest && !l.pin && !l.verified && !data[l.id] {
			continue
		}
		lock, ok := ends[l.id]
		switch {
		case ok && (lock.unfinished() || lock.Ended == endedMade): // the latter are looked at below
		case l.pin || l.verified:
			lost[l.id] = "it was pinned or verified"
		case l.manifest && !l.givenUp: // an empty record is what who gave it up has put
			lost[l.id] = "its manifest is there"
		}
	}
	for id, lock := range ends {
		if lock.Ended == endedMade && !known[id] {
			lost[id] = "its lock says that it was made"
		}
	}
	if len(lost) == 0 {
		return nil, nil
	}
	deleted, err := r.planned(ctx, instance, top, locks)
	if err != nil {
		return nil, err
	}
	for _, id := range deleted {
		delete(lost, id)
	}
	return lost, r.dropFound(ctx, instance, lost)
}

// unnamed returns the backups of which segments are stored that no record names.
func unnamed(stored map[SegmentID]int64, named ...map[SegmentID]bool) map[manifest.BackupID]bool {
	out := map[manifest.BackupID]bool{}
	for s := range stored {
		if !slices.ContainsFunc(named, func(set map[SegmentID]bool) bool { return set[s] }) {
			out[s.Backup] = true
		}
	}
	return out
}

// forget notes which of the lost backups stay, and which go because they are to be
// forgotten.
func (f *Freed) forget(lost map[manifest.BackupID]string, forget []manifest.BackupID) {
	for _, id := range slices.Sorted(maps.Keys(lost)) {
		if slices.Contains(forget, id) {
			f.Forgotten = append(f.Forgotten, id)
		} else {
			f.Lost = append(f.Lost, id)
		}
	}
}

// planned returns the backups that the plans of these locks delete.
func (r *Repo) planned(ctx context.Context, instance string, top int, locks []LockInfo) ([]manifest.BackupID, error) {
	plans := make([]*plan, len(locks))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	for i, l := range locks {
		if l.Backup != "" {
			continue
		}
		g.Go(func() error {
			p, err := r.readPlan(gctx, instance, top-i)
			if errors.Is(err, storage.ErrNotExist) {
				return nil
			}
			plans[i] = p
			return err
		})
	}
	var out []manifest.BackupID
	err := g.Wait()
	for _, p := range plans {
		if p != nil {
			out = slices.Concat(out, p.Backups, p.Manifests)
		}
	}
	return out, err
}

// dropFound takes those out of lost that have a record after all: the listing was
// late, or it was put since.
func (r *Repo) dropFound(ctx context.Context, instance string, lost map[manifest.BackupID]string) error {
	for _, id := range slices.Collect(maps.Keys(lost)) {
		info, err := r.store.Stat(ctx, backupKey(instance, id, recordName))
		switch {
		case errors.Is(err, storage.ErrNotExist):
		case err != nil:
			return fmt.Errorf("look for the record of %s: %w", id, err)
		case info.Size > 0:
			delete(lost, id)
		}
	}
	return nil
}
