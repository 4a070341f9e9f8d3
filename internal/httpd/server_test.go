package httpd_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/httpd"
)

// logs is a log that can be read while it is written.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// serve serves on a free loopback port until end is called, or the test's end.
func serve(t *testing.T, o httpd.Options) (url string, end func() error) {
	t.Helper()
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	if o.Log == nil {
		o.Log = (&logs{}).logger()
	}
	s, err := httpd.Listen(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	end = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = end() })
	return s.URL(), end
}

func ok(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fine") }

type reply struct {
	status int
	header http.Header
	body   string
	proto  int
	tls    *tls.ConnectionState
}

// get returns the answer and its body.
func get(t *testing.T, c *http.Client, url string) reply {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body), resp.ProtoMajor, resp.TLS}
}

func TestPlainOnlyOnLoopback(t *testing.T) {
	for _, c := range []struct {
		address string
		allow   bool
		want    bool
	}{
		{"127.0.0.1:0", false, true}, {"localhost:0", false, true}, {"[::1]:0", false, true}, {"127.8.8.8:0", false, true},
		{":0", false, false}, {"0.0.0.0:0", false, false}, {"[::]:0", false, false}, {"192.0.2.1:0", false, false}, {":0", true, true},
		{"nonsense", true, false},
	} {
		s, err := httpd.Listen(t.Context(), httpd.Options{Address: c.address, AllowPlain: c.allow, Log: (&logs{}).logger()})
		var op *net.OpError
		if c.address == "[::1]:0" && errors.As(err, &op) {
			continue // no IPv6 here
		}
		if (err == nil) != c.want {
			t.Errorf("%s, plain allowed %v: %v", c.address, c.allow, err)
		}
		if err == nil {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.Serve(ctx); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := httpd.Listen(t.Context(), httpd.Options{Address: "127.0.0.1:0", CertFile: "x"}); err == nil {
		t.Error("a certificate without a key was taken")
	}
}

func TestTLS(t *testing.T) {
	ca, err := httpd.OpenCA(filepath.Join(t.TempDir(), "tls"))
	if err != nil {
		t.Fatal(err)
	}
	path, err := ca.Certificate("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	var log logs
	url, _ := serve(t, httpd.Options{CertFile: path, KeyFile: path, Log: log.logger(), Handler: http.HandlerFunc(ok)})
	trust, err := httpd.ClientTLS(ca.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	// client connects anew for each request.
	client := func() *http.Client {
		tr := &http.Transport{TLSClientConfig: trust.Clone(), ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: time.Minute}
	}
	resp := get(t, client(), url)
	if resp.proto != 2 || resp.body != "fine" || resp.tls.Version < tls.VersionTLS12 {
		t.Errorf("%+v", resp)
	}
	first := httpd.Fingerprint(resp.tls.PeerCertificates[0])

	// Too old a version, and plain HTTP.
	address := strings.TrimPrefix(url, "https://")
	if c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}); err == nil {
		c.Close()
		t.Error("TLS 1.1 was spoken")
	}
	if resp, err := http.Get("http://" + address); err == nil {
		if resp.Body.Close(); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP: %s", resp.Status)
		}
	}

	// A file that can't be used leaves the certificate that there is, and is logged once.
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		resp := get(t, client(), url)
		if got := httpd.Fingerprint(resp.tls.PeerCertificates[0]); got != first {
			t.Fatalf("a broken file changed the certificate to %s", got)
		}
		return strings.Contains(log.String(), "can't be read again")
	})

	// A new one is used.
	if _, err := ca.Certificate("127.0.0.1", "localhost"); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		resp := get(t, client(), url)
		return httpd.Fingerprint(resp.tls.PeerCertificates[0]) != first
	})
	if n := strings.Count(log.String(), "can't be read again"); n != 1 {
		t.Errorf("the broken file was logged %d times", n)
	}

	// Another authority isn't trusted, whatever it calls itself.
	other, err := httpd.OpenCA(filepath.Join(t.TempDir(), "tls"))
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := httpd.ClientTLS(strings.ToUpper(other.Fingerprint()))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := tls.Dial("tcp", address, wrong); err == nil {
		c.Close()
		t.Error("the wrong authority was trusted")
	}
	named := trust.Clone()
	named.ServerName = "elsewhere.example.org"
	if c, err := tls.Dial("tcp", address, named); err == nil {
		c.Close()
		t.Error("the wrong name was trusted")
	}
	if _, err := httpd.ClientTLS("abc"); err == nil {
		t.Error("half a fingerprint was taken")
	}
	if _, err := httpd.Listen(t.Context(), httpd.Options{Address: "127.0.0.1:0", CertFile: path + "x", KeyFile: path, Log: log.logger()}); err == nil {
		t.Error("a missing certificate was taken")
	}
}

