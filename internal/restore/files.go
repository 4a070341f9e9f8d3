package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// Options are the options of Files.
type Options struct {
	Repo   *repo.Repo
	Record *manifest.Record
	// Moment is the manifest of a moment that was shipped, to be restored instead of the
	// backup of Record, which it stands on; nil restores the backup.
	Moment *manifest.Manifest

	To       string // the data directory; made if it isn't there
	IndexTo  string // where view indexes go; "" is To
	ConfigTo string // where ini files and vm.args go; "" leaves them out

	// Delta takes what is in the directories as a start: files whose bytes are
	// those of the backup are kept, others are replaced. Inside shards and .shards,
	// databases, indexes and work files that the backup doesn't have are removed,
	// since a shard or an index from another time would be served; anything else is
	// left alone and named in the result.
	Delta bool

	// Databases are patterns for names ("*" is any text); none is the whole node.
	// Chosen databases get new shard files, so that they can be moved into the data
	// directory of a running CouchDB, and a shard map document each.
	Databases []string
	// As is the new name of the one database that was chosen; "" keeps its own.
	As string
	// KeepSuffix keeps the creation stamp in the names of chosen databases' shards.
	// Without it they get a new one, so that they never meet files in use.
	KeepSuffix bool

	// NoIndexes leaves view indexes out: CouchDB builds them anew.
	NoIndexes bool
	// NodeName is the Erlang name of the node that the files are to run as; "" is the
	// one that the shard maps know. For another they are rewritten.
	NodeName string
	named    bool // whoever restores starts the server under that name
	// History says whether clients that know the databases go on where they were.
	History History
	// Tell, if it is set, is told what comes back though it was purged, before any file of
	// the backup is written.
	Tell  func(*ComesBack)
	trial bool // nobody uses what is restored
	// Part is what a node of another cluster gets of the backups of several nodes, in the
	// place of Record and Moment; nil restores the node that the backup is of.
	Part *Part
	// Whole is called when all is written and on the disk, before the marker goes that says that it isn't, with what was
	// found, but for the counts; nil calls nothing. Its error ends the restore as it is then, and the same call goes on with it.
	Whole func(*Result) error

	Owner    string    // USER, USER:GROUP or :GROUP for all that is written; "" doesn't change it
	Parallel int       // files at once; 0 is the number of CPUs, at least 2, at most 4
	Progress *Progress // counters; may be nil
}

// Result is what Files did.
type Result struct {
	Backup manifest.BackupID `json:"backup"`
	To     string            `json:"to"`
	// NodeName is what the CouchDB that gets the files must be called to open the
	// databases; empty if the backup holds no shard map.
	NodeName  string   `json:"node_name,omitempty"`
	Files     int64    `json:"files"` // restored, kept ones included
	Bytes     int64    `json:"bytes"`
	KeptFiles int64    `json:"kept_files"` // whose bytes were there already
	KeptBytes int64    `json:"kept_bytes"`
	Databases []string `json:"databases"`
	// History is what was done with what clients know of the databases; nil if no shard
	// was to be restored.
	History *HistoryResult `json:"history,omitempty"`
	// ComesBack are purged documents that the backup still has; nil if there are none.
	ComesBack *ComesBack `json:"comes_back,omitempty"`
	// CouchDB1 says that they are those of a CouchDB 1.x, which have no shards.
	CouchDB1 bool `json:"couchdb_1,omitempty"`
	// Suffix is the creation stamp in the names of the chosen databases' shards.
	Suffix    string    `json:"suffix,omitempty"`
	Continued bool      `json:"continued"` // went on with an unfinished restore
	Damaged   []string  `json:"damaged"`   // restored under another name: they have no valid header, or are what could be read
	Dropped   []Dropped `json:"dropped"`   // indexes that CouchDB builds anew
	Removed   []string  `json:"removed"`   // with Delta
	// Lost are databases and configuration files that the repository can't give back
	// whole. What could be read of a database is among Damaged.
	Lost []Dropped `json:"lost"`
	// LostCount is how many files the repository can't give back, indexes too.
	LostCount int `json:"lost_count"`
	// Aside are files that were in the target in the place of lost ones, under the names
	// that they have now.
	Aside     []string `json:"aside"`
	LeftAlone []string `json:"left_alone"`
	// Problems are what keeps the restored node from serving all that it did.
	Problems []string      `json:"problems"`
	Warnings []string      `json:"warnings"`
	Notes    []string      `json:"notes"`
	Commands []string      `json:"commands"` // with chosen databases: how they get into a running server
	Took     time.Duration `json:"took_ns"`

	mu sync.Mutex // guards Problems and Lost while files are written
}

