package sequence

import (
	"testing"

	"github.com/slipcover/slipcover/internal/shard"
)

// BenchmarkPack packs a sequence of a database of eight shards, as a feed does for each row.
func BenchmarkPack(b *testing.B) {
	var list []Shard
	for i := range uint32(8) {
		list = append(list, Shard{Node: "couchdb@127.0.0.1", Range: shard.Range{Begin: i << 29, End: i<<29 | 1<<29 - 1}, Seq: 12345 + uint64(i), UUID: "0123456789abcdef"})
	}
	n := 0
	for b.Loop() {
		n = len(Pack(list))
	}
	b.ReportMetric(float64(n), "bytes")
}
