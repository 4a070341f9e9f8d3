// Package mem is a storage in memory, for tests. It keeps the whole contract of
// storage.Store except for durability: it is gone with the process.
package mem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
)

// Store holds objects in memory.
type Store struct {
	retains bool // takes PutOptions.RetainUntil

	mu      sync.RWMutex
	objects map[storage.Key]object // guarded by mu
}

// object never changes; a put replaces it.
type object struct {
	data     string
	modified time.Time
	until    time.Time // protected; the zero time is not
}

var (
	_ storage.Store    = (*Store)(nil)
	_ storage.Retainer = (*Retaining)(nil)
)

// New returns an empty Store, which refuses to protect objects.
func New() *Store {
	return &Store{objects: make(map[storage.Key]object)}
}

// Retaining is a Store that protects objects until a time, by time.Now.
type Retaining struct{ *Store }

// NewRetaining returns an empty Retaining.
func NewRetaining() *Retaining {
	s := New()
	s.retains = true
	return &Retaining{s}
}

// Retain prolongs the protection of an object.
func (s *Retaining) Retain(ctx context.Context, key storage.Key, until time.Time) error {
	if err := begin(ctx, "retain", key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if !ok {
		return fmt.Errorf("retain %s: %w", key, storage.ErrNotExist)
	}
	if until.After(o.until) {
		o.until = until
		s.objects[key] = o
	}
	return nil
}

var (
	errBadKey    = errors.New("not a valid key")
	errNoRetains = errors.New("this storage can't protect objects until a date: write without that")
)

func begin(ctx context.Context, op string, key storage.Key) error {
	if !key.Valid() {
		return fmt.Errorf("%s %q: %w", op, key, errBadKey)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", op, key, err)
	}
	return nil
}

// Put reads the body first, so nothing is locked while it does.
func (s *Store) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	if err := begin(ctx, "put", key); err != nil {
		return err
	}
	if !opts.RetainUntil.IsZero() && !s.retains {
		return fmt.Errorf("put %s: %w", key, errNoRetains)
	}
	data, err := read(ctx, body)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().UTC()
	switch old, ok := s.objects[key]; {
	case ok && opts.IfAbsent:
		return fmt.Errorf("put %s: %w", key, storage.ErrExist)
	case now.Before(old.until):
		return fmt.Errorf("put %s: %w", key, storage.ErrRetained)
	}
	s.objects[key] = object{data, now, opts.RetainUntil}
	return nil
}

func read(ctx context.Context, body storage.Body) (string, error) {
	size := body.Size()
	if size < 0 {
		return "", fmt.Errorf("read the body: its size is %d", size)
	}
	var b strings.Builder
	b.Grow(int(size))
	n, err := io.Copy(&b, &reader{ctx, io.NewSectionReader(body, 0, size)})
	if err != nil {
		return "", fmt.Errorf("read the body: %w", err)
	}
	if n < size {
		return "", fmt.Errorf("read the body: %d bytes of %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return b.String(), nil
}

// Get calls fn once.
func (s *Store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	if err := begin(ctx, "get", key); err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("get %s: negative offset %d", key, off)
	}
	o, err := s.object(key)
	if err != nil {
		return fmt.Errorf("get %s: %w", key, err)
	}
	size := int64(len(o.data))
	off = min(off, size)
	if n < 0 || n > size-off {
		n = size - off
	}
	return fn(&reader{ctx, strings.NewReader(o.data[off : off+n])})
}

// Stat returns size and time of an object.
func (s *Store) Stat(ctx context.Context, key storage.Key) (storage.Info, error) {
	if err := begin(ctx, "stat", key); err != nil {
		return storage.Info{}, err
	}
	o, err := s.object(key)
	if err != nil {
		return storage.Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return storage.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified}, nil
}

func (s *Store) object(key storage.Key) (object, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[key]
	if !ok {
		return object{}, storage.ErrNotExist
	}
	return o, nil
}

// List shows the objects that there are at its beginning; fn may change the Store.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if prefix != "" {
		key, ok := strings.CutSuffix(prefix, "/")
		if !ok || !storage.Key(key).Valid() {
			return fmt.Errorf("list %q: %w", prefix, errBadKey)
		}
	}
	for _, info := range s.infos(prefix) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	return nil
}

func (s *Store) infos(prefix string) []storage.Info {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var infos []storage.Info
	for key, o := range s.objects {
		if strings.HasPrefix(string(key), prefix) {
			infos = append(infos, storage.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified})
		}
	}
	slices.SortFunc(infos, func(a, b storage.Info) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return infos
}

// Delete removes an object.
func (s *Store) Delete(ctx context.Context, key storage.Key) error {
	if err := begin(ctx, "delete", key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.objects[key].until) {
		return fmt.Errorf("delete %s: %w", key, storage.ErrRetained)
	}
	delete(s.objects, key)
	return nil
}

// URL returns "mem://"; no such URL can be opened.
func (s *Store) URL() string { return "mem://" }

// Close does nothing, so a test can go on with what the code under test closed.
func (s *Store) Close() error { return nil }

// reader ends with the context's error when it is done.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
