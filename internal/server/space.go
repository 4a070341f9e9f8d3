package server

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/newest"
)

// Space is how much room backups take, as the catalog knows it: what they added to repositories when they were made. Copies in further repositories, and what is shipped between
// backups, are not in it.
type Space struct {
	Stored  int64 // what backups added to repositories
	Size    int64 // the newest of each instance, as restored
	Added   int64 // of Stored, within the last week
	Backups int
	Since   time.Time // since when all points are of samples; zero if there is none yet
	Goes    int       // backups that go by retention next
	Frees   int64     // what they added
	// Instances are those that have backups, or had some lately, by what they store, the most first; also such as are gone.
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
	// Points are what was stored at SpaceTimes: since its first sample, one each day, as it was then; before, what of it is still
	// stored, by when it was made.
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
	sampled := s.samplesOf(who, all)
	for _, x := range sampled {
		oldest = earlier(oldest, startOf(x.Days[0]))
	}
	have := s.spaceItems()
	for id := range sampled {
		if _, ok := have[id]; !ok { // all of its backups are gone
			have[id] = nil
		}
	}
	for id, items := range have {
		i := &spaceOf{InstanceSpace: InstanceSpace{ID: id, Points: make([]int64, spacePoints)}}
		var r *RepositorySpace // of the backup before, which mostly has the same
		var of *job.Repository
		for n := range items {
			b := &items[n]
			if !all && !mine(who, b.project) {
				continue
			}
			if of != b.repository {
				of = b.repository
				key := keyOf(of)
				if r = repositories[key]; r == nil {
					r = &RepositorySpace{Repository: *of}
					repositories[key] = r
					out.Repositories = append(out.Repositories, r)
				}
			}
			r.Stored, r.Backups, out.Backups = r.Stored+b.stored, r.Backups+1, out.Backups+1
			i.add(b, now)
			oldest = earlier(oldest, b.at)
		}
		if x := sampled[id]; i.Backups > 0 || x != nil {
			if i.items, i.samples = items, x; i.Name == "" && x != nil {
				i.Name = x.Name
			}
			instances = append(instances, i)
			out.Instances = append(out.Instances, &i.InstanceSpace)
		}
	}
	times := SpaceTimes(oldest, now)
	for _, i := range instances {
		i.Gone = true
		if own := s.instances.have(i.ID); own != nil {
			i.Name, i.Gone = own.Name, false
		}
		i.fillPoints(func(b *spaceItem) bool { return all || mine(who, b.project) }, times)
		if i.samples != nil && i.samples.Days[0] < dayOf(now) && (out.Since.IsZero() || out.Since.After(startOf(i.samples.Days[0]))) {
			out.Since = startOf(i.samples.Days[0])
		}
		out.Stored, out.Size, out.Added = out.Stored+i.Stored, out.Size+i.Size, out.Added+i.Added
	}
	slices.SortFunc(out.Instances, func(a, b *InstanceSpace) int { return more(a.Stored, b.Stored, a.Name, b.Name) })
	slices.SortFunc(out.Repositories, func(a, b *RepositorySpace) int {
		return more(a.Stored, b.Stored, a.Repository.URL, b.Repository.URL)
	})
	out.Goes, out.Frees = s.goesNext(who, all)
	return out, times
}

// goesNext is what the retention of a schedule deletes next. It is good as long as nothing changes of what it was worked out of,
// and until it is applied.
type goesNext struct {
	schedule  *job.Schedule
	sets      uint64   // the number of its cluster's sets; 0 of an instance's schedule
	instances []string // its instance, or all that are of a set of its cluster
	edits     []uint64 // the numbers of their backups
	at        time.Time
	backups   int
	bytes     int64
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
	now := s.now()
	for _, c := range schedules {
		n, freed := s.goesOf(c, now)
		backups, bytes = backups+n, bytes+freed
	}
	return backups, bytes
}

