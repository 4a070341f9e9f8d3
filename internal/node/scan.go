package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

// ErrNoData says that a directory is there and holds nothing of CouchDB's.
var ErrNoData = errors.New("no CouchDB data")

// Entry is one file of the node that belongs into a backup.
type Entry struct {
	Root   manifest.Root
	Path   string // relative to the root, with "/"
	Kind   manifest.Kind
	DB     string      // name of the database, of shards, system files and views
	Range  shard.Range // of shards and their views; zero for node-local files
	Suffix string      // of shards and their views: ".1795334390"
	// RawPath is the real path of a configuration file whose name can't stand in Path as
	// it is; see manifest.EscapePath.
	RawPath string
	// Source is the file to read if it isn't at Path below the root; usually
	// empty. It is set for
	//   - configuration files outside of EtcDir;
	//   - a database whose only file is the one that a compaction made and had
	//     not renamed yet: CouchDB takes <db>.couch.compact for <db>.couch when it
	//     next opens it. If the source is gone, the rename has happened: read Path.
	Source string
}

// Listing is what Scan found, each group sorted by root and path.
type Listing struct {
	Views  []Entry
	Shards []Entry
	System []Entry // _dbs.couch, _nodes.couch and other databases of this node alone
	Config []Entry // ini files in the order of their paths, not of the chain; vm.args
	// LeftOut names all else. A path that ends in "/" is a directory that was not
	// looked into; an empty one is not named.
	LeftOut []manifest.LeftOut
}

// All yields all entries in the order in which a backup must read them: indexes
// before the shards that they must not be ahead of, shards before the shard map
// that must not name more of them, configuration last.
func (l *Listing) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for _, group := range [][]Entry{l.Views, l.Shards, l.System, l.Config} {
			for i := range group {
				if !yield(&group[i]) {
					return
				}
			}
		}
	}
}

// ScanOptions say what to list.
type ScanOptions struct {
	// Indexes lists view files. Without it their directories are left out.
	Indexes bool
}

// Reasons for which a file is left out.
const (
	reasonCompaction = "work file of a compaction"
	reasonDeleting   = "files that CouchDB is deleting"
	reasonDeleted    = "deleted database, kept by enable_database_recovery"
	reasonSmoosh     = "queue of the compaction daemon, which fills it again"
	reasonSearch     = "search index, which is rebuilt from the databases"
	reasonIndexes    = "view indexes are left out, as configured"
	reasonStale      = "view index outside couchdb/view_index_dir, which CouchDB does not use"
	reasonName       = "not a name that CouchDB opens"
	reasonUnknown    = "not a file that CouchDB keeps here"
	reasonFilesystem = "belongs to the file system"
	reasonDangling   = "symbolic link that leads nowhere"
	reasonLoop       = "symbolic link to a directory above it"
	reasonLink       = "symbolic link to a file of another kind"
	reasonIrregular  = "neither a file nor a directory"
)

