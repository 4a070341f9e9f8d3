package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
)

const (
	sampleEvery = time.Minute // that servers look whether a sample is due
	// Samples stay each for sampleDays, then one of a week, for sampleWeeks days in all.
	sampleDays  = 92
	sampleWeeks = 800
	// roomDays is how far back the room of a repository is looked at to say when it is full, and leastDays how far at least.
	roomDays  = 28
	leastDays = 3
	// fullSoon is how far ahead that is believed.
	fullSoon = 3 * 365 * 24 * time.Hour
)

// dayOf counts days from 1970-01-01 in UTC.
func dayOf(t time.Time) int32 { return int32(t.Unix() / 86400) } //nolint:gosec // until the year 5 million

// startOf is when a day begins.
func startOf(day int32) time.Time { return time.Unix(int64(day)*86400, 0).UTC() }

// sample notes once a day what the backups of each instance store, and the room that agents tell of. Any server may do it, several
// at once too: the first one's stays.
func (s *Server) sample(ctx context.Context) error {
	now := s.cfg.Watch()
	if s.sampled != 0 && now-s.sampled < sampleEvery {
		return nil
	}
	s.sampled = max(now, 1)
	today := dayOf(s.now())
	var errs []error
	stored := map[string]int64{}
	for id, items := range s.spaceItems() {
		for n := range items {
			stored[id] += items[n].stored
		}
		if len(items) > 0 {
			errs = append(errs, s.addSample(ctx, job.Samples{ID: id, Project: items[0].project, Instance: id, Name: items[0].name}, today, stored[id], 0))
		}
	}
	var rest, old []*job.Samples
	s.samples.all(func(id string, x *job.Samples) bool {
		switch _, ok := stored[id]; {
		case today-x.Days[len(x.Days)-1] > sampleWeeks, x.Instance != "" && !slices.ContainsFunc(x.Bytes, func(n int64) bool { return n > 0 }):
			old = append(old, x)
		case x.Instance != "" && !ok:
			rest = append(rest, x)
		}
		return true
	})
	for _, x := range rest { // all of its backups are gone
		errs = append(errs, s.addSample(ctx, job.Samples{ID: x.ID}, today, 0, 0))
	}
	for _, x := range old {
		errs = append(errs, s.samples.remove(ctx, x.ID))
	}
	for _, r := range s.rooms(func(string) bool { return true }) {
		if r.Online {
			errs = append(errs, s.addSample(ctx, job.Samples{ID: r.id, Project: r.project}, today, r.Free, r.Total))
		}
	}
	return errors.Join(errs...)
}

// addSample adds the sample of a day, if there is none yet. What a clock that was ahead has left goes.
func (s *Server) addSample(ctx context.Context, of job.Samples, today int32, bytes, total int64) error {
	add := func(x *job.Samples) error {
		n := len(x.Days)
		for n > 0 && x.Days[n-1] > today+1 {
			n--
		}
		if n > 0 && x.Days[n-1] >= today {
			return errSame
		}
		next := job.Samples{ID: x.ID, Project: x.Project, Instance: x.Instance, Name: x.Name, At: s.now()}
		for k := range n {
			if age := today - x.Days[k]; age > sampleWeeks || age > sampleDays && x.Days[k]%7 != 0 {
				continue
			}
			next.Days, next.Bytes = append(next.Days, x.Days[k]), append(next.Bytes, x.Bytes[k])
			if total > 0 && k < len(x.Totals) {
				next.Totals = append(next.Totals, x.Totals[k])
			}
		}
		next.Days, next.Bytes = append(next.Days, today), append(next.Bytes, bytes)
		if total > 0 {
			next.Totals = append(next.Totals, total)
		}
		*x = next
		return nil
	}
	if x := s.samples.have(of.ID); x == nil {
		if err := add(&of); err != nil {
			return err
		}
		if err := s.samples.create(ctx, of.ID, &of); !errors.Is(err, bus.ErrExists) {
			return err
		}
	}
	_, err := s.samples.update(ctx, of.ID, add)
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	return err
}

