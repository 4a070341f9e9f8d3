package diverge_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/diverge"
)

// benchCopy writes a copy of n small documents, in an order of its own, and opens it.
func benchCopy(b *testing.B, seed uint64, n, missing int) (*couchfile.DB, int64) {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "f.couch"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	g, err := couchgen.Create(f, couchgen.Options{Seed: seed, MemoryDocs: 2 * n})
	if err != nil {
		b.Fatal(err)
	}
	// Runs of neighbours, as ids that begin with the time of day come in.
	const run = 1000
	for k, i := range rand.New(rand.NewPCG(seed, 0)).Perm(n / run) {
		for j := range run {
			if no := i*run + j; no%n/1000 != missing {
				put(b, g, doc{ID: fmt.Sprintf("%08x%024x", no*2654435761%n, no), Body: map[string]any{"n": no}})
			}
		}
		if k%5 == 4 {
			if err := g.Commit(); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := g.Commit(); err != nil {
		b.Fatal(err)
	}
	db, err := couchfile.Open(f, g.Size())
	if err != nil {
		b.Fatal(err)
	}
	return db, g.Size()
}

// BenchmarkCompare compares two copies in the page cache that were written in different orders, of which one lacks 1,000
// documents.
func BenchmarkCompare(b *testing.B) {
	n := 1_000_000
	if testing.Short() {
		n = 50_000
	}
	all := make([]diverge.Copy, 2)
	var size int64
	for i := range all {
		db, bytes := benchCopy(b, uint64(i), n, 7*i-1)
		all[i] = diverge.Copy{Node: string(rune('a' + i)), DB: db}
		size += bytes
	}
	b.ReportAllocs()
	for b.Loop() {
		r, err := diverge.Compare(b.Context(), all, diverge.Options{})
		if err != nil || r.Documents != uint64(n) || r.Different != 1000 {
			b.Fatal(r, err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "docs/s")
	b.ReportMetric(float64(size)/1e6, "MB")
}
