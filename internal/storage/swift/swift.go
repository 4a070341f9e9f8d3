// Package swift keeps objects in a container of OpenStack Swift: the key a/b is
// the object PREFIX/a/b.
//
// The library github.com/ncw/swift/v2 logs in. Requests about objects are made
// here, one for each Put of at most the segment size and one for each Get, so that
// no body is held in memory and the server's answer decides what error it is.
//
// # Put if absent
//
// Swift has If-None-Match: *, and looks before the body comes, not when it is
// stored: of puts that begin at the same moment several are answered 201, and the
// last one stays. So a body of at most 1 MiB is put under a claim, an empty object
// that List doesn't show: put the claim, list the claims on this key, and only when
// there is no other one put the object. Of two that begin together at least one
// sees the other's claim, and then the one with the lesser name goes first. This
// takes three small requests more. It relies on the listing of claims being up to
// date, which it is while the container servers are in order. Larger bodies have
// If-None-Match alone: an object that is there stays, but two puts at the same
// moment may both succeed.
//
// What a crash leaves is a claim, which stands in the way of that key for two
// minutes, and which Swift removes after an hour.
//
// # Large objects
//
// A body above the segment size, or above what the server takes, becomes a static
// large object: segments in the container NAME_segments, where the swift command
// puts its own, and a manifest. List and Stat give its whole size. Delete and Put
// remove the segments of the object that was there. A crash, or a cut connection
// between the segments and the manifest, leaves segments that nothing names; they
// cost space and nothing else. Another process that has put the first large object
// of the container is noticed within a minute; what is deleted or replaced before
// that leaves its segments too.
//
// # Listings
//
// Swift keeps listings apart from objects, and a listing can be late: for a moment
// after a put or delete, and for longer when container servers are overloaded. Get
// and Stat of a replaced object can give the one before only while servers that
// hold it are down.
//
// # Limits
//
// The name of an object, prefix and key together, has at most 1024 bytes; that of a
// segment is some 40 bytes longer than the object's.
package swift

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
)

const (
	contentType = "application/octet-stream"

	// listPage is how many names are asked for at a time: the most that Swift gives
	// unless it is configured otherwise.
	listPage = 10_000

	// expectBytes is the size from which the server is asked before a body is sent.
	expectBytes = 1 << 20

	// absentTries is how often an object that the listing shows must be not there.
	absentTries = 3

	// bufferBytes is what is read of a body at a time to hash it.
	bufferBytes = 256 << 10
)

// Options are the options of Open. The zero value opens what is there.
type Options struct {
	// Create makes the container, and the one for segments, if they aren't there.
	Create bool
	// Getenv gives the variables of the log-in; nil means os.Getenv.
	Getenv func(string) string
}

// Store keeps objects in a container.
type Store struct {
	place  place
	prefix string // "" or ends with "/"
	id     string // tells this Store's claims and segments from others'
	login  *login
	client *http.Client

	counter atomic.Int64 // numbers claims and large objects
	claims  sync.Map     // names of claims that are in use
	page    int          // names in a page of a listing
	maximum atomic.Int64 // largest object the server takes, once it has refused one

	mu         sync.Mutex
	large      bool      // there are segments; guarded by mu
	largeUntil time.Time // until when large, if false, is believed; guarded by mu
	offers     *offers   // what the server can do, once asked; guarded by mu
}

var (
	_ storage.Store   = (*Store)(nil)
	_ storage.Deleter = (*Store)(nil)
)

// Open logs in and opens the storage that a URL names:
//
//	swift://container/prefix?segment_size=1GiB&region=…&auth_url=…&user=…&project=…&policy=…&timeout=60s
//
// The prefix and all parameters may be left out. What is secret comes from the
// environment; see docs/swift.md for the variables.
func Open(ctx context.Context, raw string, opts Options) (*Store, error) {
	p, err := parseURL(raw)
	if err != nil {
		return nil, err
	}
	getenv := opts.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	transport, err := newTransport(p.timeout, getenv("OS_CACERT"))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p, err)
	}
	l, err := newLogin(p, getenv, service.Transport(transport))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p, err)
	}
	s := &Store{place: p, id: strings.ToLower(rand.Text()), login: l, page: listPage,
		client: &http.Client{Transport: service.Transport(transport), CheckRedirect: noRedirect}}
	if p.prefix != "" {
		s.prefix = p.prefix + "/"
	}
	if err := s.openContainers(ctx, opts.Create); err != nil {
		transport.CloseIdleConnections()
		return nil, fmt.Errorf("open %s: %w", p, err)
	}
	return s, nil
}

