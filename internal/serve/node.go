package serve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

var (
	// ErrNoDatabase says that there is no database of a name.
	ErrNoDatabase = errors.New("there is no such database")
	// ErrNoShard says that the node has no copy of a shard, or that it is missing.
	ErrNoShard = errors.New("its shard is not there")
)

// mapFile is the shard map.
const mapFile = "_dbs.couch"

// Node is a CouchDB node as a backup or a moment has it.
type Node struct {
	Manifest *manifest.Manifest
	// Members are the manifests that it is made of: of a cluster, those of all its nodes.
	Members []*manifest.Manifest

	readers []*repo.Reader // of the backups that it is made of; one of a node's
	of      map[*manifest.File]*repo.Reader
	dbs     map[string]*Database
	shards  *Database                 // the shard map, nil if it isn't there
	indexes map[string]*manifest.File // of views, by their paths
}

// Database is a database of a node. Its methods may be called by several goroutines.
type Database struct {
	Name   string
	Shards []*Shard // by range
	// Map says which nodes have which ranges. Of a database that no shard map names it has
	// neither a suffix nor nodes.
	Map  shard.Map
	node *Node

	parted atomic.Pointer[bool] // whether it is partitioned, once that is known
}

// Shard is a shard of a database.
type Shard struct {
	Range shard.Range
	File  *manifest.File // nil if the map names it and it isn't there

	mu   sync.Mutex
	open *repo.Database // guarded by mu, like db and indexes
	db   *couchfile.DB

	indexes map[string]*couchfile.View // by their paths
}

