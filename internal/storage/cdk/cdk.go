// Package cdk keeps objects in Google Cloud Storage (gs://bucket/prefix) and Azure
// Blob Storage (azblob://container/prefix), over the Go CDK's gocloud.dev/blob. The
// object a/b has the name prefix/a/b.
//
// # One request for each call
//
// A Put is one request that streams the body, so that its memory doesn't grow with
// the body, it leaves no parts behind, and the service decides IfAbsent when it has
// all bytes (ifGenerationMatch=0, If-None-Match: *). The service gets the body's MD5
// with it and refuses other bytes. That limits an object to 5 TiB (Google) and 5000
// MiB (Azure).
//
// The retries of both SDKs are off, also the one with which Google's reader would go
// on behind a cut connection: storage/retry decides. What may still ask again is the
// log-in, when it fetches a token. A connection on which nothing moves for two
// minutes is given up.
//
// # Limits
//
// An object's name with the prefix may have 1024 bytes. Keys with "__0x" in them, or
// with an element that ends in ".." and isn't the last, are refused: the CDK spells
// them in another way. Azure is only good without a hierarchical namespace, which
// lists in another order; List says so when it sees it.
package cdk

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/web"
)

const (
	// bufferBytes is what the body of a Put is hashed in.
	bufferBytes = 256 << 10

	// stallTime is how long a connection may stand still.
	stallTime = 2 * time.Minute

	contentType = "application/octet-stream"
)

// Options are the options of Open. The zero value opens what is there.
type Options struct {
	// Create makes the bucket or container if it isn't there.
	Create bool
}

// service is what the two services do in different ways.
type service struct {
	name   string // "Google Cloud Storage"
	place  string // "bucket"
	bucket *blob.Bucket

	// upload stores a body in one request.
	upload func(ctx context.Context, name string, body io.ReadSeeker, sum []byte, ifAbsent bool) error
	// md5 returns the MD5 of the whole object that is being read, nil if the service
	// doesn't say it or its SDK compares by itself.
	md5 func(*blob.Reader) []byte
	// create makes the place; that it exists already is not an error.
	create func(ctx context.Context) error
	// answer returns what the service said in err, false if it said nothing.
	answer func(err error) (answer, bool)
	// right returns what "put", "get", "stat", "list" or "delete" needs, "" if an answer
	// 403 with that code is about something else.
	right func(code, op string) string
	// close frees what the bucket doesn't.
	close func() error
}

// answer is an error that a service answered.
type answer struct {
	status  int           // of HTTP
	code    string        // the service's word
	message string        // the service's sentence
	after   time.Duration // Retry-After
	kind    error         // of the contract; nil if it has none
	// noPlace says that the bucket is missing, noObject that the object is; when the
	// service doesn't tell them apart both are false and maybe is true.
	noPlace, noObject, maybe bool
}

// Store keeps objects in a bucket.
type Store struct {
	service
	prefix string // "" or ends with "/"
	url    string
}

var _ storage.Store = (*Store)(nil)

// place is a parsed URL.
type place struct {
	bucket, prefix string
	params         url.Values
	url            string // for messages
}

