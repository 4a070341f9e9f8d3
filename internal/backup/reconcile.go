package backup

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/shard"
)

// mapRounds bounds how often the shard map is copied again because databases
// came and went while the backup ran.
const mapRounds = 5

// shardMap is a shard map document as the backup holds it.
type shardMap = shard.Map

// readMap reads the shard map out of a _dbs.couch of size bytes.
func (r *run) readMap(ctx context.Context, src io.ReaderAt, size int64) error {
	maps, epochs, err := couchMaps(ctx, src, size)
	if err != nil {
		return err
	}
	if maps == nil {
		maps = []shardMap{} // read, and empty
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.maps, r.mapEpochs = maps, epochs
	return nil
}

// mapDamage says that a shard map can't be read.
func mapDamage(err error) manifest.Damage {
	return manifest.Damage{Root: manifest.DataRoot, Path: dbsPath, What: "shard map", Error: err.Error()}
}

// couchMaps returns the shard maps in a _dbs.couch of size bytes, and its epochs.
func couchMaps(ctx context.Context, s io.ReaderAt, size int64) ([]shardMap, []couchfile.Epoch, error) {
	db, err := couchfile.Open(couchfile.WithContext(ctx, s), size)
	if err != nil {
		return nil, nil, err
	}
	out, err := shard.ReadMaps(db)
	if err != nil {
		return nil, nil, err
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
		r.readKeptMap(ctx, e)
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
	if r.maps != nil || r.files[capture.Name{Root: manifest.DataRoot, Path: dbsPath}] == nil || r.oldName == "" {
		return false
	}
	if n := r.opts.Node; n.NameTold && n.NodeName != r.oldName {
		return false
	}
	for _, old := range r.old { // what is left in it was not found
		if old.File.Kind == manifest.Shard {
			return false
		}
	}
	for nm := range r.oldDamage {
		if r.files[nm] == nil {
			return false
		}
	}
	return true
}

// readKeptMap reads the shard map if it was taken over from the parent without a look
// at its bytes. If the server changed it just now, its newer state is read: what the
// backup lacks then makes it be copied again.
func (r *run) readKeptMap(ctx context.Context, e node.Entry) {
	nm := capture.Name{Root: e.Root, Path: e.Path}
	r.mu.Lock()
	f, read := r.files[nm], r.maps != nil
	r.mu.Unlock()
	if f == nil || f.Header == nil || read || r.wasDamaged(nm) {
		return
	}
	src, err := capture.Open(ctx, r.opts.Node, e)
	if err == nil {
		defer src.Close()
		err = r.readMap(ctx, src, src.Size())
		r.read.Add(src.Read())
	}
	if err != nil && ctx.Err() == nil {
		r.damaged(nm, mapDamage(err))
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
			if r.files[capture.Name{Root: manifest.DataRoot, Path: n.Path()}] == nil {
				out = append(out, node.Entry{Root: manifest.DataRoot, Path: n.Path(), Kind: manifest.Shard, DB: m.DB, Range: rg, Suffix: m.Suffix})
			}
		}
	}
	return out
}

// reportMissing records shards that can't be had.
func (r *run) reportMissing(missing []node.Entry) {
	gone := map[capture.Name]bool{}
	for _, e := range missing {
		gone[capture.Name{Root: e.Root, Path: e.Path}] = true
	}
	r.mu.Lock()
	r.leftOut = slices.DeleteFunc(r.leftOut, func(l manifest.LeftOut) bool { return gone[capture.Name{Root: l.Root, Path: l.Path}] })
	r.mu.Unlock()
	for _, e := range missing {
		r.damaged(capture.Name{Root: e.Root, Path: e.Path}, manifest.Damage{What: "shard file", Error: fmt.Sprintf("the shard map of database %q names it, and it is not there: CouchDB would serve an empty shard", e.DB)})
	}
}

// forget drops what was recorded of files that are copied again.
func (r *run) forget(entries []node.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		delete(r.files, capture.Name{Root: e.Root, Path: e.Path})
		delete(r.old, capture.Name{Root: e.Root, Path: e.Path})
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
