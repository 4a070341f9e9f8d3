// Package meter is a storage wrapper that counts requests, bytes, errors and time.
// It belongs right around a driver, below retries, so that each try counts.
package meter

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/wrap"
)

// Kind is a kind of request, a method of storage.Store or of its optional abilities.
type Kind int

// The kinds. A DeleteAll counts as one.
const (
	Put Kind = iota
	Get
	Stat
	List
	Delete
	DeleteAll
	Retain
	kinds
)

func (k Kind) String() string {
	return [...]string{"put", "get", "stat", "list", "delete", "delete_all", "retain"}[k]
}

// Counts are those of one kind of request.
type Counts struct {
	Requests int64
	// Errors are the requests that failed. ErrNotExist, ErrExist and ErrRetained are
	// answers, what fn returns is not the storage's, and what was cancelled no failure.
	Errors int64
	Sum    time.Duration // of all requests; of a Get and a List with what fn did
	Max    time.Duration // the longest request
}

// Snapshot is what a Meter has counted so far.
type Snapshot struct {
	Kinds   map[Kind]Counts // those that occurred
	Up      int64           // bytes of bodies that were put
	Down    int64           // bytes of objects that were read, by failed requests too
	Retries int64           // requests that were made because one before had failed
	Busy    time.Duration   // time in which at least one request was under way
}

// Requests returns the number of all requests.
func (s Snapshot) Requests() int64 {
	var n int64
	for _, c := range s.Kinds {
		n += c.Requests
	}
	return n
}

// Errors returns the number of all requests that failed.
func (s Snapshot) Errors() int64 {
	var n int64
	for _, c := range s.Kinds {
		n += c.Errors
	}
	return n
}

// Meter counts. The zero value is ready; several stores may share one.
type Meter struct {
	mu      sync.Mutex
	counts  [kinds]Counts // guarded by mu, like what follows
	up      int64
	down    int64
	retries int64
	running int       // requests under way
	since   time.Time // since when there have been any
	busy    time.Duration
}

// Snapshot returns what was counted so far, requests under way not yet.
func (m *Meter) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Snapshot{Kinds: map[Kind]Counts{}, Up: m.up, Down: m.down, Retries: m.retries, Busy: m.busy}
	for k, c := range m.counts {
		if c.Requests > 0 {
			s.Kinds[Kind(k)] = c
		}
	}
	if m.running > 0 {
		s.Busy += time.Since(m.since)
	}
	return s
}

// Retried counts a retry, which only the wrapper around knows of.
func (m *Meter) Retried() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.retries++
}

// request counts what do does; failed tells whether the storage failed.
func (m *Meter) request(k Kind, do func() (failed bool)) {
	began := time.Now()
	m.mu.Lock()
	if m.running++; m.running == 1 {
		m.since = began
	}
	m.mu.Unlock()
	failed := true // if do doesn't return
	defer func() {
		took := time.Since(began)
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.running--; m.running == 0 {
			m.busy += time.Since(m.since)
		}
		c := &m.counts[k]
		c.Requests++
		c.Sum += took
		c.Max = max(c.Max, took)
		if failed {
			c.Errors++
		}
	}()
	failed = do()
}

func failed(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && !errors.Is(err, storage.ErrNotExist) && !errors.Is(err, storage.ErrExist) && !errors.Is(err, storage.ErrRetained)
}

// New returns s with m counting. It has the optional abilities of s.
func New(s storage.Store, m *Meter) storage.Store { return wrap.Keep(&store{s, m}, s) }

type store struct {
	storage.Store
	m *Meter
}

// Put stores body under key.
func (s *store) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) (err error) {
	s.m.request(Put, func() bool {
		err = s.Store.Put(ctx, key, body, opts)
		return failed(ctx, err)
	})
	if err == nil {
		s.m.mu.Lock()
		s.m.up += body.Size()
		s.m.mu.Unlock()
	}
	return err
}

// Get calls fn with a reader whose bytes are counted.
func (s *store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) (err error) {
	s.m.request(Get, func() bool {
		var own error
		err = s.Store.Get(ctx, key, off, n, func(r io.Reader) error {
			c := &counted{r: r}
			defer func() {
				s.m.mu.Lock()
				s.m.down += c.n
				s.m.mu.Unlock()
			}()
			err := fn(c)
			if !c.failed {
				own = err
			}
			return err
		})
		return failed(ctx, err) && own == nil
	})
	return err
}

type counted struct {
	r      io.Reader
	n      int64
	failed bool
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.failed = c.failed || err != nil && !errors.Is(err, io.EOF)
	return n, err
}

// Stat returns size and time of an object.
func (s *store) Stat(ctx context.Context, key storage.Key) (info storage.Info, err error) {
	s.m.request(Stat, func() bool {
		info, err = s.Store.Stat(ctx, key)
		return failed(ctx, err)
	})
	return info, err
}

// List calls fn for each object below prefix.
func (s *store) List(ctx context.Context, prefix string, fn func(storage.Info) error) (err error) {
	s.m.request(List, func() bool {
		var own error
		err = s.Store.List(ctx, prefix, func(info storage.Info) error {
			own = fn(info)
			return own
		})
		return failed(ctx, err) && own == nil
	})
	return err
}

// Delete removes an object.
func (s *store) Delete(ctx context.Context, key storage.Key) (err error) {
	s.m.request(Delete, func() bool {
		err = s.Store.Delete(ctx, key)
		return failed(ctx, err)
	})
	return err
}

// DeleteAll removes many objects.
func (s *store) DeleteAll(ctx context.Context, keys []storage.Key) (err error) {
	s.m.request(DeleteAll, func() bool {
		err = s.Store.(storage.Deleter).DeleteAll(ctx, keys)
		return failed(ctx, err)
	})
	return err
}

// Retain prolongs the protection of an object.
func (s *store) Retain(ctx context.Context, key storage.Key, until time.Time) (err error) {
	s.m.request(Retain, func() bool {
		err = s.Store.(storage.Retainer).Retain(ctx, key, until)
		return failed(ctx, err)
	})
	return err
}