// parseURL takes apart scheme://bucket/prefix?params. Its errors don't quote what may
// be a secret.
func parseURL(raw, scheme string, params ...string) (place, error) {
	form := "write " + scheme + "://name/prefix"
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != scheme || u.Opaque != "" || u.Fragment != "" {
		return place{}, fmt.Errorf("that is not a URL of a storage: %s", form)
	}
	if u.User != nil {
		return place{}, fmt.Errorf("a storage URL holds no log-in, which is taken from the environment: %s", form)
	}
	if u.Host == "" || u.Port() != "" {
		return place{}, fmt.Errorf("the URL names no bucket or container: %s", form)
	}
	prefix := strings.Trim(u.Path, "/")
	if prefix != "" && !usable(storage.Key(prefix)) {
		return place{}, fmt.Errorf("the prefix %q has characters or elements that a key can't have", prefix)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return place{}, errors.New("the parameters of the storage URL can't be read")
	}
	known := make(map[string]bool)
	for _, p := range params {
		known[p] = true
	}
	for p, values := range q {
		if !known[p] {
			return place{}, fmt.Errorf("a URL of %s:// has no parameter %q; it can have %s", scheme, p, strings.Join(params, ", "))
		}
		if len(values) > 1 {
			return place{}, fmt.Errorf("the parameter %s is given more than once", p)
		}
	}
	shown := url.URL{Scheme: scheme, Host: u.Host, RawQuery: q.Encode()}
	if prefix != "" {
		shown.Path = "/" + prefix
		prefix += "/"
	}
	return place{u.Host, prefix, q, shown.String()}, nil
}

// open looks whether the place is there, and with create makes it if not.
func open(ctx context.Context, p place, svc service, opts Options) (*Store, error) {
	s := &Store{service: svc, prefix: p.prefix, url: p.url}
	err := s.look(ctx)
	if a, ok := s.answer(err); ok && a.noPlace && opts.Create {
		if err = s.create(ctx); err == nil {
			err = s.look(ctx)
		}
	}
	if err != nil {
		_ = s.Close() // the first error counts
		return nil, s.wrap(ctx, "open storage "+p.url, err)
	}
	return s, nil
}

// look asks for the first object; its error says whether the place can be used.
func (s *Store) look(ctx context.Context) error {
	_, _, err := s.bucket.ListPage(ctx, blob.FirstPageToken, 1, &blob.ListOptions{Prefix: s.prefix})
	return err
}

// URL returns the URL that was opened; it has no secrets.
func (s *Store) URL() string { return s.url }

// Close closes idle connections.
func (s *Store) Close() error { return errors.Join(s.bucket.Close(), s.close()) }

// usable reports whether the CDK gives a key's object the key's name.
func usable(key storage.Key) bool {
	return key.Valid() && !strings.Contains(string(key), "../") && !strings.Contains(string(key), "__0x")
}

// begin is what all methods with a key do first; it returns the object's name.
func (s *Store) begin(ctx context.Context, op string, key storage.Key) (string, error) {
	if !key.Valid() {
		return "", fmt.Errorf("%s %q: not a valid key", op, key)
	}
	if !usable(key) {
		return "", fmt.Errorf("%s %s: no object can have that name in %s: rename it without .. and __0x", op, key, s.name)
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("%s %s: %w", op, key, err)
	}
	return s.prefix + string(key), nil
}

// Put sends the body in one request.
func (s *Store) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	name, err := s.begin(ctx, "put", key)
	if err != nil {
		return err
	}
	if !opts.RetainUntil.IsZero() {
		return fmt.Errorf("put %s: protecting single objects until a date isn't supported in %s; set a retention policy on the %s", key, s.name, s.place)
	}
	sum, err := (&bodyReader{ctx: ctx, body: storage.Preread(body)}).md5()
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	r := &bodyReader{ctx: ctx, body: body}
	err = s.upload(ctx, name, r, sum, opts.IfAbsent)
	if bodyErr := r.close(); bodyErr != nil && err != nil {
		return fmt.Errorf("put %s: %w", key, bodyErr)
	}
	if a, ok := s.answer(err); ok && a.maybe { // there was no object to be found
		err = s.gone()
	}
	return s.wrap(ctx, "put "+string(key), err)
}

// gone returns the error for a place that isn't there.
func (s *Store) gone() error {
	return fmt.Errorf("%w: %s has no such %s", storage.ErrNoPlace, s.name, s.place)
}

// bodyReader reads a body from start to end, as often as asked to. A body that is
// shorter than its size is an error, and so is a context that is done. After close it
// doesn't touch the body: a request that failed may still be reading.
type bodyReader struct {
	ctx  context.Context
	body storage.Body

	mu     sync.Mutex
	off    int64 // guarded by mu, as are those below
	err    error // of the body or of ctx
	closed bool
}