// Scan lists the node's files without opening one. Names alone decide what a
// file is, and each file found is an entry or left out with a reason. Files and
// directories that vanish meanwhile are no error; a directory that may not be
// read is one, as the backup would look whole and not be.
//
// Symbolic links are followed as CouchDB does, to directories and to files, also
// out of the data directory: what the server serves belongs into the backup. A
// file behind a link must have the same extension, so that a link can't bring a
// foreign file into a backup that runs as root.
//
// A directory changes while it is read, and a compaction replaces files by
// renaming: a scan may miss a file that is there all the time. Who needs all
// shards compares the listing with the shard map and scans again.
func (n *Node) Scan(ctx context.Context, o ScanOptions) (*Listing, error) {
	s := &scanner{ctx: ctx, node: n, opts: o, list: &Listing{}}
	s.root, s.dir = manifest.DataRoot, n.DataDir
	if err := s.walk("", n.DataDir, nil); err != nil {
		return nil, err
	}
	if n.IndexDir != n.DataDir && n.IndexDir != "" {
		s.root, s.dir = manifest.IndexRoot, n.IndexDir
		if err := s.walk("", n.IndexDir, nil); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	s.config()
	l := s.list
	for _, group := range [][]Entry{l.Views, l.Shards, l.System, l.Config} {
		slices.SortFunc(group, func(a, b Entry) int {
			return cmp.Or(cmp.Compare(a.Root, b.Root), cmp.Compare(a.Path, b.Path))
		})
	}
	slices.SortFunc(l.LeftOut, func(a, b manifest.LeftOut) int {
		return cmp.Or(cmp.Compare(a.Root, b.Root), cmp.Compare(a.Path, b.Path))
	})
	top := func(e Entry) bool { return !strings.Contains(e.Path, "/") }
	if len(l.Shards) == 0 && !slices.ContainsFunc(l.System, top) {
		return nil, fmt.Errorf("%w: %s holds neither shards nor _dbs.couch: check that it is CouchDB's data directory and that its disk is mounted", ErrNoData, n.DataDir)
	}
	return l, nil
}

// Entry returns what a scan lists for a regular file at a path below the data directory, with
// "/" between its elements; ok if it is a database's.
func (n *Node) Entry(rel string) (e Entry, ok bool) {
	s := &scanner{node: n, list: &Listing{}, root: manifest.DataRoot, dir: n.DataDir}
	for at := 0; ; { // a folder that a scan doesn't look into
		i := strings.IndexByte(rel[at:], '/')
		if i < 0 {
			break
		}
		if at += i; s.pruned(rel[:at]) != "" {
			return e, false
		}
		at++
	}
	found := s.classify(rel)
	if found == nil || found.Kind == manifest.View {
		return e, false
	}
	return *found, true
}

// ConfigEntries returns the configuration files that a scan lists.
func (n *Node) ConfigEntries() []Entry {
	s := &scanner{node: n, list: &Listing{}}
	s.config()
	return s.list.Config
}

type scanner struct {
	ctx  context.Context // of one Scan
	node *Node
	opts ScanOptions
	list *Listing
	root manifest.Root // that is being walked
	dir  string        // of that root
}

// walk lists the directory rel below the root, which is real on disk: no link in
// it. links are the directories from which links led here.
func (s *scanner) walk(rel, real string, links []string) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(real)
	switch {
	case errors.Is(err, fs.ErrNotExist) && rel != "":
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run as root or as the user that CouchDB runs as", err)
	case err != nil:
		return err
	}
	if rel != "" && isLucene(entries) {
		s.leaveOut(rel+"/", reasonSearch)
		return nil
	}
	for _, e := range entries {
		if err := s.visit(entries, e, join(rel, e.Name()), filepath.Join(real, e.Name()), links); err != nil {
			return err
		}
	}
	return nil
}

// visit lists what stands under one name of a directory. siblings are all of it.
func (s *scanner) visit(siblings []fs.DirEntry, e fs.DirEntry, rel, full string, links []string) error {
	switch mode := e.Type(); {
	case mode.IsRegular():
		s.file(siblings, rel, full)
		return nil
	case mode.IsDir():
		return s.subdir(rel, full, links)
	case mode&fs.ModeSymlink != 0:
		return s.link(rel, full, links)
	}
	s.leaveOut(rel, reasonIrregular)
	return nil
}

func (s *scanner) link(rel, full string, links []string) error {
	real, err := filepath.EvalSymlinks(full)
	if err != nil {
		if _, lerr := os.Lstat(full); errors.Is(lerr, fs.ErrNotExist) {
			return nil // vanished
		}
		s.leaveOut(rel, reasonDangling)
		return nil
	}
	st, err := os.Stat(real)
	switch {
	case err != nil:
		s.leaveOut(rel, reasonDangling)
	case st.IsDir():
		from := append(slices.Clip(links), filepath.Dir(full))
		if slices.ContainsFunc(from, func(dir string) bool { return within(dir, real) }) {
			s.leaveOut(rel, reasonLoop)
			return nil
		}
		return s.subdir(rel, real, from)
	case !st.Mode().IsRegular():
		s.leaveOut(rel, reasonIrregular)
	case filepath.Ext(real) != filepath.Ext(rel):
		s.leaveOut(rel, reasonLink)
	default:
		s.classify(rel)
	}
	return nil
}

