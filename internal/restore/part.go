package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/topology"
)

// Part is what one node of a cluster gets out of the backups of another cluster's nodes.
type Part struct {
	ID string // tells the plan from others: of it the cluster's uuid, secret and cookie are made
	// Placement is by how many copies in which zones new databases are made, "" if the plan doesn't say.
	Placement string
	Node      topology.Node
	Nodes     []topology.Node  // of the new cluster, this one too
	Backups   []cluster.Member // as the takes number them
	// Base is the backup whose _dbs.couch and _nodes.couch are continued, the same on all
	// nodes, so that these have the same revisions.
	Base int
	// Bases are those that can be: Base, and others that come in where it can't be read.
	Bases []int
	Takes []topology.Take
	Maps  []topology.Map // of all databases, sorted
	// Shared is how many files go to more than one node of the plan. Each copy must have a
	// history of its own: what was passed on between copies is noted under their uuids
	// alone, so that of those with one uuid each takes the notes of the others for its own and keeps
	// back what it never sent.
	//
	// Source: CouchDB 3.5.0, src/mem3/src/mem3_rep.erl, make_local_id and
	// calculate_start_seq.
	Shared int
	// Problems say what can't be read of the shard maps, or is wrong with them.
	Problems []string
	// DB is set for a part of one database, which is put into a running cluster: see PartOfDB.
	DB *PartDB
}

// PartOf works a plan out for the node of that name. It returns topology.ErrPlan if the
// plan can't be carried out with what the backups hold.
func PartOf(c *cluster.Cluster, plan *topology.Plan, name string) (*Part, error) {
	if c.Mixed != "" {
		return nil, fmt.Errorf("%w: %s", topology.ErrPlan, c.Mixed)
	}
	bases := c.Bases()
	if len(bases) == 0 {
		return nil, fmt.Errorf("%w: none of its backups has a %s and a %s that can be read whole; name others: %s", topology.ErrPlan, dbsPath, nodesPath, strings.Join(c.Problems, "; "))
	}
	placed, err := plan.Place(c.Databases)
	if err != nil {
		return nil, err
	}
	mine, err := placed.Part(name)
	if err != nil {
		return nil, err
	}
	return &Part{ID: plan.Identity(), Placement: plan.Placement, Node: mine.Node, Nodes: plan.Nodes, Backups: c.Members, Base: bases[0], Bases: bases, Takes: mine.Takes, Maps: placed.Maps, Shared: placed.Shared(), Problems: c.Problems}, nil
}

func (p *Part) base() cluster.Member { return p.Backups[p.Base] }

// config is the index of the backup that configuration is taken from.
func (p *Part) config() int {
	i := slices.IndexFunc(p.Backups, func(b cluster.Member) bool { return b.Manifest.NodeName == p.Node.As })
	if i < 0 {
		return p.Base
	}
	return i
}

// Key names what the node gets, with the backups and the other nodes.
func (p *Part) Key() string { return p.hash() }

