package server

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/retention"
)

// afterSet does what a cluster's schedule asks for once a backup of a set, or a restore test of one, has ended: once the
// last of them has. So a heartbeat says that all is well when the set is whole, and not before.
func (s *Server) afterSet(ctx context.Context, c *job.Schedule, t *job.Set, j *job.Job) {
	i, err := s.lateInfo(ctx, t)
	if err != nil {
		s.log.WarnContext(ctx, "what comes after a set is left out", "set", t.ID, "err", err)
		return
	}
	if j.Kind == job.KindProve {
		failed := j.State != job.Done
		others := s.proving(func(o *job.Job) bool { return o.Schedule == c.ID && o.ID != j.ID })
		if failed || !others {
			s.heartbeat(ctx, c, !failed && i.Proven())
		}
		return
	}
	if i.State == SetRunning || i.State == SetGoing {
		return
	}
	s.heartbeat(ctx, c, i.State == SetWhole)
	if i.State == SetPartial {
		for n, m := range i.Members {
			if why := i.Lacks(n); why != "" {
				s.log.WarnContext(ctx, "a set is partial", "set", t.ID, "cluster", t.Cluster, "node", m.Node, "why", why)
			}
		}
	}
	if i.Usable() > 0 {
		if err := s.retain(ctx, c); err != nil {
			s.log.WarnContext(ctx, "retention could not be applied; it is again after the next set", "schedule", c.Name, "err", err)
		}
	}
}

// retainSets deletes the sets of a cluster's schedule that its retention doesn't keep, each as a whole.
func (s *Server) retainSets(ctx context.Context, c *job.Schedule, who *access.Caller) error {
	decisions, err := s.decideSets(c, c.Keep, time.Time{}, s.now())
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range decisions {
		if d.stays {
			continue
		}
		s.log.InfoContext(ctx, "set goes by retention", "set", d.set.ID, "schedule", c.Name, "why", strings.Join(d.reasons, ", "))
		if err := s.deleteSet(ctx, who, d.set.Set); err != nil && !isKind(err, NotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// retainedSet is what retention does with a set, and why.
type retainedSet struct {
	set             *SetInfo
	stays           bool
	reasons, missed []string
}

// decideSets says which sets of a cluster's schedule its retention keeps by the given rules, the newest first, and which go.
// One that is partial is to retention what a backup is that lacks something: the newest whole one stays, and the newest of
// which all was proven, and one of which a backup is pinned. Sets with a backup on which others were made by parent_id stay with these. next, if it isn't zero, is
// when a set is made that counts like the others.
func (s *Server) decideSets(c *job.Schedule, keep job.Keep, next, now time.Time) ([]retainedSet, error) {
	policy, err := policyOf(keep)
	if err != nil {
		return nil, err
	}
	policy.Location = s.specs.location(c)
	byID := map[string]*SetInfo{}
	var list []retention.Backup
	var out []retainedSet
	for _, i := range s.Sets(&access.Caller{Project: c.Project}, SetFilter{Cluster: c.Cluster}) {
		if i.Schedule != c.ID {
			continue
		}
		byID[i.ID] = i
		switch {
		case i.State == SetGoing:
			r := retainedSet{set: i, reasons: []string{"its deletion has not ended"}}
			if e := entryOf(i); e.Pinned {
				r.stays, r.reasons = true, []string{"pinned: " + cmp.Or(e.PinReason, "a backup of it"), "its deletion goes on once it is unpinned"}
			}
			out = append(out, r)
		case i.State != SetRunning && i.Usable() > 0:
			list = append(list, entryOf(i))
		}
	}
	if !next.IsZero() {
		e := retention.Backup{ID: newID(), Time: next, Maker: c.Cluster}
		for _, o := range list {
			e.Order, e.Databases = max(e.Order, o.Order+1), max(e.Databases, o.Databases)
		}
		list = append(list, e)
	}
	decisions, err := retention.Decide(policy, list, now)
	if err != nil {
		return nil, err
	}
	parents := s.parents(c.Project)
	var decided []retainedSet
	for _, d := range decisions {
		i := byID[d.ID]
		if i == nil { // next
			continue
		}
		r := retainedSet{set: i, stays: d.Keep, reasons: d.Reasons, missed: d.Missed}
		if !r.stays && slices.ContainsFunc(i.Backups, func(b *job.Backup) bool { return b != nil && parents(b.ID) }) {
			r = retainedSet{set: i, stays: true, reasons: []string{"others were built on a backup of it"}}
		}
		decided = append(decided, r)
	}
	return append(decided, out...), nil
}

// retainedOf are the backups of sets, each with what is done with its set.
func retainedOf(sets []retainedSet) (out []Retained) {
	for _, r := range sets {
		for _, b := range r.set.Backups {
			if b != nil && b.Status.Usable() {
				out = append(out, Retained{Backup: b, Stays: r.stays, Reasons: r.reasons, Missed: r.missed})
			}
		}
	}
	return out
}

// entryOf is what retention is told of a set.
func entryOf(i *SetInfo) retention.Backup {
	e := retention.Backup{ID: i.ID, Time: i.Created, Order: int(i.Order), Incomplete: i.State != SetWhole, Verified: i.Proven(), Maker: i.Cluster}
	for n, b := range i.Backups {
		if b != nil && b.Held() && (!e.Pinned || e.PinReason == "") { // one that is pinned keeps all of it
			e.Pinned = true
			if why := pinReason(b); why != "" {
				e.PinReason = "its backup of " + i.Members[n].Node + ", " + why
			}
		}
		if b != nil && b.Status.Usable() {
			e.Damaged = e.Damaged || b.Damage > 0
			e.Databases = max(e.Databases, b.Databases)
		}
	}
	return e
}
