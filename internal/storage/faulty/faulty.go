// Package faulty is a storage wrapper that injects faults, for tests.
//
// A Plan is asked before each call what shall happen to it. To try every write of
// some code both ways:
//
//	for n := 1; ; n++ {
//		s := faulty.New(mem.New(), faulty.At(n, faulty.FailAfter(faulty.Err)))
//		err := code(s)
//		if !s.Reached() {
//			break // the code makes less than n writes
//		}
//		// err must be reported, and what the store holds must be whole or absent
//	}
//
// A test whose fault was never reached proves nothing, so it asks Reached.
package faulty

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/slipcover/slipcover/internal/storage"
)

// Err is an error for faults, which no storage returns by itself.
var Err = errors.New("injected fault")

// Kind is the method that was called.
type Kind int

// Put and Delete are the mutating kinds.
const (
	Put Kind = iota
	Delete
	Get
	Stat
	List
)

// Mutates reports whether calls of this kind change the storage.
func (k Kind) Mutates() bool { return k == Put || k == Delete }

func (k Kind) String() string {
	names := [...]string{"put", "delete", "get", "stat", "list"}
	if k < 0 || int(k) >= len(names) {
		return "unknown"
	}
	return names[k]
}

// Op is one call.
type Op struct {
	// N counts calls from 1, the mutating ones and the others apart, so that the
	// number of a write doesn't depend on the reads before it.
	N    int
	Kind Kind
	Key  storage.Key // of a List its prefix
}

// Action is what happens to a call. The zero Action lets it pass.
type Action struct {
	// Wait runs first, with the call's context. Its error is returned and the call
	// isn't made. See Stall.
	Wait func(context.Context) error
	// Before runs next. Its error is returned and the call isn't made. It may also
	// not return: os.Exit, panic and runtime.Goexit stand for a kill.
	Before func() error
	// After runs when the call was made, whatever came of it. Its error is returned
	// in place of the call's, as when an answer is lost. It may also not return.
	After func() error
	// Read is put around the reader that fn of a Get is given, with the call's
	// context; see Cut, CutMidBody, WrongBytes and StallMidBody.
	Read func(context.Context, io.Reader) io.Reader
}

func (a Action) isZero() bool {
	return a.Wait == nil && a.Before == nil && a.After == nil && a.Read == nil
}

// Fail is the Action to fail without taking effect.
func Fail(err error) Action {
	return Action{Before: func() error { return err }}
}

// FailAfter is the Action to take effect and then fail.
func FailAfter(err error) Action {
	return Action{After: func() error { return err }}
}

// Stall is the Action to make the call only when release is closed. If ctx is done
// before, the call isn't made, and its error is that of ctx. A nil release never
// comes.
func Stall(release <-chan struct{}) Action {
	return Action{Wait: func(ctx context.Context) error { return stall(ctx, release) }}
}

func stall(ctx context.Context, release <-chan struct{}) error {
	select {
	case <-release:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stalled: %w", ctx.Err())
	}
}

// Cut is the Action to end what a Get reads with err after n bytes; with io.EOF
// the object just seems shorter.
func Cut(n int64, err error) Action {
	return Action{Read: func(_ context.Context, r io.Reader) io.Reader {
		return io.MultiReader(io.LimitReader(r, n), errReader{err})
	}}
}

// CutMidBody is the Action of a connection that is lost after n bytes of what a Get
// reads, as the contract wants it told: the reader fails with
// io.ErrUnexpectedEOF, the Get with storage.ErrUnavailable.
func CutMidBody(n int64) Action {
	return Action{Read: func(_ context.Context, r io.Reader) io.Reader { return &cutBody{r: r, left: n} }}
}

