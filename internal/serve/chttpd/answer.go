package chttpd

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/viewindex"
)

// fail is an answer that says what is wrong, in CouchDB's words.
type fail struct {
	status       int
	name, reason string
	header       [2]string // one more
}

func (f fail) Error() string { return f.name + ": " + f.reason }

// Failures of the server's own.
func badRequest(format string, args ...any) fail {
	return fail{status: http.StatusBadRequest, name: "bad_request", reason: fmt.Sprintf(format, args...)}
}

func notFound(reason string) fail {
	return fail{status: http.StatusNotFound, name: "not_found", reason: reason}
}

func notImplemented(format string, args ...any) error {
	return fail{status: http.StatusNotImplemented, name: "not_implemented", reason: fmt.Sprintf(format, args...)}
}

func methods(allowed string) error {
	return fail{status: http.StatusMethodNotAllowed, name: "method_not_allowed", reason: "Only " + allowed + " allowed", header: [2]string{"Allow", allowed}}
}

// errReadOnly answers what would write.
var errReadOnly = fail{status: http.StatusForbidden, name: "forbidden", reason: "This is a backup, which can only be read."}

var (
	errNoDB    = notFound("Database does not exist.")
	errMissing = notFound("missing")

	errTooLarge = fail{status: http.StatusRequestEntityTooLarge, name: "too_large", reason: "the request entity is too large"}
	errConflict = fail{status: http.StatusConflict, name: "conflict", reason: "Document update conflict."}
	errNoAdmin  = fail{status: http.StatusUnauthorized, name: "unauthorized", reason: "You are not a server admin."}
)

// answer writes an answer. Nothing is sent before begin, nor before the buffer is full: what goes wrong until then can still
// be told.
type answer struct {
	w      http.ResponseWriter
	head   bool
	begun  bool
	status int
	sent   bool // the status and the headers
	buf    *bufio.Writer
	end    string    // what finish writes
	until  time.Time // deadline of what is written
}

// mostWrite is how long a client may take to read some 32 KiB.
const mostWrite = time.Minute

// extend gives the client time to read what is written now, however long the whole answer takes.
func (a *answer) extend() {
	if now := time.Now(); a.until.Sub(now) < mostWrite/2 {
		a.until = now.Add(mostWrite)
		_ = http.NewResponseController(a.w).SetWriteDeadline(a.until) // tests have writers without
	}
}

// writer is what answers are buffered for.
type writer struct{ a *answer }

func (w writer) Write(b []byte) (int, error) {
	w.a.extend()
	w.a.send()
	return w.a.w.Write(b)
}

// send sends the status and the headers.
func (a *answer) send() {
	if !a.sent {
		a.sent = true
		a.w.WriteHeader(a.status)
	}
}

// begin decides on the status and the headers.
func (a *answer) begin(status int) {
	a.begun, a.status = true, status
	a.buf = bufio.NewWriterSize(writer{a}, 32<<10)
}

// beginJSON begins an answer of JSON whose length isn't known.
func (a *answer) beginJSON(status int) {
	a.jsonHeaders()
	a.beginChunked(status)
	a.end = "\n"
}

// beginChunked begins an answer whose length isn't known. Package net/http would find it out for short ones.
func (a *answer) beginChunked(status int) {
	a.w.Header().Set("Transfer-Encoding", "chunked")
	a.begin(status)
}

func (a *answer) jsonHeaders() {
	setDefault(a.w.Header(), "Cache-Control", "must-revalidate")
	setDefault(a.w.Header(), "Content-Type", "application/json")
}

func setDefault(h http.Header, name, value string) {
	if h.Get(name) == "" {
		h.Set(name, value)
	}
}

// Write writes to an answer that has begun. To a HEAD it writes nothing.
func (a *answer) Write(b []byte) (int, error) {
	if a.head {
		return len(b), nil
	}
	return a.buf.Write(b)
}

func (a *answer) writeString(s string) error {
	_, err := io.WriteString(a, s)
	return err
}

// flush sends what was written.
func (a *answer) flush() error {
	if a.head {
		return nil
	}
	a.send()
	if err := a.buf.Flush(); err != nil {
		return err
	}
	a.extend()
	return http.NewResponseController(a.w).Flush()
}

// finish ends an answer that has begun.
func (a *answer) finish() error {
	if !a.begun {
		return nil
	}
	if a.head {
		a.send()
		return nil
	}
	if a.end != "" {
		if _, err := a.buf.WriteString(a.end); err != nil {
			return err
		}
	}
	a.send() // an answer may be empty
	return a.buf.Flush()
}

// json answers with a value.
func (r *request) json(status int, v ejson.Value) error { return r.raw(status, ejson.Append(nil, v)) }

// raw answers with JSON.
func (r *request) raw(status int, b []byte) error {
	r.w.jsonHeaders()
	r.w.w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	r.w.begin(status)
	r.w.end = "\n"
	_, err := r.w.Write(b)
	return err
}

