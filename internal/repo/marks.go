package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// Marks stand beside a backup's record, say something about it that was not known
// when it was made, and are not signed: the most that a wrong one can do is to keep
// a backup, or to let retention remove one.
const (
	pinName      = "pin.json"
	verifiedName = "verified.json"
)

// Pin keeps a backup from every deletion.
type Pin struct {
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// Verified says that a backup was read whole, as for a restore, and was sound.
type Verified struct {
	At   time.Time `json:"at"`
	Tool string    `json:"tool"` // "slipcover 0.1.0"
}

// Marks are the marks of a backup; nil where there is none.
type Marks struct {
	Pin      *Pin      `json:"pin,omitempty"`
	Verified *Verified `json:"verified,omitempty"`
}

// Pin pins a backup. The caller holds lock, so that no deletion passes by.
func (r *Repo) Pin(ctx context.Context, lock *Lock, id manifest.BackupID, pin Pin) error {
	if _, err := r.Record(ctx, lock.instance, id); err != nil {
		return err
	}
	if err := lock.Check(ctx); err != nil {
		return err
	}
	return r.putMark(ctx, lock.instance, id, pinName, pin)
}

// Unpin removes a pin; that there was none is not an error.
func (r *Repo) Unpin(ctx context.Context, lock *Lock, id manifest.BackupID) error {
	if _, err := r.Record(ctx, lock.instance, id); err != nil {
		return err
	}
	return r.store.Delete(ctx, backupKey(lock.instance, id, pinName))
}

// Pinned returns the pin of a backup, nil if it has none.
func (r *Repo) Pinned(ctx context.Context, instance string, id manifest.BackupID) (*Pin, error) {
	return readMark[Pin](ctx, r, instance, id, pinName)
}

// MarkVerified notes that the backup was verified.
func (r *Repo) MarkVerified(ctx context.Context, rec *manifest.Record, v Verified) error {
	return r.putMark(ctx, rec.Instance, rec.ID, verifiedName, v)
}

func (r *Repo) putMark(ctx context.Context, instance string, id manifest.BackupID, name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) >= maxMark {
		return fmt.Errorf("mark %s: a reason of that length can't be stored: at most %d bytes", id, maxMark/2)
	}
	if err := r.store.Put(ctx, backupKey(instance, id, name), bytes.NewReader(append(text, '\n')), storage.PutOptions{}); err != nil {
		return fmt.Errorf("mark %s: %w", id, err)
	}
	return nil
}

// readMark reads a mark. One that doesn't parse, or is too large to, counts as one that says nothing.
func readMark[T any](ctx context.Context, r *Repo, instance string, id manifest.BackupID, name string) (*T, error) {
	b, err := readObject(ctx, r.store, backupKey(instance, id, name), maxMark)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil
	}
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return nil, err
	}
	v := new(T)
	_ = json.Unmarshal(b, v)
	return v, nil
}

// Marks returns the marks of an instance's backups, or of all for "". A backup
// without any is not in the map.
func (r *Repo) Marks(ctx context.Context, instance string) (map[manifest.BackupID]Marks, error) {
	found, err := r.listBackups(ctx, instance)
	if err != nil {
		return nil, err
	}
	marks := make([]Marks, len(found))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	for i, l := range found {
		if l.pin {
			g.Go(func() (err error) {
				marks[i].Pin, err = r.Pinned(ctx, l.instance, l.id)
				return err
			})
		}
		if l.verified {
			g.Go(func() (err error) {
				marks[i].Verified, err = readMark[Verified](ctx, r, l.instance, l.id, verifiedName)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := map[manifest.BackupID]Marks{}
	for i, l := range found {
		if marks[i] != (Marks{}) {
			out[l.id] = marks[i]
		}
	}
	return out, nil
}

// Pins returns the pins of an instance's backups, which are fewer objects to read than all marks.
func (r *Repo) Pins(ctx context.Context, instance string) (map[manifest.BackupID]*Pin, error) {
	found, err := r.listBackups(ctx, instance)
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(l listing) bool { return !l.pin })
	pins := make([]*Pin, len(found))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	for i, l := range found {
		g.Go(func() (err error) {
			pins[i], err = r.Pinned(ctx, l.instance, l.id)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := map[manifest.BackupID]*Pin{}
	for i, l := range found {
		if pins[i] != nil {
			out[l.id] = pins[i]
		}
	}
	return out, nil
}
