package couchgen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"
)

// DirOptions say what data directory to make. Zero values give one database of
// two shards and 1000 documents.
type DirOptions struct {
	Seed     uint64
	NodeName string // DefaultNode if empty
	// Nodes are all nodes of the cluster, NodeName among them, each of which has a copy of every shard; NodeName
	// alone if there are none.
	Nodes []string

	Databases int                // 1 if 0
	Name      func(i int) string // of database i; "db-0000" and so on if nil
	Q         int                // shards per database; 2 if 0
	// DocsPerDB and BytesPerDB bound a database: what is reached first ends it. If
	// both are 0, DocsPerDB is 1000. Bytes are of the shard files, about.
	DocsPerDB   int
	BytesPerDB  int64
	DocBytes    int // about, as JSON; 1000 if 0
	Partitioned bool

	// CommitEvery is how many documents one header covers: 500 if 0, or 1 in
	// databases below 1 MiB.
	CommitEvery int
	// UpdateFraction and DeleteFraction say how many of the documents are updated
	// and deleted once all are written.
	UpdateFraction, DeleteFraction float64
	// AttachmentEvery gives each n-th document an attachment of AttachmentBytes
	// (64 KiB if 0), every second one text, which is stored as gzip; 0 = none.
	AttachmentEvery int
	AttachmentBytes int
	LocalDocs       int  // per shard
	Views           bool // a design document in each database, and fresh indexes of it

	Checksum    Checksum
	Compression Compression
	Created     int64 // seconds since 1970 in the shards' names; 1767225600 if 0
	Parallel    int   // shards at a time; GOMAXPROCS if 0
}

// Dir says what a data directory holds.
type Dir struct {
	Path      string
	Databases []Database
	Files     int   // .couch files, _dbs and _nodes included, and .view files
	Bytes     int64 // of these files
	Docs      int64 // not deleted, design documents included, without _dbs and _nodes
	Deleted   int64
}

// Database is one database of a Dir.
type Database struct {
	Name        string
	Suffix      string // ".1767225600"
	Partitioned bool
	Shards      []Shard
}

// Shard is one shard file of a database.
type Shard struct {
	Begin, End uint32 // both included
	Path       string // absolute or relative as Dir.Path
	UpdateSeq  uint64
	Docs       int64
	Deleted    int64
	Bytes      int64
}

// Range is the shard's range as in paths.
func (s Shard) Range() string { return fmt.Sprintf("%08x-%08x", s.Begin, s.End) }

// OneShard is the options of one database in one file of about bytes.
func OneShard(bytes int64) DirOptions {
	return DirOptions{Q: 1, BytesPerDB: bytes, CommitEvery: 1000}
}

// PerUser is the options of a database-per-user set-up: files shard files of
// about 20 KB, two to a database.
func PerUser(files int) DirOptions {
	return DirOptions{
		Databases: max(1, files/2), Q: 2, BytesPerDB: 32_000, DocBytes: 400,
		Name: func(i int) string { return fmt.Sprintf("userdb-%08x", uint32(rng(i).mix())) },
	}
}

func (r rng) mix() uint64 { return r.next() }

func (o *DirOptions) fill() {
	o.NodeName = cmp.Or(o.NodeName, DefaultNode)
	if len(o.Nodes) == 0 {
		o.Nodes = []string{o.NodeName}
	}
	o.Databases = cmp.Or(o.Databases, 1)
	o.Q = cmp.Or(o.Q, 2)
	if o.DocsPerDB == 0 && o.BytesPerDB == 0 {
		o.DocsPerDB = 1000
	}
	o.DocBytes = cmp.Or(o.DocBytes, 1000)
	o.AttachmentBytes = cmp.Or(o.AttachmentBytes, 64<<10)
	if o.BytesPerDB > 0 && o.BytesPerDB < 1<<20 {
		o.CommitEvery = cmp.Or(o.CommitEvery, 1)
	}
	o.CommitEvery = cmp.Or(o.CommitEvery, 500)
	o.Created = cmp.Or(o.Created, 1767225600)
	o.Parallel = cmp.Or(o.Parallel, runtime.GOMAXPROCS(0))
	if o.Name == nil {
		o.Name = func(i int) string { return fmt.Sprintf("db-%04d", i) }
	}
}

