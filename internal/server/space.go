package server

import (
	"math"
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
	out, now := &Space{}, s.now()
	var instances []*spaceOf
	repositories := map[repositoryKey]*RepositorySpace{}
	oldest := now.Add(-24 * time.Hour)
	s.backups.mu.RLock()
	for id, list := range s.index.of {
		i := &spaceOf{InstanceSpace: InstanceSpace{ID: id, Points: make([]int64, spacePoints)}, newest: s.index.last[id]}
		var r *RepositorySpace // of the backup before, which mostly has the same
		for _, b := range list {
			if b.Status == job.BackupDeleting || !all && !mine(who, b.Project) || !b.Status.Usable() && b.Stored == 0 {
				continue
			}
			if key := keyOf(&b.Repository); r == nil || keyOf(&r.Repository) != key {
				if r = repositories[key]; r == nil {
					r = &RepositorySpace{Repository: b.Repository}
					repositories[key] = r
					out.Repositories = append(out.Repositories, r)
				}
			}
			r.Stored, r.Backups, out.Backups = r.Stored+b.Stored, r.Backups+1, out.Backups+1
			i.add(b, now)
		}
		if len(i.added) > 0 {
			instances = append(instances, i)
			out.Instances = append(out.Instances, &i.InstanceSpace)
		}
	}
	s.backups.mu.RUnlock()
	for _, i := range instances {
		for _, a := range i.added {
			if a.at.Before(oldest) {
				oldest = a.at
			}
		}
	}
	times := SpaceTimes(oldest, now)
	for _, i := range instances {
		i.Gone = true
		if own := s.instances.have(i.ID); own != nil {
			i.Name, i.Gone = own.Name, false
		}
		if i.newest != nil {
			i.Size = i.newest.Size
		}
		i.fillPoints(oldest, now)
		out.Stored, out.Size, out.Added = out.Stored+i.Stored, out.Size+i.Size, out.Added+i.Added
	}
	slices.SortFunc(out.Instances, func(a, b *InstanceSpace) int { return more(a.Stored, b.Stored, a.Name, b.Name) })
	slices.SortFunc(out.Repositories, func(a, b *RepositorySpace) int {
		return more(a.Stored, b.Stored, a.Repository.URL, b.Repository.URL)
	})
	out.Goes, out.Frees = s.goesNext(who, all)
	return out, times
}

// goesNext says how many backups the retention of all schedules deletes next, and what they added.
func (s *Server) goesNext(who *access.Caller, all bool) (backups int, bytes int64) {
	var schedules []*job.Schedule
	s.schedules.all(func(_ string, c *job.Schedule) bool {
		if (all || mine(who, c.Project)) && c.Enabled && !c.Keep.IsZero() {
			schedules = append(schedules, c)
		}
		return true
	})
	for _, c := range schedules {
		if r, err := s.retention(c, nil); err == nil {
			n, freed := r.Frees()
			backups, bytes = backups+n, bytes+freed
		}
	}
	return backups, bytes
}

// repositoryKey is what tells repositories apart in the catalog.
type repositoryKey struct{ storage, url string }

func keyOf(r *job.Repository) repositoryKey { return repositoryKey{r.Storage, r.URL} }

// spaceOf is the part of an instance in the making.
type spaceOf struct {
	InstanceSpace
	newest *job.Backup // that can be restored
	added  []addition
}

type addition struct {
	at     time.Time
	stored int64
}

// add adds a backup.
func (i *spaceOf) add(b *job.Backup, now time.Time) {
	at := madeAt(b)
	i.Stored, i.Backups = i.Stored+b.Stored, i.Backups+1
	if now.Sub(at) <= 7*24*time.Hour {
		i.Added += b.Stored
	}
	i.added = append(i.added, addition{at, b.Stored})
	if i.Name == "" {
		i.Name = b.RepoName
	}
	if b.Status != job.BackupCompleted && b.Status.Usable() && (i.newest == nil || newest.After(orderOf(b), orderOf(i.newest))) {
		i.newest = b // what was taken in is not the index's last
	}
}

// fillPoints sorts what was added into the steps of SpaceTimes, and adds up.
func (i *spaceOf) fillPoints(first, now time.Time) {
	for _, a := range i.added {
		n := int(math.Ceil(float64(spacePoints-1) * float64(a.at.Sub(first)) / float64(now.Sub(first))))
		if n < spacePoints {
			i.Points[max(n, 0)] += a.stored
		}
	}
	for n := 1; n < spacePoints; n++ {
		i.Points[n] += i.Points[n-1]
	}
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
