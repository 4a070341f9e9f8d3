package httpd

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	// RequestIDHeader is the header of every answer with the request's id.
	RequestIDHeader = "X-Openstack-Request-Id"

	// statusNone stands in logs for a request that a handler gave up without an answer.
	statusNone = 499

	maxBody   = 1 << 20 // bytes of a request's body
	maxTarget = 1024    // bytes of a path that the audit log takes
	maxTried  = 255     // and of Request.Tried
)

// Request is what is known of a request beside its text. A handler that finds out who
// asks, and what is done to what, notes it here before it answers, for the logs.
type Request struct {
	ID      string // "req-" and a UUID
	Address string // of the client, without port

	// Who asks. Role is a word.
	User, UserID, Project, Role string
	// Tried is who somebody who isn't known says to be, where that was refused: for the audit
	// log. The request counts as one of nobody.
	Tried string
	// Action and Target are for the audit log; by default the pattern of the route and
	// the path of the URL.
	Action, Target string
	// Looked has it in the audit log though it changes nothing: somebody looked at what not everybody may see.
	Looked bool
}

type requestKey struct{}

// Of returns the Request of a context; outside of an API's handler an empty one.
func Of(ctx context.Context) *Request {
	if r, ok := ctx.Value(requestKey{}).(*Request); ok {
		return r
	}
	return &Request{}
}

// API is what the handlers of one API have around them. All but Log, Broken and
// TooMany may be left out.
type API struct {
	Name    string // label of the metrics, such as "trove"
	Log     *slog.Logger
	Metrics *Metrics
	Audit   *Audit
	// Addresses limits the requests of each address of which it isn't known who asks, before
	// anything else is done.
	Addresses *Limiter
	// Known reports whether it is known who sends a request. Of an address over its limit
	// only such requests are let through; nil: none.
	Known func(*http.Request) bool
	// Proxies are whom to believe what X-Forwarded-For says of the client.
	Proxies []netip.Prefix
	// Broken answers, with status 500, in place of a handler that panicked.
	Broken func(http.ResponseWriter, *http.Request)
	// MostBody is how many bytes the body of a request may have; 1 MiB if 0.
	MostBody int64
	// TooMany answers a request that goes over a limit. Retry-After is set already.
	TooMany func(http.ResponseWriter, *http.Request, Allowance)
}

// Handler puts all of it around a handler, of which a ServeMux is one.
//
// The body of a request may have 1 MiB, or MostBody: who reads more gets a *http.MaxBytesError.
//
// Each request is logged when it ends, by its route and never by its URL, whose query
// may hold secrets. One that may change something, which is any but GET, HEAD and
// OPTIONS, is in the audit log before its answer begins, if it is known who asks or says to.
func (a API) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, next) })
}

func (a *API) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	begin := time.Now()
	q := &Request{ID: "req-" + uuid.NewString(), Address: a.address(r)}
	r = r.WithContext(context.WithValue(r.Context(), requestKey{}, q))
	ctx := r.Context()
	answer := &answer{ResponseWriter: w}
	key := AddressKey(q.Address)
	allowed := a.Addresses.Look(key)
	allowed.OK = allowed.OK || a.Known != nil && a.Known(r)
	answer.before = func() {
		if allowed.OK && q.User == "" && q.UserID == "" { // nobody whom we know: it counts
			a.Addresses.Allow(key)
		}
		a.audit(ctx, r, q, answer.status)
	}
	answer.Header().Set(RequestIDHeader, q.ID)
	r.Body = http.MaxBytesReader(w, r.Body, cmp.Or(a.MostBody, maxBody))
	a.Metrics.begin(a.Name)
	defer func() {
		took := time.Since(begin)
		a.Metrics.end(a.Name, r.Method, answer.status, took)
		level := slog.LevelInfo
		if !allowed.OK {
			level = slog.LevelDebug // who sends too much doesn't fill the log; the metrics count it
		} else if answer.status >= http.StatusInternalServerError {
			level = slog.LevelWarn
		}
		a.Log.LogAttrs(ctx, level, "request", slog.String("api", a.Name), slog.String("method", methodLabel(r.Method)), slog.String("route", r.Pattern),
			slog.Int("status", answer.status), slog.Duration("took", took), slog.Int64("bytes", answer.bytes), slog.String("request_id", q.ID),
			slog.String("user", q.User), slog.String("project", q.Project), slog.String("address", q.Address))
	}()
	defer func() {
		if p := recover(); p != nil {
			a.panicked(answer, r, p)
		}
		answer.finish()
	}()
	if !allowed.OK {
		allowed.SetHeader(answer)
		a.TooMany(answer, r, allowed)
		return
	}
	next.ServeHTTP(answer, r)
}

// panicked answers in place of a handler that panicked. If it had begun to answer,
// the connection is cut, so that nobody takes the beginning for the whole.
func (a *API) panicked(w *answer, r *http.Request, p any) {
	//nolint:errorlint // net/http compares this value, and so do we: a handler that wants the connection cut
	if p == http.ErrAbortHandler {
		w.begin(statusNone)
		panic(p)
	}
	a.Log.ErrorContext(r.Context(), "handler panicked", "panic", p, "request_id", Of(r.Context()).ID, "route", r.Pattern, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	a.Broken(w, r)
}

func (a *API) audit(ctx context.Context, r *http.Request, q *Request, status int) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		if !q.Looked {
			return
		}
	}
	if a.Audit == nil || q.User == "" && q.UserID == "" && q.Tried == "" {
		return
	}
	outcome := "ok"
	if status >= http.StatusBadRequest {
		outcome = "failed"
	}
	path := r.URL.Path
	a.Audit.Write(ctx, AuditRecord{RequestID: q.ID, User: cmp.Or(q.User, q.Tried[:min(len(q.Tried), maxTried)]), UserID: q.UserID, Project: q.Project, Role: q.Role, Address: q.Address,
		Action: cmp.Or(q.Action, r.Pattern, r.Method), Target: cmp.Or(q.Target, path[:min(len(path), maxTarget)]), Outcome: outcome, Status: status})
}

// address returns the client's address, as the last proxy that is trusted saw it.
func (a *API) address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !a.proxy(host) {
			break
		}
		hop = strings.TrimSpace(hop)
		next, err := netip.ParseAddr(hop)
		if at, perr := netip.ParseAddrPort(hop); perr == nil { // as some proxies write it
			next, err = at.Addr(), nil
		}
		if err != nil {
			break
		}
		host = next.String()
	}
	return host
}

func (a *API) proxy(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && slices.ContainsFunc(a.Proxies, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
}

// answer notes what a handler answers.
type answer struct {
	http.ResponseWriter
	before func() // is called once, when status is known, before the answer is sent
	status int    // 0 before
	bytes  int64  // of the body
}

func (w *answer) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *answer) begin(status int) {
	if w.status == 0 {
		w.status = status
		w.before()
	}
}

func (w *answer) Write(p []byte) (int, error) {
	w.finish()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// FlushError is for http.ResponseController.
func (w *answer) FlushError() error {
	w.finish()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// finish sends the header, if it wasn't sent.
func (w *answer) finish() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
}

// Unwrap is for http.ResponseController.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