// close returns the error of the body or of ctx that a read has had.
func (r *bodyReader) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.err
}

func (r *bodyReader) md5() ([]byte, error) {
	if size := r.body.Size(); size < 0 {
		return nil, fmt.Errorf("read the body: its size is %d", size)
	}
	h := md5.New()
	buf := make([]byte, min(bufferBytes, r.body.Size()+1))
	if _, err := io.CopyBuffer(h, r, buf); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

func (r *bodyReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, errors.New("the put is over")
	}
	left := r.body.Size() - r.off
	if left <= 0 {
		return 0, io.EOF
	}
	if r.err = r.ctx.Err(); r.err != nil {
		return 0, r.err
	}
	p = p[:min(int64(len(p)), left)]
	n, err := r.body.ReadAt(p, r.off)
	r.off += int64(n)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%d bytes of %d: %w", r.off, r.body.Size(), io.ErrUnexpectedEOF)
	}
	r.err = fmt.Errorf("read the body: %w", err)
	return n, r.err
}

func (r *bodyReader) Seek(offset int64, whence int) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		offset += r.body.Size()
	}
	if offset < 0 {
		return r.off, errors.New("seek before the start of the body")
	}
	r.off = offset
	return offset, nil
}

// Get reads in one request.
func (s *Store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	name, err := s.begin(ctx, "get", key)
	if err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("get %s: negative offset %d", key, off)
	}
	if n == 0 { // the services take no bytes for all bytes
		if _, err := s.stat(ctx, key, name, "get"); err != nil {
			return err
		}
		return fn(strings.NewReader(""))
	}
	if n < 0 || n > math.MaxInt64-off {
		n = -1
	}
	cut := &cutNote{}
	r, err := s.bucket.NewRangeReader(context.WithValue(ctx, cutKey{}, cut), name, off, n, nil)
	if a, ok := s.answer(err); ok && a.status == http.StatusRequestedRangeNotSatisfiable {
		return fn(strings.NewReader("")) // off is at the end or behind it
	}
	if err != nil {
		return s.wrap(ctx, "get "+string(key), s.absent(ctx, err))
	}
	defer func() { _ = r.Close() }() // only read from
	left := max(0, r.Size()-off)
	if n >= 0 {
		left = min(n, left)
	}
	or := &objectReader{ctx: ctx, store: s, key: key, r: r, left: left}
	if off == 0 && left == r.Size() {
		or.want = s.md5(r)
	}
	err = fn(or)
	if or.err != nil && !errors.Is(err, or.err) {
		return or.err // whatever fn made of it
	}
	return err
}

// Stat asks for the object's attributes.
func (s *Store) Stat(ctx context.Context, key storage.Key) (storage.Info, error) {
	name, err := s.begin(ctx, "stat", key)
	if err != nil {
		return storage.Info{}, err
	}
	return s.stat(ctx, key, name, "stat")
}

func (s *Store) stat(ctx context.Context, key storage.Key, name, op string) (storage.Info, error) {
	a, err := s.bucket.Attributes(ctx, name)
	if err != nil {
		return storage.Info{}, s.wrap(ctx, op+" "+string(key), s.absent(ctx, err))
	}
	return storage.Info{Key: key, Size: a.Size, Modified: a.ModTime.UTC()}, nil
}

// absent turns an answer that says "not found", and not of what, into one that does.
func (s *Store) absent(ctx context.Context, err error) error {
	if a, ok := s.answer(err); !ok || !a.maybe {
		return err
	}
	if gone := s.look(ctx); gone != nil {
		return gone
	}
	return storage.ErrNotExist
}

