package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// Incomplete returns those of an instance's backups, by their records, of which
// something that is needed to restore them isn't stored, or not in its size, each with
// what. It goes by listings, and asks for what these don't show, since they may be late.
// It reads no data: what has its size and other bytes a check finds, with ReadData.
func (r *Repo) Incomplete(ctx context.Context, instance string, recs []*manifest.Record) (map[manifest.BackupID]string, error) {
	if len(recs) == 0 {
		return nil, nil
	}
	found, err := r.listBackups(ctx, instance)
	if err != nil {
		return nil, err
	}
	i := &inventory{repo: r, instance: instance, manifests: map[manifest.BackupID]int64{}, gone: map[SegmentID]bool{}}
	for _, l := range found {
		if l.manifest {
			i.manifests[l.id] = l.size
		}
	}
	if i.segments, err = r.storedOf(ctx, instance, recs...); err != nil {
		return nil, err
	}
	out := map[manifest.BackupID]string{}
	for _, rec := range recs {
		what, err := i.manifest(ctx, rec)
		if err == nil && what == "" {
			what, err = i.data(ctx, rec)
		}
		if err != nil {
			return nil, err
		}
		if what != "" {
			out[rec.ID] = what
		}
	}
	return out, nil
}

// inventory is what is stored for an instance.
type inventory struct {
	repo      *Repo
	instance  string
	manifests map[manifest.BackupID]int64 // the sizes of their objects
	segments  map[SegmentID]int64
	gone      map[SegmentID]bool // asked for, and not stored
}

// manifest says what is wrong with the object of rec's manifest, "" if nothing is.
func (i *inventory) manifest(ctx context.Context, rec *manifest.Record) (string, error) {
	if size, ok := i.manifests[rec.ID]; ok && size == rec.ManifestSize {
		return "", nil
	}
	info, err := i.repo.store.Stat(ctx, i.repo.manifestKey(i.instance, rec.ID))
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return "its manifest is missing", nil
	case err != nil:
		return "", fmt.Errorf("look for the manifest of %s: %w", rec.ID, err)
	case info.Size != rec.ManifestSize:
		return fmt.Sprintf("its manifest has %d bytes, not %d", info.Size, rec.ManifestSize), nil
	}
	return "", nil
}

// data says what is wrong with rec's segments, "" if nothing is.
func (i *inventory) data(ctx context.Context, rec *manifest.Record) (string, error) {
	const missing = "segments of it are missing"
	list := presentOf(rec, i.segments)
	switch n := rec.Counts().Segments - int64(len(list)); {
	case n > maxUnlisted:
		return missing, nil
	case n > 0:
		if all, err := i.ask(ctx, rec); err != nil || !all {
			return missing, err
		}
		list = presentOf(rec, i.segments)
	}
	var bytes int64
	for _, s := range list {
		size := i.segments[s]
		if size < i.repo.leastSegment() {
			return fmt.Sprintf("its segment %s has %d bytes, less than any", s, size), nil
		}
		bytes += size
	}
	if rec.SegmentSizes != "" && bytes != rec.SegmentBytes { // earlier versions didn't record them
		return fmt.Sprintf("its segments have %d bytes together, not %d", bytes, rec.SegmentBytes), nil
	}
	return "", nil
}

// ask asks for the segments of rec that the listing didn't show, until one is missing.
func (i *inventory) ask(ctx context.Context, rec *manifest.Record) (all bool, err error) {
	for s := range eachOf(rec) {
		if i.gone[s] {
			return false, nil
		}
		if _, ok := i.segments[s]; ok {
			continue
		}
		info, err := i.repo.store.Stat(ctx, i.repo.keyOf(i.instance, s))
		if errors.Is(err, storage.ErrNotExist) {
			i.gone[s] = true
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look for segments: %w", err)
		}
		i.segments[s] = info.Size
	}
	return true, nil
}
