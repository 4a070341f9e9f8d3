package restore

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// damagedEnding is added to the name of a file that has no valid header.
const damagedEnding = ".damaged"

// item is a file to be restored.
type item struct {
	f    *manifest.File
	root manifest.Root // the target it goes to
	path string        // below it, with "/"
}

// plan is what a restore will write.
type plan struct {
	items []item // in the order in which their bytes are stored
	last  []item // _nodes.couch, _dbs.couch: written when all others are durable
	// guards are paths, below the data directory, at which CouchDB would create an
	// empty database; a folder takes each of them.
	guards []string
	maps   []mapFile // with chosen databases: what to write below shard-maps/
	// others are copies of a cluster's files in the backups of other nodes, the best first,
	// for when a file of the plan can't be read.
	others map[*manifest.File][]*manifest.File
	old    bool // they are those of a CouchDB 2
}

// mapFile is the shard map of a chosen database.
type mapFile struct {
	name string
	doc  []byte
}

// first returns where the file's bytes begin in the repository.
func (it item) first() (seg int, at int64) {
	for e := range it.f.Stored() {
		return e.Seg, e.At
	}
	return -1, 0
}

func sortItems(items []item) {
	slices.SortFunc(items, func(a, b item) int {
		as, aa := a.first()
		bs, ba := b.first()
		return cmp.Or(cmp.Compare(as, bs), cmp.Compare(aa, ba))
	})
}

// groups cuts sorted items into runs that begin in one segment. One worker takes
// a whole run, so small files that share a segment need it once.
func groups(items []item) [][]item {
	var out [][]item
	for len(items) > 0 {
		seg, _ := items[0].first()
		n := 1
		for n < len(items) {
			if s, _ := items[n].first(); s != seg {
				break
			}
			n++
		}
		out = append(out, items[:n])
		items = items[n:]
	}
	return out
}

// unusable says why an index must not be restored, or "": CouchDB serves an index
// that is ahead of its shard as it stands, with wrong rows.
//
// Source: CouchDB 3.5.0, src/couch_index/src/couch_index.erl,
// handle_call({get_state, ...}): it compares "requested =< index" only.
func unusable(f *manifest.File, databases map[string]*manifest.File) string {
	path, ok := shard.ViewOwner(f.Path)
	if !ok {
		return "its path names no database"
	}
	db := databases[path]
	switch {
	case db == nil:
		return "its shard is not in the backup"
	case db.Header == nil:
		return "its shard has no valid header"
	case f.Header == nil:
		return "it has no valid header"
	case f.Header.UpdateSeq > db.Header.UpdateSeq:
		return fmt.Sprintf("it is ahead of its shard: update_seq %d, the shard has %d", f.Header.UpdateSeq, db.Header.UpdateSeq)
	case f.Header.PurgeSeq > db.Header.PurgeSeq:
		return fmt.Sprintf("it is ahead of its shard: purge_seq %d, the shard has %d", f.Header.PurgeSeq, db.Header.PurgeSeq)
	}
	return ""
}

// planner makes a plan and writes into the result what it decides.
type planner struct {
	opts      *Options
	m         *manifest.Manifest
	databases map[string]*manifest.File
	res       *Result
	plan      plan
	taken     map[string]bool // targets' paths, for indexes that two roots hold
	leftOut   int             // indexes, as asked
}

func newPlanner(opts *Options, m *manifest.Manifest, res *Result) *planner {
	return &planner{opts: opts, m: m, databases: m.Databases(), res: res, taken: map[string]bool{}}
}

// whole plans the restore of a node.
func (p *planner) whole() *plan {
	etc := 0
	for _, f := range p.m.Files {
		switch {
		case f.Root == manifest.EtcRoot && p.opts.ConfigTo == "":
			etc++
		case f.Root == manifest.EtcRoot:
			p.plan.items = append(p.plan.items, item{f, manifest.EtcRoot, configPath(f)})
		case f.Kind == manifest.View:
			p.view(f, f.Path)
		default:
			p.database(f, f.Path)
		}
	}
	if etc > 0 {
		p.res.note("%d configuration files of the backup were not restored: --config-to DIR writes them", etc)
	}
	switch {
	case manifest.CouchDB1(p.m.Files):
		p.couchDB1()
	case p.databases[dbsPath] == nil:
		p.res.problem("the backup has no %s, so CouchDB would show no database", dbsPath)
	}
	slices.SortFunc(p.plan.last, func(a, b item) int { return strings.Compare(b.path, a.path) }) // _nodes, _dbs
	return p.done()
}