// List asks for a thousand objects at a time.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if prefix != "" {
		key, ok := strings.CutSuffix(prefix, "/")
		if !ok || !storage.Key(key).Valid() {
			return fmt.Errorf("list %q: not a valid prefix", prefix)
		}
		if !usable(storage.Key(prefix + "x")) {
			return nil // no object is stored there
		}
	}
	last := ""
	objects := s.bucket.List(&blob.ListOptions{Prefix: s.prefix + prefix})
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		o, err := objects.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.wrap(ctx, "list "+prefix, err)
		}
		if o.Key <= last {
			return fmt.Errorf("list %s: %s doesn't list in the order of bytes, %q behind %q; use an account without hierarchical namespace", prefix, s.name, o.Key, last)
		}
		last = o.Key
		key := storage.Key(strings.TrimPrefix(o.Key, s.prefix))
		if !usable(key) {
			continue // somebody else's
		}
		if err := fn(storage.Info{Key: key, Size: o.Size, Modified: o.ModTime.UTC()}); err != nil {
			return err
		}
	}
}

// Delete removes the object in one request.
func (s *Store) Delete(ctx context.Context, key storage.Key) error {
	name, err := s.begin(ctx, "delete", key)
	if err != nil {
		return err
	}
	err = s.wrap(ctx, "delete "+string(key), s.absent(ctx, s.bucket.Delete(ctx, name)))
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}

// wrap says what was being done, and which of the contract's errors it is. The SDKs'
// errors are left behind: they have many lines, and URLs with signatures.
func (s *Store) wrap(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, ctx.Err())
	case errors.Is(err, storage.ErrNotExist), errors.Is(err, storage.ErrDenied), errors.Is(err, storage.ErrUnavailable):
		return fmt.Errorf("%s: %w", what, err)
	}
	if unfit := (*storage.UnfitError)(nil); errors.As(err, &unfit) {
		return fmt.Errorf("%s: %w", what, unfit)
	}
	a, ok := s.answer(err)
	switch {
	case !ok:
		return fmt.Errorf("%s: %w: %s", what, storage.ErrUnavailable, s.noAnswer(err))
	case a.noObject:
		return fmt.Errorf("%s: %w", what, storage.ErrNotExist)
	case a.noPlace:
		return fmt.Errorf("%s: %w", what, s.gone())
	}
	text := fmt.Sprintf("%s: %s answered %d", what, s.name, a.status)
	for _, part := range []string{a.code, a.message} {
		if part, _, _ = strings.Cut(part, "\n"); part != "" {
			text += ", " + part
		}
	}
	switch {
	case a.kind != nil:
		return fmt.Errorf("%w: %s", a.kind, text)
	case a.after > 0:
		return &storage.UnavailableError{After: a.after, Err: errors.New(text)}
	case a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout || a.status >= 500:
		return fmt.Errorf("%w: %s", storage.ErrUnavailable, text)
	case a.status == http.StatusForbidden:
		return fmt.Errorf("%w: %s%s", storage.ErrDenied, text, s.lacking(what, a))
	case a.status == http.StatusUnauthorized:
		return fmt.Errorf("%w: %s", storage.ErrDenied, text)
	}
	return errors.New(text)
}

// lacking names the right that is missing; what begins with what was being done.
func (s *Store) lacking(what string, a answer) string {
	op, _, _ := strings.Cut(what, " ")
	if op == "open" {
		op = "list" // which is how it is looked whether the place is there
	}
	if right := s.right(a.code, op); right != "" && !strings.Contains(a.message, right) {
		return ": the right may be missing: " + right
	}
	return ""
}

// noAnswer describes a failure to reach the service, without the URL.
func (s *Store) noAnswer(err error) string {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return s.name + " gave no answer: " + text
}

// caVariable names a file of certificates that Go trusts, and these SDKs with it.
const caVariable = "SSL_CERT_FILE"

// newTransport returns a transport with limits on how long nothing may happen.
func newTransport(stall time.Duration) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 32
	t.DisableCompression = true
	t.DialContext = web.Dialer(stall)
	return t
}
