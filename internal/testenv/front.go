package testenv

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Front is an HTTP server before another one: it passes on what it gets, notes it,
// and does harm as the test says.
type Front struct {
	URL string // "http://127.0.0.1:PORT"

	t     TB
	proxy *httputil.ReverseProxy

	mu       sync.Mutex
	server   *http.Server  // nil while it is down; guarded by mu
	seen     []Seen        // guarded by mu
	harm     Harm          // guarded by mu; nil passes all on
	released chan struct{} // closed when harm ends; guarded by mu
}

// Seen is a request that a Front got.
type Seen struct {
	Method, Path string
	Query        url.Values
	// Status is that of the answer; 0 if there was none.
	Status int
	// Whole says that the answer was sent to its end.
	Whole bool
}

// Harm chooses what to do with a request; a nil Fault passes it on. It is called
// for one request at a time, n counts from 1 since it was set.
type Harm func(n int, r *http.Request) Fault

// Fault serves a request in place of next, or spoils what goes there or comes back.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// NewFront starts a Front before the server at target, an http URL. It ends with
// the test.
func NewFront(t TB, target string) *Front {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatalf("front of %q: %v", target, err)
	}
	f := &Front{t: t, proxy: httputil.NewSingleHostReverseProxy(u)}
	f.proxy.ErrorLog = log.New(io.Discard, "", 0) // it breaks on purpose
	f.proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	f.proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true, ExpectContinueTimeout: 5 * time.Second}
	f.listen("127.0.0.1:0")
	t.Cleanup(func() {
		f.Set(nil)
		f.Down()
		f.proxy.Transport.(*http.Transport).CloseIdleConnections()
	})
	return f
}

func (f *Front) listen(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		f.t.Fatalf("front: %v", err)
	}
	f.URL = "http://" + l.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(f.serve), ErrorLog: f.proxy.ErrorLog, ReadHeaderTimeout: time.Minute}
	f.mu.Lock()
	f.server = server
	f.mu.Unlock()
	go server.Serve(l) // Down ends it
}

// Down refuses connections and cuts those that there are, until Up.
func (f *Front) Down() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server != nil {
		f.server.Close() // of connections that end
		f.server = nil
	}
}

// Up ends Down. The address stays.
func (f *Front) Up() { f.listen(strings.TrimPrefix(f.URL, "http://")) }

// Set sets the harm, nil for none, lets go of what is stalled, and forgets what was
// seen.
func (f *Front) Set(harm Harm) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.released != nil {
		close(f.released)
	}
	f.released, f.harm, f.seen = make(chan struct{}), harm, nil
}

// Seen returns the requests since the last Set, in the order in which they came.
func (f *Front) Seen() []Seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

func (f *Front) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	i := len(f.seen)
	f.seen = append(f.seen, Seen{Method: r.Method, Path: r.URL.Path, Query: r.URL.Query()})
	var fault Fault
	if f.harm != nil {
		fault = f.harm(i+1, r)
	}
	r = r.WithContext(context.WithValue(r.Context(), releasedKey{}, f.released))
	generation := f.released
	f.mu.Unlock()

	n := &noting{ResponseWriter: w}
	whole := false
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.released == generation { // else Set has forgotten it
			f.seen[i].Status, f.seen[i].Whole = n.status, whole
		}
	}()
	if fault == nil {
		f.proxy.ServeHTTP(n, r)
	} else {
		fault(n, r, f.proxy)
	}
	whole = true
}

// noting notes the status of an answer.
type noting struct {
	http.ResponseWriter
	status int
}

func (n *noting) WriteHeader(status int) {
	if status >= 200 {
		n.status = status
	}
	n.ResponseWriter.WriteHeader(status)
}

func (n *noting) Write(p []byte) (int, error) {
	if n.status == 0 {
		n.status = http.StatusOK
	}
	return n.ResponseWriter.Write(p)
}

func (n *noting) Unwrap() http.ResponseWriter { return n.ResponseWriter }

type releasedKey struct{}

// wait waits until the client or the harm is gone, and ends the connection.
func wait(r *http.Request) {
	released, _ := r.Context().Value(releasedKey{}).(chan struct{})
	select {
	case <-released:
	case <-r.Context().Done():
	}
}

// Answer answers with a status in place of the server. header is pairs of name and
// value.
func Answer(status int, header ...string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
	}
}

