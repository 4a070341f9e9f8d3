package restore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// chosenMaps returns the shard maps to choose databases by: those of the backup, or
// where these can't be read what the files' names tell.
func (p *planner) chosenMaps(ctx context.Context, rd *repo.Reader) (*nodeMaps, error) {
	f := p.databases[dbsPath]
	if f != nil && f.Header != nil {
		maps, err := readMaps(ctx, rd.ReaderAt(ctx, f), f.Size, p.m, p.opts.NodeName)
		if err == nil {
			return p.addUnread(maps), nil
		}
		if !repo.Damaged(err) && !errors.Is(err, couchfile.ErrCorrupt) {
			return nil, err
		}
		p.res.warn("the backup's shard maps can't be read (%v): they were made from the names of the files", err)
	} else {
		p.res.warn("the backup holds no shard map (%s) that can be read: they were made from the names of the files", dbsPath)
	}
	maps := &nodeMaps{list: mapsOfFiles(p.m)}
	if len(maps.list) == 0 {
		return nil, ErrNoShardMap
	}
	return maps, maps.findSelf(p.m, nil, p.opts.NodeName)
}

// addUnread adds the maps of those databases whose documents can't be read.
func (p *planner) addUnread(maps *nodeMaps) *nodeMaps {
	if len(maps.unread) == 0 {
		return maps
	}
	for _, m := range mapsOfFiles(p.m) {
		if slices.Contains(maps.unread, m.DB) {
			maps.list = append(maps.list, m)
			p.res.warn("the shard map of database %q can't be read: it was made from the names of the files", m.DB)
		}
	}
	slices.SortFunc(maps.list, func(a, b dbMap) int { return strings.Compare(a.DB, b.DB) })
	return maps
}

// mapsOfFiles makes a shard map for each database out of the names of its shards, of
// the newest creation stamp if there are several, sorted by the database's name.
func mapsOfFiles(m *manifest.Manifest) []dbMap {
	node := cmp.Or(m.NodeName, freshNode)
	found := map[string]dbMap{}
	for _, f := range m.Files {
		n, err := shard.ParsePath(f.Path)
		if f.Kind != manifest.Shard || err != nil {
			continue
		}
		k, ok := found[n.DB]
		switch {
		case ok && k.Suffix > n.Suffix:
			continue
		case !ok || k.Suffix < n.Suffix:
			k = dbMap{Map: shard.Map{DB: n.DB, Suffix: n.Suffix, ByNode: map[string][]shard.Range{}}, doc: []byte("{}")}
			found[n.DB] = k
		}
		k.ByNode[node] = append(k.ByNode[node], n.Range)
	}
	var out []dbMap
	for _, k := range found {
		slices.SortFunc(k.ByNode[node], shard.Range.Compare)
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b dbMap) int { return strings.Compare(a.DB, b.DB) })
	return out
}

// withProps adds to a map that mapsOfFiles made what a shard says of its database:
// whether it is partitioned.
func (p *planner) withProps(ctx context.Context, rd *repo.Reader, m *dbMap) error {
	for node, ranges := range m.ByNode {
		for _, r := range ranges {
			f := p.databases[shard.Name{Range: r, DB: m.DB, Suffix: m.Suffix}.Path()]
			if f == nil || f.Header == nil {
				continue
			}
			f = storedState(f)
			db, err := couchfile.Open(rd.ReaderAt(ctx, f), f.Size)
			var props json.RawMessage
			if err == nil {
				props, err = db.Props()
			}
			if err == nil {
				m.doc, err = json.Marshal(map[string]json.RawMessage{"props": props})
				return err
			}
			if !repo.Damaged(err) && !errors.Is(err, couchfile.ErrCorrupt) {
				return err
			}
		}
		p.res.problem("database %q: no shard of it on %s says whether it is partitioned: its shard map takes it for one that is not", m.DB, node)
	}
	return nil
}

// storedState is an older state of a database, none of which a replay makes, if there is
// one: props never change, and to read them there costs a frame or two.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_bt_engine.erl, init_set_props; a compaction
// copies them.
func storedState(f *manifest.File) *manifest.File {
	extents, replays := f.Extents, f.Replays
	for len(extents) > 0 && extents[0].Seg < 0 {
		older := replays[-1-extents[0].Seg].Older
		if older == nil {
			return f
		}
		extents, replays = older.Extents, older.Replays
	}
	state := &manifest.File{Path: f.Path}
	for _, e := range extents {
		if e.Seg < 0 {
			break
		}
		state.Extents = append(state.Extents, e)
		state.Size += e.N
	}
	return state
}