// configPath is the path of a configuration file, with its real name where this system
// can have such.
func configPath(f *manifest.File) string {
	if len(f.RawPath) > 0 && runtime.GOOS != "windows" && runtime.GOOS != "darwin" {
		return string(f.RawPath)
	}
	return f.Path
}

// couchDB1 tells of the databases of a CouchDB 1.x, which have no shard map by design.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_node.erl: what is at the top of the data
// directory is a database of the node alone.
func (p *planner) couchDB1() {
	for _, f := range p.m.Files {
		if f.Kind == manifest.System && f.Header != nil {
			p.res.Databases = append(p.res.Databases, strings.TrimSuffix(f.Path, ".couch"))
		}
	}
	p.res.CouchDB1 = true
	p.res.note("these are databases of a CouchDB 1.x, without shards: a 1.x serves them as they are. A 3.x that has them in its data directory shows them to its admin only, at /_node/_local/NAME, a 2.x on port 5986: replicate them from there into new databases")
}

func (p *planner) done() *plan {
	if p.leftOut > 0 {
		p.res.note("view indexes were left out, as asked: %d; CouchDB builds them anew", p.leftOut)
	}
	sortItems(p.plan.items)
	slices.Sort(p.plan.guards)
	p.plan.guards = slices.Compact(p.plan.guards)
	return &p.plan
}

// database plans a .couch file that is to have this path. Without a valid header
// CouchDB would make an empty database of it: it gets another name.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_bt_engine.erl, init.
func (p *planner) database(f *manifest.File, path string) {
	switch {
	case f.Header == nil:
		p.plan.items = append(p.plan.items, item{f, manifest.DataRoot, path + damagedEnding})
		if path != nodesPath { // which CouchDB makes anew, and does not start on a folder
			p.guard(path)
		}
		p.res.Damaged = append(p.res.Damaged, path+damagedEnding)
		p.res.warn("%s had no valid header when it was backed up: it is restored as %s, and %s", path, path+damagedEnding, without(path))
	case path == dbsPath || path == nodesPath:
		p.plan.last = append(p.plan.last, item{f, manifest.DataRoot, path})
	default:
		p.plan.items = append(p.plan.items, item{f, manifest.DataRoot, path})
	}
}

// without says what it means that the file which belongs at path isn't there.
func without(path string) string {
	switch path {
	case dbsPath:
		return "which databases there are, nobody knows without it: a folder of that name keeps CouchDB from starting as an empty server, until the file is taken from another repository or backup; restore --db works all the same"
	case nodesPath:
		return "CouchDB makes a new one that knows this node alone: add the other nodes of a cluster again"
	}
	return "its database answers with errors"
}

func (p *planner) guard(path string) { p.plan.guards = append(p.plan.guards, path) }

// view plans an index that is to have this path, unless it would be wrong.
func (p *planner) view(f *manifest.File, path string) {
	if p.opts.NoIndexes {
		p.leftOut++
		return
	}
	reason := unusable(f, p.databases)
	if reason == "" && p.taken[path] {
		reason = "the backup holds the same index twice"
	}
	if reason != "" {
		p.res.Dropped = append(p.res.Dropped, Dropped{Path: f.Path, Reason: reason})
		return
	}
	p.taken[path] = true
	p.plan.items = append(p.plan.items, item{f, manifest.IndexRoot, path})
}

// chosen plans the restore of some databases.
func (p *planner) chosen(ctx context.Context, suffix string) (*plan, error) {
	rd := p.opts.Repo.NewReader(p.m, nil)
	defer rd.Close()
	all, err := p.chosenMaps(ctx, rd)
	if err != nil {
		return nil, err
	}
	all.tell(p.res, p.opts.NodeName)
	p.plan.old = all.old || isCouchDB2(p.opts.Record.CouchDBVersion)
	p.res.note("%s", howToServe(p.res.NodeName, p.opts.NodeName, p.plan.old))
	maps, err := choose(all.list, p.opts.Databases)
	if err != nil {
		for _, s := range all.problems {
			err = fmt.Errorf("%w; %s", err, s)
		}
		return nil, err
	}
	if p.opts.As != "" && len(maps) != 1 {
		return nil, fmt.Errorf("%w: a new name is for one database, and %d were chosen", ErrOptions, len(maps))
	}
	to := map[string]string{} // base of a shard's path, as it was and as it will be
	for _, m := range maps {
		if string(m.doc) == "{}" {
			if err := p.withProps(ctx, rd, &m); err != nil {
				return nil, err
			}
		}
		if err := p.chosenMap(all, m, suffix, to); err != nil {
			return nil, err
		}
	}
	for _, f := range p.m.Files {
		p.chosenFile(f, to)
	}
	return p.done(), nil
}

