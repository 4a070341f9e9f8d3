package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// Freed says what a deletion removed.
type Freed struct {
	Segments int   `json:"segments"`
	Bytes    int64 `json:"bytes"`
	// Kept counts segments that other backups need.
	Kept int `json:"kept"`
}

// Delete deletes the backup id, and the segments that no other backup of the
// instance needs. Deletions that a crash interrupted are finished first. If
// another record of the instance can't be read, nothing is deleted, since what it
// needs can't be known.
func (r *Repo) Delete(ctx context.Context, lock *Lock, id manifest.BackupID) (Freed, error) {
	if err := r.finishDeletes(ctx, lock); err != nil {
		return Freed{}, err
	}
	if _, err := r.readRecord(ctx, lock.instance, id); err != nil {
		if errors.Is(err, storage.ErrNotExist) {
			err = fmt.Errorf("%w: %s", ErrNoBackup, id)
		}
		return Freed{}, err
	}
	if _, err := r.survivors(ctx, lock.instance, id); err != nil {
		return Freed{}, err
	}
	if err := lock.Check(ctx); err != nil {
		return Freed{}, err
	}
	if err := r.store.Put(ctx, backupKey(lock.instance, id, markName), bytes.NewReader(nil), storage.PutOptions{}); err != nil {
		return Freed{}, fmt.Errorf("mark %s for deletion: %w", id, err)
	}
	return r.finishDelete(ctx, lock, id)
}

// finishDeletes ends deletions of the instance that were begun.
func (r *Repo) finishDeletes(ctx context.Context, lock *Lock) error {
	found, err := r.listBackups(ctx, lock.instance)
	if err != nil {
		return err
	}
	for _, l := range found {
		if !l.deleting {
			continue
		}
		if _, err := r.finishDelete(ctx, lock, l.id); err != nil {
			return fmt.Errorf("finish the deletion of %s: %w", l.id, err)
		}
	}
	return nil
}

// finishDelete does the steps after the mark; each finds out itself what is left.
func (r *Repo) finishDelete(ctx context.Context, lock *Lock, id manifest.BackupID) (Freed, error) {
	instance := lock.instance
	freed, err := r.deleteSegments(ctx, lock, id)
	if err != nil {
		return freed, err
	}
	for _, key := range []storage.Key{r.manifestKey(instance, id), backupKey(instance, id, recordName), backupKey(instance, id, markName)} {
		if err := r.store.Delete(ctx, key); err != nil {
			return freed, err
		}
	}
	return freed, nil
}

func (r *Repo) deleteSegments(ctx context.Context, lock *Lock, id manifest.BackupID) (Freed, error) {
	var freed Freed
	rec, err := r.readRecord(ctx, lock.instance, id)
	if errors.Is(err, storage.ErrNotExist) {
		return freed, nil // the record goes after the segments
	}
	if err != nil {
		return freed, err
	}
	needed, err := r.survivors(ctx, lock.instance, id)
	if err != nil {
		return freed, err
	}
	stored, err := r.Segments(ctx, lock.instance)
	if err != nil {
		return freed, err
	}
	for _, s := range expand(rec.Segments) {
		size, ok := stored[s]
		if !ok {
			continue
		}
		if needed[s] {
			freed.Kept++
			continue
		}
		if freed.Segments%100 == 0 {
			if err := lock.Check(ctx); err != nil {
				return freed, err
			}
		}
		if err := r.store.Delete(ctx, r.segmentKey(lock.instance, s.Backup, s.N)); err != nil {
			return freed, err
		}
		freed.Segments++
		freed.Bytes += size
	}
	return freed, nil
}

// survivors returns the segments that backups other than id need.
func (r *Repo) survivors(ctx context.Context, instance string, id manifest.BackupID) (map[SegmentID]bool, error) {
	recs, bad, err := r.List(ctx, instance)
	if err != nil {
		return nil, err
	}
	for _, b := range bad {
		if b.ID != id {
			return nil, fmt.Errorf("nothing is deleted, since it can't be known which segments this backup needs: %w", b.Err)
		}
	}
	needed := map[SegmentID]bool{}
	for _, rec := range recs {
		if rec.ID == id {
			continue
		}
		for _, s := range expand(rec.Segments) {
			needed[s] = true
		}
	}
	return needed, nil
}

// expand lists the segments of a record one by one.
func expand(refs map[manifest.BackupID][]manifest.Range) []SegmentID {
	var out []SegmentID
	for id, ranges := range refs {
		for _, g := range ranges {
			for n := g[0]; n <= g[1]; n++ {
				out = append(out, SegmentID{id, n})
			}
		}
	}
	return out
}
