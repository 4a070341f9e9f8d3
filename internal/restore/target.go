package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

// MarkerName is the file that stands in a directory while its restore isn't
// finished.
const MarkerName = "slipcover-restore-incomplete"

// marker is what the file says.
type marker struct {
	Says       string            `json:"says"`
	Backup     manifest.BackupID `json:"backup"`
	Instance   string            `json:"instance"`
	Started    time.Time         `json:"started"`
	Databases  []string          `json:"databases,omitempty"`
	As         string            `json:"as,omitempty"`
	KeepSuffix bool              `json:"keep_suffix,omitempty"`
	Suffix     string            `json:"suffix,omitempty"` // of the new shards
	// NewHistory is what the uuids of a new history are made of, with those that the files
	// have: a run that goes on gives the same ones. It is empty if the history is kept.
	NewHistory string `json:"new_history,omitempty"`
	Part       string `json:"part,omitempty"` // what it is of a cluster

	asked     History // of the restore at hand
	continued bool    // it was found and not made
}

func markOf(o *Options, m *manifest.Manifest) marker {
	k := marker{
		Says:   "This directory holds part of a backup: its restore was not finished. Don't start CouchDB on it; run the restore again.",
		Backup: m.ID, Instance: m.Instance, Started: time.Now().UTC(), Databases: o.Databases, As: o.As, KeepSuffix: o.KeepSuffix,
		asked: o.History,
	}
	if len(o.Databases) > 0 && !o.KeepSuffix {
		k.Suffix = fmt.Sprintf(".%010d", k.Started.Unix())
	}
	if o.Part != nil {
		k.Part = o.Part.hash()
	}
	return k
}

// same reports whether a restore with mark o would write the same files.
func (k *marker) same(o *marker) bool {
	return (o.asked == HistoryByMoment || (o.asked == HistoryNew) == (k.NewHistory != "")) && k.Backup == o.Backup && slices.Equal(k.Databases, o.Databases) && k.As == o.As && k.KeepSuffix == o.KeepSuffix && k.Part == o.Part
}

