// Package limit is a storage wrapper that bounds the bytes per second that are
// sent and read, over all operations and stores that share a Limits.
//
// It counts the bytes of bodies and objects, when a driver reads or hands them on,
// not those of the protocol around them. A driver that reads a body once before it
// sends it, for a checksum, reads storage.Preread of it, or its bytes count twice.
package limit

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/time/rate"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/wrap"
)

// A burst is what passes at once: a tenth of a second's worth, within these bounds,
// so that a line isn't filled for a noticeable time. In bytes.
const (
	minBurst = 512
	maxBurst = 256 << 10
)

// Limits are rates that several stores may share.
type Limits struct {
	up, down *rate.Limiter // nil is no limit
}

// NewLimits returns limits in bytes per second; 0 is none.
func NewLimits(upload, download int64) *Limits {
	return &Limits{limiter(upload), limiter(download)}
}

func limiter(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(max(minBurst, min(maxBurst, perSecond/10))))
}

// New returns s within l. It has the optional abilities of s.
func New(s storage.Store, l *Limits) storage.Store {
	if l == nil || l.up == nil && l.down == nil {
		return s
	}
	return wrap.Keep(&store{s, l}, s)
}

type store struct {
	storage.Store
	*Limits
}

// wait waits until n bytes, at most a burst, may pass.
func wait(ctx context.Context, l *rate.Limiter, n int) error {
	r := l.ReserveN(time.Now(), n)
	d := r.Delay()
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		t.Stop()
		r.Cancel()
		return fmt.Errorf("wait for the rate limit: %w", ctx.Err())
	}
}

// Put stores b under key, no faster than the limit.
func (s *store) Put(ctx context.Context, key storage.Key, b storage.Body, opts storage.PutOptions) error {
	if s.up != nil {
		b = &body{b, ctx, s.up}
	}
	return s.Store.Put(ctx, key, b, opts)
}

// body lets each part of a read wait before it is read.
type body struct {
	storage.Body
	ctx context.Context // io.ReaderAt has none; lives as long as the Put
	l   *rate.Limiter
}

func (b *body) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; ; {
		part := p[n:min(len(p), n+b.l.Burst())]
		if cost := min(int64(len(part)), b.Size()-off-int64(n)); cost > 0 {
			if err := wait(b.ctx, b.l, int(cost)); err != nil {
				return n, err
			}
		}
		m, err := b.Body.ReadAt(part, off+int64(n))
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// Preread is for storage.Preread.
func (b *body) Preread() storage.Body { return b.Body }

// Get calls fn with a reader that is no faster than the limit.
func (s *store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	if s.down == nil {
		return s.Store.Get(ctx, key, off, n, fn)
	}
	return s.Store.Get(ctx, key, off, n, func(r io.Reader) error { return fn(&reader{r, ctx, s.down}) })
}

// reader waits for what it has read: a connection that isn't read from slows its
// other end down.
type reader struct {
	r   io.Reader
	ctx context.Context // io.Reader has none; lives as long as the Get
	l   *rate.Limiter
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p[:min(len(p), r.l.Burst())])
	if n > 0 {
		if err := wait(r.ctx, r.l, n); err != nil {
			return 0, err
		}
	}
	return n, err
}

// DeleteAll is that of the Store below.
func (s *store) DeleteAll(ctx context.Context, keys []storage.Key) error {
	return s.Store.(storage.Deleter).DeleteAll(ctx, keys)
}

// Retain is that of the Store below.
func (s *store) Retain(ctx context.Context, key storage.Key, until time.Time) error {
	return s.Store.(storage.Retainer).Retain(ctx, key, until)
}
