package follow_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/follow"
)

const many = 100_000

// shards makes many empty databases in 8 ranges, with names as they are.
func shards(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	for i := range many {
		path := fmt.Sprintf("%s/shards/%08x-%08x/customer-%06d.1795334390.couch", dir, i%8<<29, i%8<<29+1<<29-1, i/8)
		if i < 8 {
			if err := os.MkdirAll(path[:len(path)-len("/customer-000000.1795334390.couch")], 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What 100,000 databases cost: to begin with, for a look, and in memory.
func BenchmarkLook(b *testing.B) {
	dir := shards(b)
	before := heap()
	from := cpu(b)
	f, err := follow.New(b.Context(), follow.Options{Dirs: []string{dir}, Want: want})
	open := cpu(b) - from
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	kept := heap() - before
	from = cpu(b)
	for b.Loop() {
		if _, err := f.All(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu(b)-from).Seconds()*1000/float64(b.N), "cpu-ms/op")
	b.ReportMetric(open.Seconds()*1000, "New-cpu-ms")
	b.ReportMetric(float64(kept)/many, "kept-B/file")
	s := f.Status()
	b.ReportMetric(s.Took.Seconds()*1000, "look-ms")
	b.ReportMetric(float64(s.Watches), "watches")
}

// What it costs to follow 1,000 writes a second to 100 files, taken each second. The
// writes are in it; what they cost alone is reported beside it.
func BenchmarkWrites(b *testing.B) {
	dir := b.TempDir()
	var files []*os.File
	for i := range 100 {
		file, err := os.Create(fmt.Sprintf("%s/%d.couch", dir, i))
		if err != nil {
			b.Fatal(err)
		}
		defer file.Close()
		files = append(files, file)
	}
	const seconds = 5
	run := func(each func()) float64 {
		from, tick := cpu(b), time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := range 1000 * seconds {
			<-tick.C
			if _, err := files[i%len(files)].WriteString("a document"); err != nil {
				b.Fatal(err)
			}
			if i%1000 == 999 {
				each()
			}
		}
		return (cpu(b) - from).Seconds() * 100 / seconds
	}
	for b.Loop() {
		alone := run(func() {})
		f, err := follow.New(b.Context(), follow.Options{Dirs: []string{dir}, Want: want})
		if err != nil {
			b.Fatal(err)
		}
		with := run(func() { f.Take() })
		b.ReportMetric(alone, "alone-cpu-%")
		b.ReportMetric(with, "followed-cpu-%")
		f.Close()
	}
}
