package contents

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/refusal"
	"github.com/slipcover/slipcover/internal/states"
	"github.com/slipcover/slipcover/internal/words"
)

// ClusterNode is what is read of a node of a cluster.
type ClusterNode struct {
	Node         string `json:"node"` // Erlang's name
	Instance     string `json:"instance,omitempty"`
	InstanceName string `json:"instance_name,omitempty"`
	Backup       string `json:"backup,omitempty"` // that is read, or that a moment stands on, if the catalog has it
	// From and Until are when its files were cut: each is as it was at some time between the two.
	From   time.Time `json:"from,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	Shards int       `json:"shards,omitempty"` // of all databases, that its backup holds
	Why    string    `json:"why,omitempty"`    // nothing of it is read, the end of a sentence

	unread bool // it has a backup that could not be read
}

// ClusterDatabases is a page of what the newest good backups of a cluster's nodes hold together.
type ClusterDatabases struct {
	Cluster   string            `json:"cluster"`
	Nodes     []ClusterNode     `json:"nodes"`
	Databases []ClusterDatabase `json:"databases"` // those of which ranges are missing first, then by name
	Total     int               `json:"total"`     // that begin so
	More      bool              `json:"more"`
	// Gaps is how many of the cluster's databases have a range of which no backup holds a copy.
	Gaps     int      `json:"gaps"`
	Problems []string `json:"problems"`
}

// ClusterDatabase is what backups hold of a database.
type ClusterDatabase struct {
	Name      string         `json:"name"`
	Q         int            `json:"q"`
	N         int            `json:"n"`
	Copies    int            `json:"copies"`    // of ranges, that its shard map names
	Held      int            `json:"held"`      // of them, by the backups
	Documents uint64         `json:"documents"` // of the fullest copy of each range
	Missing   []string       `json:"missing"`   // ranges of which no backup has a copy
	Lacks     []ClusterLacks `json:"lacks"`     // nodes whose backups don't hold all that the map names there
}

// ClusterLacks is how many copies the backup of a node doesn't hold.
type ClusterLacks struct {
	Node   string `json:"node"`
	Copies int    `json:"copies"`
}

// holdings keeps what the newest backups of some clusters hold, by what was read: it doesn't change.
type holdings struct {
	mu   sync.Mutex
	list []holding // the one that was asked for last at the end; guarded by mu
}

type holding struct {
	of  string
	all *ClusterDatabases
}

const mostHoldings = 8

func (h *holdings) get(of string) *ClusterDatabases {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.list, func(x holding) bool { return x.of == of })
	if i < 0 {
		return nil
	}
	x := h.list[i]
	h.list = append(slices.Delete(h.list, i, i+1), x)
	return x.all
}

func (h *holdings) put(of string, all *ClusterDatabases) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(slices.DeleteFunc(h.list, func(x holding) bool { return x.of == of }), holding{of, all})
	h.list = h.list[max(0, len(h.list)-mostHoldings):]
}

// ClusterShelf is what may be read of the nodes of a cluster.
type ClusterShelf struct {
	Project, Name string
	Nodes         []ClusterNode   // without what is read
	Shelves       []*states.Shelf // of each node; nil if its Why says so
}

// clusterLook is what a look at a cluster has open.
type clusterLook struct {
	of    *ClusterShelf
	nodes []ClusterNode
	views []*states.View // of each node, nil of those that aren't read
	picks []*job.Backup  // the newest good one of each in its repository

	cluster  *cluster.Cluster
	compared []cluster.Compared // of its members
	index    []int              // of the member's node
}

func (l *clusterLook) Close() {
	for _, v := range l.views {
		if v != nil {
			v.Close()
		}
	}
}

// lookAt opens the repositories of a cluster's nodes, as far as that can be. Each may be in one of its own.
func (r *Reader) lookAt(ctx context.Context, of *ClusterShelf) (*clusterLook, error) {
	l := &clusterLook{of: of, nodes: slices.Clone(of.Nodes), views: make([]*states.View, len(of.Nodes)), picks: make([]*job.Backup, len(of.Nodes))}
	var first error
	some := false
	for n, shelf := range of.Shelves {
		if shelf == nil {
			continue
		}
		x := &l.nodes[n]
		v, err := r.views.Repository(ctx, shelf)
		if err != nil {
			first = cmp.Or(first, err)
			x.Why = sentenceEnd(err)
			continue
		}
		l.views[n] = v
		i := slices.IndexFunc(v.Backups, func(b *job.Backup) bool { return b.Damage == 0 })
		if i < 0 {
			x.Why = "it has only damaged backups"
		} else {
			l.picks[n], some = v.Backups[i], true
		}
	}
	if !some {
		l.Close()
		return nil, cmp.Or(first, error(refusal.New(refusal.Conflict, "No node of the cluster %s has a backup that isn't damaged, so nothing can be said of what it holds.", of.Name)))
	}
	return l, nil
}

// sentenceEnd is a sentence of an error as the end of another.
func sentenceEnd(err error) string {
	text := err.Error()
	var own *refusal.Error
	if errors.As(err, &own) {
		text = own.Message
	}
	return strings.TrimSuffix(text[:min(len(text), 300)], ".")
}

// read reads the shard maps of all nodes: of their picks, or of the newest moment up to a time.
func (l *clusterLook) read(ctx context.Context, at time.Time) error {
	var members []cluster.Member
	for n := range l.nodes {
		x, v, b := &l.nodes[n], l.views[n], l.picks[n]
		if b == nil {
			continue
		}
		var m cluster.Member
		var c cluster.Compared
		var err error
		if at.IsZero() {
			if m.Record, err = v.Repo.Record(ctx, v.Name, manifest.BackupID(b.RepoID)); err == nil {
				m, c, err = cluster.Newest(ctx, v.Repo, x.Node, m.Record)
			}
		} else {
			m, c, err = cluster.Moment(ctx, v.Repo, x.Node, v.Name, at)
		}
		if err != nil && ctx.Err() != nil {
			return fault(ctx, err)
		}
		if err == nil && m.Record.NodeName != x.Node {
			err = refusal.New(refusal.Conflict, "its backup is of %s, which it was before", cmp.Or(m.Record.NodeName, "a node without a name"))
		}
		if err != nil {
			x.Why, x.unread = sentenceEnd(fault(ctx, err)), true
			continue
		}
		x.Backup, x.From, x.Until = catalogID(v.Backups, c.Backup), c.From.UTC(), c.Until.UTC()
		members, l.compared, l.index = append(members, m), append(l.compared, c), append(l.index, n)
	}
	if len(members) == 0 {
		return refusal.New(refusal.Conflict, "Nothing of the cluster %s can be read: %s.", l.of.Name, l.nodes[slices.IndexFunc(l.picks, func(b *job.Backup) bool { return b != nil })].Why)
	}
	var err error
	if l.cluster, err = cluster.Open(ctx, nil, members); errors.Is(err, cluster.ErrNoMaps) {
		return &refusal.Error{Kind: refusal.Conflict, Cause: err, Message: "No backup of the cluster holds shard maps that can be read, so it isn't known which databases there are."}
	}
	return fault(ctx, err)
}

// ClusterDatabases lists what the newest good backups of a cluster's nodes hold together.
func (r *Reader) ClusterDatabases(ctx context.Context, of *ClusterShelf, q DatabasesQuery) (*ClusterDatabases, error) {
	q.fill()
	l, err := r.lookAt(ctx, of)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	key := of.Project + " " + of.Name
	for n := range l.nodes {
		if b := l.picks[n]; b != nil {
			key += " " + b.ID
		} else {
			key += " " + l.nodes[n].Node + l.nodes[n].Why
		}
	}
	all := r.held.get(key)
	if all == nil {
		ctx, done, err := r.walk(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		if err := l.read(ctx, time.Time{}); err != nil {
			return nil, err
		}
		all = l.holds()
		if !slices.ContainsFunc(l.nodes, func(x ClusterNode) bool { return x.unread }) { // else it may be another time
			r.held.put(key, all)
		}
	}
	out := *all
	list := slices.DeleteFunc(slices.Clone(all.Databases), func(d ClusterDatabase) bool { return !strings.HasPrefix(d.Name, q.Prefix) })
	out.Total = len(list)
	list, out.More = cut(list, q.Page)
	out.Databases = append([]ClusterDatabase{}, list...)
	return &out, nil
}

// holds says what was read holds.
func (l *clusterLook) holds() *ClusterDatabases {
	out := &ClusterDatabases{Cluster: l.of.Name, Nodes: l.nodes, Problems: append([]string{}, l.cluster.Problems...)}
	if l.cluster.Mixed != "" {
		out.Problems = append(out.Problems, l.cluster.Mixed)
	}
	names := make([]string, len(l.compared))
	for i, c := range l.compared {
		names[i] = c.Node
	}
	list, held := l.cluster.Holdings(names, func(string) bool { return true })
	for i, n := range l.index {
		out.Nodes[n].Shards = held[i]
	}
	for _, d := range list {
		x := ClusterDatabase{d.Name, d.Q, d.N, d.Copies, d.Held, d.Docs, d.Missing, []ClusterLacks{}}
		for node, n := range d.Lacks {
			if n > 0 {
				x.Lacks = append(x.Lacks, ClusterLacks{node, n})
			}
		}
		slices.SortFunc(x.Lacks, func(a, b ClusterLacks) int { return strings.Compare(a.Node, b.Node) })
		if len(x.Missing) > 0 {
			out.Gaps++
		}
		out.Databases = append(out.Databases, x)
	}
	slices.SortStableFunc(out.Databases, func(a, b ClusterDatabase) int {
		return cmp.Compare(min(len(b.Missing), 1), min(len(a.Missing), 1))
	})
	return out
}

// Divergence is what copies of ranges of a cluster's databases disagree about.
type Divergence struct {
	Cluster string        `json:"cluster"`
	Nodes   []ClusterNode `json:"nodes"`
	// Ranges are those that there is something to be told of, in the order of databases' names and of ranges.
	Ranges   []*cluster.Divergence `json:"ranges"`
	Counts   DivergenceCounts      `json:"counts"` // of what this page is about
	Problems []string              `json:"problems"`
	// Next is the After of the next page, "" behind the last range. The page after one that isn't Complete may tell more.
	Next string `json:"next,omitempty"`
	// Complete says that the time was enough for what the page is about. Of a range that is longer than that alone, Reached
	// says how far it came.
	Complete bool `json:"complete"`
}

// DivergenceCounts counts what was compared.
type DivergenceCounts struct {
	Databases  int    `json:"databases"`
	Ranges     int    `json:"ranges"`
	Agree      int    `json:"agree"`
	Unread     int    `json:"unread"`     // ranges of which something could not be read
	Incomplete int    `json:"incomplete"` // ranges of which not all copies were compared
	Documents  uint64 `json:"documents"`
	Different  uint64 `json:"different"`
}

// DivergenceQuery says what is compared.
type DivergenceQuery struct {
	Databases string    // a glob; "" is all
	At        time.Time // the newest moment of each node up to it; zero is the newest good backup of each
	After     string    // a database and a range of it, as in Next
	Limit     int       // of ranges that are told of
}

// namedOfRange is how many documents of each kind are named of a copy.
const namedOfRange = 50

// Divergence compares what the nodes of a cluster hold of each range, as far as it gets in the time of a look.
func (r *Reader) Divergence(ctx context.Context, of *ClusterShelf, q DivergenceQuery) (*Divergence, error) {
	page := Page{Limit: q.Limit}
	page.fill()
	l, err := r.lookAt(ctx, of)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	ctx, done, err := r.walk(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := l.read(ctx, q.At); err != nil {
		return nil, err
	}
	if l.cluster.Mixed != "" {
		return nil, refusal.New(refusal.Conflict, "%s: give the agents of each the setting cluster with a name of its own, and back them up.", words.UpperFirst(l.cluster.Mixed))
	}
	wanted := func(string) bool { return true }
	if q.Databases != "" {
		wanted = glob(q.Databases)
		if !slices.ContainsFunc(l.cluster.Names(), wanted) {
			return nil, refusal.New(refusal.NotFound, "No database of the cluster %s fits %.100q, by the backups.", l.of.Name, q.Databases)
		}
	}
	out := &Divergence{Cluster: l.of.Name, Nodes: l.nodes, Ranges: []*cluster.Divergence{}, Problems: append([]string{}, l.cluster.Problems...), Complete: true}
	compared := l.cluster.Compare(nil, l.compared)
	defer compared.Close()
	return out, out.compare(ctx, l.cluster, compared, wanted, q.After, page.Limit)
}

// compare compares ranges behind one, until as many are told of as may, or the time is over.
func (x *Divergence) compare(ctx context.Context, c *cluster.Cluster, by *cluster.Comparison, wanted func(string) bool, after string, limit int) error {
	last := after
	for i := range c.Databases {
		db := &c.Databases[i]
		begun := false
		for _, rg := range db.Ranges {
			at := db.Map.DB + " " + rg.Range.String()
			if !wanted(db.Map.DB) || !behind(at, after) {
				continue
			}
			if len(x.Ranges) == limit {
				x.Next = last
				return nil
			}
			d, err := by.Range(ctx, db, rg.Range, namedOfRange)
			slow := err != nil && errors.Is(context.Cause(ctx), errSlow)
			if slow && x.Counts.Ranges > 0 { // it gets all of the next page's time
				x.Next, x.Complete = last, false
				return nil
			}
			if err != nil && (!slow || d == nil) {
				return fault(ctx, err)
			}
			if !begun {
				begun = true
				x.Counts.Databases++
			}
			x.count(d)
			if last = at; slow {
				x.Next, x.Complete = last, false
				return nil
			}
		}
	}
	return nil
}

// behind reports whether a database and its range come behind another one.
func behind(at, other string) bool {
	db, rg, _ := strings.Cut(at, " ") // no name has one
	otherDB, otherRange, _ := strings.Cut(other, " ")
	return cmp.Or(strings.Compare(db, otherDB), strings.Compare(rg, otherRange)) > 0
}

func (x *Divergence) count(d *cluster.Divergence) {
	n := &x.Counts
	n.Ranges++
	if d.Unread() {
		n.Unread++
	}
	if len(d.NotCompared) > 0 {
		n.Incomplete++
	}
	if d.Report != nil {
		n.Documents += d.Report.Documents
		n.Different += d.Report.Different
	}
	if d.Agrees() {
		n.Agree++
		return
	}
	x.Ranges = append(x.Ranges, d)
}