// RoomInfo is the room in the place of a repository, as an agent told of it last.
type RoomInfo struct {
	URL        string
	Repository string   // its id; "" if no agent told it
	Copy       bool     // a further repository of all of its agents
	Agents     []string // names of those that store there
	Free       int64
	Total      int64
	Heard      time.Time
	Online     bool // its agent is
	// Grows is how many bytes of it go each day, by the samples since Since; 0 if it doesn't get less, or nothing is known. Full is
	// when it is full, if that goes on; zero if nobody knows, or if that is in years.
	Grows int64
	Since time.Time
	Full  time.Time

	id, project string
}

// Rooms returns the rooms that agents of the caller's project tell of, or all, the one first that is full first.
func (s *Server) Rooms(who *access.Caller, all bool) []*RoomInfo {
	out := s.rooms(func(project string) bool { return all || mine(who, project) })
	now := s.now()
	for _, r := range out {
		if x := s.samples.have(r.id); x != nil {
			r.foretell(x, now)
		}
	}
	slices.SortFunc(out, func(a, b *RoomInfo) int {
		switch {
		case a.Full.Equal(b.Full):
			return strings.Compare(a.URL+a.id, b.URL+b.id)
		case b.Full.IsZero(), !a.Full.IsZero() && a.Full.Before(b.Full):
			return -1
		}
		return 1
	})
	return out
}

// rooms are those of the agents of projects that fit. What several agents say of one repository is what was heard last.
func (s *Server) rooms(fits func(project string) bool) []*RoomInfo {
	byID := map[string]*RoomInfo{}
	var out []*RoomInfo
	for _, a := range s.Agents() {
		if !fits(a.Project) {
			continue
		}
		for _, room := range a.Hello.Rooms {
			// A folder is another one on each machine, unless it is the same repository.
			key := "agent\n" + a.ID + "\n" + room.URL
			if room.Repository != "" {
				key = "repository\n" + a.Project + "\n" + room.Repository + "\n" + room.URL
			}
			id := uuid.NewSHA1(uuid.NameSpaceURL, []byte(key)).String()
			r := byID[id]
			if r == nil {
				r = &RoomInfo{id: id, project: a.Project, Copy: true}
				byID[id] = r
				out = append(out, r)
			}
			r.Agents, r.Copy = append(r.Agents, a.Name), r.Copy && room.Copy
			if r.URL == "" || a.Seen.After(r.Heard) {
				r.URL, r.Repository, r.Free, r.Total, r.Heard = room.URL, room.Repository, room.FreeBytes, room.TotalBytes, a.Seen
			}
			r.Online = r.Online || a.Online
		}
	}
	return out
}

// foretell says when a room is full, by a straight line through the samples of the last weeks and what is free now: where files
// come and go, one day says little. A disk that was made larger counts from then on.
func (r *RoomInfo) foretell(x *job.Samples, now time.Time) {
	type point struct{ at, free float64 }
	var list []point
	for k, day := range x.Days {
		if k >= len(x.Totals) || now.Sub(startOf(day)) > roomDays*24*time.Hour {
			continue
		}
		if off := x.Totals[k] - r.Total; off > r.Total/100 || off < -r.Total/100 {
			list = nil
			continue
		}
		if len(list) == 0 {
			r.Since = startOf(day)
		}
		list = append(list, point{startOf(day).Sub(now).Hours() / 24, float64(x.Bytes[k])})
	}
	if len(list) < leastDays || list[0].at > -leastDays {
		r.Since = time.Time{}
		return
	}
	list = append(list, point{0, float64(r.Free)})
	var at, free, both, square float64
	for _, p := range list {
		at, free = at+p.at, free+p.free
	}
	n := float64(len(list))
	at, free = at/n, free/n
	for _, p := range list {
		both, square = both+(p.at-at)*(p.free-free), square+(p.at-at)*(p.at-at)
	}
	slope := both / square
	if slope >= 0 {
		return
	}
	r.Grows = int64(-slope)
	if left := float64(r.Free) / -slope; left < fullSoon.Hours()/24 {
		r.Full = now.Add(time.Duration(left * 24 * float64(time.Hour)))
	}
}
