package repo

import (
	"context"
	"maps"
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
	UpdateSeq, PurgeSeq uint64
	UUID                string
}

// Timeline reads what backups and ticks say of a database: records, indexes, and the manifests of all backups, but no files.
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
				now.Shards[path] = ShardState{x.seq, x.purge, x.uuid}
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

// Open makes the manifest of a state.
func (t *Timeline) Open(ctx context.Context, s *DatabaseState) (*manifest.Manifest, error) {
	m, _, err := t.s.open(ctx, s.event)
	return m, err
}