// noRedirect keeps the token from going to another server.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (s *Store) openContainers(ctx context.Context, create bool) error {
	if !create {
		return s.checkContainer(ctx, s.place.container)
	}
	for _, name := range []string{s.place.container, s.segments()} {
		if err := s.createContainer(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// checkContainer returns ErrUnavailable if a container isn't there.
func (s *Store) checkContainer(ctx context.Context, name string) error {
	resp, err := s.look(ctx, name)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusNotFound {
		discard(resp)
		return s.noContainer(name)
	}
	return s.done(resp)
}

// look asks for the headers of a container. It is no HEAD: to that, Swift 2.30
// answers 204 and yet sends the end of a body, which spoils the connection.
func (s *Store) look(ctx context.Context, name string) (*http.Response, error) {
	return s.do(ctx, request{method: http.MethodGet, container: name, query: url.Values{"limit": {"1"}}})
}

func (s *Store) noContainer(name string) error {
	return fmt.Errorf("%w: there is no container %s for this user; create it or correct its name, project or region", storage.ErrNoPlace, name)
}

func (s *Store) createContainer(ctx context.Context, name string) error {
	resp, err := s.look(ctx, name)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusNotFound {
		return s.done(resp)
	}
	discard(resp)
	header := http.Header{}
	if s.place.policy != "" {
		header.Set("X-Storage-Policy", s.place.policy)
	}
	made, err := s.do(ctx, request{method: http.MethodPut, container: name, header: header}) //nolint:bodyclose // done ends with it
	if err != nil {
		return fmt.Errorf("create container %s: %w", name, err)
	}
	if err := s.done(made); err != nil {
		return fmt.Errorf("create container %s: %w", name, err)
	}
	return nil
}

// segments returns the name of the container that holds segments.
func (s *Store) segments() string { return s.place.container + "_segments" }

// URL returns where the store is; no parameter of it is secret.
func (s *Store) URL() string { return s.place.String() }

// Close ends the connections.
func (s *Store) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

// begin is what all methods with a key do first; it returns the object's name.
func (s *Store) begin(ctx context.Context, key storage.Key) (string, error) {
	if !key.Valid() {
		return "", errors.New("not a valid key")
	}
	return s.prefix + string(key), ctx.Err()
}

// Put sends the body in one request if it is at most of the segment size.
func (s *Store) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	if err := s.put(ctx, key, body, opts); err != nil {
		return fmt.Errorf("put %s: %w", short(key), err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	name, err := s.begin(ctx, key)
	if err != nil {
		return err
	}
	size := body.Size()
	switch {
	case size < 0:
		return &storage.BodyError{Err: fmt.Errorf("its size is %d", size)}
	case !opts.RetainUntil.IsZero():
		return errors.New("Swift can't protect objects until a date; leave that out, or use a storage that can") //nolint:staticcheck // Swift is a name
	case opts.IfAbsent:
		return s.putNew(ctx, name, body)
	}
	old, err := s.segmentsOf(ctx, name)
	if err != nil {
		return err
	}
	if err := s.store(ctx, name, body, false); err != nil {
		return err
	}
	if err := s.deleteNames(ctx, old); err != nil {
		return fmt.Errorf("the object is stored, segments of the one before it are left: %w", err)
	}
	return nil
}

func (s *Store) putNew(ctx context.Context, name string, body storage.Body) error {
	if body.Size() > claimBytes {
		return s.store(ctx, name, body, true)
	}
	c, err := s.claim(ctx, name)
	if err != nil {
		return err
	}
	err = s.store(ctx, name, body, true)
	c.release(ctx, err)
	return err
}

// store puts an object in the way that its size asks for.
func (s *Store) store(ctx context.Context, name string, body storage.Body, isNew bool) error {
	part, err := s.partBytes(ctx, body.Size())
	if err != nil {
		return err
	}
	if body.Size() <= part {
		sum, err := section{body, 0, body.Size()}.md5(ctx)
		if err == nil {
			err = s.putHashed(ctx, target{s.place.container, name}, section{body, 0, body.Size()}, sum, isNew)
		}
		if !isTooLarge(err) {
			return err
		}
		if part, err = s.smallerPart(ctx, body.Size(), err); err != nil {
			return err
		}
	}
	return s.putLarge(ctx, name, body, part, isNew)
}

// section is a part of a body.
type section struct {
	body   storage.Body
	off, n int64
}

// putHashed puts one object, whose MD5 the server compares before it stores it.
func (s *Store) putHashed(ctx context.Context, o target, part section, sum string, isNew bool) error {
	header := http.Header{"Content-Type": {contentType}, "Etag": {sum}}
	if isNew {
		header.Set("If-None-Match", "*")
	}
	resp, err := s.do(ctx, request{method: http.MethodPut, container: o.container, name: o.name, header: header, body: &part})
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusCreated:
		discard(resp)
		return sameETag(resp, sum)
	case http.StatusNotFound:
		discard(resp)
		return s.noContainer(o.container)
	}
	return s.putRefused(resp, isNew)
}

// putRefused returns the error for an answer to a put that is not 201.
func (s *Store) putRefused(resp *http.Response, isNew bool) error {
	switch {
	case resp.StatusCode == http.StatusPreconditionFailed && isNew:
		discard(resp)
		return storage.ErrExist
	case resp.StatusCode == http.StatusAccepted:
		// Swift says so when it has a newer state of the object, by its clocks.
		discard(resp)
		return fmt.Errorf("%w: the server has a newer put or delete of the object and did not store this one", storage.ErrUnavailable)
	case resp.StatusCode == http.StatusUnprocessableEntity:
		discard(resp)
		return fmt.Errorf("%w: what arrived doesn't have the checksum of what was sent", storage.ErrUnavailable)
	}
	return s.refusal(resp)
}

func sameETag(resp *http.Response, want string) error {
	if got := etag(resp); got != want {
		return fmt.Errorf("%w: the server stored an object with the checksum %q, want %s", storage.ErrUnavailable, got, want)
	}
	return nil
}

// etag returns the ETag of an answer, which has quotes around it or has not.
func etag(resp *http.Response) string {
	return strings.ToLower(strings.Trim(resp.Header.Get("Etag"), `"`))
}

// md5 reads the section once; it is read again to be sent.
func (p section) md5(ctx context.Context) (string, error) {
	sum := md5.New()
	body := storage.Preread(p.body)
	buf := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(buf)
	for at := int64(0); at < p.n; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		piece := buf[:min(p.n-at, bufferBytes)]
		if err := storage.ReadBody(body, piece, p.off+at); err != nil {
			return "", err
		}
		sum.Write(piece)
		at += int64(len(piece))
	}
	return hex.EncodeToString(sum.Sum(nil)), ctx.Err()
}

var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// Get asks for the range in one request; see object for one that isn't there.
func (s *Store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	r, err := s.get(ctx, key, off, n)
	if err != nil {
		return fmt.Errorf("get %s: %w", short(key), err)
	}
	defer r.close()
	if err := fn(r); err != nil {
		return err
	}
	if r.err != nil && r.err != io.EOF { //nolint:errorlint // our own reader's, never wrapped
		return fmt.Errorf("get %s: %w", short(key), r.err)
	}
	return nil
}

func (s *Store) get(ctx context.Context, key storage.Key, off, n int64) (*reader, error) {
	name, err := s.begin(ctx, key)
	if err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("negative offset %d", off)
	}
	if n == 0 {
		_, err := s.stat(ctx, key)
		return &reader{ctx: ctx}, err
	}
	header := http.Header{}
	switch {
	case n > 0 && n <= math.MaxInt64-off:
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	case off > 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	resp, err := s.object(ctx, http.MethodGet, name, header)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return s.whole(ctx, resp, off, header.Get("Range") != "")
	case http.StatusPartialContent:
		return s.part(ctx, resp, off)
	case http.StatusRequestedRangeNotSatisfiable:
		discard(resp)
		return &reader{ctx: ctx}, nil // it begins behind the object
	case http.StatusConflict:
		discard(resp)
		return nil, errors.New("segments of this large object are missing or were changed")
	}
	return nil, s.refusal(resp)
}

