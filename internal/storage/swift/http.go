package swift

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/web"
)

const (
	userAgent = "slipcover"

	// idleConnections is how many are kept for the next requests.
	idleConnections = 32

	// continueWait is how long the answer to "Expect: 100-continue" may take until
	// the body is sent without it.
	continueWait = 5 * time.Second

	// discardBytes is how much of an answer that isn't wanted is read, so that its
	// connection can be used again.
	discardBytes = 64 << 10
)

// newTransport returns a transport whose connections fail when no byte goes or
// comes for timeout, however long a request takes as a whole.
func newTransport(timeout time.Duration, caFile string) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           web.Dialer(timeout),
		MaxIdleConns:          2 * idleConnections,
		MaxIdleConnsPerHost:   idleConnections,
		IdleConnTimeout:       timeout / 2,
		TLSHandshakeTimeout:   min(timeout, 30*time.Second),
		ExpectContinueTimeout: continueWait,
		DisableCompression:    true,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}
	return t, web.Trust(t, service.CA, caFile)
}

var service = web.Service{Name: "Swift", CA: "OS_CACERT"}

// request is one request to the storage.
type request struct {
	method    string
	container string // "" is the account
	name      string // of the object; "" is the container
	query     url.Values
	header    http.Header
	body      *section
}

// do sends a request, and once more after a new log-in if the token is refused. The
// caller closes the answer; what it says, other than 401, is the caller's too.
func (s *Store) do(ctx context.Context, r request) (*http.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now, err := s.login.session(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := s.send(ctx, now, r)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	discard(resp)
	if now, err = s.login.renew(ctx, now); err != nil {
		return nil, err
	}
	return s.send(ctx, now, r)
}

func (s *Store) send(ctx context.Context, now session, r request) (*http.Response, error) {
	u := now.url
	for _, part := range []string{r.container, r.name} {
		if part != "" {
			u += "/" + strings.ReplaceAll(url.PathEscape(part), "%2F", "/")
		}
	}
	if len(r.query) > 0 {
		u += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u, nil)
	if err != nil {
		return nil, errors.New("the storage URL of the log-in isn't a URL")
	}
	for key, values := range r.header {
		req.Header[key] = values
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("X-Auth-Token", now.token)
	var sent bodyReader
	asks := false
	if r.body != nil && r.body.n > 0 {
		sent.section = *r.body
		req.ContentLength = r.body.n
		req.Body = sent.again()
		req.GetBody = func() (io.ReadCloser, error) { return sent.again(), nil }
		if asks = r.body.n >= expectBytes; asks {
			req.Header.Set("Expect", "100-continue")
		}
	} else if r.method == http.MethodPut {
		req.Body = http.NoBody // a put of no bytes has a length, 0
	}
	resp, err := s.client.Do(req)
	if asks && isCutOff(err) && sent.failure() == nil && ctx.Err() == nil {
		// Where the answer to Expect is a refusal, net/http sends the body all the
		// same to keep the connection, which the server may have closed, and tells of
		// that instead of the answer. It doesn't on a connection that it needn't keep.
		// Nothing was stored: the body did not arrive whole.
		req.Close, req.Body = true, sent.again()
		resp, err = s.client.Do(req)
	}
	if err != nil {
		if berr := sent.failure(); berr != nil && ctx.Err() == nil {
			return nil, berr
		}
		return nil, unavailable(ctx, err)
	}
	return resp, nil
}

// isCutOff reports whether err is that the server took no more of a request.
func isCutOff(err error) bool {
	op := (*net.OpError)(nil)
	return errors.As(err, &op) && op.Op == "write" && !op.Timeout()
}

// bodyReader gives the transport a section, and remembers an error of its body.
type bodyReader struct {
	section
	mu  sync.Mutex
	err error // guarded by mu
}

func (b *bodyReader) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *bodyReader) again() io.ReadCloser {
	return io.NopCloser(&sending{b, io.NewSectionReader(b.body, b.off, b.n), b.n})
}

// sending is one time that the section is read.
type sending struct {
	of   *bodyReader
	r    io.Reader
	left int64
}

func (s *sending) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.left -= int64(n)
	if errors.Is(err, io.EOF) && s.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	err = &storage.BodyError{Err: err}
	s.of.mu.Lock()
	s.of.err = err
	s.of.mu.Unlock()
	return n, err
}

