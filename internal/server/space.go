package server

import (
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/newest"
)

// Space is how much room backups take, as the catalog knows it. Copies in further repositories, and what is shipped between
// backups, are not in it.
type Space struct {
	Stored  int64 // what backups added to repositories
	Size    int64 // the newest of each instance, as restored
	Added   int64 // of Stored, within the last week
	Backups int
	Goes    int   // backups that go by retention next
	Frees   int64 // what they added
	// Instances are those that have backups, by what they store, the most first; also such as are gone.
	Instances    []*InstanceSpace
	Repositories []*RepositorySpace // the most first
}

// InstanceSpace is the part of an instance.
type InstanceSpace struct {
	ID, Name string // Name is that in repositories if the instance is gone
	Gone     bool
	Stored   int64
	Size     int64
	Added    int64
	Backups  int
	// Points say how much of Stored there was at SpaceTimes: what is stored now, by when it was made. What was deleted isn't in it.
	Points []int64
}

// RepositorySpace is the part of a repository.
type RepositorySpace struct {
	Repository job.Repository
	Stored     int64
	Backups    int
}

// spacePoints is how many points a history has.
const spacePoints = 27

// SpaceTimes are the times of the points: equally far from each other, the last is now.
func SpaceTimes(first, now time.Time) []time.Time {
	out := make([]time.Time, spacePoints)
	for i := range out {
		out[i] = first.Add(now.Sub(first) * time.Duration(i) / (spacePoints - 1))
	}
	return out
}

// Space returns how much room the backups of the caller's project take, or of all projects, and since when there are any.
func (s *Server) Space(who *access.Caller, all bool) (*Space, []time.Time) {
	list, _ := s.Backups(who, BackupFilter{All: all, Limit: 1 << 30})
	list = slices.DeleteFunc(slices.Clone(list), func(b *job.Backup) bool { return !b.Status.Usable() && b.Stored == 0 })
	newest.Sort(list, orderOf)
	out, now := &Space{Backups: len(list)}, s.now()
	first := now.Add(-24 * time.Hour)
	for _, b := range list {
		if madeAt(b).Before(first) {
			first = madeAt(b)
		}
	}
	times := SpaceTimes(first, now)
	instances, repositories := map[string]*InstanceSpace{}, map[string]*RepositorySpace{}
	for _, b := range list {
		i := instances[b.Instance]
		if i == nil {
			i = &InstanceSpace{ID: b.Instance, Name: b.RepoName, Gone: true, Points: make([]int64, spacePoints)}
			if own := s.instances.have(b.Instance); own != nil {
				i.Name, i.Gone = own.Name, false
			}
			instances[b.Instance] = i
			out.Instances = append(out.Instances, i)
		}
		key := b.Repository.Storage + " " + b.Repository.URL
		r := repositories[key]
		if r == nil {
			r = &RepositorySpace{Repository: b.Repository}
			repositories[key] = r
			out.Repositories = append(out.Repositories, r)
		}
		r.Stored, r.Backups = r.Stored+b.Stored, r.Backups+1
		i.Stored, i.Backups, i.Size = i.Stored+b.Stored, i.Backups+1, b.Size // the last is the newest
		if now.Sub(madeAt(b)) <= 7*24*time.Hour {
			i.Added += b.Stored
		}
		for n, t := range times {
			if !madeAt(b).After(t) {
				i.Points[n] += b.Stored
			}
		}
	}
	for _, i := range out.Instances {
		out.Stored, out.Size, out.Added = out.Stored+i.Stored, out.Size+i.Size, out.Added+i.Added
	}
	slices.SortFunc(out.Instances, func(a, b *InstanceSpace) int { return more(a.Stored, b.Stored, a.Name, b.Name) })
	slices.SortFunc(out.Repositories, func(a, b *RepositorySpace) int {
		return more(a.Stored, b.Stored, a.Repository.URL, b.Repository.URL)
	})
	var schedules []*job.Schedule
	s.schedules.all(func(_ string, c *job.Schedule) bool {
		if (all || mine(who, c.Project)) && c.Enabled && !c.Keep.IsZero() {
			schedules = append(schedules, c)
		}
		return true
	})
	for _, c := range schedules {
		if r, err := s.retention(c, nil); err == nil {
			n, bytes := r.Frees()
			out.Goes, out.Frees = out.Goes+n, out.Frees+bytes
		}
	}
	return out, times
}

func more(a, b int64, first, second string) int {
	if a != b {
		if a > b {
			return -1
		}
		return 1
	}
	return strings.Compare(first, second)
}

// madeAt is when a backup was begun, as far as that is known.
func madeAt(b *job.Backup) time.Time {
	if b.Started != nil {
		return *b.Started
	}
	return b.Created
}
