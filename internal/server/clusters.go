package server

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/topology"
	"github.com/slipcover/slipcover/internal/words"
)

// Which instances are nodes of one cluster is what their agents say in their hellos, which is what the records of
// their backups say too. Package topology decides by it, of the instances of one project alone: whose nodes the
// others of a cluster are is nobody's business but their owner's.

// Cluster is a CouchDB cluster of which instances of a project are nodes.
type Cluster struct {
	Name    string
	Project string
	Nodes   []ClusterNode // in the order of their names
	// Unclear says why it can't be backed up as one, as a sentence; "" if it can.
	Unclear string
	Newest  *SetInfo // nil if there is none
	Whole   *SetInfo // the newest that is whole; nil if there is none
}

// ClusterNode is a node of a cluster.
type ClusterNode struct {
	Node     string        // Erlang's name
	Instance *job.Instance // nil if no instance of the project is that node
	Online   bool          // its agent was heard of lately
}

// instances are the ids of those of its nodes.
func (c *Cluster) instances() (ids []string) {
	for _, n := range c.Nodes {
		if n.Instance != nil {
			ids = append(ids, n.Instance.ID)
		}
	}
	return ids
}

// Clusters returns the clusters of the caller's project, or of all, by project and name.
func (s *Server) Clusters(who *access.Caller, all bool) []Cluster {
	var out []Cluster
	for _, project := range s.projects(who, all) {
		newest, whole := s.newestSets(project)
		for _, c := range s.clustersOf(project) {
			c.Newest, c.Whole = newest[c.Name], whole[c.Name]
			out = append(out, c)
		}
	}
	return out
}

// Cluster returns a cluster of the caller's project.
func (s *Server) Cluster(who *access.Caller, name string) (*Cluster, error) {
	c, err := s.cluster(who.Project, name)
	if err != nil {
		return nil, err
	}
	newest, whole := s.newestSets(who.Project)
	c.Newest, c.Whole = newest[c.Name], whole[c.Name]
	return c, nil
}

// projects are those of instances, in order: the caller's, or all.
func (s *Server) projects(who *access.Caller, all bool) []string {
	if !all {
		return []string{who.Project}
	}
	var out []string
	s.instances.all(func(_ string, i *job.Instance) bool {
		out = append(out, i.Project)
		return true
	})
	slices.Sort(out)
	return slices.Compact(out)
}

// clustersOf makes out the clusters of a project, by name.
func (s *Server) clustersOf(project string) []Cluster {
	var records []*manifest.Record
	instances := map[string]*job.Instance{}
	s.instances.all(func(id string, i *job.Instance) bool {
		if i.Project != project || i.Status != job.InstanceActive {
			return true
		}
		m, at := s.memberOf(i)
		if m == nil {
			return true
		}
		instances[id] = i
		records = append(records, &manifest.Record{Summary: manifest.Summary{ID: manifest.BackupID(id), Instance: i.RepoName, Started: at,
			NodeName: m.Node, Nodes: m.Nodes, Cluster: m.Cluster, Identity: manifest.Identity{ServerUUID: m.ServerUUID, MapUUID: m.MapUUID}}})
		return true
	})
	slices.SortFunc(records, func(a, b *manifest.Record) int { return strings.Compare(string(a.ID), string(b.ID)) })
	var out []Cluster
	for _, t := range topology.Clusters(records) {
		c := Cluster{Name: t.Name, Project: project}
		for _, node := range t.Nodes {
			n := ClusterNode{Node: node}
			if of := t.Instances[node]; len(of) > 0 {
				n.Instance = instances[string(of[0].ID)]
				n.Online = s.Live(n.Instance).Online
				if len(of) > 1 {
					c.Unclear = unclear(c.Name, node, of)
				}
			}
			c.Nodes = append(c.Nodes, n)
		}
		for _, rec := range t.Instances[""] {
			c.Unclear = fmt.Sprintf("The agent of instance %s doesn't know what its node is called: give it the setting node_name.", rec.Instance)
		}
		if alone := len(c.Nodes) == 1 && c.Nodes[0].Instance != nil; !alone || s.named(c.Nodes[0].Instance) {
			out = append(out, c)
		}
	}
	return out
}

// named reports whether the configuration of an instance's agent names a cluster.
func (s *Server) named(i *job.Instance) bool {
	m, _ := s.memberOf(i)
	return m != nil && m.Cluster != ""
}

// unclear says that a node has several instances, of which none may be taken for it: one may be another cluster's.
func unclear(cluster, node string, of []*manifest.Record) string {
	var names []string
	for _, rec := range of {
		names = append(names, rec.Instance)
	}
	return fmt.Sprintf("The node %s of the cluster %s has several instances, %s, so it can't be said which nodes are one cluster: if these are two clusters, give the agents of each the setting cluster with a name of its own; "+
		"if one of the instances is gone, remove its agent.", node, cluster, strings.Join(names, " and "))
}

// memberOf returns what the agent of an instance says of its cluster, and when it found that; nil if it doesn't say it.
func (s *Server) memberOf(i *job.Instance) (*job.Member, time.Time) {
	a := s.agents.have(i.Agent)
	if a == nil {
		return nil, time.Time{}
	}
	hello, at, _ := s.lastHeard(a)
	for n := range hello.Instances {
		seen := &hello.Instances[n]
		if m := seen.Member; m != nil && (seen.Instance == i.ID || seen.Instance == "" && !i.Made) {
			return m, at.Add(-time.Duration(m.AgeSeconds * float64(time.Second)))
		}
	}
	return nil, time.Time{}
}

// cluster returns a cluster of a project by its name.
func (s *Server) cluster(project, name string) (*Cluster, error) {
	all := s.clustersOf(project)
	var names []string
	for n := range all {
		if all[n].Name == name {
			return &all[n], nil
		}
		names = append(names, all[n].Name)
	}
	if len(names) == 0 {
		return nil, refuse(NotFound, "No instance of project %s is known to be a node of a cluster. Their agents say it, by CouchDB's own list of the nodes or by the setting cluster, unless they are of an earlier version.", project)
	}
	if near := words.Nearest(name, names); near != "" {
		return nil, refuse(NotFound, "There is no cluster %.100q in project %s; did you mean %s?", name, project, near)
	}
	return nil, refuse(NotFound, "There is no cluster %.100q in project %s; there are %s.", name, project, strings.Join(names, ", "))
}

// sameMember compares what agents say of a node, without when they found it.
func sameMember(a, b *job.Member) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Node == b.Node && a.Cluster == b.Cluster && a.ServerUUID == b.ServerUUID && a.MapUUID == b.MapUUID && slices.Equal(a.Nodes, b.Nodes)
}

// target names what a schedule is for, in logs.
func target(c *job.Schedule) string { return cmp.Or(c.Instance, c.Cluster) }
