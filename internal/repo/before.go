package repo

import (
	"context"
	"errors"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// purposeCopy is the purpose of a lock under which a backup is copied here.
const purposeCopy = "copy"

// Before returns the record of the newest backup of the instance that was made under
// a lock before l, by whomever; nil if there is none, or if that is mine, the backup
// that the caller knows of. Locks are numbered, so no clock has a say, and they are
// few: it mostly takes two requests.
//
// What was copied here counts only for who knows of no backup: it may be older than
// what was made here. Records that are damaged or not to be trusted are passed over.
func (l *Lock) Before(ctx context.Context, mine manifest.BackupID) (*manifest.Record, error) {
	return l.repo.madeBefore(ctx, l.instance, l.n, mine)
}

// LastMade returns the record of the newest backup of an instance, as Before does for who
// knows of none and holds no lock.
func (r *Repo) LastMade(ctx context.Context, instance string) (*manifest.Record, error) {
	top, err := r.topLock(ctx, instance)
	if err != nil {
		return nil, err
	}
	return r.madeBefore(ctx, instance, top+1, "")
}

func (r *Repo) madeBefore(ctx context.Context, instance string, below int, mine manifest.BackupID) (*manifest.Record, error) {
	for n := below - 1; n > 0 && n >= below-keptLocks; n-- {
		info, err := r.readLock(ctx, instance, n)
		if errors.Is(err, storage.ErrNotExist) {
			return nil, nil // removed with all below it
		}
		if err != nil {
			return nil, err
		}
		switch {
		case info.Backup == mine && mine != "":
			return nil, nil
		case !info.Backup.Valid() || info.Purpose == purposeCopy && mine != "":
			continue
		}
		rec, err := r.Record(ctx, instance, info.Backup)
		switch {
		case err == nil:
			return rec, nil
		case !errors.Is(err, ErrNoBackup) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrSignature) && !errors.Is(err, ErrFormat):
			return nil, err
		}
	}
	return nil, nil
}
