package opened

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
)

// Shelf is what a caller may read of an instance, as this server would open it. The instance may be gone: its backups count.
func (s *Set) Shelf(ctx context.Context, who *access.Caller, instance string) (*states.Shelf, error) {
	list, err := s.readables(ctx, who, instance)
	if err != nil {
		return nil, err
	}
	if s.o.Most == 0 {
		return nil, refuse(server.Unsupported, "Contents can't be shown: this server opens no backups, as its setting serves is 0.")
	}
	token := sha256.Sum256([]byte(who.Token.Reveal())) // by which what is in his Swift account is read
	return &states.Shelf{Backups: list, Whose: hex.EncodeToString(token[:]),
		Open: func(ctx context.Context, b *job.Backup) (*repo.Repo, func(), error) { return s.o.Repo(ctx, who, b) }}, nil
}

// Looks is what this server has open for looks.
func (s *Set) Looks() *states.Set { return s.views }

// readables are the backups of an instance that the caller may read, the newest first; there is one.
func (s *Set) readables(ctx context.Context, who *access.Caller, instance string) ([]*job.Backup, error) {
	all, _ := s.o.Server.Backups(who, server.BackupFilter{Instance: instance, Limit: math.MaxInt32})
	var list []*job.Backup
	var first error
	for _, b := range all {
		if b.Instance != instance || !b.Status.Usable() {
			continue
		}
		ok, err := s.o.Server.Readable(ctx, who, b.ID)
		if err != nil {
			first = cmp.Or(first, err)
			continue
		}
		list = append(list, ok)
	}
	if len(list) == 0 {
		if _, err := s.o.Server.Instance(ctx, who, instance); err != nil {
			return nil, err
		}
		return nil, cmp.Or(first, refuse(server.Conflict, "There is no backup of this instance yet, so nothing can be looked at."))
	}
	slices.SortStableFunc(list, func(a, b *job.Backup) int { return startOf(b).Compare(startOf(a)) })
	return list, nil
}

func startOf(b *job.Backup) time.Time {
	if b.Started != nil {
		return *b.Started
	}
	return b.Created
}
