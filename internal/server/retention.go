package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/retention"
)

// Retention is what the retention of a schedule will keep and delete when it is applied next, as far as is known now.
type Retention struct {
	Schedule *job.Schedule
	Keep     job.Keep // the rules: the schedule's, or those proposed
	// At is when it is applied next: after the backup that the schedule makes then, which is counted as one that is undamaged.
	// Zero if the schedule is paused: then it is what would go without another backup.
	At      time.Time
	Backups []Retained // the newest first
}

// Retained is what retention will do with a backup, and why.
type Retained struct {
	Backup  *job.Backup
	Stays   bool
	Reasons []string // that keep it, or why it goes
	Missed  []string // of one that goes: why each rule leaves it
}

// Frees says how many backups go, and how many bytes they added to the repository: what is freed is about as much, since what
// later backups share stays.
func (r *Retention) Frees() (backups int, bytes int64) {
	for _, b := range r.Backups {
		if !b.Stays {
			backups++
			bytes += b.Backup.Stored
		}
	}
	return backups, bytes
}

// ScheduleRetention returns what the retention of a schedule will do next, or with a keep what it would do with those rules.
// Nothing is deleted.
func (s *Server) ScheduleRetention(ctx context.Context, who *access.Caller, id string, keep *job.Keep) (*Retention, error) {
	c, err := s.Schedule(ctx, who, id)
	if err != nil {
		return nil, err
	}
	return s.retention(c, keep)
}

func (s *Server) retention(c *job.Schedule, keep *job.Keep) (*Retention, error) {
	r := &Retention{Schedule: c, Keep: c.Keep}
	if keep != nil {
		r.Keep = *keep
		if _, err := policyOf(r.Keep); err != nil {
			return nil, &Error{Kind: Invalid, Message: "The retention can't be used: " + err.Error() + ".", Cause: err}
		}
	}
	var now time.Time
	r.At, now = s.appliedNext(c)
	if c.Cluster != "" {
		sets, err := s.decideSets(c, r.Keep, r.At, now)
		r.Backups = retainedOf(sets)
		return r, err
	}
	var err error
	r.Backups, err = s.decide(c, r.Keep, nextOf(c, r.At), now)
	return r, err
}

// appliedNext is when the retention of a schedule is applied next, zero if it is paused, and the time to decide by.
func (s *Server) appliedNext(c *job.Schedule) (at, now time.Time) {
	now = s.now()
	if !c.Enabled || c.Next.IsZero() {
		return time.Time{}, now
	}
	at = c.Next
	if spec, err := s.specs.parse(c.Cron, c.TimeZone); err == nil {
		at = planOf(c, spec).Begin(c.Next)
	}
	if at.Before(now) {
		at = now
	}
	return at, at
}

// nextOf is the backup that a schedule makes before its retention is applied; nil if it makes none.
func nextOf(c *job.Schedule, at time.Time) *job.Backup {
	if at.IsZero() {
		return nil
	}
	return &job.Backup{ID: newID(), Project: c.Project, Instance: c.Instance, Schedule: c.ID, Status: job.BackupCompleted, Created: at}
}

// InstanceRetention returns what the retention of an instance's schedules will do next, the oldest schedule first, and the
// backups that no schedule's retention is about: made by hand, taken in, or of a schedule that is gone.
func (s *Server) InstanceRetention(ctx context.Context, who *access.Caller, id string) ([]*Retention, []Retained, error) {
	if _, err := s.Instance(ctx, who, id); err != nil {
		return nil, nil, err
	}
	var list []*Retention
	of := map[string]bool{}
	for _, c := range s.Schedules(who, id) {
		r, err := s.retention(c, nil)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, r)
		of[c.ID] = true
	}
	all, _ := s.Backups(who, BackupFilter{Instance: id, Limit: 1 << 30})
	var rest []Retained
	newest.Sort(all, orderOf)
	for _, b := range slices.Backward(all) {
		if of[b.Schedule] || !b.Status.Usable() {
			continue
		}
		why := "made by hand: it stays until somebody deletes it"
		switch {
		case b.Set != "" && s.schedules.have(b.Schedule) != nil:
			why = "of a set of its cluster: it stays as long as the cluster's schedule keeps the set"
		case b.Schedule != "":
			why = "its schedule is gone: it stays until somebody deletes it"
		case b.Status == job.BackupRestored:
			why = "taken in from where it was stored: it stays until somebody deletes it"
		}
		r := Retained{Backup: b, Stays: true, Reasons: []string{why}}
		if b.Held() {
			r.Reasons = slices.Insert(r.Reasons, 0, strings.TrimSuffix("pinned: "+pinReason(b), ": "))
		}
		rest = append(rest, r)
	}
	return list, rest, nil
}

