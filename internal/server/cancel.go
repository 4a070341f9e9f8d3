package server

import (
	"context"
	"errors"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
)

// Cancellable reports whether a job can be ended before it is done: one that has not ended,
// and leaves nothing half done. What a backup has stored by then is taken up by the next
// one; of a restore test nothing stays; an instance in the making is one that failed, and
// can be deleted. A deletion or a restart that an agent may have begun goes on.
func Cancellable(j *job.Job) bool {
	switch j.Kind {
	case job.KindBackup, job.KindProve, job.KindCreate, job.KindAdopt:
		return !j.State.Ended()
	}
	return false
}

// CancelJob ends a job of the caller's project. Its agent stops when it next reports, which
// is within seconds. A backup that was completed meanwhile counts.
func (s *Server) CancelJob(ctx context.Context, who *access.Caller, id string) error {
	ctx = whole(ctx)
	k, err := s.jobs.read(ctx, id)
	if errors.Is(err, bus.ErrNotFound) || err == nil && !mine(who, k.doc.Project) {
		return notFound(id)
	}
	if err != nil {
		return err
	}
	switch {
	case k.doc.State.Ended():
		return refuse(Conflict, "Job %s has ended already: it is %s.", id, k.doc.State)
	case k.doc.Kind == job.KindRestore && k.doc.Spec.Part != nil:
		return refuse(Conflict, "Job %s is a step of the restore %s, which is cancelled as a whole.", id, k.doc.Spec.Part.Restore)
	case !Cancellable(k.doc):
		return refuse(Conflict, "Job %s is a %s, which can't be ended halfway.", id, k.doc.Kind)
	}
	return s.giveUp(ctx, id, job.Cancelled+who.User)
}
