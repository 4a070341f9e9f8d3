package repo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// HeldLock is the newest lock of an instance.
type HeldLock struct {
	Instance string
	Number   int
	LockInfo
	// Silent says that its holder showed no sign of life for so long that the next
	// who wants the lock waits, watches it, and takes it over.
	Silent bool
}

// Locks returns the locks that somebody holds, or seems to hold, by instance: of one
// instance, or of all for "".
func (r *Repo) Locks(ctx context.Context, instance string) ([]HeldLock, error) {
	instances := []string{instance}
	if instance == "" {
		var err error
		if instances, err = r.lockedOnce(ctx); err != nil {
			return nil, err
		}
	}
	var out []HeldLock
	for _, instance := range instances {
		l, state, err := r.newestLock(ctx, instance)
		if err != nil {
			return nil, err
		}
		if state != free {
			l.Silent = state == silent
			out = append(out, l)
		}
	}
	return out, nil
}

// lockedOnce lists the instances that have locks, released ones too, sorted.
func (r *Repo) lockedOnce(ctx context.Context) ([]string, error) {
	const prefix = "locks/"
	seen := map[string]bool{}
	err := r.store.List(ctx, prefix, func(i storage.Info) error {
		name, file, _ := strings.Cut(strings.TrimPrefix(string(i.Key), prefix), "/")
		if _, err := strconv.Atoi(strings.TrimSuffix(file, ".json")); err == nil && manifest.ValidInstance(name) {
			seen[name] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list locks: %w", err)
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

func (r *Repo) newestLock(ctx context.Context, instance string) (HeldLock, presence, error) {
	top, err := r.topLock(ctx, instance)
	if err != nil || top == 0 {
		return HeldLock{}, free, err
	}
	info, err := r.readLock(ctx, instance, top)
	if err != nil {
		return HeldLock{}, free, fmt.Errorf("read the lock of instance %s: %w", instance, err)
	}
	return HeldLock{Instance: instance, Number: top, LockInfo: info}, r.holder(info), nil
}

// FreeLock ends the lock of an instance without waiting for its holder, and returns
// it; nil if nobody held it. The backup that the holder was making can't be committed
// any more, a deletion that it had planned is ended here: so no data is at stake, even
// if the holder lives. One that was renewed of late is freed only with force;
// otherwise it is ErrLocked.
func (r *Repo) FreeLock(ctx context.Context, instance string, force bool) (*HeldLock, error) {
	l, state, err := r.newestLock(ctx, instance)
	switch {
	case err != nil || state == free:
		return nil, err
	case state == busy && !force:
		return nil, l.locked()
	}
	lock, err := r.takeLock(ctx, instance, l.Number, l.LockInfo, "takeover", "")
	if err != nil {
		return nil, err
	}
	return &l, lock.End(ctx)
}
