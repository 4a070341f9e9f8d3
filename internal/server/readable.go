package server

import (
	"context"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
)

// Readable returns a backup of the caller's project that can be restored, and so be read, from a place that the caller can
// reach.
func (s *Server) Readable(ctx context.Context, who *access.Caller, id string) (*job.Backup, error) {
	b, err := s.usable(ctx, who, id)
	if err != nil {
		return nil, err
	}
	if !b.Status.Usable() {
		return nil, refuse(Conflict, "Backup %s is %s: only a completed one can be opened.", b.ID, b.Status)
	}
	if !reaches(who, &b.Repository) {
		return nil, refuse(Invalid, "The backup is in the Swift account of project %s: ask with a token of that project.", who.Project)
	}
	return b, nil
}

// IsReadable reports whether a backup that could be read still can, as far as the catalog knows.
func (s *Server) IsReadable(b *job.Backup) bool {
	now := s.backups.have(b.ID)
	return now != nil && now.Project == b.Project && now.Status.Usable()
}
