package web

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetryAfter(t *testing.T) {
	const date = "Mon, 23 Nov 2026 10:00:00 GMT"
	for _, tt := range []struct {
		after, date string
		want        time.Duration
	}{
		{"", date, 0}, {"7", date, 7 * time.Second}, {"0", date, 0}, {"-3", date, 0}, {"soon", date, 0},
		{"999999999", "", 24 * time.Hour},
		{"Mon, 23 Nov 2026 10:02:00 GMT", date, 2 * time.Minute},
		{"Mon, 23 Nov 2026 09:00:00 GMT", date, 0},
		{"Mon, 23 Nov 2099 09:00:00 GMT", date, 24 * time.Hour},
	} {
		h := http.Header{}
		h.Set("Retry-After", tt.after)
		h.Set("Date", tt.date)
		if got := RetryAfter(h); got != tt.want {
			t.Errorf("Retry-After: %s at %s: got %v, want %v", tt.after, tt.date, got, tt.want)
		}
	}
}

// A connection on which nothing comes fails after the stall, and one on which
// something comes now and then does not.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stall = time.Minute
		near, far := net.Pipe()
		defer far.Close()
		go func() {
			for range 6 {
				time.Sleep(stall - time.Second)
				_, _ = far.Write([]byte("x"))
			}
		}()
		began := time.Now()
		c := &conn{near, stall}
		defer c.Close()
		got, err := io.ReadAll(c)
		if len(got) != 6 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %q and %v, want 6 bytes and a timeout", got, err)
		}
		if took, want := time.Since(began), 6*(stall-time.Second)+stall; took != want {
			t.Errorf("gave up after %v, want %v", took, want)
		}
		// What is written gives the reader time too; a write that nobody takes fails.
		began = time.Now()
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != stall {
			t.Errorf("a write failed after %v with %v", time.Since(began), err)
		}
	})
}

// The connections of a Dialer are such.
func TestDialer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // the kernel accepts, and nothing comes
	c, err := Dialer(time.Second)(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); len(got) != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q and %v, want a timeout", got, err)
	}
}