// OpenNode opens what a manifest has. The databases are those of the shard map; where that isn't there, those that files are
// named by. Close must be called.
func OpenNode(ctx context.Context, r *repo.Repo, m *manifest.Manifest) (*Node, error) {
	n := newNode(m, r.NewSharing(m))
	files := map[string]*manifest.File{}
	for _, f := range m.Files {
		if f.Root == manifest.DataRoot && (f.Kind == manifest.Shard || f.Kind == manifest.System) {
			files[f.Path] = f
		}
		if f.Kind == manifest.View && (f.Root == manifest.DataRoot || f.Root == manifest.IndexRoot) {
			n.indexes[f.Path] = f
		}
	}
	if err := n.find(ctx, files); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// OpenCluster opens what the backups of a cluster's nodes have as one node: of each range the copy that saw most documents,
// with its indexes. Configuration, and what else is a node's own, is that of the first. Close must be called.
func OpenCluster(r *repo.Repo, c *cluster.Cluster) *Node {
	readers := make([]*repo.Reader, len(c.Members))
	for i, m := range c.Members {
		readers[i] = r.NewSharing(m.Manifest)
	}
	n := newNode(c.Members[0].Manifest, readers...)
	n.of, n.Members = map[*manifest.File]*repo.Reader{}, nil
	for _, m := range c.Members {
		n.Members = append(n.Members, m.Manifest)
	}
	indexes := make([]map[string][]*manifest.File, len(c.Members)) // by the paths of their shards
	files := make([]map[string]*manifest.File, len(c.Members))
	for i, m := range c.Members {
		files[i], indexes[i] = m.Manifest.Databases(), map[string][]*manifest.File{}
		for _, f := range m.Manifest.Files {
			if path, ok := shard.ViewOwner(f.Path); ok && f.Kind == manifest.View {
				indexes[i][path] = append(indexes[i][path], f)
			}
		}
	}
	for i := range c.Databases {
		d := &c.Databases[i]
		for _, rg := range d.Ranges {
			path := shard.Name{Range: rg.Range, DB: d.Map.DB, Suffix: d.Map.Suffix}.Path()
			best, ok := rg.Best()
			if !ok {
				n.add(d.Map.DB, rg.Range, nil)
				continue
			}
			f := files[best.Backup][path]
			n.of[f] = readers[best.Backup]
			n.add(d.Map.DB, rg.Range, f)
			for _, v := range indexes[best.Backup][path] {
				n.indexes[v.Path], n.of[v] = v, readers[best.Backup]
			}
		}
		if db := n.dbs[d.Map.DB]; db != nil {
			db.Map = d.Map
		}
	}
	n.sort()
	return n
}

func newNode(m *manifest.Manifest, readers ...*repo.Reader) *Node {
	return &Node{Manifest: m, Members: []*manifest.Manifest{m}, readers: readers, dbs: map[string]*Database{}, indexes: map[string]*manifest.File{}}
}

// reader returns what reads a file.
func (n *Node) reader(f *manifest.File) *repo.Reader {
	if rd := n.of[f]; rd != nil {
		return rd
	}
	return n.readers[0]
}

// Close closes all that was opened.
func (n *Node) Close() {
	for _, d := range n.dbs {
		d.close()
	}
	if n.shards != nil {
		n.shards.close()
	}
	for _, rd := range n.readers {
		rd.Close()
	}
}

func (d *Database) close() {
	for _, s := range d.Shards {
		if s.open != nil {
			s.open.Close()
		}
	}
}

// find makes the list of databases.
func (n *Node) find(ctx context.Context, files map[string]*manifest.File) error {
	f := files[mapFile]
	if f == nil || f.Header == nil {
		clustered := repo.ClusteredIn(maps.Keys(files))
		for path, f := range files {
			name, err := shard.ParsePath(path)
			switch {
			case err == nil:
				n.add(name.DB, name.Range, f)
			case f.Kind == manifest.System && !strings.Contains(path, "/") && clustered.Has(path):
				n.add(repo.DatabaseName(path), shard.Full, f)
			}
		}
		n.sort()
		return nil
	}
	n.shards = &Database{Name: repo.DatabaseName(mapFile), node: n, Shards: []*Shard{{Range: shard.Full, File: f}}}
	db, err := n.shards.Open(ctx, n.shards.Shards[0])
	if err != nil {
		return fmt.Errorf("read the shard map: %w", err)
	}
	list, err := shard.ReadMaps(db)
	if err != nil {
		return fmt.Errorf("read the shard map: %w", err)
	}
	for _, m := range list {
		ranges := m.Ranges("")
		slices.SortFunc(ranges, shard.Range.Compare)
		for _, rg := range slices.Compact(ranges) {
			n.add(m.DB, rg, files[shard.Name{Range: rg, DB: m.DB, Suffix: m.Suffix}.Path()])
		}
		if d := n.dbs[m.DB]; d != nil {
			d.Map = m
		}
	}
	n.sort()
	return nil
}

func (n *Node) add(db string, rg shard.Range, f *manifest.File) {
	d := n.dbs[db]
	if d == nil {
		d = &Database{Name: db, node: n}
		n.dbs[db] = d
	}
	d.Shards = append(d.Shards, &Shard{Range: rg, File: f})
}

func (n *Node) sort() {
	for _, d := range n.dbs {
		slices.SortFunc(d.Shards, func(a, b *Shard) int { return a.Range.Compare(b.Range) })
	}
}

// ShardMaps returns the database of shard maps, or ErrNoDatabase. It is none of Databases.
func (n *Node) ShardMaps() (*Database, error) {
	if n.shards == nil {
		return nil, fmt.Errorf("%w: %q", ErrNoDatabase, repo.DatabaseName(mapFile))
	}
	return n.shards, nil
}

// Only leaves the databases whose names fit.
func (n *Node) Only(fits func(name string) bool) {
	maps.DeleteFunc(n.dbs, func(name string, _ *Database) bool { return !fits(name) })
}

// ReadFile returns the bytes of any file of the node. They are proven by the file's hash.
func (n *Node) ReadFile(ctx context.Context, f *manifest.File) ([]byte, error) {
	var b bytes.Buffer
	err := n.write(ctx, f, &b)
	return b.Bytes(), err
}

// WriteIndex writes the bytes of an index file, by its path below the index directory. The error is ErrNoShard if there is
// none. What it wrote is proven when it returns nil.
func (n *Node) WriteIndex(ctx context.Context, path string, w io.Writer) error {
	f := n.indexes[path]
	if f == nil {
		return fmt.Errorf("%s: %w", path, ErrNoShard)
	}
	return n.write(ctx, f, w)
}

// write writes the bytes of a file. What it wrote is proven when it returns nil.
func (n *Node) write(ctx context.Context, f *manifest.File, w io.Writer) error {
	sum, size := sha256.New(), int64(0)
	err := n.reader(f).Stream(ctx, f, func(p []byte) error {
		_, _ = sum.Write(p) // it never fails
		size += int64(len(p))
		_, err := w.Write(p)
		return err
	})
	if err == nil && (size != f.Size || f.Longer == nil && hex.EncodeToString(sum.Sum(nil)) != f.SHA256) { // the reader proves one of a moment
		err = fmt.Errorf("%w: %s has not the hash that was backed up", repo.ErrCorrupt, f.Path)
	}
	return err
}

// Databases returns the names of all databases, sorted.
func (n *Node) Databases() []string { return slices.Sorted(maps.Keys(n.dbs)) }

// Database returns a database by its name, or ErrNoDatabase.
func (n *Node) Database(name string) (*Database, error) {
	if d := n.dbs[name]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("%w: %q", ErrNoDatabase, name)
}

// Open returns the database in a shard. It is read for as long as the context lasts that opened it first. The error is
// ErrNoShard if it isn't there.
func (d *Database) Open(ctx context.Context, s *Shard) (*couchfile.DB, error) {
	if s.File == nil {
		return nil, fmt.Errorf("%s of %s: %w", s.Range, d.Name, ErrNoShard)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		return s.db, nil
	}
	file, err := d.node.reader(s.File).Database(ctx, s.File)
	if err != nil {
		return nil, err
	}
	db, err := couchfile.OpenOffset(file, file.Size, file.Header)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", s.File.Path, err)
	}
	s.open, s.db = file, db
	return db, nil
}

