package localhost_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/slipcover/slipcover/internal/localhost"
)

func TestIs(t *testing.T) {
	for host, want := range map[string]bool{"localhost": true, "LocalHost.": true, "db.localhost": true, "localhost.example.org": false,
		"notlocalhost": false, "127.0.0.1": false, "": false} {
		if got := localhost.Is(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

// The resolver here says that nothing exists, as in a root without /etc/hosts.
func TestNobodyIsAskedForTheName(t *testing.T) {
	nobody := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no name server")
	}}
	dial := localhost.Dialer(&net.Dialer{Resolver: nobody})
	if _, err := dial(t.Context(), "tcp", "elsewhere.invalid:80"); err == nil {
		t.Error("another name was known")
	}
	l, err := net.Listen("tcp", localhost.Listen("localhost:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a := l.Addr().(*net.TCPAddr); !a.IP.IsLoopback() {
		t.Errorf("listens on %s", a)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "Localhost.", "a.localhost", "127.0.0.1"} {
		c, err := dial(t.Context(), "tcp", net.JoinHostPort(name, port))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.Close()
	}
	l.Close()
	if _, err := dial(t.Context(), "tcp", net.JoinHostPort("localhost", port)); err == nil {
		t.Error("nobody listens, and somebody answered")
	}
	if got := localhost.Listen("192.0.2.1:0"); got != "192.0.2.1:0" {
		t.Errorf("another address became %s", got)
	}
}