func (p *planner) chosenMap(all *nodeMaps, m dbMap, suffix string, to map[string]string) error {
	name, stamp := cmp.Or(p.opts.As, m.DB), suffix
	if p.opts.KeepSuffix {
		stamp = m.Suffix
	}
	node := all.name(m.Map, p.opts.NodeName)
	ranges := all.self.Ranges(m.Map)
	if all.self.As(m.Map) == "" {
		ranges = p.rangesThere(m.Map)
		p.res.warn("database %q: its shard map doesn't name this node, %s: what the backup holds of it is restored", m.DB, all.self.Name)
	}
	for _, r := range ranges {
		was := shard.Name{Range: r, DB: m.DB, Suffix: m.Suffix}
		now := shard.Name{Range: r, DB: name, Suffix: stamp}
		to[strings.TrimSuffix(was.Path(), ".couch")] = strings.TrimSuffix(now.Path(), ".couch")
		if p.databases[was.Path()] == nil {
			p.guard(now.Path())
			p.res.problem("database %q: its shard %s is not in the backup, so its documents in that range are missing", m.DB, r)
		}
	}
	if hash, ok := gap(ranges); ok {
		p.res.problem("database %q: this node's backup does not hold the range that begins at %08x: take it from a backup of another node before the shard map is put", m.DB, hash)
	}
	if len(m.ByNode) > 1 {
		p.res.note("database %q had copies on %d nodes: its shard map here names this node only; add the others once it answers", m.DB, len(m.ByNode))
	}
	doc, err := shard.Map{DB: name, Suffix: stamp, ByNode: map[string][]shard.Range{node: ranges}}.Document(m.doc)
	if err != nil {
		return err
	}
	p.plan.maps = append(p.plan.maps, mapFile{name, doc})
	p.res.Databases = append(p.res.Databases, name)
	return nil
}

// rangesThere returns the ranges of m whose files are in the backup, sorted.
func (p *planner) rangesThere(m shard.Map) []shard.Range {
	return slices.DeleteFunc(m.Ranges(""), func(r shard.Range) bool {
		return p.databases[shard.Name{Range: r, DB: m.DB, Suffix: m.Suffix}.Path()] == nil
	})
}

func (p *planner) chosenFile(f *manifest.File, to map[string]string) {
	switch f.Kind {
	case manifest.Shard:
		if base, ok := to[strings.TrimSuffix(f.Path, ".couch")]; ok {
			p.database(f, base+".couch")
		}
	case manifest.View:
		path, _ := shard.ViewOwner(f.Path)
		if base, ok := to[strings.TrimSuffix(path, ".couch")]; ok {
			_, signature, _ := shard.CutView(f.Path)
			p.view(f, "."+base+"_design/mrview/"+signature+".view")
		}
	}
}

// choose returns the maps whose database matches one of the patterns. A pattern
// that matches none is ErrNoSuchDB.
func choose(list []dbMap, patterns []string) ([]dbMap, error) {
	names := make([]string, len(list))
	for i, m := range list {
		names[i] = m.DB
	}
	chosen, err := Choose(names, patterns)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(list), func(m dbMap) bool { return !chosen(m.DB) }), nil
}

func noSuchDB(g glob, names []string) error {
	if like := near(g, names); len(like) > 0 {
		return fmt.Errorf("%w %q: it has %s", ErrNoSuchDB, g.text, strings.Join(like, ", "))
	}
	if len(names) == 1 {
		return fmt.Errorf("%w %q: it has %s alone", ErrNoSuchDB, g.text, names[0])
	}
	return fmt.Errorf("%w %q: it has %d others", ErrNoSuchDB, g.text, len(names))
}

// bytes returns the size of all files of the plan.
func (p *plan) bytes() (n int64) {
	for _, list := range [][]item{p.items, p.last} {
		for _, it := range list {
			n += it.f.Size
		}
	}
	return n
}

// read opens a reader for the files of the plan, all of one backup, with a directory for
// its scratch files.
func (p *plan) read(r *repo.Repo, m *manifest.Manifest, scratch string, readers map[*manifest.File]*repo.Reader) {
	var files []*manifest.File
	for _, it := range slices.Concat(p.items, p.last) {
		if readers[it.f] == nil {
			files = append(files, it.f)
		}
	}
	rd := r.NewReader(m, files)
	rd.Scratch = scratch
	for _, f := range files {
		readers[f] = rd
	}
}
