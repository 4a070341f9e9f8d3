package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/localhost"
)

// Whoever may make a schedule says which URL the server asks for. The answer is shown to
// nobody, but a request alone can do harm, so it goes nowhere where only this machine
// gets: not to addresses of the link, by which clouds tell a machine its secrets, nor to
// the machine itself unless Config.LocalHeartbeats allows it. The address is looked at
// when the connection is made, whatever name it has by then; redirects aren't followed.
const heartbeatTime = 10 * time.Second

// metadata are addresses by which clouds tell a machine its secrets, beside those of the
// link: AWS over IPv6, Alibaba, Oracle, Azure.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192"), netip.MustParseAddr("168.63.129.16")}

var errNotThere = errors.New("heartbeats may not go to that address")

// heartbeatClient asks heartbeat URLs.
func heartbeatClient(local bool) *http.Client {
	d := &net.Dialer{Timeout: heartbeatTime, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !mayBeat(at.Addr(), local) {
			return fmt.Errorf("%w: %s", errNotThere, address)
		}
		return nil
	}}
	return &http.Client{Timeout: heartbeatTime,
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: localhost.Dialer(d), DisableKeepAlives: true, TLSHandshakeTimeout: heartbeatTime, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// mayBeat reports whether heartbeats may go to an address, and to those that stand in it.
func mayBeat(a netip.Addr, local bool) bool {
	a = a.Unmap().WithZone("")
	if nat64Local.Contains(a) || slices.ContainsFunc(within(a), func(in netip.Addr) bool { return !mayBeat(in, local) }) {
		return false
	}
	nowhere := a.Is4() && a.As4()[0] == 0
	return !nowhere && !slices.Contains(metadata, a) && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && (local || !a.IsLoopback())
}

// Prefixes of IPv6 in which an address of IPv4 stands, to which a gateway on the way, or
// this machine, may send on what goes there. What stands where in nat64Local is up to the
// network.
//
// Source: RFC 6052, 8215 (NAT64), 3056 (6to4), 4380 (Teredo), 4291 section 2.5.5.1
// (compatible), 5214 (ISATAP).
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
	compatible = netip.MustParsePrefix("::/96")
)

// within returns the addresses of IPv4 that stand in one of IPv6.
func within(a netip.Addr) []netip.Addr {
	if a.Is4() || a == netip.IPv6Loopback() || a.IsUnspecified() {
		return nil
	}
	b := a.As16()
	last := netip.AddrFrom4([4]byte(b[12:]))
	switch {
	case nat64.Contains(a), compatible.Contains(a), b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe:
		return []netip.Addr{last}
	case sixToFour.Contains(a):
		return []netip.Addr{netip.AddrFrom4([4]byte(b[2:6]))}
	case teredo.Contains(a): // its server, and the client with all bits turned
		return []netip.Addr{netip.AddrFrom4([4]byte(b[4:8])), netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})}
	}
	return nil
}

// lookUpFor is how long a heartbeat's name is looked up when its schedule is made.
const lookUpFor = 3 * time.Second

// checkHeartbeat refuses a URL to which heartbeats may not go, so that who makes a schedule
// learns it, and not only the log. A name that can't be looked up now is let through: each
// connection is looked at again.
func (s *Server) checkHeartbeat(ctx context.Context, text string) error {
	u, err := url.Parse(text)
	if err != nil || text == "" { // which checkFields has looked at
		return nil
	}
	host := u.Hostname()
	var at []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		at = []netip.Addr{a}
	} else if localhost.Is(host) {
		at = localhost.Addresses
	} else if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && proxy != nil {
		return nil // it looks the name up, and decides
	} else {
		ctx, cancel := context.WithTimeout(ctx, lookUpFor)
		defer cancel()
		at, _ = s.cfg.LookUp(ctx, "ip", host)
	}
	for _, a := range at {
		if !mayBeat(a, s.cfg.LocalHeartbeats) {
			return refuse(Invalid, "The heartbeat may not go to %.100s: that is an address of this machine, of the link, or one by which a cloud tells its secrets.", host)
		}
	}
	return nil
}

// heartbeat asks for a schedule's URL, without waiting for the answer.
func (s *Server) heartbeat(ctx context.Context, c *job.Schedule, ok bool) {
	if c.Heartbeat == "" {
		return
	}
	u, err := url.Parse(c.Heartbeat)
	if err != nil {
		return
	}
	if !ok {
		u = u.JoinPath("fail")
	}
	ctx = context.WithoutCancel(ctx)
	s.background.Go(func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return
		}
		resp, err := s.cfg.Client.Do(req)
		if err == nil {
			err = resp.Body.Close()
		}
		if err != nil { // the URL may be a secret
			var ue *url.Error
			if errors.As(err, &ue) {
				err = ue.Err
			}
			s.log.WarnContext(ctx, "heartbeat was not taken", "schedule", c.Name, "err", err)
		}
	})
}
