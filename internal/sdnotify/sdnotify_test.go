package sdnotify_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/sdnotify"
)

// listen is systemd's side.
func listen(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("systemd is on Linux only")
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func receive(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestNotify(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@slipcover-test-" + strconv.Itoa(os.Getpid())} {
		t.Run(name[:1], func(t *testing.T) {
			c := listen(t, name)
			for _, state := range []string{sdnotify.Ready, sdnotify.Stopping} {
				if err := sdnotify.Notify(state); err != nil {
					t.Fatal(err)
				}
				if got := receive(t, c); got != state {
					t.Errorf("got %q, want %q", got, state)
				}
			}
		})
	}
}

func TestNotifyNobody(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := sdnotify.Notify(sdnotify.Ready); err != nil {
		t.Errorf("without a socket: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := sdnotify.Notify(sdnotify.Ready); err == nil || !strings.Contains(err.Error(), "tell systemd READY=1") {
		t.Errorf("to a socket that is gone: %v", err)
	}
}

// A listener that reads nothing is not waited for.
func TestNotifyStuck(t *testing.T) {
	listen(t, filepath.Join(t.TempDir(), "notify"))
	for range 10000 {
		if err := sdnotify.Notify(sdnotify.Ready); err != nil {
			return
		}
	}
	t.Error("10000 datagrams were taken by nobody")
}

func TestInterval(t *testing.T) {
	me := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0}, {"0", "", 0}, {"-1", "", 0}, {"soon", "", 0}, {"99999999999999999", "", 0},
		{"60000000", "", 30 * time.Second}, {"60000000", me, 30 * time.Second}, {"60000000", "1", 0},
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		if got := sdnotify.Interval(); got != tt.want {
			t.Errorf("%q, %q: got %v, want %v", tt.usec, tt.pid, got, tt.want)
		}
	}
}

func TestWatchdog(t *testing.T) {
	c := listen(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "2000")
	t.Setenv("WATCHDOG_PID", "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var fine atomic.Bool
	asked := make(chan struct{}, 1000)
	go func() {
		defer close(done)
		sdnotify.Watchdog(ctx, func() bool {
			select {
			case asked <- struct{}{}:
			default:
			}
			return fine.Load()
		})
	}()
	for range 5 {
		<-asked
	}
	if err := sdnotify.Notify(sdnotify.Ready); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, c); got != sdnotify.Ready {
		t.Errorf("got %q while nothing was fine", got)
	}
	fine.Store(true)
	for range 3 {
		if got := receive(t, c); got != "WATCHDOG=1" {
			t.Errorf("got %q, want a sign of life", got)
		}
	}
	cancel()
	<-done
}

func TestWatchdogUnwanted(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "")
	sdnotify.Watchdog(t.Context(), func() bool { t.Error("asked"); return true })
}
