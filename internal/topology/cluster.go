package topology

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/words"
)

var (
	// ErrNoCluster says that no cluster has that name.
	ErrNoCluster = errors.New("there is no such cluster")
	// ErrWhich says that there are several clusters, and none was named.
	ErrWhich = errors.New("there are several clusters")
)

// Cluster is a CouchDB cluster, as the newest backups of its nodes tell of it.
type Cluster struct {
	Name  string   // no other one has it; see Clusters
	Nodes []string // the names of its nodes, sorted, as the newest backup that knows them has them
	// Instances are, by node, the newest backups of the instances that are of it, the newest first. Of several the
	// others are of before the node had another instance, or of another cluster with the same nodes' names. There may be
	// nodes that were removed from the cluster, see Removed, and "", of those that don't know what they are called.
	Instances map[string][]*manifest.Record
}

// Lacking returns the nodes that no instance is of, sorted.
func (c *Cluster) Lacking() []string {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(node string) bool { return len(c.Instances[node]) > 0 })
}

// Removed returns the nodes that have instances and are none of the cluster any more, sorted.
func (c *Cluster) Removed() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c.Instances)), func(node string) bool { return node == "" || slices.Contains(c.Nodes, node) })
}

// Twins returns sentences about nodes of which several instances are that are not one CouchDB, sorted by node: two clusters
// whose nodes have the same names, or a node that was made anew. Names don't tell which, and copies of two clusters taken
// for those of one are mixed into it.
func (c *Cluster) Twins() (out []string) {
	for _, node := range slices.Sorted(maps.Keys(c.Instances)) {
		list := c.Instances[node]
		names := []string{list[0].Instance}
		alike := true
		for _, rec := range list[1:] {
			names = append(names, rec.Instance)
			alike = alike && rec.Identity.MapUUID != "" && rec.Identity.MapUUID == list[0].Identity.MapUUID
		}
		if !alike && slices.Contains(c.Nodes, node) {
			slices.Sort(names)
			out = append(out, fmt.Sprintf("%s are backups of different CouchDBs that are called %s", strings.Join(names, " and "), node))
		}
	}
	return out
}

