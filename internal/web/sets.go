package web

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// Clusters, and their sets: backups of all nodes, made at one moment.

var setRoutes = []route{
	{"POST /clusters/{project}/{name}/backup", access.Operator, "cluster.backup", (*call).backUpCluster},
	{"GET /sets/{id}", access.Viewer, "", (*call).setPage},
	{"GET /sets/{id}/delete", access.Operator, "", (*call).askDeleteSet},
	{"POST /sets/{id}/delete", access.Operator, "set.delete", (*call).deleteSet},
}

// clusterRow is a cluster in the overview, before its nodes.
type clusterRow struct {
	Name   string
	To     string // its page
	Words  string // "cluster of 3"
	Why    string // it can't be backed up as one
	Set    *setRow
	BackUp string // path that backs up all of its nodes; "" if the caller may not or it can't be
	Again  string // the wizard
}

// setRow is a set in words.
type setRow struct {
	*server.SetInfo
	Pill pill
	Note string
	To   string
	Size int64
}

func (c *call) setRow(i *server.SetInfo) *setRow {
	if i == nil {
		return nil
	}
	r := &setRow{SetInfo: i, To: pathOf("sets", i.ID), Size: setSize(i)}
	r.Pill, r.Note = setPill(i)
	return r
}

func (c *call) clusterRow(k *server.Cluster) *clusterRow {
	r := &clusterRow{Name: k.Name, To: pathOf("clusters", k.Project, k.Name), Words: "cluster of " + Number(len(k.Nodes)), Why: k.Unclear, Set: c.setRow(k.Newest)}
	if c.who.May(access.Operator) && k.Unclear == "" {
		r.BackUp = pathOf("clusters", k.Project, k.Name, "backup")
		r.Again = restoreOf(clusterKey(k), "")
	}
	return r
}

// grouped puts nodes of one cluster beside each other, in the order of the first of each, and returns by the ids of instances
// what is to be shown before them.
func (c *call) grouped(list []*state) (out []*state, of map[string]*clusterRow) {
	of = map[string]*clusterRow{} // by the ids of all its nodes
	clusters := c.o.Server.Clusters(c.who, c.all())
	for n := range clusters {
		row := c.clusterRow(&clusters[n])
		for _, node := range clusters[n].Nodes {
			if node.Instance != nil {
				of[node.Instance.ID] = row
			}
		}
	}
	taken := map[*clusterRow]bool{}
	for _, i := range list {
		row := of[i.ID]
		if row == nil {
			out = append(out, i)
			continue
		}
		if taken[row] {
			continue
		}
		taken[row] = true
		for _, m := range list {
			if of[m.ID] == row {
				out = append(out, m)
			}
		}
	}
	return out, of
}

// headsOf says before which instances of a page something stands: their cluster, or that what follows is in none.
func headsOf(page []*state, of map[string]*clusterRow) map[string]*clusterRow {
	heads := map[string]*clusterRow{}
	for n, i := range page {
		row := of[i.ID]
		switch {
		case n > 0 && of[page[n-1].ID] == row:
		case row != nil:
			heads[i.ID] = row
		case n > 0:
			heads[i.ID] = &clusterRow{Name: "Single nodes"}
		}
	}
	return heads
}

// backUpCluster begins a set.
func (c *call) backUpCluster() (*answer, error) {
	name, project := c.r.PathValue("name"), c.r.PathValue("project")
	c.log.Target = name
	who, ok := c.own(project)
	if !ok {
		return nil, api.NoResource(name)
	}
	i, err := c.o.Server.CreateSet(c.r.Context(), who, server.NewSet{Cluster: name, Name: strings.TrimSpace(name + " " + c.now().UTC().Format("2006-01-02 15:04"))})
	if problem, ok := theirs(err); ok {
		return c.see("/", problem), nil
	}
	if err != nil {
		return nil, err
	}
	said := "The backup of all nodes was begun."
	if lacks := len(i.Members) - len(slices.DeleteFunc(slices.Clone(i.Backups), func(b *job.Backup) bool { return b == nil })); lacks > 0 {
		said = "The backup was begun, and of " + plural(lacks, "node", "nodes") + " it waits."
	}
	return c.see(pathOf("sets", i.ID), said), nil
}

// setPageData is what the page of a set shows.
type setPageData struct {
	*setRow
	Parts  []setPart
	Delete string        // path that asks for its deletion; "" if the caller may not
	Spread time.Duration // between the starts of its backups
	Again  string        // the wizard
}

type setPart struct {
	Node, Instance, Home string
	Backup               *job.Backup
	Pill                 pill
	Lacks                string
	Progress
}

