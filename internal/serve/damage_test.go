package serve_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/cache"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// touching notes what is read of segments, and gives one byte of one as another one.
type touching struct {
	storage.Store
	bad storage.Key
	at  int64

	mu    sync.Mutex
	reads map[storage.Key][][2]int64 // offset and length; guarded by mu
}

func (s *touching) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	if !strings.HasPrefix(string(key), "segments/") {
		return s.Store.Get(ctx, key, off, n, fn)
	}
	s.mu.Lock()
	if s.reads == nil {
		s.reads = map[storage.Key][][2]int64{}
	}
	s.reads[key] = append(s.reads[key], [2]int64{off, n})
	s.mu.Unlock()
	return s.Store.Get(ctx, key, off, n, func(r io.Reader) error {
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if i := s.at - off; key == s.bad && i >= 0 && i < int64(len(b)) {
			b = bytes.Clone(b)
			b[i] ^= 0x40
		}
		return fn(bytes.NewReader(b))
	})
}

// stored is a repository in a storage with a backup of a made database of several segments, and a document of it.
type stored struct {
	store storage.Store
	id    *age.X25519Identity
	rec   *manifest.Record
	doc   string
}

func storeMade(t testing.TB, store storage.Store, size int64) *stored {
	t.Helper()
	data := t.TempDir()
	dir, err := couchgen.DataDir(data, couchgen.DirOptions{Q: 2, BytesPerDB: size, UpdateFraction: 0.1})
	must(t, err)
	s := &stored{store: store}
	s.id, err = age.GenerateX25519Identity()
	must(t, err)
	_, err = repo.Init(t.Context(), store, repo.InitOptions{Recipients: []string{s.id.Recipient().String()}})
	must(t, err)
	n, err := node.Locate(t.Context(), node.Options{DataDir: data})
	must(t, err)
	res, err := backup.Run(t.Context(), backup.Options{Repo: s.open(t, store), Node: n, Instance: "node1", StateDir: t.TempDir(), Name: "test", Tool: "test"})
	must(t, err)
	s.rec, s.doc = res.Record, firstDoc(t, dir.Databases[0].Shards[1].Path, 700)
	return s
}

func (s *stored) open(t testing.TB, store storage.Store) *repo.Repo {
	t.Helper()
	r, err := repo.Open(context.Background(), store, repo.Options{Identities: []age.Identity{s.id}})
	must(t, err)
	return r
}

// read reads the document as a process does that has nothing in memory, but for the manifest.
func (s *stored) read(t testing.TB, store storage.Store) ([]byte, error) {
	t.Helper()
	r := s.open(t, store)
	m, err := r.Manifest(t.Context(), s.rec)
	must(t, err)
	return readFirst(t.Context(), r, m, s.doc)
}

func readFirst(ctx context.Context, r *repo.Repo, m *manifest.Manifest, doc string) ([]byte, error) {
	n, err := serve.OpenNode(ctx, r, m)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	d, err := n.Database("db-0000")
	if err != nil {
		return nil, err
	}
	db, err := d.Find(ctx, doc)
	if err != nil {
		return nil, err
	}
	info, err := db.DocInfo(doc)
	if err != nil {
		return nil, err
	}
	return db.RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
}

// where is how an error names a place in a file.
var where = regexp.MustCompile(` at \d+: (shards/.*|_dbs)\.couch: `)

// Of each object that is read for a document each byte may be another one: then the document is as it was, if it wasn't needed
// after all, or the error names the object, the file, and where in it.
func TestDamageIsNamed(t *testing.T) {
	t.Parallel()
	s := storeMade(t, mem.New(), 24<<20)
	clean := &touching{Store: s.store}
	want, err := s.read(t, clean)
	must(t, err)
	if !json.Valid(want) || len(clean.reads) < 2 {
		t.Fatalf("%s, of %d objects", want, len(clean.reads))
	}
	seed := testenv.Seed(t)
	rnd := rand.New(rand.NewPCG(seed, 1))
	named := map[storage.Key]int{}
	for _, key := range slices.Sorted(maps.Keys(clean.reads)) {
		for _, r := range clean.reads[key] {
			for range 2 {
				at := r[0] + rnd.Int64N(max(1, r[1]))
				got, err := s.read(t, &touching{Store: s.store, bad: key, at: at})
				switch {
				case err == nil && !bytes.Equal(got, want):
					t.Errorf("byte %d of %s: %s", at, key, got)
				case err == nil:
				case !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), string(key)) || !where.MatchString(err.Error()):
					t.Errorf("byte %d of %s: %v", at, key, err)
				default:
					named[key]++
				}
			}
		}
		if named[key] == 0 {
			t.Errorf("no damage of %s was noticed", key)
		}
	}
}

// What is kept in a folder serves the next process too. What is damaged there, also by who makes its hash right, is not
// believed, nor held for damage of the backup.
func TestDamagedCache(t *testing.T) {
	t.Parallel()
	s := storeMade(t, mem.New(), 24<<20)
	folder := filepath.Join(t.TempDir(), "cache")
	read := func() (doc []byte, reads int) {
		below := &touching{Store: s.store}
		store, err := cache.New(below, cache.Options{Size: 64 << 20, Dir: folder, Immutable: func(k storage.Key) bool { return strings.HasPrefix(string(k), "segments/") }})
		must(t, err)
		doc, err = s.read(t, store)
		must(t, err)
		for _, list := range below.reads {
			reads += len(list)
		}
		return doc, reads
	}
	want, first := read()
	if doc, again := read(); !bytes.Equal(doc, want) || first == 0 || again != 0 {
		t.Fatalf("%d reads of the storage, and %d the second time: %s", first, again, doc)
	}
	blocks := func(change func(name string, b []byte)) (n int) {
		must(t, filepath.WalkDir(folder, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(p)
			must(t, err)
			change(filepath.Base(filepath.Dir(p))+filepath.Base(p), b)
			n++
			return os.WriteFile(p, b, 0o600)
		}))
		return n
	}
	n := blocks(func(_ string, b []byte) { b[len(b)/2] ^= 1 })
	if doc, reads := read(); !bytes.Equal(doc, want) || reads == 0 || n == 0 {
		t.Errorf("%d damaged blocks, %d reads: %s", n, reads, doc)
	}
	blocks(func(name string, b []byte) {
		for i := sha256.Size; i < len(b); i += 100 {
			b[i] ^= 1
		}
		sum := sha256.Sum256(append([]byte(name), b[sha256.Size:]...))
		copy(b, sum[:])
	})
	if doc, reads := read(); !bytes.Equal(doc, want) || reads == 0 {
		t.Errorf("forged blocks, %d reads: %s", reads, doc)
	}
}