// DataDir makes a complete data directory of a node in dir: databases, _dbs.couch,
// _nodes.couch. A CouchDB whose node name is o.NodeName serves it.
func DataDir(dir string, o DirOptions) (*Dir, error) {
	o.fill()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	d := &Dir{Path: dir, Databases: make([]Database, o.Databases)}
	eg, _ := errgroup.WithContext(context.Background())
	eg.SetLimit(o.Parallel)
	for i := range d.Databases {
		db := &d.Databases[i]
		*db = newDatabase(dir, i, o)
		for k := range db.Shards {
			eg.Go(func() error {
				if err := writeShard(db, k, i, o); err != nil {
					return fmt.Errorf("shard %s: %w", db.Shards[k].Path, err)
				}
				return nil
			})
		}
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	for _, db := range d.Databases {
		for _, s := range db.Shards {
			d.Docs += s.Docs
			d.Deleted += s.Deleted
		}
	}
	if err := writeMaps(d, o); err != nil {
		return nil, err
	}
	return d, d.measure()
}

// measure counts files and bytes.
func (d *Dir) measure() error {
	d.Files, d.Bytes = 0, 0
	return eachFile(d.Path, func(path string, size int64) error {
		d.Files++
		d.Bytes += size
		return nil
	})
}

// eachFile calls f for every .couch and .view file.
func eachFile(dir string, f func(path string, size int64) error) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if ext := filepath.Ext(path); ext != ".couch" && ext != ".view" {
			return nil
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		return f(path, st.Size())
	})
}

func newDatabase(dir string, i int, o DirOptions) Database {
	db := Database{Name: o.Name(i), Suffix: fmt.Sprintf(".%d", o.Created+int64(i)), Partitioned: o.Partitioned}
	width := uint64(1<<32) / uint64(o.Q)
	for k := range uint64(o.Q) {
		s := Shard{Begin: uint32(k * width), End: uint32((k+1)*width - 1)}
		if k == uint64(o.Q)-1 {
			s.End = 1<<32 - 1
		}
		s.Path = filepath.Join(dir, "shards", s.Range(), filepath.FromSlash(db.Name)+db.Suffix+".couch")
		db.Shards = append(db.Shards, s)
	}
	return db
}

// holds says whether the shard is where the document belongs.
//
// Source: CouchDB 3.5, src/mem3/src/mem3_hash.erl, crc32;
// src/couch/src/couch_partition.erl, hash.
func (s Shard) holds(id string, partitioned bool) bool {
	if partitioned && !strings.HasPrefix(id, "_") {
		id, _, _ = strings.Cut(id, ":")
	}
	h := crc32.ChecksumIEEE([]byte(id))
	return s.Begin <= h && h <= s.End
}

// shardWriter fills one shard.
type shardWriter struct {
	*Generator
	maker
}

func newShardWriter(g *Generator, s *Shard, parted bool, o DirOptions, seed uint64) *shardWriter {
	return &shardWriter{g, newMaker(s, parted, o, seed)}
}

