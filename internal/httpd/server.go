// Package httpd is the listener of the service and what stands around the handlers of
// every API: TLS, limits, request ids, logs, metrics, the audit log, health. It knows
// nothing of what the APIs are about, nor of how callers are told apart: a handler
// notes who asks in the Request of its context.
package httpd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/slipcover/slipcover/internal/localhost"
)

// Options say where and how to listen. Times of 0 mean their defaults.
type Options struct {
	// Address is HOST:PORT; without HOST all of the machine's addresses, with PORT 0 a
	// free one.
	Address string
	// CertFile and KeyFile are PEM files, which may be the same one; when they change
	// the new ones are used. Without them the server speaks plain HTTP.
	CertFile, KeyFile string
	// AllowPlain lets plain HTTP be spoken on an address that other machines reach, as
	// behind a proxy that speaks TLS: tokens are sent over it.
	AllowPlain bool

	Handler http.Handler
	Log     *slog.Logger

	ReadHeaderTimeout time.Duration // of a request's header; 10 s
	ReadTimeout       time.Duration // of the whole request; 30 s
	WriteTimeout      time.Duration // from the end of the header to the end of the answer; 60 s
	IdleTimeout       time.Duration // between requests of a connection; 120 s
	DrainTimeout      time.Duration // for requests under way when the server ends; 30 s
	MaxHeaderBytes    int           // 64 KiB; net/http allows some 4 KiB more
}

// Server is a listener. The zero value is of no use; see Listen.
type Server struct {
	o        Options
	listener net.Listener
	http     *http.Server
}

// Listen opens the address. Connections wait until Serve.
func Listen(ctx context.Context, o Options) (*Server, error) {
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, errors.New("a certificate needs its key: give both files")
	}
	addr, err := net.ResolveTCPAddr("tcp", localhost.Listen(o.Address))
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w; give HOST:PORT", o.Address, err)
	}
	if o.CertFile == "" && !addr.IP.IsLoopback() && !o.AllowPlain {
		return nil, fmt.Errorf("%s can be reached from other machines, and plain HTTP shows them tokens: give a certificate, listen on 127.0.0.1, or allow plain HTTP", o.Address)
	}
	s := &Server{o: o, http: &http.Server{
		Handler:           o.Handler,
		ReadHeaderTimeout: cmp.Or(o.ReadHeaderTimeout, 10*time.Second),
		ReadTimeout:       cmp.Or(o.ReadTimeout, 30*time.Second),
		WriteTimeout:      cmp.Or(o.WriteTimeout, 60*time.Second),
		IdleTimeout:       cmp.Or(o.IdleTimeout, 120*time.Second),
		MaxHeaderBytes:    cmp.Or(o.MaxHeaderBytes, 64<<10),
		// Broken handshakes and the like: whoever scans the network makes them.
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}}
	if o.CertFile != "" {
		c := &certificate{certFile: o.CertFile, keyFile: o.KeyFile, log: o.Log}
		if err := c.load(); err != nil {
			return nil, err
		}
		s.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
	}
	var config net.ListenConfig
	if s.listener, err = config.Listen(ctx, "tcp", addr.String()); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", o.Address, err)
	}
	return s, nil
}

// Addr is where the server listens, with its port.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// URL is that of the server, as http://127.0.0.1:8779. A server on all addresses says
// so: https://[::]:8779.
func (s *Server) URL() string {
	scheme := "http"
	if s.o.CertFile != "" {
		scheme = "https"
	}
	return scheme + "://" + s.Addr().String()
}

// Serve serves until ctx ends. Then it takes no new connections, lets the requests
// under way end for DrainTimeout, and cuts off those that don't, which is an error.
// The contexts of requests go on until then.
func (s *Server) Serve(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() {
		if s.o.CertFile != "" {
			ended <- s.http.ServeTLS(s.listener, "", "")
		} else {
			ended <- s.http.Serve(s.listener)
		}
	}()
	select {
	case err := <-ended:
		_ = s.http.Close()
		return fmt.Errorf("serve %s: %w", s.URL(), err)
	case <-ctx.Done():
	}
	limit := cmp.Or(s.o.DrainTimeout, 30*time.Second)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	err := s.http.Shutdown(drain)
	if err != nil {
		_ = s.http.Close()
		err = fmt.Errorf("end %s: cut off what was under way for %v: %w", s.URL(), limit, err)
	}
	if end := <-ended; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}