func (s *Store) whole(ctx context.Context, resp *http.Response, off int64, ranged bool) (*reader, error) {
	if off > 0 || ranged && resp.ContentLength > 0 || resp.ContentLength < 0 {
		resp.Body.Close()
		return nil, errors.New("the server, or a proxy before it, answers without the range or the length that Swift gives")
	}
	return newReader(ctx, resp, resp.ContentLength), nil
}

// part takes the answer to a range; the whole object may be what was asked for.
func (s *Store) part(ctx context.Context, resp *http.Response, off int64) (*reader, error) {
	var first, last, total int64
	_, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &total)
	if err != nil || first != off || last < first || resp.ContentLength != last-first+1 {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: asked for bytes from %d, the answer is about %q with the length %d",
			storage.ErrUnavailable, off, resp.Header.Get("Content-Range"), resp.ContentLength)
	}
	return newReader(ctx, resp, total), nil
}

// object asks for an object, and returns ErrNotExist if it isn't there. An object
// server can say 404 while another request replaces the object: it reads the
// folder, and then opens a file that was just removed. So the listing is asked too,
// which also tells whether the container is there.
func (s *Store) object(ctx context.Context, method, name string, header http.Header) (*http.Response, error) {
	for range absentTries {
		resp, err := s.do(ctx, request{method: method, container: s.place.container, name: name, header: header})
		if err != nil || resp.StatusCode != http.StatusNotFound {
			return resp, err
		}
		discard(resp)
		page, err := s.namesAfter(ctx, s.place.container, name, "", 1)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 || page[0].Name != name {
			break
		}
	}
	return nil, storage.ErrNotExist
}