// readMarker returns nil if there is none in dir.
func readMarker(dir string) (*marker, error) {
	b, err := os.ReadFile(filepath.Join(dir, MarkerName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k := &marker{}
	if json.Unmarshal(b, k) != nil {
		return &marker{}, nil // of nothing we know: it fits no restore
	}
	return k, nil
}

// target is a directory that is written to.
type target struct {
	dir  string
	lock *os.File // the marker, open
}

// targets are the directories of a restore.
type targets struct {
	list  []*target
	roots map[manifest.Root]*target
}

func newTargets(o *Options) targets {
	t := targets{roots: map[manifest.Root]*target{}}
	for _, x := range []struct {
		root manifest.Root
		dir  string
	}{{manifest.DataRoot, o.To}, {manifest.IndexRoot, o.IndexTo}, {manifest.EtcRoot, o.ConfigTo}} {
		dir := x.dir
		if dir == "" && x.root == manifest.IndexRoot {
			dir = o.To
		}
		if dir == "" {
			continue
		}
		i := slices.IndexFunc(t.list, func(t *target) bool { return t.dir == dir })
		if i < 0 {
			i = len(t.list)
			t.list = append(t.list, &target{dir: dir})
		}
		t.roots[x.root] = t.list[i]
	}
	return t
}

func (t *targets) dirOf(root manifest.Root) string { return t.roots[root].dir }

func (t *targets) path(it item) string {
	return filepath.Join(t.dirOf(it.root), filepath.FromSlash(it.path))
}

func (t *targets) data(p string) string {
	return filepath.Join(t.dirOf(manifest.DataRoot), filepath.FromSlash(p))
}

// look decides whether the directories may be written to, changing nothing. If it
// finds an unfinished restore like this one, mark becomes that one's. reuse says
// that something is there.
func (t *targets) look(ctx context.Context, mark *marker, delta bool) (reuse bool, err error) {
	for _, x := range t.list {
		if err := inUse(ctx, x.dir); err != nil {
			return false, err
		}
		entries, err := os.ReadDir(x.dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		entries = ofOthers(x.dir, entries)
		if len(entries) == 0 {
			continue
		}
		// A kill before the marker had its name left its temporary file.
		if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !e.Type().IsRegular() || !durable.IsTemp(e.Name()) }) {
			reuse = true
			continue
		}
		old, err := readMarker(x.dir)
		if err != nil {
			return false, err
		}
		switch {
		case old != nil && old.same(mark):
			*mark = *old
			mark.continued = true
		case delta:
		case old != nil:
			return false, fmt.Errorf("%s: %w", x.dir, ErrUnfinished)
		default:
			return false, fmt.Errorf("%s: %w", x.dir, ErrNotEmpty)
		}
		reuse = true
	}
	return reuse, nil
}

// ofOthers leaves out what the file system keeps at the top of a volume: an empty
// lost+found, and where its snapshots appear. It counts as nothing, and stays.
func ofOthers(dir string, entries []fs.DirEntry) []fs.DirEntry {
	return slices.DeleteFunc(slices.Clone(entries), func(e fs.DirEntry) bool {
		if !e.IsDir() || !node.OfFilesystem(e.Name()) {
			return false
		}
		inside, err := os.ReadDir(filepath.Join(dir, e.Name()))
		return e.Name() != "lost+found" || len(inside) == 0 && (err == nil || errors.Is(err, fs.ErrPermission)) // it is root's
	})
}

// noLinks returns ErrLinked if a folder that the plan writes into is a symbolic link.
func (t *targets) noLinks(p *plan) error {
	seen := map[string]bool{}
	for _, list := range [][]item{p.items, p.last} {
		for _, it := range list {
			if err := noLink(t.dirOf(it.root), it.path, seen); err != nil {
				return err
			}
		}
	}
	for _, path := range p.guards {
		if err := noLink(t.dirOf(manifest.DataRoot), path, seen); err != nil {
			return err
		}
	}
	if len(p.maps) > 0 {
		return noLink(t.dirOf(manifest.DataRoot), mapsFolder+"/x", seen)
	}
	return nil
}

// noLink looks at the folders between dir and the file at path below it.
func noLink(dir, rel string, seen map[string]bool) error {
	for folder := path.Dir(rel); folder != "."; folder = path.Dir(folder) {
		full := filepath.Join(dir, filepath.FromSlash(folder))
		if seen[full] {
			return nil
		}
		seen[full] = true
		if err := notLinked(full); err != nil {
			return err
		}
	}
	return nil
}

func notLinked(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return nil //nolint:nilerr // what isn't there will be made, and then errors are told
	}
	to, err := os.Readlink(dir)
	if err != nil {
		return err
	}
	return fmt.Errorf("%s, which leads to %s: %w", dir, to, ErrLinked)
}

// mark makes the directories and puts the markers into them.
func (t *targets) mark(mark *marker, own owner) error {
	for _, x := range t.list {
		_, err := os.Stat(x.dir)
		fresh := errors.Is(err, fs.ErrNotExist)
		if err := durable.MkdirAll(x.dir, folderMode); err != nil {
			return err
		}
		if fresh {
			if err := own.path(x.dir); err != nil {
				return err
			}
		}
		if err := x.mark(mark); err != nil {
			return err
		}
	}
	return nil
}

func (x *target) mark(mark *marker) error {
	path := filepath.Join(x.dir, MarkerName)
	old, err := readMarker(x.dir)
	if err != nil {
		return err
	}
	if old != nil { // another run may hold it
		if err := x.open(path); err != nil {
			return err
		}
		if old.same(mark) {
			return nil
		}
		x.close()
	}
	b, err := json.MarshalIndent(mark, "", "  ")
	if err != nil {
		return err
	}
	err = durable.WriteFile(path, 0o644, func(f *os.File) error {
		_, err := f.Write(append(b, '\n'))
		return err
	})
	if err != nil {
		return err
	}
	return x.open(path)
}

// open opens and locks the marker.
func (x *target) open(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if durable.TryLock(f) {
		_ = f.Close()
		return fmt.Errorf("%s: %w: another restore is writing to it", x.dir, ErrInUse)
	}
	x.lock = f
	return nil
}

func (x *target) close() {
	if x.lock != nil {
		_ = x.lock.Close() // nothing was written
		x.lock = nil
	}
}

func (t *targets) close() {
	for _, x := range t.list {
		x.close()
	}
}

// unmark says that the restore is whole; the data directory's marker goes last.
func (t *targets) unmark() error {
	for _, x := range slices.Backward(t.list) {
		x.close()
		if err := os.Remove(filepath.Join(x.dir, MarkerName)); err != nil {
			return err
		}
		if err := durable.SyncDir(x.dir); err != nil {
			return err
		}
	}
	return nil
}