// unavailable returns ErrUnavailable with the cause of a request without an answer,
// or the error of ctx if that is the cause.
func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err // the URL would be said twice
	}
	if unfit := (*storage.UnfitError)(nil); errors.As(err, &unfit) {
		return unfit
	}
	if n := net.Error(nil); errors.As(err, &n) && n.Timeout() {
		return fmt.Errorf("%w: nothing moved on the connection for too long: %w", storage.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
}

// discard ends with an answer whose body isn't wanted.
func discard(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, discardBytes) //nolint:errcheck // only saves a connection
	resp.Body.Close()
}

// done ends with an answer, and returns the error that it is.
func (s *Store) done(resp *http.Response) error {
	if resp.StatusCode/100 != 2 {
		return s.refusal(resp)
	}
	discard(resp)
	return nil
}

// readJSON reads an answer to its end.
func readJSON(ctx context.Context, resp *http.Response, into any) error {
	defer discard(resp)
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return unavailable(ctx, fmt.Errorf("read the answer: %w", err))
	}
	return nil
}

// statusError is an answer that isn't a success.
type statusError struct {
	status int
	text   string
	kind   error // of package storage; may be nil
}

func (e *statusError) Error() string {
	if e.kind != nil {
		return e.kind.Error() + ": " + e.text
	}
	return e.text
}

func (e *statusError) Unwrap() error { return e.kind }

// refusal ends with an answer that isn't a success and returns its error.
func (s *Store) refusal(resp *http.Response) error {
	text := message(resp)
	discard(resp)
	return refused(resp, text)
}

func refused(resp *http.Response, text string) error {
	e := &statusError{status: resp.StatusCode, text: text, kind: kindOf(resp.StatusCode)}
	if resp.StatusCode == http.StatusForbidden {
		e.text = lacking(resp.Request) + ": " + text
	}
	if resp.StatusCode == http.StatusRequestEntityTooLarge && strings.Contains(text, "quota") {
		e.kind = storage.ErrFull
	}
	after := web.RetryAfter(resp.Header)
	if after == 0 || !errors.Is(e, storage.ErrUnavailable) {
		return e
	}
	return &storage.UnavailableError{After: after, Err: e}
}

// lacking says what right the user of a request may not have.
func lacking(req *http.Request) string {
	if req == nil {
		return "the user may not do that"
	}
	switch elements := strings.Count(strings.Trim(req.URL.Path, "/"), "/"); {
	case req.Method == http.MethodGet || req.Method == http.MethodHead:
		return "the user may not read there, for which it needs a role that uses the object store, such as member, or X-Container-Read (with .rlistings) of the container"
	case req.Method == http.MethodPut && elements == 2: // /v1/AUTH_project/container
		return "the user may not make containers, for which it needs a role that uses the object store, such as member"
	}
	return "the user may not write there, for which it needs a role that uses the object store, such as member, or X-Container-Write of the container and of the one for segments"
}

// statusRateLimit is Swift's own, of its filter ratelimit.
const statusRateLimit = 498

func kindOf(status int) error {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return storage.ErrDenied
	case status == http.StatusInsufficientStorage:
		return storage.ErrFull
	case status >= 500, status == http.StatusTooManyRequests, status == statusRateLimit,
		status == http.StatusRequestTimeout, status == http.StatusConflict:
		return storage.ErrUnavailable
	}
	return nil
}

// isTooLarge reports whether err is that the server takes no object of that size.
func isTooLarge(err error) bool {
	var e *statusError
	return errors.As(err, &e) && e.status == http.StatusRequestEntityTooLarge && e.kind == nil
}

// message returns what an answer says, and the number by which the server's
// operator finds it in the logs.
func message(resp *http.Response) string {
	text := strings.TrimSpace(strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode))
	if resp.StatusCode == statusRateLimit {
		text = "498 Rate Limited"
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 300)) // what there is of it
	if said, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n"); said != "" && !strings.HasPrefix(said, "<") {
		text += ": " + said
	}
	if id := resp.Header.Get("X-Trans-Id"); id != "" {
		text += " (transaction " + id + ")"
	}
	return text
}
