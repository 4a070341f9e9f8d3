package repo

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/storage"
)

// Backups are in the order of package newest. For a new one that takes the highest
// order of all that the repository has, or had, of the instance. Locks hand it on: who
// takes the lock reads the one below anyway, and adds the backup that it makes or
// copies. One that its holder could not write any more is not released, so its backup
// is read when it is settled.

// OrderOf returns what package newest puts a backup in order by.
func OrderOf(rec *manifest.Record) newest.Backup {
	return newest.Backup{ID: string(rec.ID), Parent: string(rec.Parent), Order: rec.Order, Time: rec.Started}
}

// knownOrder returns the highest order that is known when the lock above last is taken.
// Where last doesn't tell it, who makes a backup reads all records: that is, once for
// each instance, and after an earlier version has had the lock.
func (r *Repo) knownOrder(ctx context.Context, instance string, top int, last LockInfo, backup manifest.BackupID) (int64, error) {
	if last.Order > 0 && last.Order <= newest.Most || backup == "" {
		return last.Order, nil
	}
	found, _, _, err := r.allBackups(ctx, instance, top, nil)
	if err != nil {
		return 0, err
	}
	recs, _, err := r.readRecords(ctx, found)
	if err != nil {
		return 0, err
	}
	var list []newest.Backup
	for _, rec := range recs {
		list = append(list, OrderOf(rec))
	}
	var highest int64
	for _, order := range newest.Orders(list) {
		highest = max(highest, order)
	}
	return highest, nil
}

// knows makes the lock tell the order of a backup, if that is the highest, and returns
// the highest. There may be none.
func (l *Lock) knows(rec *manifest.Record) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rec != nil {
		b := OrderOf(rec)
		l.order = max(l.order, b.Own())
	}
	return l.order
}

// nextOrder returns the order of the backup that the holder makes, of which parent may
// be nil.
func (l *Lock) nextOrder(parent *manifest.Record, started time.Time) int64 {
	return newest.Next(l.knows(parent), started)
}

// MadeSince returns the backups of an instance that were made, or copied here, after the
// newest one that has tells of, oldest first. It asks the newest locks for that, so it
// costs a few requests where there are a few; ok is false if they don't go back so far.
func (r *Repo) MadeSince(ctx context.Context, instance string, has func(manifest.BackupID) bool) (recs []*manifest.Record, ok bool, err error) {
	top, err := r.topLock(ctx, instance)
	if err != nil {
		return nil, false, err
	}
	for n := top; n > max(0, top-keptLocks); n-- {
		info, err := r.readLock(ctx, instance, n)
		if errors.Is(err, storage.ErrNotExist) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		if has(info.Backup) {
			newest.Sort(recs, OrderOf)
			return recs, true, nil
		}
		if !info.Backup.Valid() || slices.ContainsFunc(recs, func(rec *manifest.Record) bool { return rec.ID == info.Backup }) {
			continue
		}
		rec, err := r.Record(ctx, instance, info.Backup)
		if errors.Is(err, ErrNoBackup) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		recs = append(recs, rec)
	}
	return nil, false, nil
}