func writeShard(db *Database, k, dbIndex int, o DirOptions) (err error) {
	s := &db.Shards[k]
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(s.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	seed := o.Seed ^ xxh3.HashString(fmt.Sprint(dbIndex, "/", k))
	g, err := Create(f, Options{
		Seed: seed, NodeName: o.NodeName, Checksum: o.Checksum,
		Compression: o.Compression, Partitioned: o.Partitioned,
	})
	if err != nil {
		return err
	}
	w := newShardWriter(g, s, o.Partitioned, o, seed)
	if err := w.fillShard(share(o.DocsPerDB, o.Q, k), o.BytesPerDB/int64(o.Q)); err != nil {
		return err
	}
	s.UpdateSeq, s.Bytes = g.UpdateSeq(), g.Size()
	s.Docs, s.Deleted = g.Docs()
	if o.Views {
		return writeViews(g, db, s, o)
	}
	return nil
}

// share is what part k of q gets of n.
func share(n, q, k int) int { return n*(k+1)/q - n*k/q }

func (w *shardWriter) fillShard(docs int, bytes int64) error {
	if err := w.first(); err != nil {
		return err
	}
	// The last part of the bytes is what updates and deletes will need.
	goal := float64(bytes) / (1 + 1.5*w.o.UpdateFraction + 0.5*w.o.DeleteFraction)
	source := w.maker.other()
	made := source.all()
	if bytes > 1<<20 || docs*w.o.DocBytes > 1<<20 {
		made = source.ahead(w.opts.Compression)
	}
	n := 0
	for doc := range made {
		if docs > 0 && n >= docs || bytes > 0 && float64(w.Size()) >= goal {
			break
		}
		if _, err := w.Put(doc); err != nil {
			return err
		}
		if n++; n%w.o.CommitEvery == 0 {
			if err := w.Commit(); err != nil {
				return err
			}
		}
	}
	if err := w.Commit(); err != nil {
		return err
	}
	if err := w.rewrite(int(float64(n)*w.o.UpdateFraction), w.update); err != nil {
		return err
	}
	return w.rewrite(int(float64(n)*w.o.DeleteFraction), w.drop)
}

// first writes what is there before the documents.
func (w *shardWriter) first() error {
	for i := range w.o.LocalDocs {
		id := fmt.Sprintf("_local/checkpoint-%04d", i)
		if err := w.PutLocal(id, Object{{"session_id", w.words.rnd.hex(32)}, {"source_last_seq", i}}); err != nil {
			return err
		}
	}
	if w.o.Views && w.shard.holds(viewsDoc, w.parted) {
		if _, err := w.Put(Doc{ID: viewsDoc, Body: viewsBody(w.parted)}); err != nil {
			return err
		}
	}
	return nil
}

func (w *shardWriter) add() error {
	_, err := w.Put(w.next())
	return err
}

// rewrite calls f with n random documents.
func (w *shardWriter) rewrite(n int, f func(id string) error) error {
	for i := range n {
		id, err := w.anyDoc()
		if err != nil || id == "" {
			return err
		}
		if err := f(id); err != nil {
			return err
		}
		if i%w.o.CommitEvery == w.o.CommitEvery-1 || i == n-1 {
			if err := w.Commit(); err != nil {
				return err
			}
		}
	}
	return nil
}

// anyDoc picks a random document that is not deleted and no design document;
// "" if it finds none.
func (w *shardWriter) anyDoc() (string, error) {
	live, dead := w.Docs()
	for range 100 {
		if live == 0 {
			break
		}
		id, _, deleted, err := w.DocAt(int64(w.words.rnd.next() % uint64(live+dead)))
		if err != nil {
			return "", err
		}
		if d, changed := w.pending[id]; !deleted && !strings.HasPrefix(id, "_") && (!changed || d != nil && !d.deleted) {
			return id, nil
		}
	}
	return "", nil
}

func (w *shardWriter) update(id string) error {
	_, err := w.Put(Doc{ID: id, Body: w.words.doc(w.size()), KeepAttachments: true})
	return err
}

func (w *shardWriter) drop(id string) error {
	_, err := w.Delete(id)
	return err
}

// writeMaps writes _dbs.couch and _nodes.couch.
func writeMaps(d *Dir, o DirOptions) error {
	nodes := func(g *Generator) error {
		for _, name := range o.Nodes {
			if _, err := g.Put(Doc{ID: name}); err != nil {
				return err
			}
		}
		return nil
	}
	maps := func(g *Generator) error {
		for i, db := range d.Databases {
			if _, err := g.Put(Doc{ID: db.Name, Body: db.shardMap(o.Nodes)}); err != nil {
				return err
			}
			if i%1000 == 999 {
				if err := g.Commit(); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := writeLocalDB(filepath.Join(d.Path, "_nodes.couch"), o, 11, nodes); err != nil {
		return err
	}
	return writeLocalDB(filepath.Join(d.Path, "_dbs.couch"), o, 12, maps)
}

func writeLocalDB(path string, o DirOptions, salt uint64, put func(*Generator) error) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	g, err := Create(f, Options{
		Seed: o.Seed ^ salt, NodeName: o.NodeName, NodeLocal: true,
		Checksum: o.Checksum, Compression: o.Compression,
	})
	if err != nil {
		return err
	}
	if err := put(g); err != nil {
		return err
	}
	return g.Commit()
}

// shardMap is the database's document in _dbs.
//
// Source: CouchDB 3.5, src/fabric/src/fabric_db_create.erl, make_document.
func (db *Database) shardMap(nodes []string) Object {
	var suffix, changelog, ranges, all []any
	byNode, byRange := Object{}, Object{}
	for _, c := range []byte(db.Suffix) {
		suffix = append(suffix, int(c))
	}
	for _, node := range nodes {
		all = append(all, node)
	}
	for _, s := range db.Shards {
		for _, node := range nodes {
			changelog = append(changelog, []any{"add", s.Range(), node})
		}
		ranges = append(ranges, s.Range())
		byRange = append(byRange, Member{s.Range(), all})
	}
	for _, node := range nodes {
		byNode = append(byNode, Member{node, ranges})
	}
	props := Object{}
	if db.Partitioned {
		props = Object{{Atom("partitioned"), true}, {Atom("hash"), []any{Atom("couch_partition"), Atom("hash"), []any{}}}}
	}
	return Object{
		{"shard_suffix", suffix},
		{"changelog", changelog},
		{"by_node", byNode},
		{"by_range", byRange},
		{"props", props},
	}
}

// GrowOptions say how to grow a data directory.
type GrowOptions struct {
	Seed     uint64
	NodeName string // DefaultNode if empty
	DocBytes int    // 1000 if 0
	Parallel int    // GOMAXPROCS if 0
	Checksum Checksum
	// DeleteEvery makes each n-th change a deletion; 0 = none. The others are half
	// updates and half new documents.
	DeleteEvery int
}

// Grow appends about fraction of its size to the shards of a data directory that
// no server has open: commits of new, updated and deleted documents. A commit is
// several KB, so of many small files only some grow. Views fall behind, as they do
// in a server. It returns how many files grew and by how many bytes.
func Grow(dir string, fraction float64, o GrowOptions) (files int, bytes int64, err error) {
	o.DocBytes = cmp.Or(o.DocBytes, 1000)
	o.Parallel = cmp.Or(o.Parallel, runtime.GOMAXPROCS(0))
	rnd := rng(o.Seed)
	var grown, added atomic.Int64
	eg, _ := errgroup.WithContext(context.Background())
	eg.SetLimit(o.Parallel)
	const least = 8 << 10
	walk := eachFile(filepath.Join(dir, "shards"), func(path string, size int64) error {
		want, seed := int64(float64(size)*fraction), rnd.next()
		if want < least {
			if rnd.below(least) >= int(want) {
				return nil
			}
			want = 1
		}
		eg.Go(func() error {
			n, err := growShard(path, want, seed, o)
			if err != nil {
				return fmt.Errorf("grow %s: %w", path, err)
			}
			grown.Add(1)
			added.Add(n)
			return nil
		})
		return nil
	})
	err = errors.Join(eg.Wait(), walk)
	return int(grown.Load()), added.Load(), err
}

// GrowShard appends one commit of a new document to a shard that no server has open.
func GrowShard(path string, seed uint64) error {
	_, err := growShard(path, 1, seed, GrowOptions{DocBytes: 1000})
	return err
}

// GrowTo appends to a shard that no server has open until it has about size bytes, or somewhat more.
func GrowTo(path string, size int64, o GrowOptions) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	o.DocBytes = cmp.Or(o.DocBytes, 1000)
	_, err = growShard(path, max(1, size-info.Size()-int64(o.DocBytes)), o.Seed, o)
	return err
}

func growShard(path string, want int64, seed uint64, o GrowOptions) (added int64, err error) {
	s, err := shardOf(path)
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	g, err := Reopen(f, Options{NodeName: o.NodeName, Checksum: o.Checksum})
	if err != nil {
		return 0, err
	}
	parted, err := g.partitioned()
	if err != nil {
		return 0, err
	}
	w := newShardWriter(g, &s, parted, DirOptions{DocBytes: o.DocBytes}, seed)
	start := g.Size()
	every := int64(500)
	if want < 1<<20 {
		every = 50
	}
	for n := int64(1); g.Size()-start < want; n++ {
		if err := w.step(n, o.DeleteEvery); err != nil {
			return 0, err
		}
		if n%every == 0 {
			if err := g.Commit(); err != nil {
				return 0, err
			}
		}
	}
	err = g.Commit()
	return g.Size() - start, err
}

// step makes the n-th change.
func (w *shardWriter) step(n int64, deleteEvery int) error {
	if n%2 == 1 {
		return w.add()
	}
	id, err := w.anyDoc()
	if err != nil || id == "" {
		return errors.Join(err, w.add())
	}
	if deleteEvery > 0 && n/2%int64(max(1, deleteEvery/2)) == 0 {
		return w.drop(id)
	}
	return w.update(id)
}

// shardOf takes the range from the path .../shards/<range>/<db>.couch.
func shardOf(path string) (Shard, error) {
	s := Shard{Path: path}
	rest := filepath.ToSlash(path)
	i := strings.LastIndex(rest, "shards/")
	if i < 0 {
		return s, errors.New("no range in the path")
	}
	_, err := fmt.Sscanf(rest[i:], "shards/%08x-%08x/", &s.Begin, &s.End)
	return s, err
}

// partitioned reads the props.
func (g *Generator) partitioned() (bool, error) {
	if g.head.noProps {
		return false, nil
	}
	p, err := g.out.Payload(g.head.props)
	if err != nil {
		return false, err
	}
	if p, err = inflated(p); err != nil {
		return false, err
	}
	term, err := decodeTerm(p)
	if err != nil {
		return false, err
	}
	list, _ := term.([]any)
	for _, e := range list {
		if k, v, ok := pair(e); ok && k == Atom("partitioned") {
			return v == Atom("true"), nil
		}
	}
	return false, nil
}