// subdir decides whether a directory is worth a look.
func (s *scanner) subdir(rel, real string, links []string) error {
	if real == s.node.DataDir || real == s.node.IndexDir {
		return nil // the other root, nested in this one
	}
	if reason := s.pruned(rel); reason != "" {
		if !isEmpty(real) {
			s.leaveOut(rel+"/", reason)
		}
		return nil
	}
	return s.walk(rel, real, links)
}

// isEmpty says whether a directory is known to hold nothing, as .delete does most
// of the time.
func isEmpty(dir string) bool {
	d, err := os.Open(dir)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// deletedName is what enable_database_recovery makes of a name: a database file
// <db>.<day>.<time>.deleted.couch, the index directory of a shard
// <db>.<day>.<time>.deleted.<stamp>_design, or that of a node-local database
// .<db>_design.<day>.<time>.deleted.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_file.erl, deleted_filename.
var deletedName = regexp.MustCompile(`\.[0-9]{8}\.[0-9]{6}\.deleted(\.[^.]*)?$`)

// pruned says why a directory is not looked into; "" if it is.
func (s *scanner) pruned(rel string) string {
	if deletedName.MatchString(rel) {
		return reasonDeleted
	}
	if strings.Contains(rel, "/") {
		return ""
	}
	switch rel {
	case ".delete":
		return reasonDeleting
	case ".recovery":
		return reasonDeleted
	case "nouveau", "clouseau", "search_index", "search_indexes":
		return reasonSearch
	}
	if OfFilesystem(rel) {
		return reasonFilesystem
	}
	hidden := rel[0] == '.' // of indexes: .shards, .<db>_design, or the first part of a node-local name
	switch {
	case hidden && !s.opts.Indexes:
		return reasonIndexes
	case hidden && s.dir != s.node.IndexDir:
		return reasonStale
	case !hidden && s.root == manifest.IndexRoot:
		return reasonUnknown
	}
	return ""
}

// OfFilesystem reports whether a folder of that name, at the top of a volume, belongs to
// the file system: ext4's lost+found, and where snapshots of volumes appear.
func OfFilesystem(name string) bool {
	switch name {
	case "lost+found", ".snapshot", ".snapshots", ".zfs":
		return true
	}
	return false
}

// file lists a regular file.
func (s *scanner) file(siblings []fs.DirEntry, rel, full string) {
	base, ok := strings.CutSuffix(filepath.Base(rel), ".compact")
	if !ok || filepath.Ext(base) != ".couch" || s.root != manifest.DataRoot || has(siblings, base) {
		s.classify(rel)
		return
	}
	// The compaction is done, the old file is gone, and the new one has not got
	// its name yet, or has got it since the directory was read.
	//
	// Source: CouchDB 3.5.0, src/couch/src/couch_bt_engine.erl, open_db_file and
	// finish_compaction.
	rel = strings.TrimSuffix(rel, ".compact")
	_, err := os.Lstat(strings.TrimSuffix(full, ".compact"))
	if e := s.classify(rel); e != nil && errors.Is(err, fs.ErrNotExist) {
		e.Source = full
	}
}

// classify adds an entry for a file, which it returns, or leaves it out.
func (s *scanner) classify(rel string) *Entry {
	e := Entry{Root: s.root, Path: rel}
	base := rel[strings.LastIndexByte(rel, '/')+1:]
	switch ext := filepath.Ext(base); {
	case isCompaction(base):
		s.leaveOut(rel, reasonCompaction)
	case deletedName.MatchString(base):
		s.leaveOut(rel, reasonDeleted)
	case isSmoosh(base):
		s.leaveOut(rel, reasonSmoosh)
	case ext == ".couch" && s.root == manifest.DataRoot:
		return s.database(e)
	case ext == ".view":
		return s.view(e)
	default:
		s.leaveOut(rel, reasonUnknown)
	}
	return nil
}

func (s *scanner) database(e Entry) *Entry {
	if strings.HasPrefix(e.Path, "shards/") {
		name, err := shard.ParsePath(e.Path)
		if err != nil {
			s.leaveOut(e.Path, reasonName)
			return nil
		}
		e.Kind, e.DB, e.Range, e.Suffix = manifest.Shard, name.DB, name.Range, name.Suffix
		return add(&s.list.Shards, e)
	}
	e.Kind = manifest.System
	e.DB, e.Suffix = shard.CutSuffix(strings.TrimSuffix(e.Path, ".couch"))
	if !shard.ValidDB(e.DB) {
		s.leaveOut(e.Path, reasonName)
		return nil
	}
	return add(&s.list.System, e)
}

func (s *scanner) view(e Entry) *Entry {
	e.Kind = manifest.View
	if name, _, err := shard.ParseViewPath(e.Path); err == nil {
		e.DB, e.Range, e.Suffix = name.DB, name.Range, name.Suffix
		return add(&s.list.Views, e)
	}
	owner, _, ok := shard.CutView(e.Path)
	if ok && owner[0] == '.' && !strings.HasPrefix(owner, ".shards/") {
		e.DB, e.Suffix = shard.CutSuffix(owner[1:])
		if shard.ValidDB(e.DB) {
			return add(&s.list.Views, e)
		}
	}
	s.leaveOut(e.Path, reasonName)
	return nil
}

func add(group *[]Entry, e Entry) *Entry {
	*group = append(*group, e)
	return &(*group)[len(*group)-1]
}

func (s *scanner) leaveOut(rel, reason string) {
	s.list.LeftOut = append(s.list.LeftOut, manifest.LeftOut{Root: s.root, Path: rel, Reason: reason})
}

// config lists the ini files and vm.args. One outside of EtcDir gets the path
// _outside/<its path>.
func (s *scanner) config() {
	seen := map[string]bool{}
	for _, file := range append(slices.Clip(s.node.IniFiles), s.node.VMArgs) {
		if file == "" || seen[file] {
			continue
		}
		seen[file] = true
		e := Entry{Root: manifest.EtcRoot, Kind: manifest.Config}
		if rel, err := filepath.Rel(s.node.EtcDir, file); err == nil && filepath.IsLocal(rel) {
			e.Path = filepath.ToSlash(rel)
		} else {
			drive := filepath.VolumeName(file)
			e.Path = "_outside/" + strings.TrimLeft(strings.ReplaceAll(drive, ":", "")+filepath.ToSlash(file[len(drive):]), "/")
			e.Source = file
		}
		if safe := manifest.EscapePath(e.Path); safe != e.Path {
			e.Path, e.RawPath, e.Source = safe, e.Path, file
		}
		add(&s.list.Config, e)
	}
}

// isCompaction says whether a file is one that compaction works on.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_bt_engine.erl, delete_compaction_files;
// src/couch_mrview/src/couch_mrview_util.erl, compaction_file.
func isCompaction(base string) bool {
	for _, end := range []string{".couch.compact", ".couch.compact.data", ".couch.compact.meta", ".compact.view"} {
		if strings.HasSuffix(base, end) {
			return true
		}
	}
	return false
}

// isSmoosh says whether a file is a stored queue of the compaction daemon, whole
// or in the making.
//
// Source: CouchDB 3.5.0, src/smoosh/src/smoosh_persist.erl, file_path and tmp_path.
func isSmoosh(base string) bool {
	return strings.HasSuffix(base, ".smooshq") || strings.Contains(base, ".smooshq.") && strings.HasSuffix(base, ".tmp")
}

// isLucene says whether a directory is a Lucene index, which Nouveau and
// Clouseau keep wherever they are told to: it has a file segments_N.
func isLucene(entries []fs.DirEntry) bool {
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		gen, ok := strings.CutPrefix(e.Name(), "segments_")
		return ok && gen != "" && !strings.Contains(gen, ".") && e.Type().IsRegular()
	})
}

// has says whether a sorted directory has a name.
func has(sorted []fs.DirEntry, name string) bool {
	_, ok := slices.BinarySearchFunc(sorted, name, func(e fs.DirEntry, name string) int {
		return cmp.Compare(e.Name(), name)
	})
	return ok
}

func join(rel, name string) string {
	if rel == "" {
		return name
	}
	return rel + "/" + name
}

// within says whether dir is parent or below it.
func within(dir, parent string) bool {
	rel, err := filepath.Rel(parent, dir)
	return err == nil && filepath.IsLocal(rel)
}