// pinReason is why a backup is pinned; "" if that isn't known yet.
func pinReason(b *job.Backup) string {
	if b.Pin == nil {
		return ""
	}
	return b.Pin.Reason
}

// decide says which backups of a schedule its retention keeps by the given rules, the newest first, and which go: also those
// of which a deletion failed. next, if it isn't nil, is a backup that isn't made yet and counts like the others. What others
// were made of by parent_id stays with them.
func (s *Server) decide(c *job.Schedule, keep job.Keep, next *job.Backup, now time.Time) ([]Retained, error) {
	policy, err := policyOf(keep)
	if err != nil {
		return nil, err
	}
	policy.Location = s.specs.location(c)
	all, made := s.madeBy(c, next)
	byID := make(map[string]*job.Backup, len(made))
	for _, b := range made {
		byID[b.ID] = b
	}
	decisions, err := retention.Decide(policy, entriesOf(made), now)
	if err != nil {
		return nil, err
	}
	parents := s.parents(c.Project)
	var out []Retained
	for _, d := range decisions {
		b := byID[d.ID]
		if b == next {
			continue
		}
		r := Retained{Backup: b, Stays: d.Keep, Reasons: d.Reasons, Missed: d.Missed}
		if !r.Stays && parents(b.ID) {
			r = Retained{Backup: b, Stays: true, Reasons: []string{"others were built on it"}}
		}
		out = append(out, r)
	}
	if keep.IsZero() {
		return out, nil
	}
	for _, b := range all {
		if b.Status == job.BackupDeleteFailed && !parents(b.ID) {
			out = append(out, Retained{Backup: b, Reasons: []string{"its deletion failed"}})
		}
	}
	return out, nil
}

// madeBy returns all backups of a schedule that are not being deleted, and those of them that can be restored, the newest last, with
// next, unless it is nil: it gets the node and number of databases of the one before.
func (s *Server) madeBy(c *job.Schedule, next *job.Backup) (all, made []*job.Backup) {
	all, _ = s.Backups(&access.Caller{Project: c.Project}, BackupFilter{Instance: c.Instance, Schedule: c.ID, Limit: 1 << 30})
	made = slices.Clone(all)
	slices.Reverse(made) // as good as in order then
	newest.Sort(made, orderOf)
	made = slices.DeleteFunc(made, func(b *job.Backup) bool { return !b.Status.Usable() })
	if next != nil {
		if n := len(made); n > 0 {
			next.Node, next.Databases = made[n-1].Node, made[n-1].Databases
		}
		made = append(made, next)
	}
	return all, made
}

// entriesOf is what retention is told of backups, the newest last.
func entriesOf(made []*job.Backup) []retention.Backup {
	list := make([]retention.Backup, len(made))
	for i, b := range made {
		list[i] = retention.Backup{ID: b.ID, Time: b.Created, Order: i + 1, Full: b.Type == "full", Damaged: b.Damage > 0, Verified: b.Proof != nil && b.Proof.OK,
			Node: b.Node, Databases: b.Databases, Pinned: b.Held(), PinReason: pinReason(b)}
	}
	return list
}

// frees says how many backups the retention of a schedule deletes when it is applied next, what they added, and when that is: Frees
// of retention, without the reasons, which take most of its time.
func (s *Server) frees(c *job.Schedule) (backups int, bytes int64, at time.Time, err error) {
	at, now := s.appliedNext(c)
	if c.Cluster != "" {
		r, err := s.retention(c, nil)
		if err != nil {
			return 0, 0, at, err
		}
		backups, bytes = r.Frees()
		return backups, bytes, r.At, nil
	}
	policy, err := policyOf(c.Keep)
	if err != nil {
		return 0, 0, at, err
	}
	policy.Location = s.specs.location(c)
	all, made := s.madeBy(c, nextOf(c, at))
	ids, err := retention.Goes(policy, entriesOf(made), now)
	if err != nil {
		return 0, 0, at, err
	}
	goes := make(map[string]bool, len(ids))
	for _, id := range ids {
		goes[id] = true
	}
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	for _, b := range all {
		if (goes[b.ID] || b.Status == job.BackupDeleteFailed) && s.index.parents[parent{c.Project, b.ID}] == 0 {
			backups, bytes = backups+1, bytes+b.Stored
		}
	}
	return backups, bytes, at, nil
}

// parents tells of a project's backups whether others were made of them by parent_id.
func (s *Server) parents(project string) func(id string) bool {
	return func(id string) bool {
		s.backups.mu.RLock()
		defer s.backups.mu.RUnlock()
		return s.index.parents[parent{project, id}] > 0
	}
}
