package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
)

// Sweep ends what a dead server left half done, and what an agent that doesn't come
// back left running. Any server may do it at any time, several at once too: each step
// is a change by revision, or one that may be repeated.
func (s *Server) Sweep(ctx context.Context) error {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	return errors.Join(s.sweepJobs(ctx), s.sweepHolds(ctx), s.sweepBackups(ctx), s.sweepPins(ctx), s.sweepSchedules(ctx), s.sweepRestores(ctx), s.sweepSets(ctx), s.sample(ctx))
}

// sweepJobs fails jobs whose agent is lost, forgets those that ended long ago, and puts
// those that nothing is heard of into the queue again, which changes nothing for one
// that is still in there: it was taken out if two processes ran as one agent, and the
// one whose claim didn't count was served it.
func (s *Server) sweepJobs(ctx context.Context) error {
	var lost, old, ended, quiet []*job.Job
	s.jobs.each(func(_ string, j *job.Job, ago time.Duration) bool {
		switch {
		case j.State.Ended():
			if ago > keepEnded {
				old = append(old, j)
			} else {
				ended = append(ended, j)
			}
		case s.lost(j, ago):
			lost = append(lost, j)
		case ago > acceptFor:
			quiet = append(quiet, j)
		}
		return true
	})
	if len(ended) > mostEnded {
		slices.SortFunc(ended, func(a, b *job.Job) int { return strings.Compare(a.ID, b.ID) })
		old = append(old, ended[:len(ended)-mostEnded]...)
	}
	var errs []error
	for _, j := range lost {
		errs = append(errs, s.giveUp(ctx, j.ID, "its agent has not been heard of since "+j.Updated.Format(time.RFC3339)))
	}
	for _, j := range old {
		errs = append(errs, s.jobs.remove(ctx, j.ID))
	}
	if now := s.cfg.Watch(); s.requeued == 0 || now-s.requeued > acceptFor {
		s.requeued = now
		for _, j := range quiet {
			errs = append(errs, s.cfg.Bus.Enqueue(ctx, j.Agent, j.ID))
		}
	}
	return errors.Join(errs...)
}

// lost reports whether the agent is gone of a job that last changed so long ago, or silent
// for so long that nobody waits for it any more. That is by this server's watch: a clock
// that is set by hours ends no job.
func (s *Server) lost(j *job.Job, ago time.Duration) bool {
	if s.agents.have(j.Agent) == nil {
		return ago > acceptFor
	}
	if p := j.Spec.Part; p != nil && p.Step == job.StepUndo { // nobody waits for it, and what it is to take away stays until it is done
		return false
	}
	return ago > s.cfg.Lost && s.live.silent(j.Agent) > s.cfg.Lost
}

// sweepHolds frees instances from jobs that were never stored or are gone.
func (s *Server) sweepHolds(ctx context.Context) error {
	var held []*job.Instance
	now := s.now()
	s.instances.each(func(_ string, i *job.Instance, ago time.Duration) bool {
		if i.Job != "" && ago > acceptFor && s.seemsOver(i.Job) {
			held = append(held, i)
		}
		return true
	})
	var errs []error
	for _, i := range held {
		if over, err := s.over(ctx, i.Job); err != nil || !over {
			errs = append(errs, err)
			continue
		}
		s.log.WarnContext(ctx, "an instance was held by a job that isn't there", "instance", i.ID, "job", i.Job)
		errs = append(errs, s.free(ctx, &job.Job{ID: i.Job, Instance: i.ID}, func(i *job.Instance) {
			switch i.Status {
			case job.InstanceBuild:
				i.Status, i.Fault = job.InstanceFailed, &job.Fault{Message: "the server died before the job was handed to an agent", Created: now}
			case job.InstanceShutdown:
				i.Status, i.Fault = job.InstanceError, &job.Fault{Message: "the server died before the job was handed to an agent: delete it again", Created: now}
			}
		}))
	}
	return errors.Join(errs...)
}

// seemsOver reports whether nothing more will come of a job, as far as is known here.
func (s *Server) seemsOver(id string) bool {
	j := s.jobs.have(id)
	return j == nil || j.State.Ended()
}

// over is seemsOver by the table, since this server may not have heard of a job yet.
func (s *Server) over(ctx context.Context, id string) (bool, error) {
	if id == "" {
		return true, nil
	}
	k, err := s.jobs.read(ctx, id)
	if errors.Is(err, bus.ErrNotFound) {
		return true, nil
	}
	return err == nil && k.doc.State.Ended(), err
}

// sweepBackups fails backups that no job makes, and goes on with deletions that no job
// does.
func (s *Server) sweepBackups(ctx context.Context) error {
	var stuck []*job.Backup
	now := s.now()
	s.backups.each(func(_ string, b *job.Backup, ago time.Duration) bool {
		if (b.Status.Running() || b.Status == job.BackupDeleting) && ago > acceptFor && s.seemsOver(b.Job) {
			stuck = append(stuck, b)
		}
		return true
	})
	var errs []error
	for _, b := range stuck {
		was := b.Job
		if over, err := s.over(ctx, b.Job); err != nil || !over {
			errs = append(errs, err)
			continue
		}
		_, err := s.backups.update(ctx, b.ID, func(b *job.Backup) error {
			switch {
			case b.Job != was:
				return errSame // it has another job by now
			case b.Status.Running():
				b.Status, b.Fault, b.RepoID = job.BackupFailed, "the server died before the job was handed to an agent", ""
			case b.Status == job.BackupDeleting:
				b.Status, b.Fault = job.BackupDeleteFailed, "the server died before the job was handed to an agent: delete it again"
			default:
				return errSame
			}
			b.Job, b.Updated = "", now
			return nil
		})
		if !errors.Is(err, bus.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sweepSchedules removes the schedules of instances that are gone.
func (s *Server) sweepSchedules(ctx context.Context) error {
	gone := map[string]bool{}
	s.schedules.all(func(_ string, c *job.Schedule) bool {
		if c.Instance != "" && s.instances.have(c.Instance) == nil {
			gone[c.Instance] = true
		}
		return true
	})
	var errs []error
	for id := range gone {
		if _, err := s.instances.read(ctx, id); errors.Is(err, bus.ErrNotFound) { // not only unheard of
			errs = append(errs, s.dropSchedules(ctx, &access.Caller{}, id))
		} else {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