// reader gives the bytes of an answer, and fails if some are missing or, where
// their hash is known, wrong. The zero value, with a ctx, is empty.
type reader struct {
	ctx  context.Context
	body io.ReadCloser
	left int64     // bytes to come
	sum  hash.Hash // nil if the hash of the bytes isn't known
	want string    // what sum has to be
	err  error     // what Read returned, once it did
}

// newReader returns the reader of an answer about an object of total bytes.
func newReader(ctx context.Context, resp *http.Response, total int64) *reader {
	r := &reader{ctx: ctx, body: resp.Body, left: resp.ContentLength}
	isPlain := resp.Header.Get("X-Static-Large-Object") == "" && resp.Header.Get("X-Object-Manifest") == ""
	if r.left == total && isPlain && len(etag(resp)) == 2*md5.Size {
		r.sum, r.want = md5.New(), etag(resp)
	}
	return r
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.err = r.ctx.Err(); r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		r.err = r.end()
		return 0, r.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if r.sum != nil {
		r.sum.Write(p[:n])
	}
	switch {
	case r.left == 0:
		r.err = r.end()
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		r.err = fmt.Errorf("%w: the answer ended with %d bytes to come", storage.ErrUnavailable, r.left)
	case err != nil:
		r.err = unavailable(r.ctx, err)
	}
	if n > 0 && r.err == io.EOF { //nolint:errorlint // end returns it bare
		return n, nil
	}
	return n, r.err
}

// end returns io.EOF if the bytes are those that were put.
func (r *reader) end() error {
	if r.sum != nil && hex.EncodeToString(r.sum.Sum(nil)) != r.want {
		return fmt.Errorf("%w: what was read doesn't have the object's checksum", storage.ErrUnavailable)
	}
	return io.EOF
}

func (r *reader) close() {
	if r.body != nil {
		r.body.Close()
	}
}

// Stat asks for the headers of an object.
func (s *Store) Stat(ctx context.Context, key storage.Key) (storage.Info, error) {
	info, err := s.stat(ctx, key)
	if err != nil {
		return storage.Info{}, fmt.Errorf("stat %s: %w", short(key), err)
	}
	return info, nil
}

func (s *Store) stat(ctx context.Context, key storage.Key) (storage.Info, error) {
	name, err := s.begin(ctx, key)
	if err != nil {
		return storage.Info{}, err
	}
	header, err := s.head(ctx, name)
	if err != nil {
		return storage.Info{}, err
	}
	size, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil {
		return storage.Info{}, fmt.Errorf("the answer has no size that can be read: %w", err)
	}
	modified, err := timeOf(header)
	return storage.Info{Key: key, Size: size, Modified: modified}, err
}

