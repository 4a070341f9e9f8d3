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

// mayBeat reports whether heartbeats may go to an address.
func mayBeat(a netip.Addr, local bool) bool {
	a = a.Unmap().WithZone("")
	return !slices.Contains(metadata, a) && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && (local || !a.IsLoopback())
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
