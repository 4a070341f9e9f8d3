package ship_test

import (
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/testenv"
)

// After a month of shipping, with a backup a day and two weeks of moments, there are few objects, and a restore
// reads few of them.
func TestDays(t *testing.T) {
	t.Parallel()
	days, every := 3, 20*time.Minute
	if testenv.Soak() {
		days, every = 30, 5*time.Minute
	}
	data := t.TempDir()
	dir, err := couchgen.DataDir(data, couchgen.DirOptions{Databases: 1, Q: 1, DocsPerDB: 100, DocBytes: 300})
	must(t, err)
	e := newEnv(t, data)
	store := &counting{Store: e.store}
	e.store = store
	e.clock = e.clock.Add(-time.Duration(days) * 24 * time.Hour)
	start := e.clock
	e.backup()
	s := e.ship()
	shard := dir.Databases[0].Shards[0].Path
	ticks, puts := 0, store.puts.Load()
	count := func() (n int) {
		must(t, e.store.List(t.Context(), "ship/", func(storage.Info) error { n++; return nil }))
		return n
	}
	for day := range days {
		for at := time.Minute; at < 24*time.Hour; at += every {
			must(t, couchgen.GrowShard(shard, uint64(ticks)))
			e.clock = start.Add(time.Duration(day)*24*time.Hour + at) // after the backup
			s.Mark(strings.TrimPrefix(shard, data+"/"))
			must(t, s.Tick(t.Context()))
			s.Wait()
			must(t, s.Tick(t.Context()))
			ticks++
		}
		e.backup()
		r := e.repo()
		lock, err := r.Lock(t.Context(), "node1", "prune", "")
		must(t, err)
		_, err = r.Prune(t.Context(), lock, repo.PruneOptions{KeepMoments: 14 * 24 * time.Hour, Now: e.clock})
		must(t, err)
		must(t, lock.End(t.Context()))
		if n := count(); n > 1000 {
			t.Fatalf("%d objects after %d days", n, day+1)
		}
		if day == 0 || day == days-1 {
			gets, began := store.gets.Load(), time.Now()
			got, m := e.moment(e.now())
			e.compare("the newest moment", got, e.files())
			t.Logf("day %d: %d ticks, %d objects, %d bytes of the shard; the newest moment, tick %d, took %d reads and %s", day+1, ticks, count(), len(e.files()[strings.TrimPrefix(shard, data+"/")]), m.Tick, store.gets.Load()-gets, time.Since(began).Round(time.Millisecond))
			gets, began = store.gets.Load(), time.Now()
			_, m = e.moment(e.clock.Add(-11 * time.Hour))
			t.Logf("day %d: a moment of 11 hours before, tick %d, took %d reads and %s", day+1, m.Tick, store.gets.Load()-gets, time.Since(began).Round(time.Millisecond))
		}
	}
	t.Logf("%d ticks made %d puts, %d deletes and %d lists", ticks, store.puts.Load()-puts, store.deletes.Load(), store.lists.Load())
}
