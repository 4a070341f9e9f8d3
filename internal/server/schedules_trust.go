package server

import (
	"context"
	"errors"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
)

// A scheduled backup has no caller. With Config.Keystone, whoever makes a schedule lets
// the server's service user act for him, by a trust that the schedule keeps the id of. The
// trust is made first: a server that dies in between leaves one that nobody uses.

// giveTrust makes the trust of a caller's schedule; "" if his backups don't go to an
// account of his.
func (s *Server) giveTrust(ctx context.Context, who *access.Caller) (string, error) {
	if s.cfg.Keystone == nil || who.Token == "" {
		return "", nil
	}
	if who.SwiftURL == "" {
		return "", noStore(who)
	}
	id, err := s.cfg.Keystone.Trust(ctx, who)
	switch {
	case errors.Is(err, access.ErrNoSwiftRole):
		return "", s.noSwiftRole(who, err)
	case errors.Is(err, access.ErrForbidden):
		return "", &Error{Kind: Forbidden, Message: "A schedule acts later for whoever makes it, by a trust of Keystone's, and Keystone lets this token give none: " +
			"log in with a user's name and password, not with an application credential or a trust.", Cause: err}
	case errors.Is(err, access.ErrUnavailable):
		return "", &Error{Kind: Unavailable, Message: "Keystone can't be asked now for the trust that the schedule needs; try again later.", Cause: err}
	}
	return id, err
}

// newTrust makes a trust of the caller's for a schedule that has none, or none that
// Keystone honours, or one with an administrator's role; "" if none is needed, or can be
// made out to be.
func (s *Server) newTrust(ctx context.Context, who *access.Caller, c *job.Schedule) (string, error) {
	if c.Trust != "" && s.cfg.Keystone != nil {
		by, err := s.cfg.Keystone.ByTrust(ctx, c.Trust)
		if !errors.Is(err, access.ErrNoTrust) && (err != nil || by.Role < access.Admin) {
			return "", nil
		}
	}
	return s.giveTrust(ctx, who)
}

// actor returns who acts for a schedule: with a token of Keystone's if the schedule has a
// trust.
func (s *Server) actor(ctx context.Context, c *job.Schedule) (*access.Caller, error) {
	who := &access.Caller{Project: c.Project, User: "schedule " + c.Name, Role: access.Operator}
	if c.Trust == "" || !s.cfg.OwnSwift {
		return who, nil
	}
	if s.cfg.Keystone == nil {
		return nil, refuse(Forbidden, "The schedule acts by a trust of Keystone's, for which the server needs the service user that it had: set keystone_user and keystone_password.")
	}
	by, err := s.cfg.Keystone.ByTrust(ctx, c.Trust)
	switch {
	case errors.Is(err, access.ErrNoTrust), err == nil && by.Project != c.Project:
		return nil, &Error{Kind: Forbidden, Message: "Keystone doesn't honour the trust of the schedule any more: who gave it was disabled or has lost a role, or it was deleted. " +
			"Update the schedule as a user who may have backups made, or make the schedule again.", Cause: err}
	case err != nil:
		return nil, &Error{Kind: Unavailable, Message: "Keystone can't be asked now for the token of the schedule; it is tried again.", Cause: err}
	}
	if by.Role >= access.Admin {
		s.log.WarnContext(ctx, "a schedule acts with the role of an administrator, which its agent gets: update it, so that its trust is made anew without",
			"schedule", c.Name, "id", c.ID, "project", c.Project)
	}
	who.UserID, who.Token, who.SwiftURL, who.Expires, who.Lent = by.UserID, by.Token, by.SwiftURL, by.Expires, by.Lent
	return who, nil
}

// endTrust ends the trust of a schedule that is gone, without waiting for it. Not while
// something is at work with its token, which would end too: a trust that stays is good for
// nothing without the schedule.
func (s *Server) endTrust(ctx context.Context, who *access.Caller, c *job.Schedule) {
	if c.Trust == "" || s.cfg.Keystone == nil {
		return
	}
	ctx = whole(ctx)
	if s.paying(c) {
		s.log.WarnContext(ctx, "the trust of a schedule stays in Keystone, since a job of the instance is at work", "schedule", c.Name, "trust", c.Trust)
		return
	}
	s.background.Go(func() {
		if err := s.cfg.Keystone.Untrust(ctx, who, c.Trust); err != nil {
			s.log.WarnContext(ctx, "the trust of a schedule stays in Keystone, where its giver may delete it", "schedule", c.Name, "trust", c.Trust, "err", err)
		}
	})
}

// paying reports whether a job of the backups of a schedule's instance, or of its own, has a token of Keystone's.
func (s *Server) paying(c *job.Schedule) (yes bool) {
	s.jobs.all(func(_ string, j *job.Job) bool {
		if j.State.Ended() || j.Spec.Repository.Storage == "" {
			return true
		}
		b := s.backups.have(j.Backup)
		of := func(instance, schedule string) bool {
			return schedule == c.ID || c.Instance != "" && instance == c.Instance
		}
		yes = of(j.Instance, j.Schedule) || b != nil && of(b.Instance, b.Schedule)
		return !yes
	})
	return yes
}
