package serve_test

import (
	"context"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/storage/file"
)

// largeBackup is a backup, in a folder, of one database of documents of 1,000 bytes in 8 shards: of 256 MiB, or of as many bytes
// as SLIPCOVER_SCALE=full stands for.
func largeBackup(b *testing.B) (*repo.Repo, *manifest.Manifest, []string) {
	b.Helper()
	size := int64(256 << 20)
	if os.Getenv("SLIPCOVER_SCALE") == "full" {
		size = 10 << 30
	}
	data := b.TempDir()
	dir, err := couchgen.DataDir(data, couchgen.DirOptions{Q: 8, BytesPerDB: size, UpdateFraction: 0.1})
	must(b, err)
	store, err := file.Open(b.TempDir())
	must(b, err)
	r, m := servetest.BackupTo(b, store, data)
	var ids []string
	for i, s := range dir.Databases[0].Shards {
		f, g := openShard(b, s.Path)
		rnd := rand.New(rand.NewPCG(1, uint64(i)))
		for range 2000 {
			id, _, _, err := g.DocAt(rnd.Int64N(s.Docs))
			must(b, err)
			ids = append(ids, id)
		}
		f.Close()
		must(b, os.Remove(s.Path)) // there is room for one of the two
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(ids), func(i, k int) { ids[i], ids[k] = ids[k], ids[i] })
	return r, m, ids
}

func readDoc(b *testing.B, d *serve.Database, id string) {
	b.Helper()
	db, err := d.Find(context.Background(), id) // others read what this opens
	must(b, err)
	info, err := db.DocInfo(id)
	must(b, err)
	_, err = db.RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
	must(b, err)
}

func openDatabase(b *testing.B, r *repo.Repo, m *manifest.Manifest) (*serve.Node, *serve.Database) {
	b.Helper()
	n, err := serve.OpenNode(context.Background(), r, m)
	must(b, err)
	d, err := n.Database("db-0000")
	must(b, err)
	return n, d
}

// heap is how much memory is in use.
func heap() float64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	return float64(s.HeapAlloc) / (1 << 20)
}

// BenchmarkRead reads a database in place: the first document with nothing in memory, one that was read before, documents by
// id all over the database, the ids of all, and all changes.
func BenchmarkRead(b *testing.B) {
	r, m, ids := largeBackup(b)
	b.Run("cold", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			n, d := openDatabase(b, r, m)
			readDoc(b, d, ids[i%len(ids)])
			n.Close()
		}
	})
	n, d := openDatabase(b, r, m)
	defer n.Close()
	b.Run("warm", func(b *testing.B) {
		readDoc(b, d, ids[0])
		for b.Loop() {
			readDoc(b, d, ids[0])
		}
	})
	before := heap()
	for name, ids := range map[string][]string{"by-id": ids[:1500], "by-id-all": ids} { // those fit into what is kept, and don't
		b.Run(name, func(b *testing.B) {
			for range 2 {
				for _, id := range ids[:min(2000, len(ids))] {
					readDoc(b, d, id)
				}
			}
			for i := 0; b.Loop(); i++ {
				readDoc(b, d, ids[i%len(ids)])
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "docs/s")
		})
	}
	each := func(name string, fn func(*couchfile.DB) func(func(*couchfile.DocInfo, error) bool)) {
		b.Run(name, func(b *testing.B) {
			docs := 0
			for b.Loop() {
				for _, s := range d.Shards {
					db, err := d.Open(context.Background(), s)
					must(b, err)
					for info, err := range fn(db) {
						must(b, err)
						docs += min(1, len(info.ID))
					}
				}
			}
			b.ReportMetric(float64(docs)/b.Elapsed().Seconds(), "docs/s")
		})
	}
	each("ids", func(db *couchfile.DB) func(func(*couchfile.DocInfo, error) bool) {
		return db.Docs(couchfile.DocsOptions{})
	})
	each("changes", func(db *couchfile.DB) func(func(*couchfile.DocInfo, error) bool) { return db.Changes(0, false) })
	b.Logf("%.0f MiB more in memory", heap()-before)
	runtime.KeepAlive(d)
}
