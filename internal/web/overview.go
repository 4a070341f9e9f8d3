package web

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/server"
)

var overviewRoutes = []route{
	{"GET /{$}", access.Viewer, "", (*call).overview},
}

// state is how an instance stands, in words.
type state struct {
	*server.Standing
	Pill    pill
	Why     string // in a few words; "" if all is well
	Trouble []trouble
	Lag     time.Duration
}

// trouble is one thing that needs somebody.
type trouble struct {
	Level string // bad or warn
	Icon  string
	Head  string // what it is
	Text  string // why, and what it means
	To    string // where its one step leads
	Step  string // and what it is called
	Name  string // of the instance
}

// Needs says that the instance needs somebody.
func (s *state) Needs() bool { return len(s.Trouble) > 0 }

// weight orders instances by how much they need somebody.
func (s *state) weight() int {
	w := 0
	for _, t := range s.Trouble {
		if t.Level == "bad" {
			w = max(w, 2)
		} else {
			w = max(w, 1)
		}
	}
	return w
}

// states are the instances that the caller sees, by name. They are worked out once for a page, which needs them for the menu too.
func (c *call) states() []*state {
	if c.stood != nil {
		return c.stood
	}
	list := c.o.Server.Standings(c.who, c.all())
	out := make([]*state, len(list))
	for n, st := range list {
		out[n] = c.stateOf(st)
	}
	c.stood = out
	return out
}

// totals are what the overview says of all instances.
type totals struct {
	Need, Count int
	Oldest      *state // whose newest good backup is oldest
	Furthest    *state // that is furthest behind; nil if none is shipped
	Proven      *state // that was proven last
	Soonest     *state // that is backed up next
	Stored      int64
}

type overviewPage struct {
	totals
	Verdict  string
	Trouble  []trouble
	More     int // troubles that aren't shown
	Rows     []*state
	Heads    map[string]*clusterRow // by the instance before which it stands
	Pager    pager
	Minis    map[string]*mini
	Projects bool // of several projects
	Backups  int
	Running  []jobRow
	Lately   []jobRow
	Next     []*state
}

// mostTrouble is how many troubles the overview shows.
const mostTrouble = 8

func (c *call) overview() (*answer, error) {
	all := c.states()
	if len(all) == 0 {
		return c.first()
	}
	p := overviewPage{totals: sum(all)}
	p.Verdict = verdict(p.totals)
	worst := slices.Clone(all)
	slices.SortStableFunc(worst, func(a, b *state) int { return b.weight() - a.weight() })
	for _, i := range worst {
		p.Trouble = append(p.Trouble, i.Trouble...)
	}
	p.Trouble = append(p.Trouble, c.roomTrouble()...)
	slices.SortStableFunc(p.Trouble, func(a, b trouble) int { return strings.Compare(a.Level, b.Level) }) // bad before warn
	if len(p.Trouble) > mostTrouble {
		p.More = len(p.Trouble) - mostTrouble
		p.Trouble = p.Trouble[:mostTrouble]
	}
	worst, of := c.grouped(worst)
	p.Rows, p.Pager = paged(c, worst, func(i *state) string {
		text := i.Name + " " + i.ID + " " + i.Pill.Text + " " + i.Why + " " + i.AgentName
		if k := of[i.ID]; k != nil {
			text += " " + k.Name
		}
		return text
	})
	p.Heads = headsOf(p.Rows, of)
	p.Minis = c.minis(p.Rows)
	for _, i := range all {
		p.Projects = p.Projects || i.Project != all[0].Project
		p.Backups += i.Backups
	}
	p.Running, p.Lately = c.lately()
	for _, i := range all {
		if !i.Next.IsZero() {
			p.Next = append(p.Next, i)
		}
	}
	slices.SortStableFunc(p.Next, func(a, b *state) int { return a.Standing.Next.Compare(b.Standing.Next) })
	p.Next = p.Next[:min(len(p.Next), 5)]
	return c.livePage(p.Verdict, "overview", "overview.live", p), nil
}

// sum adds up.
func sum(all []*state) totals {
	t := totals{Count: len(all)}
	for _, i := range all {
		if i.Needs() {
			t.Need++
		}
		t.Stored += i.Stored
		if !i.Never && (t.Oldest == nil || i.At.Before(t.Oldest.At)) {
			t.Oldest = i
		}
		if i.Ship != nil && (t.Furthest == nil || i.Lag > t.Furthest.Lag) {
			t.Furthest = i
		}
		if i.Proven != nil && (t.Proven == nil || i.Proven.Proof.At.After(t.Proven.Proven.Proof.At)) {
			t.Proven = i
		}
		if !i.Next.IsZero() && (t.Soonest == nil || i.Next.Before(t.Soonest.Next)) {
			t.Soonest = i
		}
	}
	return t
}

// lately are the jobs that have not ended, and the last that have: a few of each.
func (c *call) lately() (running, ended []jobRow) {
	running, ended = c.jobRows()
	return running[:min(len(running), 5)], ended[:min(len(ended), 5)]
}

// names are those of the instances that the caller sees, by id.
func (c *call) names() map[string]string {
	names := map[string]string{}
	for _, i := range c.o.Server.Instances(c.who, c.all()) {
		names[i.ID] = cmp.Or(i.Name, i.ID)
	}
	return names
}

// first is the overview while there is no instance.
func (c *call) first() (*answer, error) {
	return c.livePage("Nothing is backed up yet", "first", "first.live", c.joinForm()), nil
}
