package server

import (
	"context"
	"errors"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/words"
)

// A pin is a mark in the repository, which an agent sets and takes away. From the request on until its job has ended, the
// backup is held: nothing of the service deletes it. Pins that others made come with the reports of agents: with that of each
// backup all of its instance's, with that of a deletion which is refused the one that refuses it.

// mostReason is how many characters a reason may have.
const mostReason = 200

// Pin begins to pin a backup in its repository, for a reason, and returns the id of its job. One that is pinned already gets
// the new reason.
func (s *Server) Pin(ctx context.Context, who *access.Caller, id, reason string) (string, error) {
	if !words.IsName(reason, mostReason) {
		return "", refuse(Invalid, "Say why, in one line of 1 to %d characters: who finds the pin in a year wants to know.", mostReason)
	}
	return s.changePin(ctx, who, id, job.KindPin, &job.Pin{Reason: reason, Since: s.now().UTC()})
}

// Unpin begins to take a backup's pin away, and returns the id of its job. It is no error if there is none.
func (s *Server) Unpin(ctx context.Context, who *access.Caller, id string) (string, error) {
	return s.changePin(ctx, who, id, job.KindUnpin, nil)
}

func (s *Server) changePin(ctx context.Context, who *access.Caller, id string, kind job.Kind, pin *job.Pin) (string, error) {
	ctx = whole(ctx)
	b, err := s.usable(ctx, who, id)
	if err != nil {
		return "", err
	}
	var secrets job.Secrets
	if err := s.reach(ctx, who, &b.Repository, &secrets); err != nil {
		return "", err
	}
	agent := s.removerOf(b)
	if agent == nil && b.Status.Usable() {
		return "", refuse(Busy, "Backup %s can't be pinned or unpinned now: no agent has its repository.", b.ID)
	}
	j := &job.Job{ID: newID(), Kind: kind, Project: b.Project, Backup: b.ID, By: who.User,
		Spec: job.Spec{RepoName: b.RepoName, RepoID: b.RepoID, Repository: b.Repository, Name: b.Name, Pin: pin}}
	if agent != nil {
		j.Agent = agent.ID
		if j.Spec.Sealed, err = seal(agent, secrets); err != nil {
			return "", err
		}
	}
	_, err = s.backups.update(ctx, b.ID, func(b *job.Backup) error {
		switch {
		case !b.Status.Usable():
			return refuse(Conflict, "Backup %s is %s: only a completed one can be pinned.", b.ID, b.Status)
		case b.Pinning != "":
			return beingPinned(b)
		}
		b.Pinning = j.ID
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return "", notFound(id)
	}
	if err != nil {
		return "", err
	}
	if err := s.enqueue(ctx, j); err != nil {
		if !errors.Is(err, errOpen) {
			err = errors.Join(err, s.endPin(ctx, j, job.Report{State: job.Failed}))
		}
		return "", err
	}
	return j.ID, nil
}

func beingPinned(b *job.Backup) error {
	return refuse(Busy, "Backup %s is being pinned or unpinned: try again when the job %s has ended.", b.ID, b.Pinning)
}

// unheld refuses what would delete a backup that is pinned, or may be.
func unheld(b *job.Backup) error {
	switch {
	case b.Pin != nil:
		return refuse(Conflict, "Backup %s is pinned and stays: %s. If it shall go, unpin it first: \"slipcover unpin %s\".", b.ID, b.Pin.Reason, b.ID)
	case b.Held():
		return beingPinned(b)
	}
	return nil
}

// endPin takes in what became of a pin. A job that failed leaves it as it is known to be.
func (s *Server) endPin(ctx context.Context, j *job.Job, r job.Report) error {
	of := s.backups.have(j.Backup)
	if of == nil {
		return nil
	}
	for _, b := range append(s.sameStored(of), of) {
		_, err := s.backups.update(ctx, b.ID, func(b *job.Backup) error {
			if b.Pinning != j.ID && r.State != job.Done {
				return errSame
			}
			if b.Pinning == j.ID {
				b.Pinning = ""
			}
			if r.State == job.Done {
				setPin(b, j.Spec.Pin)
			}
			return nil
		})
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return err
		}
	}
	return nil
}

// notePins takes in which backups of an instance its agent found pinned in the repository, when it had made one. A pin that is
// younger than that job was not there to be found, perhaps.
func (s *Server) notePins(ctx context.Context, j *job.Job, r job.Report) error {
	if r.Pins == nil || r.Repository == nil {
		return nil
	}
	var changed []*job.Backup
	s.backups.mu.RLock()
	for _, b := range s.index.of[j.Instance] {
		pin, there := r.Pins[b.RepoID]
		mine := b.RepoID != "" && b.RepoName == j.Spec.RepoName && b.Repository.Storage == j.Spec.Repository.Storage && b.Repository.ID == r.Repository.ID
		switch {
		case !mine || b.Pinning != "" || !b.Status.Usable():
		case there && (b.Pin == nil || b.Pin.Reason != pin.Reason), !there && b.Pin != nil && b.Pin.Since.Before(j.Created):
			changed = append(changed, b)
		}
	}
	s.backups.mu.RUnlock()
	for _, b := range changed {
		_, err := s.backups.update(ctx, b.ID, func(now *job.Backup) error {
			if now.Pinning != "" {
				return errSame
			}
			pin, there := r.Pins[b.RepoID]
			if setPin(now, nil); there {
				setPin(now, &pin)
			}
			return nil
		})
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return err
		}
	}
	return nil
}

// setPin notes how a backup is pinned. Without a pin it says no longer that it was refused to be deleted for one.
func setPin(b *job.Backup, pin *job.Pin) {
	b.Pin = pin
	if pin == nil && b.Status.Usable() {
		b.Fault = ""
	}
}

// sweepPins lets go of backups that a dead server held for a job which it never stored.
func (s *Server) sweepPins(ctx context.Context) error {
	var stuck []*job.Backup
	s.backups.each(func(_ string, b *job.Backup, ago time.Duration) bool {
		if b.Pinning != "" && ago > acceptFor && s.seemsOver(b.Pinning) {
			stuck = append(stuck, b)
		}
		return true
	})
	var errs []error
	for _, b := range stuck {
		over, err := s.over(ctx, b.Pinning)
		if err == nil && over {
			err = s.endPin(ctx, &job.Job{ID: b.Pinning, Backup: b.ID}, job.Report{State: job.Failed})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