// Dropped is an index that was not restored.
type Dropped struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// OK reports whether everything in the backup was restored as it was backed up
// and nothing in it is known to be damaged.
func (r *Result) OK() bool { return len(r.Wrong()) == 0 }

// Wrong returns what wasn't restored as it was backed up, and what is known to be damaged.
func (r *Result) Wrong() []string { return slices.Concat(r.Problems, r.Damaged) }

func (r *Result) problem(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// lose records a file that can't be had, as a problem too.
func (r *Result) lose(path string, cause error, format string, args ...any) {
	r.problem(format, args...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Lost = append(r.Lost, Dropped{Path: path, Reason: cause.Error()})
}

func (r *Result) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

func (r *Result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// run is one restore.
type run struct {
	opts    Options
	m       *manifest.Manifest
	plan    *plan
	targets targets
	owner   owner
	readers map[*manifest.File]*repo.Reader // of the files of the plan; one for each backup
	batch   *batch                          // nil: sync each file
	reuse   bool                            // look at what is there before writing
	res     *Result

	rename     *renaming          // nil: _dbs.couch and _nodes.couch stay as they are
	newHistory string             // as of the marker
	later      []*manifest.Record // backups of the instance that were made after this one, the newest last

	folders []string // all that files were put into, for systems without syncfs

	mu          sync.Mutex              // guards what follows, and in plan and res what is lost, while files are written
	lost        map[*manifest.File]bool // that the repository can't give back
	rewritten   map[string]int64        // sizes of files that are longer or others than in the backup, by path
	lostIndexes int
	instead     map[string]bool // paths of databases that came out of another node's backup than planned
}

// Files restores a backup, or chosen databases of it, to files. After an error or
// a kill the marker file stays, and the same call goes on where it ended.
//
// Good path, with a fresh directory on Linux; ROOT is the data directory:
//
//	mkdir(ROOT), fsync(parent)
//	open(ROOT/.tmp-X~), write, fsync, rename(ROOT/slipcover-restore-incomplete), fsync(ROOT)
//	mkdir(ROOT/shards), …
//	for each file but the last two:
//	    open(dir/.tmp-X~, O_CREAT|O_EXCL), fallocate, write…, fchmod, fchown, close
//	    rename(dir/.tmp-X~, dir/NAME)
//	syncfs(ROOT)                         all bytes and names of the above are durable
//	_nodes.couch, then _dbs.couch:
//	    open(ROOT/.tmp-X~), write…, fsync, close, rename, fsync(ROOT)
//	unlink(ROOT/slipcover-restore-incomplete), fsync(ROOT)
//
// A file gets its name before it is durable, which is right because until the
// marker goes names mean nothing: after a power cut a second run hashes every
// file it finds. Elsewhere, and on kernels whose syncfs doesn't report errors,
// each file is synced before its rename, and each folder in place of syncfs.
func Files(ctx context.Context, opts Options) (*Result, error) {
	started := time.Now()
	r, err := newRun(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	defer r.targets.close()
	defer r.batch.close()
	defer r.closeReaders()
	if err := r.write(ctx); err != nil {
		return nil, err
	}
	p := r.opts.Progress
	r.res.Files, r.res.Bytes, r.res.KeptFiles, r.res.KeptBytes = p.FilesDone.Load(), p.BytesDone.Load(), p.FilesKept.Load(), p.BytesKept.Load()
	r.res.Took = time.Since(started)
	for _, list := range []*[]string{&r.res.Databases, &r.res.Damaged, &r.res.Removed, &r.res.Aside, &r.res.LeftAlone, &r.res.Problems, &r.res.Warnings, &r.res.Notes, &r.res.Commands} {
		*list = nonNil(*list)
	}
	r.res.Dropped, r.res.Lost = nonNil(r.res.Dropped), nonNil(r.res.Lost)
	return r.res, nil
}

func newRun(ctx context.Context, opts Options) (*run, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	m := opts.Moment
	if opts.Part != nil {
		opts.Record, m = opts.Part.base().Record, opts.Part.base().Manifest
	}
	if m == nil {
		var err error
		if m, err = opts.Repo.Manifest(ctx, opts.Record); err != nil {
			return nil, err
		}
	}
	return &run{opts: opts, m: m, lost: map[*manifest.File]bool{}, rewritten: map[string]int64{}, instead: map[string]bool{}, res: &Result{Backup: m.ID, To: opts.To}}, nil
}

// Needs is what a restore would write, in bytes, and what an unfinished one of the same has written of it already.
type Needs struct {
	Bytes, There int64
}

// Check decides what Files would, and returns the error that it would return before it writes anything. It changes nothing.
func Check(ctx context.Context, opts Options) (*Needs, error) {
	r, err := newRun(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer r.closeReaders()
	if _, err := r.decide(ctx); err != nil {
		return nil, err
	}
	n := &Needs{Bytes: r.plan.bytes()}
	for _, list := range [][]item{r.plan.items, r.plan.last} {
		for _, it := range list {
			if info, err := os.Lstat(r.targets.path(it)); err == nil && info.Mode().IsRegular() {
				n.There += min(info.Size(), it.f.Size)
			}
		}
	}
	return n, nil
}

// nonNil makes JSON say [] and not null.
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (o *Options) check() (err error) {
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	if o.Parallel <= 0 {
		o.Parallel = min(4, max(2, runtime.GOMAXPROCS(0)))
	}
	if o.To == "" {
		return fmt.Errorf("%w: no directory was named to restore to", ErrOptions)
	}
	if len(o.Databases) == 0 && (o.As != "" || o.KeepSuffix) {
		return fmt.Errorf("%w: a new name or the old suffix are for chosen databases", ErrOptions)
	}
	if o.Part != nil && (len(o.Databases) > 0 || o.NodeName != "") {
		return fmt.Errorf("%w: a part of a cluster is restored whole, under the name that the plan gives its node", ErrOptions)
	}
	if o.Part != nil && o.Part.Shared > 0 && o.History == HistoryKept {
		return fmt.Errorf("%w: by the plan %d files go to several nodes each, and with the history that they have CouchDB would no longer bring these copies together", ErrOptions, o.Part.Shared)
	}
	if len(o.Databases) > 0 && o.ConfigTo != "" {
		return fmt.Errorf("%w: chosen databases come without configuration", ErrOptions)
	}
	if o.NodeName != "" && !shard.ValidNode(o.NodeName) {
		return fmt.Errorf("%w: %q is not the name of an Erlang node, such as couchdb@127.0.0.1", ErrOptions, o.NodeName)
	}
	if o.As != "" && !shard.ValidDB(o.As) {
		return fmt.Errorf("%w: %q is not a name that CouchDB gives a database", ErrOptions, o.As)
	}
	for _, dir := range []*string{&o.To, &o.IndexTo, &o.ConfigTo} {
		if *dir != "" {
			if *dir, err = filepath.Abs(*dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare decides everything and then puts the markers in place.
func (r *run) prepare(ctx context.Context) error {
	mark, err := r.decide(ctx)
	if err != nil {
		return err
	}
	if err := r.targets.mark(mark, r.owner); err != nil {
		r.targets.close()
		return err
	}
	return nil
}

// decide decides everything and writes nothing.
func (r *run) decide(ctx context.Context) (*marker, error) {
	var warning string
	var err error
	if r.owner, warning, err = parseOwner(r.opts.Owner); err != nil {
		return nil, err
	}
	if warning != "" {
		r.res.Warnings = append(r.res.Warnings, warning)
	}
	r.targets = newTargets(&r.opts)
	mark := markOf(&r.opts, r.m)
	why := r.decideHistory(&mark, r.findLater(ctx))
	if r.reuse, err = r.targets.look(ctx, &mark, r.opts.Delta); err != nil {
		return nil, err
	}
	r.res.Continued = mark.continued
	r.newHistory = mark.NewHistory
	r.tellHistory(why)
	p := newPlanner(&r.opts, r.m, r.res)
	r.readers = map[*manifest.File]*repo.Reader{}
	switch {
	case r.opts.Part != nil && r.opts.Part.DB != nil:
		r.plan = p.partOfDB(r.opts.Part, r.readers)
	case r.opts.Part != nil:
		r.plan = p.partOf(r.opts.Part, r.readers)
		r.tellPart()
	case len(r.opts.Databases) > 0:
		r.res.Suffix = mark.Suffix
		r.plan, err = p.chosen(ctx, mark.Suffix)
	default:
		r.plan = p.whole()
		r.rename, err = p.renaming(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := r.targets.noLinks(r.plan); err != nil {
		return nil, err
	}
	if err := r.tellIndexDir(ctx); err != nil {
		return nil, err
	}
	if r.opts.Part == nil {
		r.plan.read(r.opts.Repo, r.m, r.opts.To, r.readers)
	}
	r.opts.Progress.Files.Store(int64(len(r.plan.items) + len(r.plan.last)))
	r.opts.Progress.Bytes.Store(r.plan.bytes())
	return &mark, nil
}

// openReaders returns all readers.
func (r *run) openReaders() map[*repo.Reader]bool {
	out := map[*repo.Reader]bool{}
	for _, rd := range r.readers {
		out[rd] = true
	}
	return out
}

func (r *run) closeReaders() {
	for rd := range r.openReaders() {
		rd.Close()
	}
}

func (r *run) whole() bool {
	return len(r.opts.Databases) == 0 && (r.opts.Part == nil || r.opts.Part.DB == nil)
}

// write does all that comes between setting the markers and removing them.
func (r *run) write(ctx context.Context) error {
	if err := r.purgedSince(ctx); err != nil {
		return err
	}
	if r.reuse {
		if err := r.clean(ctx); err != nil {
			return err
		}
	}
	if err := r.makeFolders(); err != nil {
		return err
	}
	if err := r.writeItems(ctx); err != nil {
		return err
	}
	if err := r.afterLosses(); err != nil {
		return err
	}
	if err := r.writeIdentity(ctx); err != nil {
		return err
	}
	if err := r.placeGuards(r.plan.guards); err != nil {
		return err
	}
	if err := r.writeMaps(); err != nil {
		return err
	}
	if err := r.sync(); err != nil {
		return err
	}
	for _, it := range r.plan.last {
		if err := r.writeLast(ctx, it); err != nil {
			return err
		}
	}
	if err := r.compareSizes(ctx); err != nil {
		return err
	}
	r.tellDamage()
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.opts.Whole != nil {
		if err := r.opts.Whole(r.res); err != nil {
			return err
		}
	}
	return r.targets.unmark()
}

// makeFolders makes the folders of all files, and takes the file systems of
// those that are there into the batch.
func (r *run) makeFolders() error {
	r.batch = newBatch()
	seen := map[string]bool{}
	for _, t := range r.targets.list {
		seen[t.dir] = true
		r.folders = append(r.folders, t.dir)
		if err := r.batch.add(t.dir); err != nil {
			return err
		}
	}
	for _, it := range r.plan.items {
		if err := r.makeFolder(filepath.Dir(r.targets.path(it)), seen); err != nil {
			return err
		}
	}
	for _, path := range r.plan.guards {
		if err := r.makeFolder(filepath.Dir(r.targets.data(path)), seen); err != nil {
			return err
		}
	}
	if len(r.plan.maps) > 0 {
		return r.makeFolder(r.targets.data(mapsFolder), seen)
	}
	return nil
}

func (r *run) makeFolder(dir string, seen map[string]bool) error {
	if seen[dir] {
		return nil
	}
	if err := r.makeFolder(filepath.Dir(dir), seen); err != nil {
		return err
	}
	seen[dir] = true
	r.folders = append(r.folders, dir)
	switch err := os.Mkdir(dir, folderMode); {
	case err == nil:
		return r.owner.path(dir)
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	info, err := os.Lstat(dir)
	if err == nil {
		err = notLinked(dir)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is a file, and the backup needs a folder there: remove it", dir)
	}
	return r.batch.add(dir)
}

// writeItems writes all files but the last ones.
func (r *run) writeItems(ctx context.Context) error {
	list := groups(r.plan.items)
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(r.opts.Parallel, len(list)) {
		g.Go(func() error {
			w := newWriter(r)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					return nil
				}
				for _, it := range list[i] {
					if err := w.restore(ctx, it, r.batch == nil, nil); err != nil {
						return err
					}
				}
			}
		})
	}
	return g.Wait()
}

// sync makes durable what was written so far.
func (r *run) sync() error {
	if r.batch != nil {
		return r.batch.sync()
	}
	for _, dir := range r.folders {
		if err := durable.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// writeLast writes _nodes.couch or _dbs.couch. Before the shard map gets its
// name, guards stand in for the shards that it names and the backup lacks.
func (r *run) writeLast(ctx context.Context, it item) error {
	before := func(f *os.File) error {
		if r.opts.Part != nil {
			return r.rewritePart(ctx, f, it)
		}
		if it.path == dbsPath {
			if err := r.reconcile(ctx, f, it.f.Size); err != nil {
				return err
			}
		}
		if r.rename == nil {
			return nil
		}
		r.res.note("%s was written anew, since the node is to be called %s: it is not byte for byte that of the backup, and CouchDB 2 can't read it", it.path, r.rename.to)
		size, err := r.rename.rewrite(ctx, f, it.f.Size, it.path)
		r.resized(it, size)
		return err
	}
	path, w := r.targets.path(it), newWriter(r)
	back, err := w.takeBack(ctx, it, path, before)
	if err == nil && !back {
		err = w.restore(ctx, it, true, before)
	}
	if err != nil {
		return err
	}
	if err := r.settleLast(it, path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(r.targets.path(it)))
}

// settleLast removes what was set aside of _nodes.couch or _dbs.couch when the backup's
// is there, and else guards the place and tells of it.
func (r *run) settleLast(it item, path string) error {
	old, err := asides(path)
	if err != nil {
		return err
	}
	if r.lost[it.f] {
		r.res.Aside = append(r.res.Aside, old...)
		if it.path == dbsPath {
			return r.placeGuards([]string{it.path})
		}
		return nil
	}
	if len(old) > 0 { // the new name first
		if err := durable.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	for _, p := range old {
		if err := os.Remove(p); err != nil {
			return err
		}
	}
	return nil
}

// reconcile holds the shard map against the files: CouchDB creates the shards
// that it misses, empty.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3_shards.erl, create_if_missing.
func (r *run) reconcile(ctx context.Context, f *os.File, size int64) error {
	maps, err := readMaps(ctx, f, size, r.m, r.opts.NodeName)
	if err != nil {
		r.res.problem("%v: CouchDB can't list databases out of it", err)
		return ctx.Err()
	}
	for _, s := range maps.problems {
		r.res.problem("%s", s)
	}
	maps.tell(r.res, r.opts.NodeName)
	if len(maps.list) > 0 && !r.opts.named {
		r.res.note("%s", howToServe(r.res.NodeName, r.opts.NodeName, maps.old))
	}
	databases := r.m.Databases()
	var guards []string
	for _, m := range maps.list {
		r.res.Databases = append(r.res.Databases, m.DB)
		for _, rg := range maps.self.Ranges(m.Map) {
			path := shard.Name{Range: rg, DB: m.DB, Suffix: m.Suffix}.Path()
			if databases[path] == nil {
				guards = append(guards, path)
				r.res.problem("database %q: its shard %s is not in the backup: the folder of that name keeps CouchDB from creating it empty, and its documents in that range answer with errors", m.DB, path)
			}
		}
	}
	if len(guards) == 0 {
		return nil
	}
	seen := map[string]bool{}
	for _, dir := range r.folders {
		seen[dir] = true
	}
	for _, path := range guards {
		if err := r.makeFolder(filepath.Dir(r.targets.data(path)), seen); err != nil {
			return err
		}
	}
	if err := r.placeGuards(guards); err != nil {
		return err
	}
	return r.sync()
}

// placeGuards makes a folder where a database file would be created empty.
func (r *run) placeGuards(paths []string) error {
	for _, path := range paths {
		full := r.targets.data(path)
		err := os.Mkdir(full, folderMode)
		if errors.Is(err, fs.ErrExist) { // what a file of that name holds is not of this backup
			if info, serr := os.Lstat(full); serr == nil && info.IsDir() {
				continue
			}
			if err = r.makeWay(full); err == nil {
				err = os.Mkdir(full, folderMode)
			}
		}
		if err != nil {
			return err
		}
		if err := r.owner.path(full); err != nil {
			return err
		}
	}
	return nil
}

const mapsFolder = "shard-maps"

// writeMaps writes the shard maps of chosen databases, and says how they get into
// a server: files first, for CouchDB creates what the map names and isn't there.
func (r *run) writeMaps() error {
	if len(r.plan.maps) == 0 {
		return nil
	}
	hasViews := slices.ContainsFunc(r.plan.items, func(it item) bool { return it.f.Kind == manifest.View })
	r.res.Commands = append(r.res.Commands, fmt.Sprintf("cp -a %s DATA_DIR/", quote(r.targets.data("shards"))))
	if hasViews {
		r.res.Commands = append(r.res.Commands, fmt.Sprintf("cp -a %s INDEX_DIR/", quote(filepath.Join(r.targets.dirOf(manifest.IndexRoot), ".shards"))))
	}
	for _, m := range r.plan.maps {
		name := url.QueryEscape(m.name) // CouchDB takes a "+" in a path for a space
		path := filepath.Join(r.targets.data(mapsFolder), name+".json")
		err := durable.WriteFile(path, 0o644, func(f *os.File) error {
			if _, err := f.Write(m.doc); err != nil {
				return err
			}
			return r.owner.file(f)
		})
		if err != nil {
			return err
		}
		r.res.Commands = append(r.res.Commands, fmt.Sprintf("curl -u ADMIN -X PUT -H 'Content-Type: application/json' --data-binary @%s '%s/%s'", quote(path), mapsURL(r.plan.old), name))
	}
	if r.plan.old {
		r.res.note("the commands are for a CouchDB 2, as the original was: shard maps go to its node-local port, which is [httpd] port. For a CouchDB 3 replace %s by %s in them", mapsURL(true), mapsURL(false))
	}
	r.res.note("to get the databases into a running CouchDB run the commands in their order, files before shard maps; DATA_DIR is its couchdb/database_dir, INDEX_DIR its view_index_dir")
	if r.opts.KeepSuffix {
		r.res.note("the shards keep their suffix: copy them only into a server on which the databases never were")
	} else {
		r.res.note("a database that exists under its name must be deleted first, or be restored under another name; the new files have a suffix of their own and meet none of its files")
	}
	return nil
}

// mapsURL is where a server takes shard maps. A CouchDB 2 has them at its node-local port
// alone, and answers 404 to what a CouchDB 3 does.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_node.erl, handle_node_req; tried with 2.3.1.
func mapsURL(old bool) string {
	if old {
		return "http://127.0.0.1:5986/_dbs"
	}
	return "http://127.0.0.1:5984/_node/_local/_dbs"
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// compareSizes looks at every file under its name once more.
func (r *run) compareSizes(ctx context.Context) error {
	for _, list := range [][]item{r.plan.items, r.plan.last} {
		for _, it := range list {
			if err := ctx.Err(); err != nil {
				return err
			}
			if r.lost[it.f] {
				continue
			}
			info, err := os.Lstat(r.targets.path(it))
			if err != nil {
				return fmt.Errorf("%s was restored and is gone again: %w", it.path, err)
			}
			size := it.f.Size
			if n, ok := r.rewritten[it.path]; ok {
				size = n
			}
			if !info.Mode().IsRegular() || info.Size() != size {
				return fmt.Errorf("%s was restored and has changed since: is something else writing to the directory?", it.path)
			}
		}
	}
	return nil
}
