package restore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/topology"
)

// PartDB makes a Part one of a database that comes into a running cluster: its shards and their
// indexes alone, under another creation stamp.
type PartDB struct {
	Name   string // that it gets
	Suffix string // of the names of its files
	Map    []byte // the shard map document of the cluster, without a revision
	// Shards are the files of this node, and how many documents each of them has, deleted ones too.
	Shards []PartShard
	// Unlike says that the copies in the backups have different security objects, of which one was chosen.
	Unlike bool

	was      string // its name in the backups
	security []byte // the stored object that all copies get; nil if they have one and the same
}

// PartShard is a file of a PartDB.
type PartShard struct {
	Name shard.Name // the new one
	Docs uint64
}

// PartOfDB is PartOf for one database of a cluster, which gets another name and suffix. Each copy of each range comes
// out of a backup: a range that none has is an error. Copies that have different security objects all get the one that most have, or,
// of several, that of the newest backup: the first who reads the database must not be let in by the wrong one.
//
// Source: CouchDB 3.5.0, src/fabric/src/fabric_db_meta.erl, get_all_security; src/mem3/src/mem3_sync_security.erl, which goes by the majority too.
func PartOfDB(ctx context.Context, r *repo.Repo, c *cluster.Cluster, plan *topology.Plan, node, db, as, suffix string) (*Part, error) {
	if c.Mixed != "" {
		return nil, fmt.Errorf("%w: %s", topology.ErrPlan, c.Mixed)
	}
	i := slices.IndexFunc(c.Databases, func(d topology.Database) bool { return d.Map.DB == db })
	if i < 0 {
		return nil, fmt.Errorf("%w %q", ErrNoSuchDB, db)
	}
	of := c.Databases[i]
	if gaps := of.Gaps(); len(gaps) > 0 {
		return nil, fmt.Errorf("%w: the shard map of %q has no shard for %d ranges, such as %s", topology.ErrPlan, db, len(gaps), gaps[0])
	}
	placed, err := plan.Place([]topology.Database{of})
	if err != nil {
		return nil, err
	}
	if len(placed.Missing) > 0 {
		return nil, fmt.Errorf("%w: no backup holds %s", topology.ErrPlan, placed.Missing[0].Path())
	}
	mine, err := placed.Part(node)
	if err != nil {
		return nil, err
	}
	d := &PartDB{Name: as, Suffix: suffix, was: db}
	if d.Map, err = (shard.Map{DB: as, Suffix: suffix, ByNode: placed.Maps[0].ByNode}).Document(of.Doc); err != nil {
		return nil, err
	}
	for _, t := range mine.Takes {
		d.Shards = append(d.Shards, PartShard{Name: shard.Name{Range: t.Name.Range, DB: as, Suffix: suffix}, Docs: t.Copy.Docs + t.Copy.Deleted})
	}
	if d.security, d.Unlike, err = securityOfAll(ctx, r, c, &of); err != nil {
		return nil, err
	}
	return &Part{Node: mine.Node, Nodes: plan.Nodes, Backups: c.Members, Takes: mine.Takes, Maps: placed.Maps, Shared: placed.Shared(), DB: d}, nil
}

// securityOfAll returns the stored security object that most copies of a database have, if not all have the same. A copy
// whose own can't be read has no say.
func securityOfAll(ctx context.Context, r *repo.Repo, c *cluster.Cluster, db *topology.Database) (stored []byte, unlike bool, err error) {
	type object struct {
		stored []byte
		votes  int
		newest int64
	}
	found := map[string]*object{}
	for i, m := range c.Members {
		files := m.Manifest.Databases()
		rd := r.NewReader(m.Manifest, nil)
		for _, rg := range db.Ranges {
			f := files[shard.Name{Range: rg.Range, DB: db.Map.DB, Suffix: db.Map.Suffix}.Path()]
			if f == nil || f.Header == nil {
				continue
			}
			text, raw, err := securityOfFile(ctx, rd, f)
			if ctx.Err() != nil {
				rd.Close()
				return nil, false, ctx.Err()
			}
			if repo.Damaged(err) || errors.Is(err, couchfile.ErrCorrupt) {
				continue
			}
			if err != nil {
				rd.Close()
				return nil, false, err
			}
			o := found[text]
			if o == nil {
				o = &object{}
				found[text] = o
			}
			o.votes++
			if at := c.Members[i].Manifest.Finished.UnixNano(); o.stored == nil || at > o.newest {
				o.stored, o.newest = raw, at
			}
		}
		rd.Close()
	}
	if len(found) <= 1 {
		return nil, false, nil
	}
	texts := slices.SortedFunc(maps.Keys(found), func(a, b string) int {
		return cmp.Or(cmp.Compare(found[b].votes, found[a].votes), cmp.Compare(found[b].newest, found[a].newest), strings.Compare(a, b))
	})
	return found[texts[0]].stored, true, nil
}

// securityOfFile returns the security object of a database as JSON and as it is stored; both are empty if it has none.
func securityOfFile(ctx context.Context, rd *repo.Reader, f *manifest.File) (text string, raw []byte, err error) {
	file := couchfile.WithContext(ctx, rd.ReaderAt(ctx, f))
	db, err := couchfile.Open(file, f.Size)
	if err != nil || db.Header().SecurityPtr < 0 {
		return "", nil, err
	}
	object, err := db.Security()
	if err != nil {
		return "", nil, err
	}
	p, err := couchfile.NewChunkReader(file, f.Size).Payload(db.Header().SecurityPtr)
	return string(object), bytes.Clone(p), err
}

// partOfDB plans what a node gets of one database.
func (p *planner) partOfDB(part *Part, readers map[*manifest.File]*repo.Reader) *plan {
	var items []item
	for i, b := range part.Backups {
		p.m, p.databases, p.plan.items = b.Manifest, b.Manifest.Databases(), nil
		to := map[string]string{} // base of a shard's path, as it was and as it will be
		for _, t := range part.Takes {
			if t.Backup == i {
				now := shard.Name{Range: t.Name.Range, DB: part.DB.Name, Suffix: part.DB.Suffix}
				to[strings.TrimSuffix(t.Name.Path(), ".couch")] = strings.TrimSuffix(now.Path(), ".couch")
			}
		}
		for _, f := range p.m.Files {
			p.chosenFile(f, to)
		}
		sortItems(p.plan.items)
		p.plan.read(p.opts.Repo, p.m, p.opts.To, readers)
		items = append(items, p.plan.items...)
	}
	p.done()
	p.plan.items = items
	p.res.Suffix, p.res.Databases = part.DB.Suffix, []string{part.DB.Name}
	return &p.plan
}
