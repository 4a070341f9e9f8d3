// Package retry is a storage wrapper that tries again what failed because the
// storage was not available.
//
// The waits between tries are drawn from 0 to a bound that begins with 0.2 s and
// doubles up to 30 s (full jitter), so that many clients don't come back at once;
// a storage that says when to ask again is asked then, or a little later.
//
// A Put that failed may have taken effect. With IfAbsent the next try is then told
// ErrExist, of what this client stored itself (with RetainUntil, ErrRetained): the
// object is read back, and if it has the bytes that were to be put, the Put has gone
// well.
package retry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/wrap"
)

const (
	firstWait = 200 * time.Millisecond // the bound of the first wait
	maxWait   = 30 * time.Second
	tryFor    = 5 * time.Minute
)

// Options are the options of New. The zero value works.
type Options struct {
	// For bounds the time in which a new try of an operation begins, counted from its
	// first failure; 0 means 5 minutes.
	For time.Duration
	// OnRetry is called before each wait, from many goroutines, if it isn't nil. op is
	// "put", "get", "stat", "list", "delete" or "retain"; key is that, of a list its
	// prefix, and of a delete of many the first.
	OnRetry func(op string, key storage.Key, err error, wait time.Duration)
}

func (o *Options) fill() {
	if o.For == 0 {
		o.For = tryFor
	}
	if o.OnRetry == nil {
		o.OnRetry = func(string, storage.Key, error, time.Duration) {}
	}
}

// New returns s with retries. It has the optional abilities of s.
func New(s storage.Store, o Options) storage.Store {
	o.fill()
	return wrap.Keep(&store{s, o}, s)
}

// Do calls try until it goes well, fails for good, or the time is over, as the
// methods of a Store with retries do. OnRetry gets op.
func Do(ctx context.Context, o Options, op string, try func() error) error {
	o.fill()
	return (&store{o: o}).do(ctx, op, "", try)
}

type store struct {
	storage.Store
	o Options
}

// final are answers about what is stored or allowed: asking again won't help.
var final = []error{storage.ErrNotExist, storage.ErrExist, storage.ErrFull, storage.ErrDenied, storage.ErrRetained, storage.ErrNoPlace}

// network are failures of a connection that a driver may have left unclassified.
var network = []error{
	storage.ErrUnavailable, io.ErrUnexpectedEOF, net.ErrClosed,
	syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ECONNABORTED, syscall.EPIPE, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
}

func passing(err error) bool {
	for _, f := range final {
		if errors.Is(err, f) {
			return false
		}
	}
	if unfit := (*storage.UnfitError)(nil); errors.As(err, &unfit) {
		return false
	}
	for _, n := range network {
		if errors.Is(err, n) {
			return true
		}
	}
	var op *net.OpError
	var dns *net.DNSError
	var timeout net.Error
	return errors.As(err, &op) || errors.As(err, &dns) || errors.As(err, &timeout) && timeout.Timeout()
}

// mine is an error that isn't the storage's but the caller's own: of its fn, of its
// body. It is returned as it is, and ends the tries.
type mine struct{ error }

// do calls try until it goes well, fails for good, or the time is over.
func (s *store) do(ctx context.Context, op string, key storage.Key, try func() error) error {
	var end time.Time // for the next try to begin
	for tries := 1; ; tries++ {
		err := try()
		var m mine
		switch {
		case err == nil:
			return nil
		case errors.As(err, &m):
			return m.error
		case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
			return fmt.Errorf("%w; before that: %w", ctx.Err(), err)
		case ctx.Err() != nil || !passing(err):
			return err
		}
		now := time.Now()
		if tries == 1 {
			end = now.Add(s.o.For)
		}
		wait := backoff(tries, storage.RetryAfter(err))
		left := end.Sub(now)
		if asked := storage.RetryAfter(err); asked > max(left, 0) {
			return fmt.Errorf("gave up, as the storage asks to wait %s: %w", asked, err)
		}
		if left <= 0 {
			return fmt.Errorf("gave up after %d tries in %s: %w", tries, now.Sub(end.Add(-s.o.For)).Round(time.Second), err)
		}
		wait = min(wait, left) // the last try is at the end
		s.o.OnRetry(op, key, err, wait)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w while waiting to try again: %w", ctx.Err(), err)
		}
	}
}

// backoff is how long to wait after the given number of tries.
func backoff(tries int, asked time.Duration) time.Duration {
	bound := maxWait
	if tries < 10 {
		bound = min(bound, firstWait<<(tries-1))
	}
	return asked + rand.N(bound)
}