// clean takes away what would be wrong beside the files of the backup: the shard
// map, so that nothing is served until all is there; and, in a whole restore,
// databases, indexes and work files that the backup doesn't have.
func (r *run) clean(ctx context.Context) error {
	if !r.whole() {
		return r.cleanTemps(ctx)
	}
	data := r.targets.dirOf(manifest.DataRoot)
	for _, name := range []string{dbsPath, nodesPath} {
		if err := r.hide(filepath.Join(data, name)); err != nil {
			return err
		}
	}
	if err := durable.SyncDir(data); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, list := range [][]item{r.plan.items, r.plan.last} {
		for _, it := range list {
			known[r.targets.path(it)] = true
		}
	}
	for _, path := range r.plan.guards {
		known[r.targets.data(path)] = true
	}
	for _, t := range r.targets.list {
		c := cleaner{run: r, ctx: ctx, dir: t.dir, known: known, config: t == r.targets.roots[manifest.EtcRoot]}
		if err := c.walk(""); err != nil {
			return err
		}
	}
	return nil
}

// hide takes a file away from CouchDB until the backup's is there.
func (r *run) hide(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir() || info.Mode()&fs.ModeSymlink != 0: // a guard, or a file that stays where it is
		return os.Remove(path)
	}
	_, err = setAside(path)
	return err
}

// cleanTemps removes what a killed run left of chosen databases.
func (r *run) cleanTemps(ctx context.Context) error {
	for _, t := range r.targets.list {
		c := cleaner{run: r, ctx: ctx, dir: t.dir, temps: true}
		if err := c.walk(""); err != nil {
			return err
		}
	}
	return nil
}

// cleaner goes through a target.
type cleaner struct {
	run    *run
	ctx    context.Context // for one walk
	dir    string
	known  map[string]bool // full paths that the restore writes
	config bool            // it is the directory of ini files
	temps  bool            // remove temporary files only
}

// walk follows no link: what is behind one isn't the target's.
func (c *cleaner) walk(rel string) error {
	entries, err := os.ReadDir(filepath.Join(c.dir, filepath.FromSlash(rel)))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.entry(e, path.Join(rel, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (c *cleaner) entry(e fs.DirEntry, rel string) error {
	full := filepath.Join(c.dir, filepath.FromSlash(rel))
	switch {
	case e.IsDir() && node.OfFilesystem(rel):
		return nil
	case e.IsDir() && c.ours(rel):
		return c.walk(rel)
	case e.IsDir():
		c.leave(rel + "/")
		return nil
	case rel == MarkerName || c.known[full]:
		return nil
	case strings.HasPrefix(rel, dbsPath+asideEnding) || strings.HasPrefix(rel, nodesPath+asideEnding):
		return nil // settleLast tells of it
	case durable.IsTemp(e.Name()):
		return os.Remove(full)
	case c.temps:
		return nil
	case !c.config && c.stray(rel):
		c.run.res.Removed = append(c.run.res.Removed, full)
		return os.Remove(full)
	}
	c.leave(rel)
	return nil
}

// ours reports whether a folder is one of those that hold shards and indexes.
func (c *cleaner) ours(rel string) bool {
	top, _, _ := strings.Cut(rel, "/")
	if c.config || c.temps {
		return true
	}
	return top == "shards" || top == ".shards" || strings.HasPrefix(top, ".") && strings.HasSuffix(top, "_design")
}

// stray reports whether a file that the backup doesn't have must go.
func (c *cleaner) stray(rel string) bool {
	base := path.Base(rel)
	if compaction(base) {
		return true
	}
	return strings.Contains(rel, "/") && (strings.HasSuffix(base, ".couch") || strings.HasSuffix(base, ".view"))
}

// compaction reports whether a file is one that a compaction works on. CouchDB
// would take it for what is to go on with, or put it in the shard's place.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_bt_engine_compactor.erl, and
// couch_bt_engine.erl, open_db_file.
func compaction(base string) bool {
	for _, end := range []string{".couch.compact", ".couch.compact.data", ".couch.compact.meta", ".compact.view"} {
		if strings.HasSuffix(base, end) {
			return true
		}
	}
	return false
}

func (c *cleaner) leave(rel string) {
	if !c.temps {
		c.run.res.LeftAlone = append(c.run.res.LeftAlone, filepath.Join(c.dir, filepath.FromSlash(rel)))
	}
}