// head returns the headers of an object, or ErrNotExist.
func (s *Store) head(ctx context.Context, name string) (http.Header, error) {
	resp, err := s.object(ctx, http.MethodHead, name, nil) //nolint:bodyclose // done ends with it
	if err != nil {
		return nil, err
	}
	err = s.done(resp)
	return resp.Header, err
}

// timeOf returns the time of an object: X-Timestamp has parts of a second, as
// listings have, Last-Modified is rounded up.
func timeOf(header http.Header) (time.Time, error) {
	sec, frac, _ := strings.Cut(header.Get("X-Timestamp"), ".")
	seconds, err1 := strconv.ParseInt(sec, 10, 64)
	micros, err2 := strconv.ParseInt((frac + "000000")[:6], 10, 64)
	if err1 == nil && err2 == nil {
		return time.Unix(seconds, micros*1000).UTC(), nil
	}
	t, err := http.ParseTime(header.Get("Last-Modified"))
	if err != nil {
		return time.Time{}, fmt.Errorf("the answer has no time that can be read: %w", err)
	}
	return t.UTC(), nil
}

// List asks for one page of names after the other. The names of claims are no keys
// and don't show.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	fnErr, err := s.list(ctx, prefix, fn)
	if err != nil {
		return fmt.Errorf("list %q: %w", prefix, err)
	}
	return fnErr
}

// list returns fn's error apart from others.
func (s *Store) list(ctx context.Context, prefix string, fn func(storage.Info) error) (fnErr, err error) {
	if prefix != "" {
		key, ok := strings.CutSuffix(prefix, "/")
		if !ok || !storage.Key(key).Valid() {
			return nil, errors.New("not a valid prefix")
		}
	}
	err = s.names(ctx, s.place.container, s.prefix+prefix, func(e entry) error {
		key := storage.Key(strings.TrimPrefix(e.Name, s.prefix))
		if !key.Valid() {
			return nil
		}
		fnErr = fn(storage.Info{Key: key, Size: e.Size, Modified: e.modified})
		return fnErr
	})
	if fnErr != nil {
		return fnErr, nil
	}
	return nil, err
}

// entry is one name of a listing.
type entry struct {
	Name     string `json:"name"`
	Size     int64  `json:"bytes"`
	Modified string `json:"last_modified"` // UTC, without a zone
	modified time.Time
	age      time.Duration // by the server's clock
}

// names calls fn for each object of a container whose name begins with prefix, and
// stops at its first error, which it returns.
func (s *Store) names(ctx context.Context, container, prefix string, fn func(entry) error) error {
	for marker := ""; ; {
		page, err := s.namesAfter(ctx, container, prefix, marker, s.page)
		if err != nil {
			return err
		}
		for _, e := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(e); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(page) < s.page {
			return nil
		}
		if last := page[len(page)-1].Name; last > marker {
			marker = last
			continue
		}
		return errors.New("the server gives the same page of the listing again")
	}
}

func (s *Store) namesAfter(ctx context.Context, container, prefix, marker string, limit int) ([]entry, error) {
	query := url.Values{"format": {"json"}, "limit": {strconv.Itoa(limit)}, "prefix": {prefix}, "marker": {marker}}
	resp, err := s.do(ctx, request{method: http.MethodGet, container: container, query: query})
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNoContent:
		return nil, s.done(resp)
	case http.StatusNotFound:
		discard(resp)
		return nil, s.noContainer(container)
	default:
		return nil, s.refusal(resp)
	}
	var page []entry
	if err := readJSON(ctx, resp, &page); err != nil {
		return nil, err
	}
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	for i, e := range page {
		t, err := time.ParseInLocation("2006-01-02T15:04:05", e.Modified, time.UTC)
		if err != nil {
			return nil, fmt.Errorf("the listing has a time that can't be read: %w", err)
		}
		page[i].modified, page[i].age = t, now.Sub(t)
	}
	return page, nil
}

// short returns a key for messages; one that isn't valid may be anything.
func short(key storage.Key) string {
	if key.Valid() {
		return string(key)
	}
	if len(key) > 100 {
		key = key[:100] + "…"
	}
	return strconv.Quote(string(key))
}