// Put stores body under key.
func (s *store) Put(ctx context.Context, key storage.Key, b storage.Body, opts storage.PutOptions) error {
	again := false
	return s.do(ctx, "put", key, func() error {
		w := &body{Body: b}
		err := s.Store.Put(ctx, key, w, opts)
		if bad := w.err.Load(); err != nil && bad != nil {
			if !errors.Is(err, *bad) {
				err = fmt.Errorf("%w: %w", err, *bad)
			}
			return mine{err}
		}
		if again && (errors.Is(err, storage.ErrExist) || errors.Is(err, storage.ErrRetained)) {
			return mine{s.compare(ctx, key, b, err)}
		}
		again = true
		return err
	})
}

// body notes why it couldn't be read.
type body struct {
	storage.Body
	err atomic.Pointer[error]
}

func (b *body) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.Body.ReadAt(p, off)
	if err != nil && (!errors.Is(err, io.EOF) || off >= 0 && off+int64(n) < b.Size()) {
		b.err.Store(&err)
	}
	return n, err
}

// compare returns nil if the object is what was to be put, else refused, or the
// error of looking, which is tried again by itself.
func (s *store) compare(ctx context.Context, key storage.Key, b storage.Body, refused error) error {
	info, err := s.Stat(ctx, key)
	if errors.Is(err, storage.ErrNotExist) {
		return refused // deleted since: it wasn't ours alone
	}
	if err != nil {
		return err
	}
	if info.Size != b.Size() {
		return refused
	}
	same, bad := false, error(nil)
	err = s.Get(ctx, key, 0, -1, func(r io.Reader) (err error) {
		same, bad, err = equal(r, b)
		return err
	})
	switch {
	case bad != nil:
		return bad
	case errors.Is(err, storage.ErrNotExist):
		return refused
	case err != nil:
		return err
	case !same:
		return refused
	}
	return nil
}

// equal compares what is stored with what was to be put. bad is an error of reading
// the latter.
func equal(stored io.Reader, want storage.Body) (same bool, bad, err error) {
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := int64(0); ; {
		n, err := stored.Read(a)
		m, bad := want.ReadAt(b[:n], off)
		if m < n && bad != nil && !errors.Is(bad, io.EOF) {
			return false, bad, nil
		}
		if !bytes.Equal(a[:n], b[:m]) {
			return false, nil, nil
		}
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return off == want.Size(), nil, nil
		}
		if err != nil {
			return false, nil, err
		}
	}
}

// Get calls fn again from the start when a try breaks off, but not when fn failed
// by itself.
func (s *store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	return s.do(ctx, "get", key, func() error {
		var r reader
		var fnErr error
		err := s.Store.Get(ctx, key, off, n, func(rd io.Reader) error {
			r.r = rd
			fnErr = fn(&r)
			return fnErr
		})
		if fnErr != nil && r.err == nil {
			return mine{fnErr}
		}
		if err != nil && r.err != nil && !passing(err) {
			err = fmt.Errorf("%w: %w", err, r.err) // fn may have told its own way
		}
		return err
	})
}

// reader notes when it failed: then fn's error isn't fn's own.
type reader struct {
	r   io.Reader
	err error
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// Stat returns size and time of an object.
func (s *store) Stat(ctx context.Context, key storage.Key) (info storage.Info, err error) {
	err = s.do(ctx, "stat", key, func() error {
		info, err = s.Store.Stat(ctx, key)
		return err
	})
	return info, err
}

// List goes on behind the last object that fn was called for, when a try breaks off.
func (s *store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	var last storage.Key // no key is empty
	return s.do(ctx, "list", storage.Key(prefix), func() error {
		var fnErr error
		err := s.Store.List(ctx, prefix, func(info storage.Info) error {
			if info.Key <= last {
				return nil
			}
			last = info.Key
			fnErr = fn(info)
			return fnErr
		})
		if fnErr != nil {
			return mine{fnErr}
		}
		return err
	})
}

// Delete removes an object.
func (s *store) Delete(ctx context.Context, key storage.Key) error {
	return s.do(ctx, "delete", key, func() error { return s.Store.Delete(ctx, key) })
}

// DeleteAll removes objects; a try begins with all of them anew.
func (s *store) DeleteAll(ctx context.Context, keys []storage.Key) error {
	var first storage.Key
	if len(keys) > 0 {
		first = keys[0]
	}
	return s.do(ctx, "delete", first, func() error { return s.Store.(storage.Deleter).DeleteAll(ctx, keys) })
}

// Retain prolongs the protection of an object.
func (s *store) Retain(ctx context.Context, key storage.Key, until time.Time) error {
	return s.do(ctx, "retain", key, func() error { return s.Store.(storage.Retainer).Retain(ctx, key, until) })
}
