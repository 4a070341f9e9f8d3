// Package localhost knows the name localhost without a resolver: in a small root there may
// be no /etc/hosts, and a name server may say anything.
//
// Source: RFC 6761, section 6.3.
package localhost

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Addresses are what the name stands for, in the order in which they are tried. CouchDB
// listens on the first, if it isn't told otherwise.
var Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// Is reports whether a host, without a port, is localhost by name.
func Is(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// Only reports whether only this machine reaches an address to listen on, HOST:PORT.
func Only(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (Is(host) || ip != nil && ip.IsLoopback())
}

// Listen returns an address to listen on, HOST:PORT, with the first of Addresses for the
// name, or the address itself.
func Listen(address string) string {
	if host, port, err := net.SplitHostPort(address); err == nil && Is(host) {
		return net.JoinHostPort(Addresses[0].String(), port)
	}
	return address
}

// Dialer returns d.DialContext, which asks no resolver for the name.
func Dialer(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil || !Is(host) {
			return d.DialContext(ctx, network, address)
		}
		var errs []error
		for _, a := range Addresses {
			c, err := d.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
			if err == nil {
				return c, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
}

// Direct returns a transport to servers of this machine. It goes through no proxy, which
// could not reach them and has no business with an admin's password.
func Direct() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.DialContext = nil, Dialer(&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second})
	return t
}
