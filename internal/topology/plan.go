package topology

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/words"
)

// ErrPlan says that a plan can't be carried out as it stands.
var ErrPlan = errors.New("the plan can't be carried out")

// Plan says how the backups of a cluster's nodes come back on others. It is read by each
// of the new nodes alone, so it names all that decides who gets what: two nodes with one
// plan agree without talking to each other.
type Plan struct {
	Cluster string `yaml:"cluster"`
	// ID tells this restore from others of the same backups: of it, and of what only readers of the backups have, the
	// nodes make the uuid, secret and cookie that they share. It is no secret by itself.
	ID      string   `yaml:"id,omitempty"`
	Backups []Backup `yaml:"backups"`
	// At is the moment that is restored, of what was shipped after the backups; zero is the
	// backups themselves.
	At time.Time `yaml:"at,omitempty"`
	// N is how many nodes get a copy of each range; 0 is as many as have one by the backup,
	// or all nodes where there are fewer.
	N int `yaml:"n,omitempty"`
	// Placement is in the place of N how many nodes of each zone get a copy of each range, in CouchDB's words: z1:2,z2:1.
	Placement string `yaml:"placement,omitempty"`
	Nodes     []Node `yaml:"nodes"`
}

// Backup is what is restored of one node of the cluster.
type Backup struct {
	Node     string            `yaml:"node"`
	Instance string            `yaml:"instance"`
	ID       manifest.BackupID `yaml:"backup"`
}

// Node is a node that shall have a part of what is restored.
type Node struct {
	Name string `yaml:"name"` // as in couchdb@db1.example
	// As is the node of the backup whose place it takes; all nodes have one, or none: then
	// the ranges are dealt out anew.
	As string `yaml:"as,omitempty"`
	// Zone is the attribute of that name that its document in _nodes gets; "" leaves the one of the node whose place it takes.
	Zone string `yaml:"zone,omitempty"`
	// DataDir is where its files go, if its restore isn't told another place.
	DataDir string `yaml:"data_dir,omitempty"`
}

// idForm are plans' ids; those of before plans had one are empty.
var idForm = regexp.MustCompile(`^[A-Za-z0-9]{0,64}$`)

// Identity tells what the plan makes from what others make: its id and the names of its nodes, and not who gets what.
func (p *Plan) Identity() string {
	names := make([]string, len(p.Nodes))
	for i, n := range p.Nodes {
		names[i] = n.Name
	}
	slices.Sort(names)
	return strings.Join(append([]string{p.ID, p.Cluster}, names...), "\n")
}

// Parse reads a plan and checks it. Keys that it doesn't know are refused.
func Parse(r io.Reader) (*Plan, error) {
	p := &Plan{}
	if err := yaml.NewDecoder(r, yaml.Strict()).Decode(p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPlan, err)
	}
	return p, p.Check()
}

// YAML is the text that Parse reads.
func (p *Plan) YAML() ([]byte, error) {
	var b bytes.Buffer
	err := yaml.NewEncoder(&b).Encode(p)
	return b.Bytes(), err
}

// Check reports the first thing that keeps the plan from being carried out.
func (p *Plan) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrPlan, fmt.Sprintf(format, args...))
	}
	switch {
	case len(p.Backups) == 0:
		return bad("it names no backups")
	case len(p.Nodes) == 0:
		return bad("it names no nodes")
	case !idForm.MatchString(p.ID):
		return bad("its id is %q, and must be 1 to 64 letters and digits", p.ID)
	case p.N < 0:
		return bad("n is %d", p.N)
	case p.N > len(p.Nodes):
		return bad("n is %d, and there are only %d nodes", p.N, len(p.Nodes))
	}
	was := map[string]bool{}
	for _, b := range p.Backups {
		switch {
		case b.Node == "":
			return bad("a backup without the name of its node")
		case was[b.Node]:
			return bad("two backups of the node %s", b.Node)
		case !manifest.ValidInstance(b.Instance):
			return bad("%q can't be the instance of %s", b.Instance, b.Node)
		case !b.ID.Valid():
			return bad("%q is no backup's id", b.ID)
		}
		was[b.Node] = true
	}
	lower := map[string]string{}
	names, places, as := map[string]bool{}, map[string]bool{}, 0
	for _, n := range p.Nodes {
		switch {
		case !shard.ValidNode(n.Name):
			return bad("%q is not the name of an Erlang node, such as couchdb@db1.example", n.Name)
		case names[n.Name]:
			return bad("the node %s is there twice", n.Name)
		case n.As != "" && places[n.As]:
			return bad("two nodes take the place of %s", n.As)
		}
		if other, ok := lower[strings.ToLower(n.Name)]; ok {
			return bad("the nodes %s and %s differ by upper and lower case alone: for a host that is one name", other, n.Name)
		}
		names[n.Name], lower[strings.ToLower(n.Name)] = true, n.Name
		if n.As != "" {
			places[n.As] = true
			as++
		}
	}
	if err := p.checkPlacement(); err != nil {
		return bad("%v", err)
	}
	if as != 0 && as != len(p.Nodes) {
		return bad("some nodes say whose place they take (as) and others don't: all do or none, for then the ranges are dealt out anew")
	}
	return nil
}

