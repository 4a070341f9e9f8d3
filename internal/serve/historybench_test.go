package serve_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/storage/file"
)

// BenchmarkHistory lists the revisions of a document out of a year of daily backups of 300 shards in a folder: one that changed
// every day, and one that never did.
func BenchmarkHistory(b *testing.B) {
	days := 30
	if os.Getenv("SLIPCOVER_SCALE") == "full" {
		days = 365
	}
	data, state := b.TempDir(), b.TempDir()
	dir, err := couchgen.DataDir(data, couchgen.DirOptions{Databases: 37, Q: 8, DocsPerDB: 400, DocBytes: 300, CommitEvery: 50})
	must(b, err)
	store, err := file.Open(b.TempDir())
	must(b, err)
	r := servetest.Init(b, store)()
	clock := time.Now().Add(-400 * 24 * time.Hour)
	now := func() time.Time { clock = clock.Add(7 * time.Millisecond); return clock }
	path := dir.Databases[3].Shards[2].Path
	calm, busy := firstDoc(b, path, 0), firstDoc(b, path, 1)
	for day := range days {
		for i, db := range dir.Databases {
			for k, s := range db.Shards {
				if (i+k+day)%3 == 0 && s.Path != path {
					must(b, couchgen.GrowShard(s.Path, uint64(day*1000+i*8+k)))
				}
			}
		}
		putOne(b, path, busy, day)
		clock = clock.Add(24 * time.Hour)
		n, err := node.Locate(b.Context(), node.Options{DataDir: data})
		must(b, err)
		_, err = backup.Run(b.Context(), backup.Options{Repo: r, Node: n, Instance: "node1", StateDir: state, Name: fmt.Sprint(day), Tool: "test", Now: now})
		must(b, err)
	}
	for name, doc := range map[string]string{"changed": busy, "unchanged": calm} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				h, err := serve.History(b.Context(), r, "node1", dir.Databases[3].Name, doc)
				must(b, err)
				if want := map[string]int{"changed": days + 1, "unchanged": 1}[name]; len(h.Revisions) != want {
					b.Fatalf("%d revisions, not %d", len(h.Revisions), want)
				}
			}
		})
	}
}

func openShard(b testing.TB, path string) (*os.File, *couchgen.Generator) {
	b.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(b, err)
	g, err := couchgen.Reopen(f, couchgen.Options{})
	must(b, err)
	return f, g
}

func firstDoc(b testing.TB, path string, i int64) string {
	b.Helper()
	f, g := openShard(b, path)
	defer f.Close()
	id, _, _, err := g.DocAt(i)
	must(b, err)
	return id
}

func putOne(b testing.TB, path, id string, n int) {
	b.Helper()
	f, g := openShard(b, path)
	defer f.Close()
	_, err := g.Put(couchgen.Doc{ID: id, Body: couchgen.Object{{Key: "n", Value: int64(n)}}})
	must(b, err)
	must(b, g.Commit())
}
