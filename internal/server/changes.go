package server

import (
	"slices"
	"sync"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
)

// signal lets any number of goroutines wait for the next change of something. Its zero
// value can be used.
type signal struct {
	mu   sync.Mutex
	next chan struct{} // nil while nobody waits; guarded by mu
}

// wait returns a channel that is closed at the next ring.
func (g *signal) wait() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil {
		g.next = make(chan struct{})
	}
	return g.next
}

func (g *signal) ring() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next != nil {
		close(g.next)
		g.next = nil
	}
}

// Changed returns a channel that is closed at the next change of what this server knows:
// of the catalog, of a job's progress, or at an agent's hello. Ask for it before you look,
// so that nothing is missed in between. With many agents that is many times a second.
func (s *Server) Changed() <-chan struct{} { return s.changes.wait() }

// ProjectOf returns the project of an instance, backup, job, schedule or set with that id, as
// far as the copy in memory has it; "" if there is none.
func (s *Server) ProjectOf(id string) string {
	if i := s.instances.have(id); i != nil {
		return i.Project
	}
	if b := s.backups.have(id); b != nil && b.Status != job.BackupDeleting {
		return b.Project
	}
	if j := s.jobs.have(id); j != nil {
		return j.Project
	}
	if c := s.schedules.have(id); c != nil {
		return c.Project
	}
	if t := s.sets.have(id); t != nil {
		return t.Project
	}
	return ""
}

// BackupPage returns at most limit backups of the caller's project, or of all, from the one of number offset on, the newest
// Updated first, and how many there are. An offset behind the end is that of the last page.
func (s *Server) BackupPage(who *access.Caller, all bool, offset, limit int) (page []*job.Backup, total int) {
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	for project, n := range s.index.shown {
		if all || mine(who, project) {
			total += n
		}
	}
	offset = max(0, min(offset, (total-1)/limit*limit))
	want := min(limit, total-offset)
	shown := func(b *job.Backup) bool { return b.Status != job.BackupDeleting && (all || mine(who, b.Project)) }
	if offset <= total/2 {
		page, _ = s.index.page("", shown, offset, want)
		return page, total
	}
	behind := total - offset - want
	for _, b := range slices.Backward(s.index.order) { // from the other end it is nearer
		switch {
		case len(page) == want:
			slices.Reverse(page)
			return page, total
		case !shown(b):
		case behind > 0:
			behind--
		default:
			page = append(page, b)
		}
	}
	slices.Reverse(page)
	return page, total
}

// EachBackup calls fn with the backups of the caller's project, or all, the newest Updated
// first, until it returns false. The catalog stands still meanwhile: be quick, and ask the
// server nothing.
func (s *Server) EachBackup(who *access.Caller, all bool, fn func(*job.Backup) bool) {
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	for _, b := range s.index.order {
		if b.Status != job.BackupDeleting && (all || mine(who, b.Project)) && !fn(b) {
			return
		}
	}
}