// goesOf is goesNext of one schedule. What is being worked out for another caller is waited for, and not worked out twice.
func (s *Server) goesOf(c *job.Schedule, now time.Time) (backups int, bytes int64) {
	s.worked.mu.Lock()
	defer s.worked.mu.Unlock()
	if g, ok := s.worked.goes[c.ID]; ok && g.schedule == c && !now.After(g.at) && s.unchanged(&g) {
		return g.backups, g.bytes
	}
	g := goesNext{schedule: c}
	s.note(&g) // before anything is read: what changes meanwhile is then seen
	var err error
	if g.backups, g.bytes, g.at, err = s.frees(c); err != nil {
		return 0, 0
	}
	if g.at.After(now) {
		if s.worked.goes == nil {
			s.worked.goes = map[string]goesNext{}
		}
		s.worked.goes[c.ID] = g
	}
	return g.backups, g.bytes
}

// note notes what is there now of all that a schedule's retention goes by.
func (s *Server) note(g *goesNext) {
	g.instances = []string{g.schedule.Instance}
	if cluster := g.schedule.Cluster; cluster != "" {
		g.instances = nil
		s.sets.mu.RLock()
		g.sets = s.setIndex.edits[cluster]
		for _, t := range s.setIndex.of[cluster] {
			for _, m := range t.Members {
				if !slices.Contains(g.instances, m.Instance) {
					g.instances = append(g.instances, m.Instance)
				}
			}
		}
		s.sets.mu.RUnlock()
	}
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	for _, id := range g.instances {
		g.edits = append(g.edits, s.index.edits[id])
	}
}

// unchanged reports whether all of that is as it was.
func (s *Server) unchanged(g *goesNext) bool {
	if g.schedule.Cluster != "" {
		s.sets.mu.RLock()
		edit := s.setIndex.edits[g.schedule.Cluster]
		s.sets.mu.RUnlock()
		if edit != g.sets {
			return false
		}
	}
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	for n, id := range g.instances {
		if s.index.edits[id] != g.edits[n] {
			return false
		}
	}
	return true
}

// aheadEvery is how often servers work out what changed.
const aheadEvery = 2 * time.Second

