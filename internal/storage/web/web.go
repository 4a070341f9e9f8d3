// Package web is what drivers over HTTP have in common.
package web

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/slipcover/slipcover/internal/localhost"
)

// connectTimeout bounds how long a connection may take to be made.
const connectTimeout = 30 * time.Second

// Dialer returns the DialContext of a transport whose connections fail when for
// the length of stall no byte goes or comes, however long a request takes as a whole.
func Dialer(stall time.Duration) func(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := localhost.Dialer(&net.Dialer{Timeout: min(stall, connectTimeout), KeepAlive: connectTimeout})
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &conn{c, stall}, nil
	}
}

// conn fails when nothing moves. A transport reads all the time, also while a body
// goes out, so bytes that were written give the reader time too.
type conn struct {
	net.Conn
	stall time.Duration
}

func (c *conn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// longestWait bounds what a server may ask for.
const longestWait = 24 * time.Hour

// RetryAfter returns how long an answer with that header asks to wait, in seconds
// or until a date by the server's own clock; 0 if it doesn't.
func RetryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return time.Duration(min(n, int(longestWait/time.Second))) * time.Second
	}
	t, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(0, t.Sub(now)), longestWait)
}
