package s3

import (
	"context"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipcover/slipcover/internal/storage/web"
)

// reply is what the transport keeps of the last answer to the requests of one
// context: what the client's errors leave out.
type reply struct {
	mu     sync.Mutex
	req    *http.Request // guarded by mu; the last
	code   int           // guarded by mu; 0 if there was no answer
	header http.Header   // guarded by mu
	err    error         // guarded by mu; why there was no answer

	// body gives the bytes of the request anew, if a connection that the server had
	// closed meanwhile is found out before any were sent.
	body func() io.ReadCloser
}

type replyKey struct{}

// watch returns a context whose requests are noted in the reply.
func watch(ctx context.Context) (context.Context, *reply) {
	r := &reply{}
	return context.WithValue(ctx, replyKey{}, r), r
}

func (r *reply) status() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.code
}

func (r *reply) get(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.header.Get(name)
}

func (r *reply) headers() http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.header
}

func (r *reply) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// request returns the last request, nil if there was none.
func (r *reply) request() *http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.req
}

func (r *reply) note(req *http.Request, resp *http.Response, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.req, r.code, r.header, r.err = req, 0, nil, err
	if err == nil {
		r.code, r.header = resp.StatusCode, resp.Header
	}
}

// transport is the HTTP client's lower half.
type transport struct {
	*http.Transport
	swift atomic.Bool
}

var service = web.Service{Name: "S3", CA: "AWS_CA_BUNDLE"}

// connections bounds the idle connections to one host: those of parallel puts and
// ranged reads.
const connections = 32

// newTransport returns a transport that gives up when for so long nothing moves,
// however long the whole takes.
func newTransport(timeout time.Duration) (*transport, error) {
	t := &transport{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         web.Dialer(timeout),
		MaxIdleConns:        2 * connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     30 * time.Second,
		TLSHandshakeTimeout: min(timeout, 30*time.Second),
		DisableCompression:  true, // bytes come as they are stored
	}}
	return t, web.Trust(t.Transport, service.CA, os.Getenv(service.CA))
}

// RoundTrip sends a request and notes the answer.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	r, _ := req.Context().Value(replyKey{}).(*reply)
	if r == nil {
		return service.Send(t.Transport, req)
	}
	req = req.Clone(req.Context())
	if r.body != nil && req.Body != nil && req.ContentLength > 0 {
		req.GetBody = func() (io.ReadCloser, error) { return r.body(), nil }
	}
	// Swift's S3 answers a HEAD of what isn't there with a body, which would be taken
	// for the start of the next answer.
	req.Close = req.Method == http.MethodHead && t.swift.Load()
	resp, err := service.Send(t.Transport, req)
	r.note(req, resp, err)
	if err == nil && resp.Header.Get("X-Openstack-Request-Id") != "" {
		t.swift.Store(true)
	}
	return resp, err
}
