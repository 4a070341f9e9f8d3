//go:build unix

package ship_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/couchgen"
)

// cpu is what the process has used of the processors.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTick is a tick of 100 databases that changed, of as many as the name says.
func BenchmarkTick(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			if n > 10_000 && os.Getenv("SLIPCOVER_ROUNDS") == "" {
				b.Skip("takes minutes to make; SLIPCOVER_ROUNDS=1 does it")
			}
			data := b.TempDir()
			dir, err := couchgen.DataDir(data, couchgen.PerUser(n))
			must(b, err)
			e := newEnv(b, data)
			e.backup()
			began := cpu()
			s := e.ship()
			s.Settle(b.Context(), b)
			b.ReportMetric(float64((cpu() - began).Milliseconds()), "ms-to-start")
			var paths []string
			for _, db := range dir.Databases {
				for _, sh := range db.Shards {
					paths = append(paths, sh.Path)
				}
			}
			var used time.Duration
			ticks := 0
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				for k := range min(100, len(paths)) {
					must(b, couchgen.GrowShard(paths[(i*100+k)%len(paths)], uint64(i*100+k)))
				}
				time.Sleep(20 * time.Millisecond)
				b.StartTimer()
				was := cpu()
				must(b, s.Tick(b.Context()))
				used += cpu() - was
				ticks++
			}
			b.ReportMetric(float64(used.Microseconds())/1000/float64(ticks), "cpu-ms/tick")
			b.ReportMetric(float64(s.Status().Bytes)/float64(max(1, s.Status().Ticks)), "stored-bytes/tick")
		})
	}
}