// hash names what the node gets: a restore goes on only with what is the same.
func (p *Part) hash() string {
	sum := sha256.New()
	fmt.Fprintln(sum, p.ID, p.Node.Name)
	for _, n := range p.Nodes {
		fmt.Fprintln(sum, n.Name, n.Zone)
	}
	for _, b := range p.Backups {
		fmt.Fprintln(sum, b.Manifest.ID, b.Manifest.Finished)
	}
	for _, t := range p.Takes {
		fmt.Fprintln(sum, t.Name, t.Backup)
	}
	for _, m := range p.Maps {
		_, _ = sum.Write(m.Doc)
	}
	if p.DB != nil {
		fmt.Fprintln(sum, p.DB.was, p.DB.Name, p.DB.Suffix)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// partOf plans what a node gets of a cluster.
func (p *planner) partOf(part *Part, readers map[*manifest.File]*repo.Reader) *plan {
	var items []item
	for i, b := range part.Backups {
		p.m, p.databases, p.plan.items = b.Manifest, b.Manifest.Databases(), nil
		taken := map[string]bool{}
		for _, t := range part.Takes {
			if t.Backup == i {
				taken[t.Name.Path()] = true
				p.database(p.databases[t.Name.Path()], t.Name.Path())
			}
		}
		for _, f := range p.m.Files {
			if path, ok := shard.ViewOwner(f.Path); ok && f.Kind == manifest.View && taken[path] {
				p.view(f, f.Path)
			}
			if f.Root == manifest.EtcRoot && i == part.config() && p.opts.ConfigTo != "" {
				p.plan.items = append(p.plan.items, item{f, manifest.EtcRoot, configPath(f)})
			}
		}
		if i == part.Base {
			p.database(p.databases[nodesPath], nodesPath)
			p.database(p.databases[dbsPath], dbsPath)
		}
		sortItems(p.plan.items)
		p.plan.read(p.opts.Repo, p.m, p.opts.To, readers)
		items = append(items, p.plan.items...)
	}
	for _, t := range part.Takes {
		if t.Backup < 0 {
			p.guard(t.Name.Path())
			p.res.problem("database %q: no backup of the cluster holds its shard %s: the folder of that name keeps CouchDB from creating it empty, and lists of the database and its documents in that range answer with errors", t.Name.DB, t.Name.Path())
		}
	}
	p.done()
	p.plan.items = items
	p.othersOf(part, readers)
	return &p.plan
}

// othersOf finds the copies that come in for files of the plan which can't be read.
func (p *planner) othersOf(part *Part, readers map[*manifest.File]*repo.Reader) {
	p.plan.others = map[*manifest.File][]*manifest.File{}
	spare := make([]*repo.Reader, len(part.Backups))
	databases := make([]map[string]*manifest.File, len(part.Backups))
	for i, b := range part.Backups {
		databases[i] = b.Manifest.Databases()
	}
	add := func(path string, backup, other int) {
		f, o := databases[backup][path], databases[other][path]
		if f == nil || o == nil || o.Header == nil {
			return
		}
		if readers[o] == nil {
			if spare[other] == nil {
				spare[other] = p.opts.Repo.NewReader(part.Backups[other].Manifest, nil)
				spare[other].Scratch = p.opts.To
			}
			readers[o] = spare[other]
		}
		p.plan.others[f] = append(p.plan.others[f], o)
	}
	for _, t := range part.Takes {
		for _, c := range t.Others {
			add(t.Name.Path(), t.Backup, c.Backup)
		}
	}
	for _, i := range part.Bases[1:] { // each has the same documents for all nodes
		add(nodesPath, part.Base, i)
		add(dbsPath, part.Base, i)
	}
}

// tellPart says what the node is and what is to be done before it starts.
func (r *run) tellPart() {
	p := r.opts.Part
	r.res.NodeName = p.Node.Name
	r.res.Warnings = append(r.res.Warnings, p.Problems...)
	for _, m := range p.Maps {
		r.res.Databases = append(r.res.Databases, m.DB)
	}
	others := make([]string, 0, len(p.Nodes))
	for _, n := range p.Nodes {
		if n.Name != p.Node.Name {
			others = append(others, n.Name)
		}
	}
	start := fmt.Sprintf("start CouchDB on it with %s %s in vm.args", nameFlag(p.Node.Name), p.Node.Name)
	switch {
	case len(others) > 0 && r.opts.ConfigTo != "":
		start += fmt.Sprintf(", once it and %s are restored by this plan", strings.Join(others, ", "))
	case len(others) > 0:
		start += fmt.Sprintf(", and with one Erlang cookie, chttpd_auth/secret and couchdb/uuid for it and %s, once all of them are restored by this plan", strings.Join(others, ", "))
	default:
		start += "; it is alone now"
	}
	r.res.note("%s", start)
	if r.opts.ConfigTo != "" {
		r.res.note("`slipcover restore-check` tells whether each node has what it should, and opens them")
		return // what else there is to do is told once it is written
	}
	r.res.note("let the nodes start with maintenance_mode = true in [couchdb]: `slipcover restore-check` tells whether each has what it should, and opens them")
	r.res.note("give the restored cluster a cookie that the original never had: nodes that reach each other by one cookie join. --config-to DIR writes one, with uuid and secret, that all nodes of the plan get alike")
}

// mapsOf returns what becomes of the documents of _dbs.couch: those of the plan follow the
// newest that a backup had, others that are no maps stay.
func mapsOf(list []topology.Map) (change func(id string, doc []byte) (newDoc, error), rest func() []newDoc) {
	left := make(map[string]*topology.Map, len(list))
	for i := range list {
		left[list[i].DB] = &list[i]
	}
	change = func(id string, doc []byte) (newDoc, error) {
		if m := left[id]; m != nil {
			delete(left, id)
			return newDoc{id: id, body: m.Doc, parent: m.Was}, nil
		}
		if _, ok, err := shard.ParseMap(doc); err != nil || ok {
			return newDoc{}, err
		}
		return newDoc{id: id}, nil
	}
	rest = func() (out []newDoc) {
		for i := range list {
			if m := &list[i]; left[m.DB] != nil {
				out = append(out, newDoc{id: m.DB, body: m.Doc, parent: m.Was})
			}
		}
		return out
	}
	return change, rest
}

// nodesOf returns what becomes of the documents of _nodes.couch: each node has what the one
// had whose place it takes, such as its zone.
func nodesOf(nodes []topology.Node) (change func(id string, doc []byte) (newDoc, error), rest func() []newDoc) {
	done := map[string]bool{}
	zoned := func(n topology.Node, doc []byte) ([]byte, error) {
		if n.Zone == "" {
			return doc, nil
		}
		var d map[string]json.RawMessage
		err := json.Unmarshal(doc, &d)
		if err == nil {
			d["zone"], err = json.Marshal(n.Zone)
		}
		if err != nil {
			return nil, err
		}
		return json.Marshal(d)
	}
	change = func(id string, doc []byte) (newDoc, error) {
		for _, n := range nodes {
			if n.As == id || n.As == "" && n.Name == id {
				done[n.Name] = true
				body, err := zoned(n, doc)
				return newDoc{id: n.Name, body: body}, err
			}
		}
		if strings.Contains(id, "@") {
			return newDoc{}, nil
		}
		return newDoc{id: id}, nil // no node's
	}
	rest = func() (out []newDoc) {
		for _, n := range nodes {
			if !done[n.Name] {
				body, _ := zoned(n, []byte("{}")) // a text always becomes JSON
				out = append(out, newDoc{id: n.Name, body: body})
			}
		}
		return out
	}
	return change, rest
}

// rewritePart writes the cluster's maps or nodes into a _dbs.couch or _nodes.couch.
func (r *run) rewritePart(ctx context.Context, f *os.File, it item) error {
	info, err := f.Stat() // it may be another backup's
	if err != nil {
		return err
	}
	change, rest := mapsOf(r.opts.Part.Maps)
	if it.path == nodesPath {
		change, rest = nodesOf(r.opts.Part.Nodes)
	}
	size, err := rewrite(ctx, f, info.Size(), it.path, r.opts.Part.Node.Name, change, rest)
	if err != nil {
		return err
	}
	r.resized(it, size)
	return nil
}
