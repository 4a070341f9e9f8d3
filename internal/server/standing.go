package server

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/newest"
)

// What an instance's state is measured by: the same as the alerts of
// packaging/prometheus/alerts.yml.
const (
	// SafeFor is how old the newest good backup of an instance may be; older, if its
	// schedules fire less often.
	SafeFor = 26 * time.Hour
	// BehindAfter is how far shipping may be behind.
	BehindAfter = time.Minute
	// ProofFor is how old the newest proof may be of an instance of which there was one.
	ProofFor = 8 * 24 * time.Hour
	// lateBy is by how much a backup may be later than its schedule has it.
	lateBy = 2 * time.Hour
)

// Standing is how an instance stands: what can be had back of it, and what is wrong.
type Standing struct {
	*job.Instance
	Live
	AgentName string    // "" if its agent is gone
	Heard     time.Time // when its agent was heard of last; zero: never
	// Last is the newest good backup, which was finished at At; nil if there is none. At is
	// zero of one that claims to be of the future: nobody knows when it was made.
	Last *job.Backup
	At   time.Time
	// Proven is the backup that was restored for a test last; nil if none was.
	Proven *job.Backup
	Ship   *Shipping // nil if it isn't shipped, and is not to be
	// Next is when it is backed up next by Schedule; both zero without one that is enabled.
	Next     time.Time
	Schedule *job.Schedule
	Stored   int64 // what its backups added to repositories, in bytes
	Backups  int   // how many there are, with those that failed
	// Limit is how old the newest good backup may be.
	Limit time.Duration

	Late     bool // Last is older than Limit, or there is none and has been time for one
	Never    bool // there is none
	Behind   bool // it is to be shipped, and that is behind, fails, or isn't reported
	Unproven bool // the last proof failed, or is older than ProofFor
	Failed   string
	Damaged  int // findings in the source, by the newest backup
	Uncopied int // further repositories without the newest backup
}

// Problems are what of an instance needs somebody, in words that never change: late (no good backup for longer than Limit, or
// none), behind, proof_failed, unproven, damaged, uncopied, silent (its agent), failed (its last job). None says that it is safe.
func (st *Standing) Problems() []string {
	list := []string{}
	for _, p := range []struct {
		is   bool
		word string
	}{
		{st.Late, "late"},
		{st.Behind, "behind"},
		{st.Unproven && !st.Proven.Proof.OK, "proof_failed"},
		{st.Unproven && st.Proven.Proof.OK, "unproven"},
		{st.Damaged > 0, "damaged"},
		{st.Uncopied > 0, "uncopied"},
		{!st.Online && !st.Late && !st.Behind, "silent"},
		{st.Failed != "" && !st.Late, "failed"},
	} {
		if p.is {
			list = append(list, p.word)
		}
	}
	return list
}

// Standings returns how the instances of the caller's project stand, or all, by name.
func (s *Server) Standings(who *access.Caller, all bool) []*Standing {
	list := s.Instances(who, all)
	schedules := map[string][]*job.Schedule{}
	var ofClusters []*job.Schedule
	s.schedules.all(func(_ string, c *job.Schedule) bool {
		if c.Enabled && c.Cluster != "" {
			ofClusters = append(ofClusters, c)
		} else if c.Enabled {
			schedules[c.Instance] = append(schedules[c.Instance], c)
		}
		return true
	})
	for _, c := range ofClusters {
		if of, err := s.cluster(c.Project, c.Cluster); err == nil {
			for _, id := range of.instances() {
				schedules[id] = append(schedules[id], c)
			}
		}
	}
	out := make([]*Standing, len(list))
	now := s.now()
	for n, i := range list {
		out[n] = s.standing(i, schedules[i.ID], now)
	}
	s.backups.mu.RLock()
	for _, st := range out {
		st.Last, st.Proven = s.index.last[st.ID], s.index.proofs[st.ID]
		st.Stored, st.Backups = s.index.stored[st.ID], s.index.counts[st.ID]
	}
	s.backups.mu.RUnlock()
	for _, st := range out {
		st.judge(now)
	}
	slices.SortFunc(out, func(a, b *Standing) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return out
}

// standing is all but what its backups say.
func (s *Server) standing(i *job.Instance, schedules []*job.Schedule, now time.Time) *Standing {
	st := &Standing{Instance: i, Live: s.Live(i), Ship: s.Shipping(i), Limit: SafeFor}
	if a := s.agents.have(i.Agent); a != nil {
		st.AgentName = a.Name
		_, st.Heard, _ = s.lastHeard(a)
	}
	often := time.Duration(0)
	for _, c := range schedules {
		if !c.Next.IsZero() && (st.Next.IsZero() || c.Next.Before(st.Next)) {
			st.Next, st.Schedule = c.Next, c
		}
		if each, err := s.specs.every(c.Cron, c.TimeZone, now); err == nil && (often == 0 || each+c.Jitter < often) {
			often = each + c.Jitter
		}
	}
	if often > 0 {
		st.Limit = max(SafeFor, often+lateBy)
	}
	return st
}

// judge finds what is wrong.
func (st *Standing) judge(now time.Time) {
	if b := st.Last; b != nil {
		if st.At = b.Updated; b.Finished != nil {
			st.At = *b.Finished
		}
		if newest.Ahead(st.At, now) {
			st.At = time.Time{}
		}
		st.Damaged, st.Uncopied = b.Damage, b.Uncopied
	}
	st.Never = st.Last == nil
	since := st.At
	if st.Never {
		since = st.Created
	}
	st.Late = now.Sub(since) > st.Limit
	if p := st.Ship; p != nil {
		lag := time.Duration(p.LagSeconds * float64(time.Second))
		missing := !p.Reported && now.Sub(st.ShipSince) > BehindAfter // its agent hears of it with its next hello
		st.Behind = st.Instance.Ship && (missing || p.Error != "" || lag > BehindAfter)
	}
	if p := st.Proven; p != nil {
		st.Unproven = !p.Proof.OK || now.Sub(p.Proof.At) > ProofFor
	}
	if st.Fault != nil {
		st.Failed = st.Fault.Message
	}
}

// Family returns a backup's children, which are deleted with it, their children and so on,
// and last the backup itself.
func (s *Server) Family(b *job.Backup) []*job.Backup { return s.family(b) }

// Newest returns the newest good backup of an instance of the caller's project; nil if there
// is none.
func (s *Server) Newest(who *access.Caller, instance string) *job.Backup {
	return s.newest(who, instance)
}
