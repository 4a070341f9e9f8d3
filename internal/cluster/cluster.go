// Package cluster reads the backups of a cluster's nodes as one thing: which databases
// there are, and which copies of their ranges.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/topology"
)

// ErrNoMaps says that no backup has shard maps that can be read, so that nobody knows which
// databases there are.
var ErrNoMaps = errors.New("no backup of the cluster holds shard maps (_dbs.couch) that can be read: restore one node by its own backup")

const (
	mapsPath  = "_dbs.couch"
	nodesPath = "_nodes.couch"
)

// Member is the backup of one node, or a moment of it.
type Member struct {
	Record   *manifest.Record
	Manifest *manifest.Manifest
	// Seen is up to when it is known to have been the node's state: all that was written before is in it. It may be zero
	// where nobody asks for it.
	Seen time.Time
	// Repo has it; nil is the repository that is given to Open.
	Repo *repo.Repo
}

// in is the repository that has a member.
func (m *Member) in(r *repo.Repo) *repo.Repo {
	if m.Repo != nil {
		return m.Repo
	}
	return r
}

// Cluster is what the backups of a cluster's nodes hold together.
type Cluster struct {
	Members   []Member
	Databases []topology.Database // sorted by name
	// Problems say what can't be read of the maps; the databases may be in another backup's.
	Problems []string

	// Mixed says why the members are of different clusters, "" if nothing tells so: two have different databases of one
	// name, of which neither follows the other.
	Mixed string

	readable []bool            // members whose maps could all be read
	first    map[string]origin // by database
}

// origin is the map of a database as the first member has it that has one.
type origin struct {
	member int
	suffix string
	pos    uint64
}

// Open reads the shard maps of all members and finds the copies of their ranges. Where
// backups have different maps of a database the newest revision counts. A database that
// one of them has is there, also if another one knows that it was deleted.
func Open(ctx context.Context, r *repo.Repo, members []Member) (*Cluster, error) {
	c := &Cluster{Members: members, first: map[string]origin{}}
	found := map[string]*topology.Database{}
	for i := range members {
		ok, err := c.readMaps(ctx, r, i, found)
		if err != nil {
			return nil, err
		}
		c.readable = append(c.readable, ok)
	}
	if len(found) == 0 && !slices.Contains(c.readable, true) {
		return nil, ErrNoMaps
	}
	files := make([]map[string]*manifest.File, len(members))
	for i, m := range members {
		files[i] = m.Manifest.Databases()
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		db := found[name]
		if !shard.ValidDB(name) {
			c.Problems = append(c.Problems, fmt.Sprintf("the shard map of %q is of no database, since CouchDB gives none such a name: it is left out", name))
			continue
		}
		for _, rg := range db.Map.Ranges("") {
			db.Ranges = append(db.Ranges, topology.Range{Range: rg, Copies: copies(files, shard.Name{Range: rg, DB: name, Suffix: db.Map.Suffix})})
		}
		for _, gap := range db.Gaps() {
			c.Problems = append(c.Problems, fmt.Sprintf("the shard map of database %q has no shard for the range %s: CouchDB answers no request for documents in it", name, gap))
		}
		c.Databases = append(c.Databases, *db)
	}
	return c, nil
}

// copies returns what the backups hold of a shard; files without a valid header can't be
// served.
func copies(files []map[string]*manifest.File, name shard.Name) (out []topology.Copy) {
	path := name.Path()
	for i := range files {
		if f := files[i][path]; f != nil && f.Header != nil {
			out = append(out, topology.Copy{Backup: i, Docs: f.Header.Docs, Deleted: f.Header.DeletedDocs, Purges: f.Header.PurgeSeq, Seq: f.Header.UpdateSeq, Size: f.Size})
		}
	}
	return out
}

