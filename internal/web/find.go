package web

import (
	"net/http"
	"strings"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
)

var findRoutes = []route{
	{"GET /find", access.Viewer, "", (*call).findAll},
}

// mostFound is how many of each kind a search shows.
const mostFound = 20

type findPage struct {
	Query     string
	Instances []*state
	Backups   []listedBackup
	Schedules []scheduleRow
	More      bool // there are more than are shown
}

// findAll looks for words in the names and ids of what there is. An id leads on at once.
func (c *call) findAll() (*answer, error) {
	p := findPage{Query: strings.TrimSpace(c.r.FormValue("q"))}
	if len(p.Query) > 255 {
		return nil, &api.Refusal{Status: http.StatusBadRequest, Message: "That is too long to look for."}
	}
	find := finderOf(p.Query)
	if find.none() {
		return c.page("Find", "find", p), nil
	}
	fits := find.fits
	for _, i := range c.states() {
		switch {
		case !fits(i.Name, i.ID, i.AgentName):
		case i.ID == p.Query:
			return c.see(pathOf("instances", i.ID), ""), nil
		case len(p.Instances) == mostFound:
			p.More = true
		default:
			p.Instances = append(p.Instances, i)
		}
	}
	var found []*job.Backup
	names := c.names()
	c.o.Server.EachBackup(c.who, c.all(), func(b *job.Backup) bool {
		if !find.backup(b, names) {
			return true
		}
		if len(found) == mostFound {
			p.More = true
			return false
		}
		found = append(found, b)
		return true
	})
	for _, b := range found {
		if b.ID == p.Query {
			return c.see(pathOf("backups", b.ID), ""), nil
		}
		p.Backups = append(p.Backups, c.listBackup(b, names))
	}
	for _, s := range c.schedules() {
		if fits(s.Name, names[s.Instance], s.ID) && len(p.Schedules) < mostFound {
			p.Schedules = append(p.Schedules, c.scheduleRow(s, names))
		}
	}
	for _, j := range c.jobs() {
		if j.ID == p.Query {
			return c.see(pathOf("jobs", j.ID), ""), nil
		}
	}
	return c.page("Find "+p.Query, "find", p), nil
}
