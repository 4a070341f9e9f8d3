package couchfile_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/couchgen"
)

// benchShard writes a shard of small documents, mem of it in memory.
func benchShard(tb testing.TB, opts couchgen.DirOptions) *os.File {
	tb.Helper()
	d, err := couchgen.DataDir(tb.TempDir(), opts)
	if err != nil {
		tb.Fatal(err)
	}
	f, err := os.Open(d.Databases[0].Shards[0].Path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return f
}

func fileSize(tb testing.TB, f *os.File) int64 {
	tb.Helper()
	st, err := f.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	return st.Size()
}

// benchmarkShards are the kinds of files that benchmarks read.
func benchmarkShards() map[string]couchgen.DirOptions {
	small := couchgen.OneShard(128 << 20)
	small.DocBytes = 300
	updated := couchgen.OneShard(128 << 20)
	updated.UpdateFraction = 0.3
	atts := couchgen.OneShard(128 << 20)
	atts.AttachmentEvery = 4
	old := couchgen.OneShard(128 << 20)
	old.Checksum = couchgen.MD5
	return map[string]couchgen.DirOptions{
		"docs-300B": small, "docs-1KB": couchgen.OneShard(128 << 20), "updated": updated, "attachments": atts, "md5": old,
	}
}

func forEachShard(b *testing.B, fn func(b *testing.B, f *os.File, size int64)) {
	for name, opts := range benchmarkShards() {
		b.Run(name, func(b *testing.B) {
			f := benchShard(b, opts)
			size := fileSize(b, f)
			b.SetBytes(size)
			b.ReportAllocs()
			fn(b, f, size)
		})
	}
}

// cpuRate reports the bytes per second of processor time from now until the
// function that it returns is called.
func cpuRate(b *testing.B, size int64) (done func()) {
	start := cpuTime()
	return func() {
		if spent := (cpuTime() - start).Seconds(); spent > 0 {
			b.ReportMetric(float64(size)*float64(b.N)/1e6/spent, "MB/cpu-s")
		}
	}
}

// BenchmarkVerify walks and verifies whole files in the page cache.
func BenchmarkVerify(b *testing.B) {
	forEachShard(b, func(b *testing.B, f *os.File, size int64) {
		defer cpuRate(b, size)()
		for b.Loop() {
			rep, err := couchfile.Verify(b.Context(), f, size, couchfile.VerifyOptions{})
			if err != nil || !rep.OK() {
				b.Fatal(rep, err)
			}
		}
	})
}

// BenchmarkScanner passes a file in memory in pieces of 1 MiB.
func BenchmarkScanner(b *testing.B) {
	forEachShard(b, func(b *testing.B, f *os.File, size int64) {
		data, err := io.ReadAll(io.NewSectionReader(f, 0, size))
		if err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		defer cpuRate(b, size)()
		for b.Loop() {
			s := couchfile.NewScanner(0)
			for p := data; len(p) > 0; {
				n := min(1<<20, len(p))
				_, _ = s.Write(p[:n])
				p = p[n:]
			}
			if len(s.Anomalies()) != 0 {
				b.Fatal(s.Anomalies())
			}
		}
	})
}

// BenchmarkFindHeader opens a sparse file of 1 GiB that ends with a header.
func BenchmarkFindHeader(b *testing.B) {
	src, err := os.ReadFile(filepath.Join(fixtures, "damaged", "last-header-body.couch"))
	if err != nil {
		b.Fatal(err)
	}
	const gib = 1 << 30
	f, err := os.Create(filepath.Join(b.TempDir(), "big.couch"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(src[45056:], gib-8192); err != nil {
		b.Fatal(err)
	}
	size := fileSize(b, f)
	b.ReportAllocs()
	for b.Loop() {
		h, err := couchfile.FindHeader(f, size)
		if err != nil || h.Offset != gib-8192 {
			b.Fatal(h.Offset, err)
		}
	}
}

// BenchmarkDocs iterates over all documents and prints them.
func BenchmarkDocs(b *testing.B) {
	f := benchShard(b, couchgen.OneShard(32<<20))
	size := fileSize(b, f)
	b.SetBytes(size)
	for b.Loop() {
		db, err := couchfile.Open(f, size)
		if err != nil {
			b.Fatal(err)
		}
		for info, err := range db.Changes(0, false) {
			if err != nil {
				b.Fatal(err)
			}
			if _, err := db.RevisionJSON(info, info.Winner(), couchfile.DocOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	}
}