// Fits reports the first thing that the plan says and its backups contradict. Records are those of its backups, in their
// order, and known the nodes that their shard maps name.
func (p *Plan) Fits(records []*manifest.Record, known []string) error {
	known = slices.Clone(known)
	for i, rec := range records {
		b := p.Backups[i]
		if rec.NodeName != "" && rec.NodeName != b.Node {
			return fmt.Errorf("%w: the backup %s of the instance %s is one of the node %s, and not of %s", ErrPlan, rec.ID.Short(), rec.Instance, rec.NodeName, b.Node)
		}
		for j, other := range records[:i] {
			if strangers(rec, other) {
				return fmt.Errorf("%w: the backups of %s and %s are of different clusters: their databases can't be told apart", ErrPlan, p.Backups[j].Node, b.Node)
			}
		}
		known = append(append(known, b.Node), rec.Nodes...)
	}
	for _, n := range p.Nodes {
		if n.As != "" && !slices.Contains(known, n.As) {
			hint := ""
			if near := words.Nearest(n.As, known); near != "" {
				hint = "; did you mean " + near + "?"
			}
			return fmt.Errorf("%w: %s takes the place of %s, which is no node of the cluster%s", ErrPlan, n.Name, n.As, hint)
		}
	}
	return nil
}

// strangers reports whether two backups say that they are of different clusters. One of a node that was removed meanwhile, or
// added, is in the list of the other.
func strangers(a, b *manifest.Record) bool {
	if a.Cluster != "" && b.Cluster != "" {
		return a.Cluster != b.Cluster
	}
	return len(a.Nodes) > 0 && len(b.Nodes) > 0 && !slices.Contains(a.Nodes, b.NodeName) && !slices.Contains(b.Nodes, a.NodeName)
}

// New plans the restore of the backups on nodes of some names. Where there are as many as
// the cluster had, each takes the place of one, in the order of their names; names that
// stay keep theirs.
func New(cluster string, backups []Backup, old, names []string) *Plan {
	p := &Plan{Cluster: cluster, ID: rand.Text(), Backups: backups}
	left := slices.Sorted(slices.Values(old))
	same := len(names) == len(left)
	left = slices.DeleteFunc(left, func(s string) bool { return slices.Contains(names, s) })
	for _, name := range names {
		n := Node{Name: name}
		switch {
		case !same:
		case slices.Contains(old, name):
			n.As = name
		case len(left) > 0:
			n.As, left = left[0], left[1:]
		}
		p.Nodes = append(p.Nodes, n)
	}
	return p
}

// Take is a range's file that a node gets.
type Take struct {
	Name   shard.Name
	Backup int // out of which of the plan's backups; -1: none has it
	Copy   Copy
	Others []Copy // the best first, for when that one can't be read
}

// Part is what one node gets.
type Part struct {
	Node  Node
	Takes []Take
	Bytes int64 // of the databases' files
}

// Map is the shard map of a database as the restored cluster has it.
type Map struct {
	shard.Map
	Doc []byte // as the server shows it, without a revision
	Was string // revision of the document that it follows
}

// Placement is a plan worked out.
type Placement struct {
	Parts []Part // in the order of Plan.Nodes
	Maps  []Map  // sorted by database
	// Missing are ranges that no backup has: their databases answer with errors.
	Missing []shard.Name
	// Left are ranges of which copies are left out, which may have documents that no other has.
	Left []Left
}

// Left is a range of which some copies are restored and others are not.
type Left struct {
	Name         shard.Name
	Used, Unused []Copy
}

// Unlike says that one that is left out doesn't count as many documents as one that is
// restored. If they count alike they still may not be.
func (l *Left) Unlike() bool {
	return slices.ContainsFunc(l.Unused, func(c Copy) bool { return c.Docs != l.Used[0].Docs || c.Deleted != l.Used[0].Deleted })
}

