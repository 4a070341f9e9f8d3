package repo

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Points is what can be had back of an instance: its recovery window.
type Points struct {
	Instance string
	// Read says that the indexes of what was shipped were read. Without a key there is only
	// what names tell: times of roll-ups to the second, and of ticks when the storage took them.
	Read    bool
	Windows []Window // in the order of time
	Gaps    []Gap
	Notes   []string // what shippers noted, oldest first
	Objects int      // of chains
	Bytes   int64    // of these, as stored
	// Databases are those that were asked for, by name.
	Databases []*PointsDB
}

// Window is a time in which moments follow each other without a gap; or one of which only
// backups are left.
type Window struct {
	From, To time.Time
	Shipped  bool
	// Moments are those that can be had back, Backups how many of them are backups.
	Moments, Backups int
	// Every is how exact the times of most moments are: what a server had committed that long before
	// may be in the next one only.
	Every time.Duration

	chain *Chain
	tick  int64
}

// Gap is a time without moments: what was committed in it is in the first moment after it, if at all.
type Gap struct {
	From, To time.Time // To is zero where nothing is behind it
	Why      string
}

// leastGap is from how long on a time in which nothing was shipped though something may have been committed is a
// gap; where ticks are farther apart, ten times as far.
const leastGap = 10 * time.Second

