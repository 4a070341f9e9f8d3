package backup

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/shard"
)

// mapRounds bounds how often the shard map is copied again because databases
// came and went while the backup ran.
const mapRounds = 5

// shardMap is a shard map document as the backup holds it.
type shardMap = shard.Map

// readMap reads the shard map out of the _dbs.couch that was just copied.
func (r *run) readMap(ctx context.Context, s *source, size int64) error {
	maps, err := couchMaps(ctx, s, size)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.damaged(s.name, manifest.Damage{What: "shard map", Error: err.Error()})
		return nil
	}
	if maps == nil {
		maps = []shardMap{} // read, and empty
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.maps = maps
	return nil
}

// couchMaps returns the shard maps in a _dbs.couch of size bytes.
func couchMaps(ctx context.Context, s io.ReaderAt, size int64) ([]shardMap, error) {
	db, err := couchfile.Open(couchfile.WithContext(ctx, s), size)
	if err != nil {
		return nil, err
	}
	bodies := db.Bodies()
	var out []shardMap
	for info, err := range db.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			return nil, err
		}
		doc, err := bodies.RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
		if err != nil {
			return nil, fmt.Errorf("document %q: %w", info.ID, err)
		}
		m, ok, err := shard.ParseMap(doc)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, m)
		}
	}
	return out, nil
}

// reconcile makes the shards in the backup fit its shard map. A shard that the
// map names and that was not there when the shards were listed belongs to a
// database created meanwhile and is copied now. If its file is not there, either
// the database was deleted meanwhile, and the map is copied again, or it is
// missing, which is damage: CouchDB would serve an empty shard.
//
// A map that is unchanged since the parent isn't read again, unless a shard that
// the parent had is gone, or was missing then.
func (r *run) reconcile(ctx context.Context, workers []*worker, l *node.Listing) error {
	maps := slices.DeleteFunc(slices.Clone(l.System), func(e node.Entry) bool { return e.Path != "_dbs.couch" })
	copyMaps := func() error {
		r.forget(maps)
		return copyGroup(ctx, workers, maps)
	}
	if r.maps == nil && r.shardsGone() {
		if err := copyMaps(); err != nil {
			return err
		}
	}
	for range mapRounds {
		if err := copyGroup(ctx, workers, r.missing()); err != nil {
			return err
		}
		if len(r.missing()) == 0 {
			return nil
		}
		if err := copyMaps(); err != nil {
			return err
		}
	}
	r.reportMissing(r.missing())
	return nil
}

// shardsGone reports whether a shard that the parent had, or that was missing
// already then, isn't there.
func (r *run) shardsGone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, old := range r.old { // what is left in it was not found
		if old.file.Kind == manifest.Shard {
			return true
		}
	}
	return slices.ContainsFunc(r.oldDamage, func(d manifest.Damage) bool {
		return r.files[name{d.Root, d.Path}] == nil
	})
}

// missing lists the shards of this node that the map names and the backup lacks.
func (r *run) missing() []node.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []node.Entry
	for _, m := range r.maps {
		for _, rg := range r.ranges(m) {
			n := shard.Name{Range: rg, DB: m.DB, Suffix: m.Suffix}
			if r.files[name{manifest.DataRoot, n.Path()}] == nil {
				out = append(out, node.Entry{Root: manifest.DataRoot, Path: n.Path(), Kind: manifest.Shard, DB: m.DB, Range: rg, Suffix: m.Suffix})
			}
		}
	}
	return out
}

// ranges returns the ranges of m that this node holds: those under its name, or
// all when the map knows just one node, whatever its name.
func (r *run) ranges(m shardMap) []shard.Range {
	if len(m.ByNode) == 1 {
		return m.Ranges("")
	}
	return m.ByNode[r.nodeName]
}

// reportMissing records shards that can't be had.
func (r *run) reportMissing(missing []node.Entry) {
	gone := map[name]bool{}
	for _, e := range missing {
		gone[name{e.Root, e.Path}] = true
	}
	r.mu.Lock()
	r.leftOut = slices.DeleteFunc(r.leftOut, func(l manifest.LeftOut) bool { return gone[name{l.Root, l.Path}] })
	r.mu.Unlock()
	for _, e := range missing {
		r.damaged(name{e.Root, e.Path}, manifest.Damage{What: "shard file", Error: fmt.Sprintf("the shard map of database %q names it, and it is not there: CouchDB would serve an empty shard", e.DB)})
	}
}

// forget drops what was recorded of files that are copied again.
func (r *run) forget(entries []node.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		delete(r.files, name{e.Root, e.Path})
		delete(r.old, name{e.Root, e.Path})
		r.damage = slices.DeleteFunc(r.damage, func(d manifest.Damage) bool { return d.Root == e.Root && d.Path == e.Path })
	}
}

// joinShort joins at most ten strings and says how many more there are.
func joinShort(list []string) string {
	const most = 10
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

// defaultParallel is the number of CPUs, but no more than keeps the memory of a
// backup under 128 MB: each costs a buffer to fill and one to store.
func defaultParallel() int { return min(runtime.GOMAXPROCS(0), 4) }
