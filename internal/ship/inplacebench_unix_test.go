//go:build unix

package ship_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage/file"
)

// BenchmarkMoment opens one document at a moment that is behind a backup by as many ticks of one document each as the name
// says.
func BenchmarkMoment(b *testing.B) {
	for _, n := range []int{1, 300, 3000} {
		for _, rolled := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d-%t", n, rolled), func(b *testing.B) {
				size := int64(64 << 20)
				if os.Getenv("SLIPCOVER_SCALE") == "full" {
					size = 1 << 30
				} else if n > 300 {
					b.Skip("takes minutes to make; SLIPCOVER_SCALE=full does it, with 1 GiB")
				}
				benchMoment(b, size, n, rolled)
			})
		}
	}
}

func benchMoment(b *testing.B, size int64, n int, rolled bool) {
	data := b.TempDir()
	dir, err := couchgen.DataDir(data, couchgen.OneShard(size))
	must(b, err)
	store, err := file.Open(b.TempDir())
	must(b, err)
	e := newEnvIn(b, data, store)
	e.backup()
	s := e.ship()
	s.Settle(b.Context(), b)
	path := dir.Databases[0].Shards[0].Path
	for i := range n {
		must(b, couchgen.GrowShard(path, uint64(i)))
		if rolled {
			e.clock = e.clock.Add(time.Second)
		}
		must(b, s.Tick(b.Context()))
	}
	if rolled {
		e.clock = e.clock.Add(6 * time.Minute)
		s.Settle(b.Context(), b)
	}
	r := e.repo()
	b.ResetTimer()
	for b.Loop() {
		b.StopTimer()
		m, _, err := r.At(b.Context(), "node1", time.Time{})
		must(b, err)
		rd := r.NewReader(m, nil)
		b.StartTimer()
		for _, f := range m.Files {
			if f.Kind != manifest.Shard {
				continue
			}
			if b.N == 1 {
				b.Logf("%d extents, %d replays", len(f.Extents), len(f.Replays))
			}
			d, err := rd.Database(b.Context(), f)
			must(b, err)
			db, err := couchfile.OpenOffset(d, d.Size, d.Header)
			must(b, err)
			for info, err := range db.Changes(0, true) {
				must(b, err)
				_, err = db.RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
				must(b, err)
				break
			}
			d.Close()
		}
		rd.Close()
	}
}
