package repo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
)

// Timeline is what can be had back of one database: all its states that backups and ticks have.
type Timeline struct {
	States []DatabaseState // in their order; those that are as the one before are left out, but for backups
	s      *seeker
}

// DatabaseState is a database as a backup or tick has it.
type DatabaseState struct {
	At     time.Time        // all that a server had acknowledged before is in it
	Backup *manifest.Record // nil of a tick
	Shards map[string]ShardState

	event int
}

// ShardState is the commit of a shard that a state has.
type ShardState struct {
	UpdateSeq, PurgeSeq, CompactedSeq uint64
	UUID                              string
	// Generation names the physical file: of two commits with the same the file up to the later one
	// begins with the file up to the other. One file may have two names.
	Generation string
}

// Timeline reads what backups and ticks say of a database: records, indexes, and of the manifests of all backups what
// is of the database, but no files.
// It returns ErrNoMoment if there is no backup.
func (r *Repo) Timeline(ctx context.Context, instance, db string) (*Timeline, error) {
	s := &seeker{repo: r, instance: instance, want: Commit{DB: db}, manifests: map[int]map[string]seenShard{}}
	var err error
	if s.h, err = r.history(ctx, instance, reading{lean: true, keep: s.keep}); err != nil {
		return nil, err
	}
	if _, err := s.h.newest(time.Time{}); err != nil && len(s.h.Backups) == 0 {
		return nil, err
	}
	if err := s.readAll(ctx); err != nil {
		return nil, err
	}
	t, usable := &Timeline{s: s}, s.h.usable()
	for i := range s.h.events {
		if s.h.events[i].backup < 0 {
			continue // told with the backup before it
		}
		err := s.each(ctx, i, func(k int, e *event, shards map[string]seenShard) {
			if k < i || !usable[k] {
				return
			}
			now := DatabaseState{At: e.at, Shards: make(map[string]ShardState, len(shards)), event: k}
			for path, x := range shards {
				now.Shards[path] = ShardState{x.seq, x.purge, x.compacted, x.uuid, x.generation}
			}
			if e.backup >= 0 {
				now.Backup = s.h.Backups[e.backup]
			} else if n := len(t.States); n > 0 && maps.Equal(t.States[n-1].Shards, now.Shards) {
				return
			}
			t.States = append(t.States, now)
		})
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Shard opens the file of a shard as a state has it, by its path. Close must be called of both.
func (t *Timeline) Shard(ctx context.Context, s *DatabaseState, path string) (*Reader, *Database, error) {
	m, err := t.manifest(ctx, s, path)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(m.Files, func(f *manifest.File) bool { return f.Root == manifest.DataRoot && f.Path == path })
	if i < 0 {
		return nil, nil, fmt.Errorf("%w: %s has no %s", ErrCorrupt, m.ID, path)
	}
	rd := t.s.repo.NewSharing(m)
	d, err := rd.Database(ctx, m.Files[i])
	if err != nil {
		rd.Close()
		return nil, nil, err
	}
	return rd, d, nil
}

// manifest makes the manifest of a state, of a backup no more than a path of it.
func (t *Timeline) manifest(ctx context.Context, s *DatabaseState, path string) (*manifest.Manifest, error) {
	if s.Backup == nil {
		m, _, err := t.s.open(ctx, s.event)
		return m, err
	}
	part := partOfDatabase(DatabaseName(path))
	wanted := part.Wanted
	part.Stored, part.Wanted = true, func(f *manifest.File) bool { return f.Path == path && wanted(f) }
	return t.s.repo.partOf(ctx, s.Backup, part)
}
