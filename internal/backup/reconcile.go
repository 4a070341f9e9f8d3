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
	maps, epochs, err := couchMaps(ctx, s, size)
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
	r.maps, r.mapEpochs = maps, epochs
	return nil
}

// couchMaps returns the shard maps in a _dbs.couch of size bytes, and its epochs.
func couchMaps(ctx context.Context, s io.ReaderAt, size int64) ([]shardMap, []couchfile.Epoch, error) {
	db, err := couchfile.Open(couchfile.WithContext(ctx, s), size)
	if err != nil {
		return nil, nil, err
	}
	bodies := db.Bodies()
	var out []shardMap
	for info, err := range db.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			return nil, nil, err
		}
		doc, err := bodies.RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
		if err != nil {
			return nil, nil, fmt.Errorf("document %q: %w", info.ID, err)
		}
		m, ok, err := shard.ParseMap(doc)
		if err != nil {
			return nil, nil, err
		}
		if ok {
			out = append(out, m)
		}
	}
	return out, db.Header().Epochs, nil
}

// reconcile makes the shards in the backup fit its shard map. A shard that the
// map names and that was not there when the shards were listed belongs to a
// database created meanwhile and is copied now. If its file is not there, either
// the database was deleted meanwhile, and the map is copied again, or it is
// missing, which is damage: CouchDB would serve an empty shard.
//
// A map that is unchanged since the parent isn't read again, unless a shard that
// the parent had is gone or was missing then, or the node's name is in doubt.
func (r *run) reconcile(ctx context.Context, workers []*worker, l *node.Listing) error {
	maps := slices.DeleteFunc(slices.Clone(l.System), func(e node.Entry) bool { return e.Path != dbsPath })
	if r.mapsAsBefore() {
		r.nodeName = r.oldName
		return nil
	}
	for _, e := range maps {
		r.readKeptMap(ctx, workers[0], e)
	}
	for range mapRounds {
		r.findSelf()
		if err := copyGroup(ctx, workers, r.missing()); err != nil {
			return err
		}
		r.findSelf()
		if len(r.missing()) == 0 {
			r.tellSelf()
			return nil
		}
		r.forget(maps)
		if err := copyGroup(ctx, workers, maps); err != nil {
			return err
		}
	}
	r.findSelf()
	r.reportMissing(r.missing())
	r.tellSelf()
	return nil
}

// mapsAsBefore reports whether what the parent found of the shard maps still holds:
// they are unchanged, all its shards are there, and nobody says another node's name.
func (r *run) mapsAsBefore() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.maps != nil || r.files[name{manifest.DataRoot, dbsPath}] == nil || r.oldName == "" {
		return false
	}
	if n := r.opts.Node; n.NameTold && n.NodeName != r.oldName {
		return false
	}
	for _, old := range r.old { // what is left in it was not found
		if old.file.Kind == manifest.Shard {
			return false
		}
	}
	return !slices.ContainsFunc(r.oldDamage, func(d manifest.Damage) bool { return r.files[name{d.Root, d.Path}] == nil })
}

// readKeptMap reads the shard map if it was taken over from the parent without a look
// at its bytes. If the server changed it just now, its newer state is read: what the
// backup lacks then makes it be copied again.
func (r *run) readKeptMap(ctx context.Context, w *worker, e node.Entry) {
	nm := name{e.Root, e.Path}
	r.mu.Lock()
	f, read := r.files[nm], r.maps != nil
	r.mu.Unlock()
	if f == nil || f.Header == nil || read || r.wasDamaged(nm) {
		return
	}
	s, err := w.open(ctx, e, r.opts.Node.Path(&e))
	if err == nil && s != nil {
		defer s.f.Close()
		err = r.readMap(ctx, s, s.info.Size())
	}
	if err != nil {
		r.damaged(nm, manifest.Damage{What: "shard map", Error: err.Error()})
	}
}

// missing lists the shards of this node that the map names and the backup lacks.
func (r *run) missing() []node.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []node.Entry
	for _, m := range r.maps {
		for _, rg := range r.self.Ranges(m) {
			n := shard.Name{Range: rg, DB: m.DB, Suffix: m.Suffix}
			if r.files[name{manifest.DataRoot, n.Path()}] == nil {
				out = append(out, node.Entry{Root: manifest.DataRoot, Path: n.Path(), Kind: manifest.Shard, DB: m.DB, Range: rg, Suffix: m.Suffix})
			}
		}
	}
	return out
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
