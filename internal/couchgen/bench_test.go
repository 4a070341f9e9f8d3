package couchgen_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/couchgen"
)

func BenchmarkDataDir(b *testing.B) {
	for _, c := range []struct {
		name string
		opts couchgen.DirOptions
	}{
		{"one-shard", couchgen.OneShard(256 << 20)},
		{"two-shards", couchgen.DirOptions{BytesPerDB: 256 << 20}},
		{"attachments", couchgen.DirOptions{BytesPerDB: 256 << 20, AttachmentEvery: 10}},
		{"per-user", couchgen.PerUser(2000)},
	} {
		b.Run(c.name, func(b *testing.B) {
			var bytes int64
			for b.Loop() {
				d, err := couchgen.DataDir(b.TempDir(), c.opts)
				if err != nil {
					b.Fatal(err)
				}
				bytes = d.Bytes
			}
			b.SetBytes(bytes)
		})
	}
}
