package bus_test

import (
	"bytes"
	"context"
	"fmt"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
)

// limitFiles lets no file of this process grow beyond a size, as a full disk does, until
// it is told to stop.
func limitFiles(t *testing.T, size uint64) (stop func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	limit := before
	limit.Cur = size
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Skip(err)
	}
	stop = sync.OnceFunc(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Error(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	})
	t.Cleanup(stop)
	return stop
}

// TestFullDisk has writes of the embedded server fail for a while. It says so, comes back
// by itself when there is room, and what was acknowledged is there.
func TestFullDisk(t *testing.T) {
	ctx := t.Context()
	b := open(t, bus.Options{Dir: t.TempDir()})
	tab, err := b.Table(ctx, "things")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	run(t, func(ctx context.Context) error {
		return tab.Watch(ctx, func(ch bus.Change) {
			mu.Lock()
			defer mu.Unlock()
			seen[ch.Key] = !ch.Deleted
		})
	})
	if err := b.AddAgent(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	link, ran := dial(t, bus.LinkOptions{Agent: "a", InProcess: b}), make(chan string, 10)
	run(t, func(ctx context.Context) error {
		return link.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
			if d.Done(ctx) == nil {
				ran <- d.Job
			}
		})
	})
	stop := limitFiles(t, 1<<20)
	value := bytes.Repeat([]byte("v"), 100<<10)
	var acked []string
	for n := 0; ; n++ {
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		key := fmt.Sprint("k", n)
		_, err := tab.Create(short, key, value)
		cancel()
		if err != nil {
			break
		}
		acked = append(acked, key)
	}
	eventually(t, "the bus to say that it can't write", func() bool { return b.Connected() != nil })
	stop()
	begin := time.Now()
	eventually(t, "the bus to be well", func() bool { return b.Connected() == nil })
	retry(t, "write again", func() error { _, err := tab.Put(ctx, "after", value); return err })
	for _, key := range append(acked, "after") {
		if v, _, err := tab.Get(ctx, key); err != nil || !bytes.Equal(v, value) {
			t.Errorf("%s: got %d bytes, %v", key, len(v), err)
		}
		eventually(t, key+" to be watched", func() bool { mu.Lock(); defer mu.Unlock(); return seen[key] })
	}
	if err := b.Enqueue(ctx, "a", "job"); err != nil {
		t.Fatal(err)
	}
	if got := <-ran; got != "job" {
		t.Errorf("got job %s", got)
	}
	if got := b.MaxStoreOf(); got < 1<<50 {
		t.Errorf("at most %d bytes are stored from now on", got)
	}
	t.Logf("%d entries were acknowledged before the disk was full, and are there; well again %v after there was room", len(acked), time.Since(begin).Round(time.Second/10))
}