// cutBody fails when more than left bytes are asked for.
type cutBody struct {
	r    io.Reader
	left int64
	cut  bool // it has failed
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		c.cut = true
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// StallMidBody is the Action of a connection that gives n bytes of what a Get reads
// and then nothing, until release is closed or ctx is done.
func StallMidBody(n int64, release <-chan struct{}) Action {
	return Action{Read: func(ctx context.Context, r io.Reader) io.Reader {
		return io.MultiReader(io.LimitReader(r, n), stallReader{func() error { return stall(ctx, release) }, r})
	}}
}

type stallReader struct {
	stall func() error
	r     io.Reader
}

func (s stallReader) Read(p []byte) (int, error) {
	if err := s.stall(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}

// WrongBytes is the Action to turn over a bit of the byte number at of what a Get
// reads, counted from 0; what is shorter stays as it is.
func WrongBytes(at int64) Action {
	return Action{Read: func(_ context.Context, r io.Reader) io.Reader { return &wrongBytes{r, at} }}
}

type wrongBytes struct {
	r  io.Reader
	at int64 // from where r is
}

func (w *wrongBytes) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if 0 <= w.at && w.at < int64(n) {
		p[w.at] ^= 1 << (w.at % 8)
	}
	w.at -= int64(n)
	return n, err
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// Plan says what happens to a call. It isn't called by two goroutines at a time, so
// it may keep count in plain variables; the Action runs outside of that.
type Plan func(Op) Action

// At is the Plan for the mutating call number n alone.
func At(n int, a Action) Plan {
	return func(op Op) Action {
		if op.Kind.Mutates() && op.N == n {
			return a
		}
		return Action{}
	}
}

// From is the Plan for the mutating call number n and every call after it, reads
// too: the storage is gone from there on.
func From(n int, a Action) Plan {
	gone := false
	return func(op Op) Action {
		gone = gone || op.Kind.Mutates() && op.N >= n
		if gone {
			return a
		}
		return Action{}
	}
}

// Bursts is the Plan that lets pass calls through, does a to the next fail calls,
// and so on, whatever the calls are.
func Bursts(pass, fail int, a Action) Plan {
	n := 0
	return func(Op) Action {
		n++
		if (n-1)%(pass+fail) < pass {
			return Action{}
		}
		return a
	}
}

// Store is a storage with faults.
type Store struct {
	storage.Store // for URL and Close, which don't fail
	plan          Plan

	mu      sync.Mutex
	writes  int // mutating calls so far; these three guarded by mu
	reads   int // other calls so far
	reached int // calls that the plan did something to
}

var _ storage.Store = (*Store)(nil)

// New puts plan around s. A nil plan lets everything pass and counts.
func New(s storage.Store, plan Plan) *Store {
	if plan == nil {
		plan = func(Op) Action { return Action{} }
	}
	return &Store{Store: s, plan: plan}
}

// Reached reports whether the plan has done something to any call so far.
func (s *Store) Reached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reached > 0
}

// Calls returns how many mutating calls and how many others there were, those that
// failed included.
func (s *Store) Calls() (writes, reads int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes, s.reads
}

func (s *Store) action(kind Kind, key storage.Key) Action {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := &s.reads
	if kind.Mutates() {
		count = &s.writes
	}
	*count++
	a := s.plan(Op{N: *count, Kind: kind, Key: key})
	if !a.isZero() {
		s.reached++
	}
	return a
}

func (a Action) run(ctx context.Context, call func() error) error {
	if a.Wait != nil {
		if err := a.Wait(ctx); err != nil {
			return err
		}
	}
	if a.Before != nil {
		if err := a.Before(); err != nil {
			return err
		}
	}
	err := call()
	if a.After != nil {
		if aerr := a.After(); aerr != nil {
			return aerr
		}
	}
	return err
}

// Put stores body under key, if the plan lets it.
func (s *Store) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	return s.action(Put, key).run(ctx, func() error {
		return s.Store.Put(ctx, key, body, opts)
	})
}

// Delete removes an object, if the plan lets it.
func (s *Store) Delete(ctx context.Context, key storage.Key) error {
	return s.action(Delete, key).run(ctx, func() error {
		return s.Store.Delete(ctx, key)
	})
}

// Get reads an object, if and as the plan lets it.
func (s *Store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	a := s.action(Get, key)
	return a.run(ctx, func() error {
		cut := false
		err := s.Store.Get(ctx, key, off, n, func(r io.Reader) error {
			if a.Read != nil {
				r = a.Read(ctx, r)
			}
			err := fn(r)
			c, ok := r.(*cutBody)
			cut = ok && c.cut
			return err
		})
		if cut {
			return fmt.Errorf("get %s: %w: %w", key, storage.ErrUnavailable, io.ErrUnexpectedEOF)
		}
		return err
	})
}

// Stat returns size and time of an object, if the plan lets it.
func (s *Store) Stat(ctx context.Context, key storage.Key) (info storage.Info, err error) {
	err = s.action(Stat, key).run(ctx, func() error {
		info, err = s.Store.Stat(ctx, key)
		return err
	})
	if err != nil {
		return storage.Info{}, err
	}
	return info, nil
}

// List calls fn for each object, if the plan lets it.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return s.action(List, storage.Key(prefix)).run(ctx, func() error {
		return s.Store.List(ctx, prefix, fn)
	})
}