// RetryAfter answers with a status and when to ask again.
func RetryAfter(status int, after time.Duration) Fault {
	return Answer(status, "Retry-After", strconv.Itoa(int(after/time.Second)))
}

// AsCouchDB2 answers as a CouchDB 2 of a version does to what it doesn't know, as real ones
// of 2.1.2 and 2.3.1 did: 400 to the node's name, 404 to node-local databases, and before 2.2
// to _dbs_info.
func AsCouchDB2(version string) Harm {
	return func(_ int, r *http.Request) Fault {
		path := r.URL.Path
		_, below, _ := strings.Cut(path, "/_node/_local")
		switch {
		case path == "/":
			return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				io.WriteString(w, `{"couchdb":"Welcome","version":"`+version+`"}`) // nobody reads it if it fails
			}
		case path == "/_node/_local":
			return Answer(http.StatusBadRequest)
		case strings.HasPrefix(path, "/_node/_local/") && !strings.HasPrefix(below, "/_config"):
			return Answer(http.StatusNotFound)
		case path == "/_dbs_info" && strings.HasPrefix(version, "2.1"):
			return Answer(http.StatusNotFound)
		}
		return nil
	}
}

// HangUp ends the connection without an answer.
func HangUp(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

// LoseAnswer lets the server do what it was asked, and ends the connection.
func LoseAnswer(_ http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(&lost{http.Header{}}, r)
	panic(http.ErrAbortHandler)
}

type lost struct{ header http.Header }

func (l *lost) Header() http.Header         { return l.header }
func (l *lost) Write(p []byte) (int, error) { return len(p), nil }
func (l *lost) WriteHeader(int)             {}

var errCut = errors.New("cut by the front")

// CutUpload ends both connections after n bytes of what the client sends.
func CutUpload(n int64) Fault { return upload(n, func(*http.Request) {}) }

// StallUpload reads no more after n bytes of what the client sends.
func StallUpload(n int64) Fault { return upload(n, wait) }

func upload(n int64, then func(*http.Request)) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Body = &endingBody{io.LimitReader(r.Body, n), r.Body, func() { then(r) }}
		next.ServeHTTP(w, r)
		panic(http.ErrAbortHandler) // a server that didn't mind
	}
}

// endingBody fails where r ends.
type endingBody struct {
	r io.Reader
	io.Closer
	then func()
}

func (b *endingBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if errors.Is(err, io.EOF) {
		b.then()
		err = errCut
	}
	return n, err
}

// CutDownload ends the connection after n bytes of an answer's body.
func CutDownload(n int64) Fault {
	return download(func(_ *http.Request, sent int64, p []byte) int64 { return n - sent })
}

// StallDownload sends no more after n bytes of an answer's body.
func StallDownload(n int64) Fault {
	return download(func(r *http.Request, sent int64, p []byte) int64 {
		if sent+int64(len(p)) > n {
			wait(r)
			return 0
		}
		return n - sent
	})
}

// FlipBit changes a bit of byte n of an answer's body, which may be shorter.
func FlipBit(n int64) Fault {
	return download(func(_ *http.Request, sent int64, p []byte) int64 {
		if at := n - sent; at >= 0 && at < int64(len(p)) {
			p[at] ^= 1
		}
		return int64(len(p))
	})
}

// download has each part of an answer's body looked at, and perhaps changed, before
// it goes to the client; if fewer bytes of it are left to send than there are, the
// connection ends behind them.
func download(look func(r *http.Request, sent int64, p []byte) (left int64)) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&spoiled{ResponseWriter: w, look: func(sent int64, p []byte) int64 { return look(r, sent, p) }}, r)
	}
}

type spoiled struct {
	http.ResponseWriter
	look func(sent int64, p []byte) int64
	sent int64
}

func (s *spoiled) Write(p []byte) (int, error) {
	p = slices.Clone(p)
	left := s.look(s.sent, p)
	if left < int64(len(p)) {
		s.ResponseWriter.Write(p[:max(0, left)])             // it ends here
		http.NewResponseController(s.ResponseWriter).Flush() // the same
		panic(http.ErrAbortHandler)
	}
	s.sent += int64(len(p))
	return s.ResponseWriter.Write(p)
}

func (s *spoiled) Unwrap() http.ResponseWriter { return s.ResponseWriter }
