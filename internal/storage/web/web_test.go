package web_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/storage/web"
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
		if got := web.RetryAfter(h); got != tt.want {
			t.Errorf("Retry-After: %s at %s: got %v, want %v", tt.after, tt.date, got, tt.want)
		}
	}
}

// A connection on which nothing comes fails after the stall, and one on which
// something comes now and then does not.
func TestStall(t *testing.T) {
	const stall = 200 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for range 6 {
			time.Sleep(stall / 4)
			_, _ = c.Write([]byte("x"))
		}
		_, _ = io.ReadAll(c) // until the other side gives up
	}()
	c, err := web.Dialer(stall)(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if len(got) != 6 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q and %v, want 6 bytes and a timeout", got, err)
	}
	c.Close()
	<-served
}