func (c *call) setPage() (*answer, error) {
	i, _, err := c.findSet()
	if err != nil {
		return nil, err
	}
	d := setPageData{setRow: c.setRow(i)}
	clusters := c.o.Server.Clusters(c.who, c.all())
	if n := slices.IndexFunc(clusters, func(k server.Cluster) bool { return k.Project == i.Project && k.Name == i.Cluster }); n >= 0 && i.Usable() > 0 && c.has("/restore") {
		d.Again = restoreOf(clusterKey(&clusters[n]), i.ID)
	}
	if c.has("/sets/{id}/delete") {
		d.Delete = pathOf("sets", i.ID, "delete")
	}
	names, jobs := c.names(), map[string]*job.Job{}
	for _, j := range c.jobs() {
		jobs[j.ID] = j
	}
	var first, last time.Time
	for n, m := range i.Members {
		p := setPart{Node: m.Node, Instance: cmp.Or(names[m.Instance], m.InstanceName), Backup: i.Backups[n], Lacks: i.Lacks(n), Pill: pill{"warn", "Missing"}}
		if names[m.Instance] != "" {
			p.Home = pathOf("instances", m.Instance)
		}
		if b := p.Backup; b != nil {
			p.Pill = backupPill(b)
			if j := jobs[b.Job]; j != nil && !j.State.Ended() {
				p.Progress = c.progress(j, "Backup of "+p.Instance)
			}
			if at := b.MadeAt(); b.Status.Usable() {
				if first.IsZero() || at.Before(first) {
					first = at
				}
				if at.After(last) {
					last = at
				}
			}
		}
		d.Parts = append(d.Parts, p)
	}
	d.Spread = last.Sub(first)
	return c.livePage("Set "+i.Name, "set", "set.live", d), nil
}

func (c *call) findSet() (*server.SetInfo, *access.Caller, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return nil, nil, err
	}
	who, err := c.as(id)
	if err != nil {
		return nil, nil, err
	}
	i, err := c.o.Server.Set(c.r.Context(), who, id)
	return i, who, err
}

// setDeletion shows what deleting a set does.
type setDeletion struct {
	*setRow
	Confirm confirm
}

func (c *call) setDeletion(i *server.SetInfo, who *access.Caller) setDeletion {
	d := setDeletion{setRow: c.setRow(i)}
	k, stored, more := &d.Confirm, int64(0), 0
	k.Action, k.Back = pathOf("sets", i.ID, "delete"), d.To
	k.Word, k.Do, k.Head = i.Name, "Delete set", "All backups of the set "+i.Name+" of the cluster "+i.Cluster+" are deleted, and can't be had back."
	family := c.o.Server.SetFamily(i)
	for _, b := range family {
		if stored += b.Stored; b.Set != i.ID {
			more++
		}
	}
	if err := c.o.Server.MayDeleteSet(c.r.Context(), who, i.Set); err != nil {
		k.Closed, k.Head = sentenceOf(err), "The set "+i.Name+" of the cluster "+i.Cluster+" can't be deleted now."
		for _, b := range family {
			if b.Pin != nil {
				k.Step, k.To = "Unpin "+b.Name, pathOf("backups", b.ID)
			}
		}
	}
	if more > 0 {
		k.Points = append(k.Points, point{"bad", "bad", plural(more, "backup goes", "backups go") + " with it:", "made with one of the set as their parent, as Trove has it, though each would restore alone."})
	}
	other := false
	for _, o := range c.o.Server.Sets(who, server.SetFilter{Cluster: i.Cluster}) {
		other = other || o.ID != i.ID && o.State == server.SetWhole
	}
	if !other && i.State == server.SetWhole {
		k.Points = append(k.Points, point{"warn", "warn", "It is the only whole set of " + i.Cluster + ".", "Without it the cluster can’t be restored as it was at one moment."})
	} else if other {
		k.Points = append(k.Points, point{"ok", "ok", "Nothing depends on it:", "there are other whole sets of " + i.Cluster + ", and each restores alone."})
	}
	k.Points = append(k.Points, freed(stored)...)
	return d
}

func (c *call) askDeleteSet() (*answer, error) {
	i, who, err := c.findSet()
	if err != nil {
		return nil, err
	}
	return c.page("Delete set", "set-delete", c.setDeletion(i, who)), nil
}

func (c *call) deleteSet() (*answer, error) {
	i, who, err := c.findSet()
	if err != nil {
		return nil, err
	}
	again := func(problem string) (*answer, error) {
		d := c.setDeletion(i, who)
		d.Confirm.Wrong = problem
		return c.again("Delete set", "set-delete", d), nil
	}
	if strings.TrimSpace(c.r.FormValue("word")) != strings.TrimSpace(i.Name) {
		return again("That is not the name of the set. Nothing was deleted.")
	}
	err = c.o.Server.DeleteSet(c.r.Context(), who, i.ID)
	if problem, ok := theirs(err); ok {
		return again(problem)
	}
	if err != nil {
		return nil, err
	}
	return c.see("/backups", "The set "+i.Name+" is being deleted."), nil
}
