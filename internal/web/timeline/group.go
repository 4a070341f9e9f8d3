package timeline

import (
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/shard"
)

// Group makes one of databases whose names begin alike up to a hyphen or underscore, as userdb-6a6f65 and userdb-616e6e do;
// those that are alone stay as they are. The order is by name.
func Group(all []Database) []Database {
	members := map[string]int{}
	for _, d := range all {
		if p := shard.GroupOf(d.Name); p != "" {
			members[p]++
		}
	}
	groups := map[string]*Database{}
	var out []Database
	for _, d := range all {
		p := shard.GroupOf(d.Name)
		if p == "" || members[p] < shard.GroupFrom {
			out = append(out, d)
			continue
		}
		g := groups[p]
		if g == nil {
			g = &Database{Name: p + "…", Count: members[p], First: d.First, Gone: d.Gone}
			groups[p] = g
		}
		if d.First.Before(g.First) {
			g.First = d.First
		}
		switch {
		case d.Gone.IsZero():
			g.Gone = time.Time{}
		case !g.Gone.IsZero() && d.Gone.After(g.Gone):
			g.Gone = d.Gone
		}
		for _, e := range d.Events {
			e.Text = strings.TrimSuffix(d.Name+", "+e.Text, ", ")
			g.Events = append(g.Events, e)
		}
	}
	for _, g := range groups {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b Database) int { return strings.Compare(a.Name, b.Name) })
	return out
}
