package web

import (
	"slices"
	"strings"
)

// nav is what the menu shows beside its entries.
type nav struct {
	Need      int // instances that need somebody
	Main      []entry
	SetUp     []entry
	Instances []navInstance // the first few, those that need somebody first
	Count     int           // of all instances
}

// entry is one of the menu.
type entry struct {
	Segment, Icon, Name string
	End                 string // what stands beside it
}

// mainEntries and setupEntries are the menu, of which those are shown that have a page.
var (
	mainEntries  = []entry{{"jobs", "jobs", "Jobs", ""}, {"backups", "restore", "Backups", ""}, {"space", "space", "Space", ""}, {"schedules", "clock", "Schedules", ""}}
	setupEntries = []entry{{"repositories", "repo", "Repositories", ""}, {"agents", "agent", "Agents", ""}, {"tokens", "key", "Tokens", ""}, {"audit", "audit", "Audit log", ""}}
)

// entries are those of a list that have a page which the caller may see, with what stands
// beside them.
func (c *call) entries(list []entry, beside map[string]string) []entry {
	var out []entry
	for _, e := range list {
		if need, ok := c.pages["/"+e.Segment]; ok && c.who.May(need) {
			e.End = beside[e.Segment]
			out = append(out, e)
		}
	}
	return out
}

type navInstance struct {
	ID, Name string
	State    pill
}

// mostInMenu is how many instances the menu has; the rest is in the overview.
const mostInMenu = 30

func (c *call) nav() *nav {
	n := &nav{}
	all := c.states()
	n.Count = len(all)
	for _, i := range all {
		if i.Needs() {
			n.Need++
		}
	}
	menu := slices.Clone(all)
	if len(menu) > mostInMenu {
		slices.SortStableFunc(menu, func(a, b *state) int { return b.weight() - a.weight() })
		menu = menu[:mostInMenu]
	}
	slices.SortStableFunc(menu, func(a, b *state) int { return strings.Compare(a.Name, b.Name) })
	for _, i := range menu {
		n.Instances = append(n.Instances, navInstance{i.ID, i.Name, i.Pill})
	}
	running, agents, stored := 0, 0, int64(0)
	for _, j := range c.jobs() {
		if !j.State.Ended() {
			running++
		}
	}
	for _, a := range c.o.Server.Agents() {
		if c.all() || a.Project == c.who.Project {
			agents++
		}
	}
	for _, i := range all {
		stored += i.Stored
	}
	beside := map[string]string{}
	if running > 0 {
		beside["jobs"] = Number(running) + " running"
	}
	if agents > 0 {
		beside["agents"] = Number(agents)
	}
	if stored > 0 {
		beside["space"] = Bytes(stored)
	}
	n.Main, n.SetUp = c.entries(mainEntries, beside), c.entries(setupEntries, beside)
	return n
}