// failed answers with what is wrong, or cuts an answer off of which something was sent.
func (r *request) failed(err error) {
	var f fail
	var args *mrargs.Error
	var find *mango.Error
	var view *viewindex.Unable
	switch {
	case errors.As(err, &f):
	case errors.As(err, &args):
		f = fail{status: args.Status, name: args.Name, reason: args.Reason}
	case errors.As(err, &find):
		f = fail{status: find.Status, name: find.Name, reason: find.Reason}
	case errors.As(err, &view):
		f = fail{status: http.StatusNotImplemented, name: "not_implemented", reason: view.Reason}
	case r.Context().Err() != nil || errors.Is(err, context.Canceled):
		panic(http.ErrAbortHandler) // who asked has left
	default:
		f = r.translate(err)
		if f.status >= http.StatusInternalServerError {
			r.h.o.Log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		}
	}
	if r.w.sent {
		panic(http.ErrAbortHandler)
	}
	r.w.end = ""
	hd := r.w.w.Header()
	for name := range hd {
		if !slices.Contains([]string{"Server", "X-Couch-Request-Id", "X-Couchdb-Body-Time", "Set-Cookie"}, name) && !slices.Contains(r.before, name) {
			hd.Del(name) // of the answer that it isn't
		}
	}
	if f.header[0] != "" {
		hd.Set(f.header[0], f.header[1])
	}
	v := ejson.Object{{Name: "error", Value: f.name}, {Name: "reason", Value: f.reason}}
	if err := r.json(f.status, v); err == nil {
		_ = r.w.finish() // the client is gone
	}
}

// translate says in CouchDB's words what went wrong.
func (r *request) translate(err error) fail {
	switch {
	case errors.Is(err, serve.ErrNoDatabase):
		return errNoDB
	case errors.Is(err, couchfile.ErrDeleted):
		return notFound("deleted")
	case errors.Is(err, couchfile.ErrNotFound), errors.Is(err, couchfile.ErrMissing):
		return errMissing
	case errors.Is(err, ejson.ErrInvalid):
		return badRequest("invalid UTF-8 JSON")
	case errors.Is(err, serve.ErrNoShard):
		return fail{status: http.StatusServiceUnavailable, name: "service unavailable", reason: "The backup has no copy of a shard that is asked for: " + err.Error()}
	default:
		return fail{status: http.StatusInternalServerError, name: "internal_server_error", reason: "What is stored can't be read: " + err.Error()}
	}
}

// body reads the body of a request.
func (r *request) body() ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(r.w.w, r.Body, mostBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, errTooLarge
	}
	if err != nil {
		return nil, badRequest("the request's body can't be read")
	}
	return r.decompress(b)
}

// objectBody reads a body that must be a JSON object. It may be called again.
func (r *request) objectBody() (ejson.Object, error) {
	if r.read {
		return r.obj, nil
	}
	b, err := r.body()
	if err != nil {
		return nil, err
	}
	v, err := ejson.Parse(b)
	if err != nil {
		return nil, err
	}
	o, ok := v.(ejson.Object)
	if !ok {
		return nil, badRequest("Request body must be a JSON object")
	}
	r.obj, r.read = o, true
	return o, nil
}

// posted reads the JSON object of a request that must be a POST of one.
func (r *request) posted() (ejson.Object, error) {
	if r.method != http.MethodPost {
		return nil, methods("POST")
	}
	if err := r.jsonType(); err != nil {
		return nil, err
	}
	return r.objectBody()
}

// jsonType refuses a body of another type.
func (r *request) jsonType() error {
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); t != "application/json" {
		return fail{status: http.StatusUnsupportedMediaType, name: "bad_content_type", reason: "Content-Type must be application/json"}
	}
	return nil
}

// etag answers 304 if the client has what an entity tag names, and sets the header else.
func (r *request) etag(tag string) (done bool) {
	r.w.w.Header()["Etag"] = []string{tag}
	for t := range strings.FieldsFuncSeq(r.Header.Get("If-None-Match"), func(c rune) bool { return c == ',' || c == ' ' }) {
		if strings.TrimPrefix(t, "W/") == tag {
			r.w.begin(http.StatusNotModified)
			return true
		}
	}
	return false
}

// accepts reports whether a client takes a content type, as mochiweb does: it takes all if it says nothing.
func (r *request) accepts(ctype string) bool {
	header := strings.Join(r.Header.Values("Accept"), ",")
	if header == "" {
		return true
	}
	group, _, _ := strings.Cut(ctype, "/")
	group += "/*"
	takes := false
	for p := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(p, ";")
		name = strings.TrimSpace(name)
		q := quality(params)
		if q == 0 && (name == ctype || name == group) {
			return false
		}
		takes = takes || q > 0 && (name == "*/*" || name == ctype || name == group)
	}
	return takes
}

// quality reads q=0.5 out of parameters, 1 if it isn't there.
func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		if v, ok := strings.CutPrefix(strings.TrimSpace(p), "q="); ok {
			if f, err := strconv.ParseFloat(v, 64); err == nil {
				return f
			}
		}
	}
	return 1
}

// decompress undoes what Content-Encoding says of a body.
func (r *request) decompress(b []byte) ([]byte, error) {
	switch enc := cmp.Or(r.Header.Get("Content-Encoding"), "identity"); enc {
	case "identity":
		return b, nil
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err == nil {
			b, err = io.ReadAll(io.LimitReader(z, mostBody+1))
		}
		switch {
		case err != nil:
			return nil, badRequest("Request body is not properly gzipped.")
		case len(b) > mostBody:
			return nil, errTooLarge
		}
		return b, nil
	default:
		return nil, fail{status: http.StatusUnsupportedMediaType, name: "bad_content_type", reason: enc + " is not a supported content encoding."}
	}
}