// OpenAll opens all shards, by range.
func (d *Database) OpenAll(ctx context.Context) ([]*couchfile.DB, error) {
	return d.openAll(ctx, d.Shards)
}

func (d *Database) openAll(ctx context.Context, shards []*Shard) ([]*couchfile.DB, error) {
	var out []*couchfile.DB
	for _, s := range shards {
		db, err := d.Open(ctx, s)
		if err != nil {
			return nil, err
		}
		out = append(out, db)
	}
	return out, nil
}

// ShardOf returns the shard that a document is in.
func (d *Database) ShardOf(ctx context.Context, id string) (*Shard, error) {
	parted := false
	if len(d.Shards) > 1 && strings.Contains(id, ":") { // only then it makes a difference
		var err error
		if parted, err = d.Partitioned(ctx); err != nil {
			return nil, err
		}
	}
	hash := shard.Hash(id, parted)
	for _, s := range d.Shards {
		if s.Range.Contains(hash) {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no range of %s has the document %q: %w", d.Name, id, ErrNoShard)
}

// ShardsOf returns the shard that the documents of a partition are in; of "" all shards.
func (d *Database) ShardsOf(ctx context.Context, partition string) ([]*Shard, error) {
	if partition == "" {
		return d.Shards, nil
	}
	s, err := d.ShardOf(ctx, partition+":foo")
	return []*Shard{s}, err
}

// Partitioned reports whether documents are placed by the part of their id in front of the colon.
func (d *Database) Partitioned(ctx context.Context) (bool, error) {
	if p := d.parted.Load(); p != nil {
		return *p, nil
	}
	db, err := d.any(ctx)
	if err != nil {
		return false, err
	}
	parted, err := db.Partitioned()
	if err == nil {
		d.parted.Store(&parted)
	}
	return parted, err
}

// any opens one of the shards that are there.
func (d *Database) any(ctx context.Context) (*couchfile.DB, error) {
	err := fmt.Errorf("%s has no shards: %w", d.Name, ErrNoShard)
	for _, s := range d.Shards {
		var db *couchfile.DB
		if db, err = d.Open(ctx, s); err == nil {
			return db, nil
		}
	}
	return nil, err
}

// Find opens the shard that a document is in.
func (d *Database) Find(ctx context.Context, id string) (*couchfile.DB, error) {
	s, err := d.ShardOf(ctx, id)
	if err != nil {
		return nil, err
	}
	return d.Open(ctx, s)
}
