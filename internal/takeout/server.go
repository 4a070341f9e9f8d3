package takeout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/localhost"
)

var (
	// ErrUnavailable says that the target can't be reached, or fails again and again.
	ErrUnavailable = errors.New("the server does not answer")
	// ErrDenied says that the target lets this user not do it.
	ErrDenied = errors.New("the server refuses")
	// ErrNoTarget says that the target has no such database.
	ErrNoTarget = errors.New("the server has no such database")
	// ErrTaken says that there is a database of the name that one is to have.
	ErrTaken = errors.New("the server has such a database already")
)

const (
	// tries is how often something is tried that may be other the next time.
	tries = 6
	// headerWait is how long the server has for the head of an answer, once a request is sent.
	headerWait = 10 * time.Minute
	// answerLimit bounds an answer that is kept in memory, in bytes.
	answerLimit = 64 << 20
	// firstWait is before the second try; it doubles.
	firstWait = 250 * time.Millisecond
)

// Server is a living CouchDB.
type Server struct {
	URL string // without user and password

	user, password string
	client         *http.Client
}

// failure is an answer of CouchDB's that isn't 2xx.
type failure struct {
	Status int
	Name   string `json:"error"`
	Reason string `json:"reason"`
	what   string
}

func (f *failure) Error() string {
	return fmt.Sprintf("%s: the server answers %d %s: %s", f.what, f.Status, f.Name, f.Reason)
}

func (f *failure) Unwrap() error {
	switch {
	case f.Status == http.StatusUnauthorized, f.Status == http.StatusForbidden:
		return ErrDenied
	case f.again():
		return ErrUnavailable
	}
	return nil
}

// again reports whether another try may do. A cluster's node may answer the first request for a database of its own with a
// conflict, as it makes another one then.
//
// Source: CouchDB 3.5, src/chttpd/src/chttpd_node.erl, which has couch_auth_cache make the node's _users; tried on three nodes.
func (f *failure) again() bool {
	return f.Status >= 500 || f.Status == http.StatusTooManyRequests || f.Status == http.StatusConflict && strings.HasPrefix(f.what, http.MethodGet+" ")
}

// statusOf is the status of a failure, else 0.
func statusOf(err error) int {
	var f *failure
	if errors.As(err, &f) {
		return f.Status
	}
	return 0
}

// Open finds out what a URL is: a server, then db is "", or a database on one. A server may be below a path. Errors are in
// words, and never have a password.
func Open(ctx context.Context, raw, user, password string) (s *Server, db string, err error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, "", errors.New("the URL of a server looks like https://db.example.org:6984, that of a database on it like https://db.example.org:6984/orders")
	}
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.DialContext = localhost.Dialer(&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second})
	tr.ResponseHeaderTimeout, tr.MaxIdleConnsPerHost = headerWait, 16
	s = &Server{user: user, password: password, client: &http.Client{Transport: tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	base := u.Scheme + "://" + u.Host
	path := strings.Trim(u.EscapedPath(), "/")
	s.URL = strings.TrimSuffix(base+"/"+path, "/")
	is, err := s.welcomes(ctx)
	if err != nil || is {
		return s, "", err
	}
	parent, last := "", path
	if i := strings.LastIndex(path, "/"); i >= 0 {
		parent, last = path[:i], path[i+1:]
	}
	if db, err = url.PathUnescape(last); err != nil || path == "" {
		return nil, "", fmt.Errorf("what answers at %s is no CouchDB: check the URL", s.URL)
	}
	whole := s.URL
	s.URL = strings.TrimSuffix(base+"/"+parent, "/")
	if is, err = s.welcomes(ctx); err == nil && !is {
		err = fmt.Errorf("neither %s nor what is above it is a CouchDB: check the URL; slashes in a database's name are %%2F", whole)
	}
	return s, db, err
}

// welcomes reports whether the URL is that of a CouchDB.
func (s *Server) welcomes(ctx context.Context) (bool, error) {
	var w struct{ CouchDB string }
	err := s.once(ctx, http.MethodGet, "/", nil, &w)
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return false, nil
	}
	if st := statusOf(err); st == http.StatusNotFound || st == http.StatusBadRequest || st == http.StatusMethodNotAllowed {
		return false, nil
	}
	// A database that one may not read is none that welcomes; who asks for it is told later.
	return w.CouchDB != "", err
}

// dbPath is the path of a database, or of what is in it. CouchDB takes a "+" for a space.
func dbPath(db string, parts ...string) string {
	path := "/" + escape(db)
	for _, p := range parts {
		path += "/" + p
	}
	return path
}

func escape(s string) string { return strings.ReplaceAll(url.PathEscape(s), "+", "%2B") }

// docPath is the path of a document. Design documents keep their slash.
func docPath(db, id string) string {
	if name, ok := strings.CutPrefix(id, "_design/"); ok {
		return dbPath(db, "_design", escape(name))
	}
	if name, ok := strings.CutPrefix(id, "_local/"); ok {
		return dbPath(db, "_local", escape(name))
	}
	return dbPath(db, escape(id))
}

// request makes a request. A body is JSON if no type is given.
func (s *Server) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.user != "" {
		req.SetBasicAuth(s.user, s.password)
	}
	return req, nil
}

// do sends a request once. The error is a *failure for an answer that isn't 2xx. The answer's body must be closed.
func (s *Server) do(req *http.Request) (*http.Response, error) {
	what := req.Method + " " + req.URL.EscapedPath()
	resp, err := s.client.Do(req)
	if err != nil {
		if ctx := req.Context(); ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // whose URL would be told twice
		}
		return nil, fmt.Errorf("%w at %s: %w", ErrUnavailable, s.URL, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	f := &failure{Status: resp.StatusCode, what: what}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || json.Unmarshal(b, f) != nil {
		f.Reason = http.StatusText(f.Status)
	}
	return nil, f
}

// call sends JSON, decodes the answer into what into points to, unless that is nil, and tries again what may go well then.
// It must be something that may be done twice.
func (s *Server) call(ctx context.Context, method, path string, body, into any) error {
	var b []byte
	switch x := body.(type) {
	case nil:
	case []byte:
		b = x
	default:
		var err error
		if b, err = json.Marshal(x); err != nil {
			return err
		}
	}
	return s.again(ctx, func() error { return s.once(ctx, method, path, b, into) })
}

// once is call without another try.
func (s *Server) once(ctx context.Context, method, path string, body []byte, into any) error {
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(body)
	}
	req, err := s.request(ctx, method, path, in)
	if err != nil {
		return err
	}
	resp, err := s.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w: its answer to %s %s was cut off: %w", ErrUnavailable, method, path, err)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read the server's answer to %s %s: %w", method, path, err)
	}
	return nil
}

// again calls fn until it goes well, or fails with what another try won't change, some times at most.
func (s *Server) again(ctx context.Context, fn func() error) error {
	wait := firstWait
	for n := 1; ; n++ {
		err := fn()
		if err == nil || !errors.Is(err, ErrUnavailable) || n == tries || ctx.Err() != nil {
			return err
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		wait *= 2
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// User is who asks, "" if nobody logs in.
func (s *Server) User() string { return s.user }

// Password is the user's.
func (s *Server) Password() string { return s.password }
