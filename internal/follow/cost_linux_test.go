package follow_test

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/follow"
)

// Nothing is done while nothing changes, and no goroutine or descriptor is there for a
// file. Not parallel: it measures the process.
func TestIdle(t *testing.T) {
	dir := t.TempDir()
	for i := range 10_000 {
		if i < 4 {
			mkdir(t, dir, fmt.Sprintf("shards/%d", i))
		}
		if err := os.WriteFile(fmt.Sprintf("%s/shards/%d/%d.couch", dir, i%4, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	routines, files := runtime.NumGoroutine(), descriptors(t)
	f := start(t, follow.Options{Dirs: []string{dir}})
	if got := runtime.NumGoroutine() - routines; got > 4 {
		t.Errorf("%d goroutines", got)
	}
	if got := descriptors(t) - files; got > 6 { // the first use of the runtime's poller has its own
		t.Errorf("%d descriptors", got)
	}
	if s := f.Status(); s.Watches != 6 || s.Files != 10_000 {
		t.Errorf("%+v", s)
	}
	runtime.GC()
	least := time.Duration(math.MaxInt64)
	for range 5 { // the runtime gives memory back when it likes, and a machine that stands still counts as busy: what costs is there each time
		before := cpu(t)
		select {
		case <-f.Changed():
			t.Errorf("told: %q", f.Take())
		case <-time.After(2 * time.Second):
		}
		if least = min(least, cpu(t)-before); least <= 20*time.Millisecond {
			return
		}
	}
	t.Errorf("%v of processor time in 2 s of nothing", least)
}

func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
