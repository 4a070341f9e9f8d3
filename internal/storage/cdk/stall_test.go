package cdk

import (
	"errors"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

// A server that takes a connection and then says nothing is given up.
func TestStall(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()                        // the kernel accepts, and nobody reads
	transport := newTransport(time.Second) // long enough to connect
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want a deadline that was exceeded", err)
	}
}