// workAhead works out what the space page needs, after the start and then of what changed, so that nobody waits for it: a quarter of
// a millisecond for a schedule with 100 backups. Nothing is out of date by it: whoever asks earlier has it worked out then.
func (s *Server) workAhead(ctx context.Context) {
	tick := time.NewTicker(aheadEvery)
	defer tick.Stop()
	for {
		s.spaceItems()
		s.goesAhead(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// goesAhead works out what the retention of all schedules deletes next, and forgets those that are gone.
func (s *Server) goesAhead(ctx context.Context) {
	var schedules []*job.Schedule
	s.schedules.all(func(_ string, c *job.Schedule) bool {
		if c.Enabled && !c.Keep.IsZero() {
			schedules = append(schedules, c)
		}
		return true
	})
	for _, c := range schedules {
		if ctx.Err() != nil {
			return
		}
		if at, _ := s.appliedNext(c); at.After(s.now()) { // else it is another one each moment, and isn't kept
			s.goesOf(c, s.now())
		}
	}
	s.worked.mu.Lock()
	defer s.worked.mu.Unlock()
	for id := range s.worked.goes {
		if s.schedules.have(id) == nil {
			delete(s.worked.goes, id)
		}
	}
}

// repositoryKey is what tells repositories apart in the catalog.
type repositoryKey struct{ storage, url string }

func keyOf(r *job.Repository) repositoryKey { return repositoryKey{r.Storage, r.URL} }

// spaceItem is what the space page needs of a backup. Items are small and beside each other, so that going through 100,000
// is quick.
type spaceItem struct {
	at         time.Time
	stored     int64
	size       int64 // of one that can be restored and is the newest of its project
	newest     bool
	project    string
	name       string          // in repositories
	repository *job.Repository // the same as that of the one before, if it is one repository
}

// spaceItems returns the backups of each instance that count: those that store something, or can be restored.
func (s *Server) spaceItems() map[string][]spaceItem {
	s.worked.mu.Lock()
	defer s.worked.mu.Unlock()
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	was := s.worked.items
	s.worked.items = make(map[string]instanceItems, len(s.index.of))
	out := make(map[string][]spaceItem, len(s.index.of))
	for id, list := range s.index.of {
		k, edit := was[id], s.index.edits[id]
		if k.edit != edit {
			k = instanceItems{edit, itemsOf(list, s.index.last[id])}
		}
		s.worked.items[id], out[id] = k, k.items
	}
	return out
}

// itemsOf are those of an instance's backups, of which last was made of it last.
func itemsOf(list []*job.Backup, last *job.Backup) []spaceItem {
	var out []spaceItem
	best, of := -1, last
	for _, b := range list {
		if b.Status == job.BackupDeleting || !b.Status.Usable() && b.Stored == 0 {
			continue
		}
		place := &b.Repository
		if n := len(out); n > 0 && keyOf(out[n-1].repository) == keyOf(place) {
			place = out[n-1].repository
		}
		out = append(out, spaceItem{at: b.MadeAt(), stored: b.Stored, size: b.Size, project: b.Project, name: b.RepoName, repository: place})
		switch {
		case b == last && best < 0:
			best = len(out) - 1
		case b.Status.Usable() && b.Status != job.BackupCompleted && (of == nil || newest.After(orderOf(b), orderOf(of))): // it was taken in
			best, of = len(out)-1, b
		}
	}
	if best >= 0 {
		out[best].newest = true
	}
	return out
}

// worked is what was worked out of the catalog, with the numbers of edits that it is good for. The zero value has nothing.
type worked struct {
	mu    sync.Mutex
	items map[string]instanceItems // by instance; guarded by mu
	goes  map[string]goesNext      // by schedule; guarded by mu
}

type instanceItems struct {
	edit  uint64
	items []spaceItem
}

// spaceOf is the part of an instance in the making.
type spaceOf struct {
	InstanceSpace
	items   []spaceItem
	samples *job.Samples // nil without any
}

// add adds a backup.
func (i *spaceOf) add(b *spaceItem, now time.Time) {
	i.Stored, i.Backups = i.Stored+b.stored, i.Backups+1
	if now.Sub(b.at) <= 7*24*time.Hour {
		i.Added += b.stored
	}
	if i.Name == "" {
		i.Name = b.name
	}
	if b.newest {
		i.Size = b.size
	}
}

// fillPoints fills in what was stored at times.
func (i *spaceOf) fillPoints(fits func(*spaceItem) bool, times []time.Time) {
	first, now := times[0], times[len(times)-1]
	for n := range i.items { // into the steps of SpaceTimes, which are added up
		b := &i.items[n]
		if at := int(math.Ceil(float64(spacePoints-1) * float64(b.at.Sub(first)) / float64(now.Sub(first)))); at < spacePoints && fits(b) {
			i.Points[max(at, 0)] += b.stored
		}
	}
	for n := 1; n < spacePoints; n++ {
		i.Points[n] += i.Points[n-1]
	}
	if i.samples == nil {
		return
	}
	k := 0 // of the first sample that is later
	for n, t := range times[:len(times)-1] {
		for k < len(i.samples.Days) && !startOf(i.samples.Days[k]).After(t) {
			k++
		}
		if k > 0 {
			i.Points[n] = i.samples.Bytes[k-1]
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// samplesOf are those of the instances of the caller's project, or all.
func (s *Server) samplesOf(who *access.Caller, all bool) map[string]*job.Samples {
	out := map[string]*job.Samples{}
	s.samples.all(func(id string, x *job.Samples) bool {
		if x.Instance != "" && len(x.Days) == len(x.Bytes) && len(x.Days) > 0 && (all || mine(who, x.Project)) {
			out[id] = x
		}
		return true
	})
	return out
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