// await calls done until it returns true, for at most 2 minutes.
func await(t *testing.T, done func() bool) {
	t.Helper()
	for begin := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > 2*time.Minute {
			t.Fatal("it doesn't happen")
		}
	}
}

func TestCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "tls")
	var wg sync.WaitGroup
	prints := make([]string, 8)
	for i := range prints { // many at once: one authority
		wg.Go(func() {
			ca, err := httpd.OpenCA(dir)
			if err != nil {
				t.Error(err)
				return
			}
			prints[i] = ca.Fingerprint()
		})
	}
	wg.Wait()
	for _, p := range prints {
		if p != prints[0] || len(p) != 64 {
			t.Fatalf("authorities %q", prints)
		}
	}
	ca, err := httpd.OpenCA(dir)
	if err != nil || ca.Fingerprint() != prints[0] {
		t.Fatal(err)
	}
	if strings.Contains(string(ca.PEM()), "PRIVATE") {
		t.Error("PEM has the key")
	}
	path, err := ca.Certificate("db.example.org", "10.1.2.3", "::1")
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	if _, err := ca.Certificate("10.1.2.3"); err != nil {
		t.Fatal(err)
	}
	same, _ := os.ReadFile(path)
	if _, err := ca.Certificate("10.9.9.9"); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(path)
	if !bytes.Equal(before, same) || bytes.Equal(before, after) {
		t.Error("a certificate is made anew when it need not, or not when it must")
	}
	if _, err := ca.Certificate(); err == nil {
		t.Error("a certificate for no name was made")
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "ca.pem"): 0o600, path: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := httpd.OpenCA(dir); err == nil {
		t.Error("a broken authority was replaced, or taken")
	}
}

func TestShutdownWaits(t *testing.T) {
	began, release := make(chan bool), make(chan bool)
	url, end := serve(t, httpd.Options{DrainTimeout: 5 * time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began <- true
		<-release
		if r.Context().Err() != nil {
			t.Error("its context ended")
		}
		io.WriteString(w, "to the end")
	})})
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get(url)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprint(string(body), err)
	}()
	<-began
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	await(t, func() bool { // no new connections
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case err := <-ended:
		t.Fatalf("it ended with a request under way: %v", err)
	default:
	}
	close(release)
	if got := <-answer; got != "to the end<nil>" {
		t.Errorf("the request under way got %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestShutdownLimit(t *testing.T) {
	began := make(chan bool)
	url, end := serve(t, httpd.Options{DrainTimeout: 50 * time.Millisecond, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
	})})
	answer := make(chan error, 1)
	go func() {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		answer <- err
	}()
	<-began
	if err := end(); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("got %v", err)
	}
	if err := <-answer; err == nil {
		t.Error("a request that was cut off got an answer")
	}
}

func TestSlowClients(t *testing.T) {
	// slow sends a text and no more, until the server ends the connection, and returns
	// what a handler got of the body, or false if none was called.
	slow := func(o httpd.Options, text string) (error, bool) {
		read := make(chan error, 1)
		o.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			read <- err
		})
		url, end := serve(t, o)
		defer func() { _ = end() }()
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, text) // it may be ended already
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: the connection stays", text)
		}
		select {
		case err := <-read:
			return err, true
		default:
			return nil, false
		}
	}
	for _, text := range []string{"", "GET / HTTP/1.1\r\nHost: x\r\nX-A"} {
		if _, called := slow(httpd.Options{ReadHeaderTimeout: 200 * time.Millisecond, ReadTimeout: 5 * time.Minute}, text); called {
			t.Errorf("%q is a request", text)
		}
	}
	for limit := 200 * time.Millisecond; ; limit *= 2 {
		err, called := slow(httpd.Options{ReadTimeout: limit}, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
		if called && err == nil {
			t.Error("half a body was read as a whole")
		}
		if called || t.Failed() {
			break
		} // else not even the header came in that time
	}
}

func TestLargeHeader(t *testing.T) {
	url, _ := serve(t, httpd.Options{Handler: http.HandlerFunc(ok)})
	for size, want := range map[int]int{60 << 10: http.StatusOK, 80 << 10: http.StatusRequestHeaderFieldsTooLarge} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-A: %s\r\n\r\n", strings.Repeat("a", size))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != want {
			t.Errorf("%d bytes: %s", size, resp.Status)
		}
	}
}
