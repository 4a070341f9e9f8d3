// Package sdnotify tells systemd how a service is doing: a datagram to the socket
// that the variable NOTIFY_SOCKET names, as sd_notify(3) has it. Where nobody
// listens, as on other systems and in tests, it does nothing.
package sdnotify

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// States for Notify.
const (
	Ready    = "READY=1"    // the start is over
	Stopping = "STOPPING=1" // the end has begun
	alive    = "WATCHDOG=1"
)

// Notify sends a state. It is nil without NOTIFY_SOCKET.
func Notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	// A leading @ is of a socket without a file; net knows it too.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell systemd %s: %w", state, err)
	}
	defer func() { _ = c.Close() }()
	// Who listens may be stuck, and this is not worth waiting for.
	if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return fmt.Errorf("tell systemd %s: %w", state, err)
	}
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell systemd %s: %w", state, err)
	}
	return nil
}

// Interval is half the time within which systemd, by WATCHDOG_USEC, wants a sign of
// life of this process. It is 0 if systemd wants none.
func Interval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0 // it is for the process that started this one
	}
	n, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || n <= 0 || n > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(n) * time.Microsecond / 2
}

// Watchdog gives the signs of life until ctx is done, each after fine has said true.
// While it says false or hangs there are none, and systemd ends the service and
// starts it again. It returns at once if systemd wants none. A sign that can't be
// sent is tried again half the time later: it is systemd who judges.
func Watchdog(ctx context.Context, fine func() bool) {
	every := Interval()
	if every == 0 {
		return
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		if fine() && ctx.Err() == nil {
			_ = Notify(alive)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
