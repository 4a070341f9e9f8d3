package server

import (
	"context"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
)

// RunSchedule begins a backup of a schedule's instance now, named after the schedule. It is
// one by hand: the schedule's retention leaves it alone.
func (s *Server) RunSchedule(ctx context.Context, who *access.Caller, id string) (*job.Backup, error) {
	c, err := s.Schedule(ctx, who, id)
	if err != nil {
		return nil, err
	}
	return s.CreateBackup(ctx, who, NewBackup{Name: c.Name + " " + s.now().Format("2006-01-02 15:04"), Instance: c.Instance, Description: "asked for by " + who.User})
}