// Clusters makes out which instances are nodes of one cluster, of the newest backup of each, and returns the clusters
// by name. Instances of no cluster are left out: nodes that are alone, unless their configuration names a cluster, and
// all whose newest backup is of a version that didn't record the cluster.
//
// Instances are one cluster if their configuration names it. Others are if each one's node is in the other's list of
// nodes. Then no member may be missing in the list of one that was backed up later: it was removed, and neither its
// backups nor old ones of those that still knew it hold the two together. Nor do names of nodes alone where two
// clusters with the same ones have each a couchdb/uuid of its own. Instances that no cluster is configured for belong
// to the configured one that fits, unless two do, or that has instances of the same nodes: one of the two is a copy.
//
// The name of a cluster is the configured one, else the host of its first node, such as db1.example; or that node's
// whole name if it has several on one host. If two would have the same, it stays with the one whose first node has a
// backup; or they are called by the first of their nodes that has one; or with an instance behind it, as in
// db1.example/db1. No configured name has such a slash.
func Clusters(newest []*manifest.Record) []Cluster {
	var out []Cluster
	for _, g := range groups(inOrder(newest)) {
		out = append(out, g.cluster())
	}
	nameAll(out)
	slices.SortFunc(out, func(a, b Cluster) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Find returns the cluster of a name; the only one for "". The error is ErrNoCluster or ErrWhich, and names those that
// there are.
func Find(clusters []Cluster, name string) (*Cluster, error) {
	var names []string
	for i := range clusters {
		if clusters[i].Name == name || name == "" && len(clusters) == 1 {
			return &clusters[i], nil
		}
		names = append(names, clusters[i].Name)
	}
	switch near := words.Nearest(name, names); {
	case len(names) == 0:
		return nil, fmt.Errorf("%w: no backup here is of a node of a cluster", ErrNoCluster)
	case name == "":
		return nil, fmt.Errorf("%w: name one of %s", ErrWhich, strings.Join(names, ", "))
	case near != "":
		return nil, fmt.Errorf("%w: %q; did you mean %s?", ErrNoCluster, name, near)
	}
	return nil, fmt.Errorf("%w: %q; there are %s", ErrNoCluster, name, strings.Join(names, ", "))
}

// inOrder returns the records, the newest first.
func inOrder(records []*manifest.Record) []*manifest.Record {
	out := slices.Clone(records)
	newest.Sort(out, func(rec *manifest.Record) newest.Backup {
		return newest.Backup{ID: string(rec.ID), Parent: string(rec.Parent), Order: rec.Order, Time: rec.Started}
	})
	slices.Reverse(out)
	return out
}

// group is a cluster in the making.
type group struct {
	name    string   // as configured, or ""
	members []ranked // the newest first
}

// ranked is a record with its place among all: the newest is 0.
type ranked struct {
	*manifest.Record
	rank int
}

// groups sorts records, the newest first, into clusters.
func groups(records []*manifest.Record) []*group {
	var named, others []*group
	for rank, rec := range records {
		one := ranked{rec, rank}
		i := slices.IndexFunc(named, func(g *group) bool { return g.name == rec.Cluster })
		switch {
		case rec.Cluster != "" && i >= 0:
			named[i].members = append(named[i].members, one)
		case rec.Cluster != "":
			named = append(named, &group{rec.Cluster, []ranked{one}})
		case rec.NodeName != "" && len(rec.Nodes) > 0:
			others = append(others, &group{"", []ranked{one}})
		}
	}
	for _, by := range []func(a, b ranked) bool{sameUUID, linked} { // what is surer first
		others = joined(others, by)
		others = slices.DeleteFunc(others, func(g *group) bool {
			fits := slices.DeleteFunc(slices.Clone(named), func(n *group) bool { return !n.knows(g, by) || !n.fits(g) || n.shares(g) })
			if len(fits) == 1 {
				fits[0].add(g)
			}
			return len(fits) == 1
		})
	}
	return slices.Concat(named, others)
}

// joined joins groups over pairs of members for which by holds, those of the newest backups first.
func joined(list []*group, by func(a, b ranked) bool) []*group {
	var all []ranked
	of := map[int]*group{} // by rank
	for _, g := range list {
		all = append(all, g.members...)
		for _, m := range g.members {
			of[m.rank] = g
		}
	}
	slices.SortFunc(all, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	for i, a := range all {
		for _, b := range all[i+1:] {
			to, from := of[a.rank], of[b.rank]
			if to == from || !by(a, b) || !to.fits(from) {
				continue
			}
			to.add(from)
			for _, m := range from.members {
				of[m.rank] = to
			}
		}
	}
	return slices.DeleteFunc(list, func(g *group) bool { return of[g.members[0].rank] != g })
}

// linked reports whether two records know each other as nodes of their cluster. Two of one node have the same list.
func linked(a, b ranked) bool {
	if a.NodeName == b.NodeName {
		return a.NodeName != "" && len(a.Nodes) > 0 && slices.Equal(a.Nodes, b.Nodes)
	}
	return slices.Contains(a.Nodes, b.NodeName) && slices.Contains(b.Nodes, a.NodeName)
}

// sameUUID reports whether two records are linked and of nodes that have one couchdb/uuid.
func sameUUID(a, b ranked) bool { return linked(a, b) && oneUUID(a, b) }

func oneUUID(a, b ranked) bool {
	return a.Identity.ServerUUID != "" && a.Identity.ServerUUID == b.Identity.ServerUUID
}

// knows reports whether by holds for members of two groups.
func (g *group) knows(o *group, by func(a, b ranked) bool) bool {
	return slices.ContainsFunc(g.members, func(a ranked) bool {
		return slices.ContainsFunc(o.members, func(b ranked) bool { return by(a, b) })
	})
}

// shares reports whether both groups have instances of one node.
func (g *group) shares(o *group) bool {
	return g.knows(o, func(a, b ranked) bool { return a.NodeName == b.NodeName })
}

// removed reports whether a member is missing in the list of a newer one.
func (g *group) removed(m ranked) bool {
	return slices.ContainsFunc(g.members, func(o ranked) bool { return o.rank < m.rank && o.lacks(m) })
}

// lacks reports whether the list of a record that is newer than another one has not got the node of that.
func (m ranked) lacks(o ranked) bool {
	return len(m.Nodes) > 0 && o.NodeName != m.NodeName && !slices.Contains(m.Nodes, o.NodeName)
}

// fits reports whether nothing speaks against two groups being one.
func (g *group) fits(o *group) bool {
	for _, a := range g.members {
		for _, b := range o.members {
			if a.rank < b.rank && a.lacks(b) && !o.removed(b) || b.rank < a.rank && b.lacks(a) && !g.removed(a) {
				return false
			}
		}
	}
	return !g.twin(o)
}

// twin reports whether two groups are clusters whose nodes have the same names: each has one couchdb/uuid on several
// nodes, which is another one, and a node of each is not the same CouchDB as that of its name in the other.
func (g *group) twin(o *group) bool {
	mine, theirs := g.uuid(), o.uuid()
	if mine == "" || theirs == "" || mine == theirs {
		return false
	}
	for _, a := range g.members {
		for _, b := range o.members {
			if m, t := a.Identity.MapUUID, b.Identity.MapUUID; a.NodeName == b.NodeName && m != "" && t != "" && m != t {
				return true
			}
		}
	}
	return false
}

// uuid returns the couchdb/uuid that all nodes of a group have, if these are several.
func (g *group) uuid() string {
	several := false
	for _, m := range g.members {
		if !oneUUID(m, g.members[0]) {
			return ""
		}
		several = several || m.NodeName != g.members[0].NodeName
	}
	if !several {
		return ""
	}
	return g.members[0].Identity.ServerUUID
}

func (g *group) add(o *group) {
	g.members = append(g.members, o.members...)
	slices.SortFunc(g.members, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
}

// cluster is what a group has become.
func (g *group) cluster() Cluster {
	c := Cluster{Name: g.name, Instances: map[string][]*manifest.Record{}}
	if i := slices.IndexFunc(g.members, func(m ranked) bool { return len(m.Nodes) > 0 }); i >= 0 {
		c.Nodes = slices.Clone(g.members[i].Nodes)
	}
	for _, m := range g.members {
		c.Instances[m.NodeName] = append(c.Instances[m.NodeName], m.Record)
		if m.NodeName != "" && !g.removed(m) {
			c.Nodes = append(c.Nodes, m.NodeName)
		}
	}
	slices.Sort(c.Nodes)
	c.Nodes = slices.Compact(c.Nodes)
	return c
}

// nameAll names those that have no name. At each step those get one that nobody else wants then or has got, or wanted, before.
func nameAll(list []Cluster) {
	taken := map[string]bool{}
	for i := range list {
		taken[list[i].Name] = true
	}
	for _, want := range []func(c *Cluster) string{
		func(c *Cluster) string {
			if len(c.Instances[c.Nodes[0]]) == 0 {
				return ""
			}
			return c.called(c.Nodes[0])
		},
		func(c *Cluster) string { return c.called(c.Nodes[0]) },
		func(c *Cluster) string { return c.called(c.firstBackedUp()) },
	} {
		wanted := map[string][]*Cluster{}
		for i := range list {
			if c := &list[i]; c.Name == "" {
				wanted[want(c)] = append(wanted[want(c)], c)
			}
		}
		delete(wanted, "")
		for name, by := range wanted {
			if len(by) == 1 && !taken[name] {
				by[0].Name = name
			}
			taken[name] = true
		}
	}
	for i := range list {
		c := &list[i]
		if c.Name != "" {
			continue
		}
		for c.Name = c.called(c.firstBackedUp()) + "/" + c.firstInstance(); taken[c.Name]; { // by a host of that name
			c.Name += "/"
		}
		taken[c.Name] = true
	}
}

// called returns what a cluster is called by one of its nodes.
func (c *Cluster) called(node string) string {
	host := func(node string) string {
		_, at, ok := strings.Cut(node, "@")
		if !ok || at == "" {
			return node
		}
		return at
	}
	for _, other := range c.Nodes {
		if other != node && host(other) == host(node) {
			return node
		}
	}
	return host(node)
}

// firstBackedUp returns the first node that has an instance.
func (c *Cluster) firstBackedUp() string { return slices.Min(slices.Collect(maps.Keys(c.Instances))) }

// firstInstance returns the instance whose name is the first.
func (c *Cluster) firstInstance() string {
	first := ""
	for _, recs := range c.Instances {
		for _, rec := range recs {
			if first == "" || rec.Instance < first {
				first = rec.Instance
			}
		}
	}
	return first
}
