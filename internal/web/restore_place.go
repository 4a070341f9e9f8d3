package web

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/words"
)

// In place: a database of a CouchDB that runs and is alone, or all of nodes on which CouchDB is stopped.

func (c *call) placePlace(w *wizard) place {
	o := w.origin
	p := place{Value: "place", Short: "in place", Name: "In place of " + w.Name, Text: "what is there now gets another name, and stays"}
	switch {
	case w.What == "db" && (o.Cluster != nil || o.In != ""):
		p.Name = "In place of the database " + w.Database
		p.Why = "Of a cluster’s nodes some would answer out of the old files for a while. Restore it beside under another name, or drop the old one first."
		return p
	case w.What == "db":
		p.Name = "In place of the database " + w.Database
		if p.Why = planWhy(o, w.State); p.Why == "" {
			p.Why = opensWhen(c.ownTarget(o).whyInPlace())
		}
	case o.In != "":
		p.Why = "The other nodes of its cluster have what was written since. On the node, with CouchDB stopped:"
		p.Command = "slipcover restore" + stateFlags(w.State, " ") + " --to /opt/couchdb/data --rejoin"
		return p
	default:
		if p.Why = planWhy(o, w.State); p.Why == "" {
			_, why := c.stopped(o)
			p.Why = opensWhen(why)
		}
	}
	return p
}

// opensWhen says of a choice that it is closed only as long as something is so.
func opensWhen(why string) string {
	if why == "" {
		return ""
	}
	return strings.TrimSuffix(why, ".") + ", then this opens by itself."
}

// whyInPlace says why no database of a target can be replaced; "" if one can be.
func (t *restoreTarget) whyInPlace() string { return cmp.Or(t.keeps, t.why) }

// ownTarget is the origin as something into which a database can come.
func (c *call) ownTarget(o *origin) *restoreTarget {
	for _, t := range c.targets(o) {
		if t.key == o.Key {
			return &t
		}
	}
	return &restoreTarget{why: "No agent has " + o.Name + " any more: join it again"}
}

// stopped are the agents of the origin's nodes, if CouchDB is stopped on all of them. The sentence says why they can't restore it.
func (c *call) stopped(o *origin) (agents []pair, why string) {
	type member struct {
		node string
		of   *job.Instance
	}
	var nodes []member
	if o.Cluster != nil {
		for _, n := range o.Cluster.Nodes {
			nodes = append(nodes, member{n.Node, n.Instance})
		}
	} else if i, err := c.o.Server.Instance(c.r.Context(), o.who, o.ID); err == nil {
		nodes = append(nodes, member{o.Node, i})
	}
	if len(nodes) == 0 {
		return nil, o.Name + " is not here any more: join it again"
	}
	for _, n := range nodes {
		if n.of == nil {
			return nil, "No instance here is the node " + n.node + ": join it"
		}
		s, a := c.seen(n.of)
		switch {
		case n.of.Made:
			return nil, n.of.Name + " was made by an agent: delete it and make it again"
		case a == nil || !a.Online:
			return nil, "The agent of " + n.of.Name + " is silent: start it"
		case s != nil && s.Up:
			return nil, "CouchDB on " + n.of.Name + " is running. Stop it there"
		case a.RefusesRestores(true) != "":
			return nil, "The agent of " + n.of.Name + " " + a.RefusesRestores(true)
		}
		agents = append(agents, pair{n.node, a.Name})
	}
	return agents, ""
}

func (c *call) planPlace(w *wizard) *restorePlan {
	if w.What == "db" {
		return c.planPlaceDB(w)
	}
	o := w.origin
	p := &restorePlan{Do: "Restore in place", Replace: true, Word: w.Name, WordOf: "the name of what is restored", Head: "Confirm: exchange all of " + w.Name}
	agents, why := c.stopped(o)
	if why != "" {
		p.Refused = "Refused: " + why + "."
	}
	var nodes []string
	for _, a := range agents {
		nodes = append(nodes, a.Name)
	}
	p.Agents = agents
	if p.Refused == "" {
		w.text(p, nodes, slices.Clone(nodes))
	}
	p.Rows = w.rows(c, "In place of what is in the data directories of "+strings.Join(nodes, ", "))
	p.Points = append([]point{
		{"warn", "warn", w.sinceThen(c) + changesLeave + w.Name + ".", "What is there now stays on the node, in a directory beside it, DATA.before-TIME, until you remove it: there must be room for both."},
		{"warn", "warn", "Every replication and phone starts over.", "The databases get a new history, so that none misses what changed since; what they hold that is newer, they bring back."},
		c.replicationsPoint(w, "onto"),
	}, w.common(c)...)
	p.Points = append(p.Points,
		point{"info", "info", "Each node’s own slipcover.yml decides:", "accept_restores and accept_writes, data_dir, repository and identity_file. What is not so is said before anything is written."},
		point{"info", "info", "CouchDB is not started.", "Start it once all is restored, and back it up: shipping goes on from that backup."},
		point{"ok", "ok", "Nothing is written over.", "To go back, stop CouchDB and exchange the names of the two directories."})
	return p
}

// changesLeave is in the words that say how much is not in the state.
const changesLeave = " of changes leave "

// sinceThen is for how long what was written since isn't in the state.
func (w *wizard) sinceThen(c *call) string {
	return words.UpperFirst(short(max(c.now().Sub(w.State.At), time.Second)))
}

func (c *call) planPlaceDB(w *wizard) *restorePlan {
	o := w.origin
	p := &restorePlan{Do: "Restore in place", Replace: true, Word: w.Database, WordOf: "the database’s name", Head: "Confirm: exchange the living database " + w.Database}
	to := c.ownTarget(o)
	switch {
	case to.whyInPlace() != "":
		p.Refused = "Refused: " + strings.TrimSuffix(to.whyInPlace(), ".") + "."
	case strings.HasPrefix(w.Database, "_"):
		p.Refused = w.Database + " is a system database: bring it back over HTTP, by slipcover restore-db."
	}
	p.Agents = to.agents
	if p.Refused == "" {
		w.text(p, []string{o.Node}, []string{o.Node})
	}
	p.Rows = w.rows(c, "In place of the database "+w.Database+" of "+w.Name)
	p.Points = append([]point{
		{"warn", "warn", w.sinceThen(c) + changesLeave + w.Database + ".", "Its files from before stay on the node, and the job’s notes name them. Look first what changed: what is only in them is had back by documents."},
		{"warn", "warn", "Every replication and phone of it starts over.", "The database gets a new history, so that none misses what changed since; what they hold that is newer, they bring back."},
		c.replicationsPoint(w, "place"),
	}, w.common(c)...)
	p.Points = append(p.Points,
		point{"info", "info", "The node’s own slipcover.yml decides:", "accept_restores and accept_writes, couch_user, repository and identity_file. What is not so is said before anything is written."},
		point{"ok", "ok", "CouchDB goes on running.", "The old database answers until the new one is there, with its indexes. If that doesn’t answer, it is the old one again."})
	return p
}