// Points lists what can be had back of an instance. It reads records and the ends of what was shipped, no files; of the
// databases that wanted takes, if it isn't nil, also the backups' manifests.
func (r *Repo) Points(ctx context.Context, instance string, wanted func(db string) bool) (*Points, error) {
	var looks databaseLooks
	o := reading{lean: true}
	if wanted != nil {
		looks.wanted = wanted
		o.keep = looks.link
	}
	h, err := r.history(ctx, instance, o)
	if errors.Is(err, ErrNoKey) {
		return r.pointsByName(ctx, instance)
	}
	if err != nil {
		return nil, err
	}
	p := &Points{Instance: instance, Read: true}
	for _, c := range h.Chains {
		for _, l := range c.Links {
			p.Objects++
			p.Bytes += l.Size
			p.Notes = append(p.Notes, l.Tick.Notes...)
		}
	}
	p.Windows, p.Gaps = h.windows()
	if wanted != nil {
		if p.Databases, err = looks.databases(ctx, h); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// every returns how long before most ticks the state may have been another one.
func (h *History) every() time.Duration {
	var list []int64
	for _, c := range h.Chains {
		for _, l := range c.Links {
			for _, t := range l.Tick.Times {
				list = append(list, t.Quiet)
			}
		}
	}
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return time.Duration(list[len(list)/2]) * time.Millisecond
}

// spanner puts windows together.
type spanner struct {
	h     *History
	every time.Duration
	out   []Window
	gaps  []Gap
	lost  string // why moments behind the last window can't be had back
	// lostAt is when the first of these was.
	lostAt time.Time
}

// windows parts all moments into windows, with the gaps between them.
func (h *History) windows() ([]Window, []Gap) {
	s := &spanner{h: h, every: h.every()}
	for i := range h.events {
		if e := &h.events[i]; e.backup >= 0 {
			s.backup(i, e)
		} else {
			s.tick(i, e)
		}
	}
	if why := s.lost; why != "" {
		s.gaps = append(s.gaps, Gap{From: s.end(), Why: why})
	}
	return s.out, s.gaps
}

func (s *spanner) last() *Window {
	if len(s.out) == 0 {
		return nil
	}
	return &s.out[len(s.out)-1]
}

func (s *spanner) end() time.Time {
	if w := s.last(); w != nil {
		return w.To
	}
	return time.Time{}
}

// next is the first tick behind an event, nil if there is none.
func (s *spanner) next(i int) *event {
	for i++; i < len(s.h.events); i++ {
		if e := &s.h.events[i]; e.backup < 0 {
			return e
		}
	}
	return nil
}

// goesOn reports whether a tick can be had back that is based on the backup before it, and that nothing is missing
// between the two though the ticks before can't.
func (s *spanner) goesOn(i int, n *event) bool {
	for i--; i >= 0; i-- {
		if e := &s.h.events[i]; e.backup < 0 {
			return e.chain == n.chain && e.tick == n.tick-1
		}
	}
	return false
}

func (s *spanner) backup(i int, e *event) {
	w, n := s.last(), s.next(i)
	if w != nil && w.Shipped && s.lost == "" && n != nil && n.chain == w.chain && n.tick == w.tick+1 {
		w.Moments++ // made while it was shipped
		w.Backups++
		return
	}
	begins := n != nil && n.chain.sinceOf(n.tick) == e.backup && s.h.suits(n.chain, e.backup) == nil &&
		(n.tick == n.chain.from && n.chain.whole || s.goesOn(i, n))
	if w != nil && !w.Shipped && !begins {
		w.To, w.Moments, w.Backups = e.done, w.Moments+1, w.Backups+1
		return
	}
	made := Window{From: e.done, To: e.done, Shipped: begins, Moments: 1, Backups: 1}
	if begins {
		made.Every, made.chain, made.tick = s.every, n.chain, n.tick-1
	}
	switch {
	case w == nil && s.lost != "":
		s.gap(s.lostAt, e.at, "")
	case w != nil && n == nil && w.Shipped:
		s.gap(w.To, e.at, "nothing was shipped, or it was not copied here yet")
	case w != nil && (w.Shipped || s.lost != ""):
		s.gap(w.To, e.at, "nothing was shipped")
	}
	s.out = append(s.out, made)
}

// gap adds a gap that ends where a moment follows.
func (s *spanner) gap(from, to time.Time, why string) {
	if s.lost != "" {
		why, s.lost = s.lost, ""
	}
	if to.After(from) {
		s.gaps = append(s.gaps, Gap{from, to, why})
	}
}

func (s *spanner) tick(i int, e *event) {
	if _, err := s.h.base(e); err != nil {
		if s.lost == "" && s.h.missed(e) {
			s.lost, s.lostAt = err.Error(), e.at
		}
		return
	}
	w, c := s.last(), e.chain
	quiet := c.quiet(e.tick)
	if w != nil && w.Shipped && w.chain == c && w.tick == e.tick-1 && s.lost == "" {
		if quiet <= max(leastGap, 10*s.every) {
			w.To, w.tick = e.at, e.tick
			w.Moments++
			return
		}
		known := e.at.Add(-quiet)
		if known.After(w.To) {
			w.To = known
		}
		s.gap(w.To, e.at, "nothing was shipped: the shipper didn't run, or the storage was away")
	} else if w != nil {
		why := "shipping began anew"
		for k := i - 1; k >= 0 && why != ""; k-- {
			if before := &s.h.events[k]; before.backup < 0 {
				if before.chain.Broken != "" {
					why = before.chain.Broken
				}
				break
			}
		}
		s.gap(w.To, e.at, why)
	}
	s.out = append(s.out, Window{From: e.at, To: e.at, Shipped: true, Moments: 1, Every: s.every, chain: c, tick: e.tick})
}

// pointsByName is Points for who can't read what was shipped.
func (r *Repo) pointsByName(ctx context.Context, instance string) (*Points, error) {
	shipped, err := r.Shipped(ctx, instance)
	if err != nil {
		return nil, err
	}
	recs, _, err := r.List(ctx, instance)
	if err != nil {
		return nil, err
	}
	p := &Points{Instance: instance}
	if len(recs) > 0 {
		p.Windows = append(p.Windows, Window{From: recs[0].Finished, To: recs[len(recs)-1].Finished, Moments: len(recs), Backups: len(recs)})
	}
	for _, o := range shipped {
		p.Objects++
		p.Bytes += o.Size
	}
	for _, c := range chainsOf(shipped, nil, map[string]*Link{}) {
		w := Window{Shipped: true}
		for _, l := range c.Links {
			from, to := l.From, l.To
			if !l.RollUp() {
				from, to = l.Modified, l.Modified
			}
			if w.Moments == 0 {
				w.From = from
			}
			w.To, w.Moments = to, w.Moments+int(l.Last-l.First+1)
		}
		p.Windows = append(p.Windows, w)
		if c.Broken != "" {
			p.Gaps = append(p.Gaps, Gap{From: w.To, Why: c.Broken})
		}
	}
	slices.SortStableFunc(p.Windows, func(a, b Window) int { return a.From.Compare(b.From) })
	return p, nil
}