// readMaps adds the maps of one member's backup; ok says that all of them could be read.
func (c *Cluster) readMaps(ctx context.Context, r *repo.Repo, member int, found map[string]*topology.Database) (ok bool, err error) {
	m := c.Members[member].Manifest
	before := len(c.Problems)
	problem := func(format string, args ...any) {
		c.Problems = append(c.Problems, fmt.Sprintf("backup %s of %s: ", m.ID.Short(), m.NodeName)+fmt.Sprintf(format, args...))
	}
	f := m.Databases()[mapsPath]
	if f == nil || f.Header == nil {
		problem("it holds no %s that can be read", mapsPath)
		return false, nil
	}
	rd := c.Members[member].in(r).NewReader(m, []*manifest.File{f})
	defer rd.Close()
	db, err := couchfile.Open(couchfile.WithContext(ctx, rd.ReaderAt(ctx, f)), f.Size)
	if err == nil {
		err = c.addMaps(ctx, db, member, found, problem)
	}
	if repo.Damaged(err) || errors.Is(err, couchfile.ErrCorrupt) {
		problem("its shard maps can't be read: %v", err)
		return false, nil
	}
	return len(c.Problems) == before, err
}

func (c *Cluster) addMaps(ctx context.Context, db *couchfile.DB, member int, found map[string]*topology.Database, problem func(string, ...any)) error {
	for d, err := range shard.Docs(db) {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if d.Err != nil {
			problem("the shard map of database %q can't be read: %v", d.Info.ID, d.Err)
			continue
		}
		if !d.OK {
			continue
		}
		rev := d.Info.Winner().Rev
		c.hold(d.Map, rev.Pos, member)
		if old := found[d.Map.DB]; old == nil || newer(rev, old.Rev) {
			found[d.Map.DB] = &topology.Database{Map: d.Map, Doc: d.JSON, Rev: rev.String()}
		}
	}
	return nil
}

// hold holds a member's map against those of the members before it. A map that came of the other one's has a later revision,
// as that of a database that was deleted and made again; two of as many changes and other files were made apart.
func (c *Cluster) hold(m shard.Map, pos uint64, member int) {
	first, ok := c.first[m.DB]
	if !ok {
		c.first[m.DB] = origin{member, m.Suffix, pos}
		return
	}
	if c.Mixed == "" && first.pos == pos && first.suffix != m.Suffix {
		a, b := c.Members[first.member].Manifest, c.Members[member].Manifest
		c.Mixed = fmt.Sprintf("the backups of %s (%s) and %s (%s) are of different clusters: each has a database %q of its own", a.NodeName, a.Instance, b.NodeName, b.Instance, m.DB)
	}
}

func newer(rev couchfile.Rev, than string) bool {
	old, err := couchfile.ParseRev(than)
	return err != nil || cmp.Or(cmp.Compare(rev.Pos, old.Pos), cmp.Compare(rev.ID, old.ID)) > 0
}

// Names returns the names of the databases, sorted.
func (c *Cluster) Names() []string {
	out := make([]string, len(c.Databases))
	for i := range c.Databases {
		out[i] = c.Databases[i].Map.DB
	}
	return out
}

// Nodes returns the names of the nodes that the shard maps know, sorted.
func (c *Cluster) Nodes() []string {
	names := map[string]bool{}
	for _, db := range c.Databases {
		for node := range db.Map.ByNode {
			names[node] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Zones returns the zones of the cluster's nodes, by their names, as the newest backup has them whose _nodes.couch can be
// read.
func (c *Cluster) Zones(ctx context.Context, r *repo.Repo) (map[string]string, error) {
	order := c.Bases()
	slices.SortStableFunc(order, func(a, b int) int {
		return c.Members[b].Manifest.Started.Compare(c.Members[a].Manifest.Started)
	})
	for _, i := range order {
		m := c.Members[i].Manifest
		f := m.Databases()[nodesPath]
		rd := c.Members[i].in(r).NewReader(m, []*manifest.File{f})
		db, err := couchfile.Open(couchfile.WithContext(ctx, rd.ReaderAt(ctx, f)), f.Size)
		var zones map[string]string
		if err == nil {
			zones, err = shard.ReadZones(db)
		}
		rd.Close()
		if err == nil || !repo.Damaged(err) && !errors.Is(err, couchfile.ErrCorrupt) {
			return zones, err
		}
	}
	return nil, nil
}

// Bases returns the indexes of the backups whose _dbs.couch and _nodes.couch can be read.
func (c *Cluster) Bases() (out []int) {
	for i, m := range c.Members {
		f := m.Manifest.Databases()[nodesPath]
		if c.readable[i] && f != nil && f.Header != nil {
			out = append(out, i)
		}
	}
	return out
}