// Place works a plan out: which node gets which copy of which range of the databases.
func (p *Plan) Place(dbs []Database) (*Placement, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	out := &Placement{Parts: make([]Part, len(p.Nodes))}
	for i, n := range p.Nodes {
		out.Parts[i].Node = n
	}
	for i := range dbs {
		if err := p.place(out, &dbs[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *Plan) place(out *Placement, db *Database) error {
	m := Map{Map: shard.Map{DB: db.Map.DB, Suffix: db.Map.Suffix, ByNode: map[string][]shard.Range{}}, Was: db.Rev}
	had := db.copies()
	for _, r := range db.Ranges {
		n := min(len(p.Nodes), p.N)
		if n == 0 {
			n = min(len(p.Nodes), max(1, len(had[r.Range])))
		}
		holders := p.placed(p.holders(had[r.Range], out.Parts), n)
		n = len(holders)
		copies := slices.SortedFunc(slices.Values(r.Copies), better)
		name := shard.Name{Range: r.Range, DB: m.DB, Suffix: m.Suffix}
		if len(copies) == 0 {
			out.Missing = append(out.Missing, name)
		}
		if n < len(copies) {
			out.Left = append(out.Left, Left{Name: name, Used: copies[:n], Unused: copies[n:]})
		}
		for k, c := range p.deal(holders, copies) {
			part := &out.Parts[holders[k]]
			m.ByNode[part.Node.Name] = append(m.ByNode[part.Node.Name], r.Range)
			others := slices.DeleteFunc(slices.Clone(copies), func(o Copy) bool { return o.Backup == c.Backup })
			part.Takes = append(part.Takes, Take{Name: name, Backup: c.Backup, Copy: c, Others: others})
			part.Bytes += c.Size
		}
	}
	doc, err := m.Document(db.Doc)
	if err != nil {
		return err
	}
	m.Doc = doc
	out.Maps = append(out.Maps, m)
	return nil
}

// holders returns the indexes of all nodes, those first that take the place of one that
// held the range, and then those that got the fewest bytes so far.
func (p *Plan) holders(had []string, parts []Part) []int {
	order := make([]int, len(parts))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(rank(had, parts[a].Node.As)-rank(had, parts[b].Node.As), cmp.Compare(parts[a].Bytes, parts[b].Bytes))
	})
	return order
}

func rank(had []string, as string) int {
	if as != "" && slices.Contains(had, as) {
		return 0
	}
	return 1
}

// deal gives each holder one of the copies, which are sorted, the best first: as many
// different ones as there are holders, so that between them the nodes have what only one
// copy had; and a node that takes another's place gets that one's own, if it is among them.
func (p *Plan) deal(holders []int, copies []Copy) []Copy {
	out := make([]Copy, len(holders))
	if len(copies) == 0 {
		for k := range out {
			out[k].Backup = -1
		}
		return out
	}
	left := slices.Clone(copies[:min(len(holders), len(copies))])
	given := map[int]bool{}
	for k, h := range holders {
		i := slices.IndexFunc(left, func(c Copy) bool {
			return p.Nodes[h].As != "" && p.Backups[c.Backup].Node == p.Nodes[h].As
		})
		if i >= 0 {
			out[k], given[k] = left[i], true
			left = slices.Delete(left, i, i+1)
		}
	}
	for k := range holders {
		if given[k] {
			continue
		}
		if len(left) == 0 {
			left = slices.Clone(copies)
		}
		out[k], left = left[0], left[1:]
	}
	return out
}

// Shared counts the files that more than one node gets.
func (p *Placement) Shared() (n int) {
	type file struct {
		name   shard.Name
		backup int
	}
	nodes := map[file]int{}
	for _, part := range p.Parts {
		for _, t := range part.Takes {
			f := file{t.Name, t.Backup}
			if nodes[f]++; nodes[f] == 2 && t.Backup >= 0 {
				n++
			}
		}
	}
	return n
}

// Part returns what the node of that name gets.
func (p *Placement) Part(name string) (*Part, error) {
	names := make([]string, len(p.Parts))
	for i := range p.Parts {
		if names[i] = p.Parts[i].Node.Name; names[i] == name {
			return &p.Parts[i], nil
		}
	}
	return nil, fmt.Errorf("%w: %q is none of its nodes, which are %s", ErrPlan, name, strings.Join(names, ", "))
}
