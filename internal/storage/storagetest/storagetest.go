// Package storagetest is the contract of storage.Store as a suite of checks.
//
// Run runs it in a test, over a fresh store for each check. Check runs it outside
// of tests, over storage that somebody uses: all keys begin with a prefix of their
// own, and nothing else is read, listed or changed.
//
// What the suite can't see, because it needs a power cut or a full disk, is for
// the tests of each driver.
package storagetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
)

// Result is what came of one check.
type Result struct {
	Name string        // what was checked: "range reads"
	Took time.Duration // wall time
	Err  error         // what is wrong; nil if the check passed
}

// Options are the options of Check. The zero value works.
type Options struct {
	// Prefix begins all keys: valid as a key, without "/" at its end. Nothing may be
	// there. The default is "slipcover-probe-" and random letters.
	Prefix storage.Key
	// LargeBytes is the size of the large object; 0 means 32 MiB.
	LargeBytes int64
}

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = storage.Key("slipcover-probe-" + strings.ToLower(rand.Text()))
	}
	if o.LargeBytes == 0 {
		o.LargeBytes = 32 << 20
	}
	return o
}

// Check runs all checks over the Store that open returns, one after the other, and
// then removes what they have left, which is the last Result. It stops early when
// ctx is done or the storage can't be opened.
func Check(ctx context.Context, open func(context.Context) (storage.Store, error), opts Options) []Result {
	opts = opts.withDefaults()
	var results []Result
	note := func(name string, do func() error) bool {
		began := time.Now()
		err := do()
		results = append(results, Result{Name: name, Took: time.Since(began), Err: err})
		return err == nil
	}
	var store storage.Store
	if !note("open", func() (err error) {
		store, err = open(ctx)
		return err
	}) {
		return results
	}
	for i, c := range checks() {
		if ctx.Err() != nil {
			break
		}
		e := &env{store, fmt.Sprintf("%s/%02d/", opts.Prefix, i), opts}
		note(c.name, func() error { return c.do(ctx, e) })
	}
	note("clean up", func() error {
		// Also after a cancel: it is a storage that somebody uses.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return errors.Join(removeAll(ctx, store, string(opts.Prefix)+"/"), store.Close())
	})
	return results
}

func removeAll(ctx context.Context, s storage.Store, prefix string) error {
	var keys []storage.Key
	err := s.List(ctx, prefix, func(info storage.Info) error {
		keys = append(keys, info.Key)
		return nil
	})
	for _, key := range keys {
		err = errors.Join(err, s.Delete(ctx, key))
	}
	return err
}

// Run runs all checks as tests, each over a Store of its own, which open must
// return empty and which Run closes.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	t.Helper()
	opts := Options{Prefix: "test"}.withDefaults()
	for _, c := range append(checks(), check{"list of everything", listEverything}) {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			store := open(t)
			if err := c.do(t.Context(), &env{store, string(opts.Prefix) + "/", opts}); err != nil {
				t.Error(err)
			}
			if err := removeAll(t.Context(), store, ""); err != nil {
				t.Errorf("remove what is left: %v", err)
			}
			if err := store.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

type check struct {
	name string
	do   func(context.Context, *env) error
}

// env is what a check works with; the methods are the short forms of the Store's.
type env struct {
	store  storage.Store
	prefix string // ends with "/"
	opts   Options
}

func (e *env) key(name string) storage.Key { return storage.Key(e.prefix + name) }

func (e *env) put(ctx context.Context, name, body string) error {
	return e.store.Put(ctx, e.key(name), bytes.NewReader([]byte(body)), storage.PutOptions{})
}

func (e *env) putNew(ctx context.Context, name, body string) error {
	return e.store.Put(ctx, e.key(name), bytes.NewReader([]byte(body)), storage.PutOptions{IfAbsent: true})
}

func (e *env) get(ctx context.Context, name string, off, n int64) (string, error) {
	var got []byte
	err := e.store.Get(ctx, e.key(name), off, n, func(r io.Reader) (err error) {
		got, err = io.ReadAll(r)
		return err
	})
	return string(got), err
}

// want checks that an object is there and what it holds.
func (e *env) want(ctx context.Context, name, want string) error {
	got, err := e.get(ctx, name, 0, -1)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if got != want {
		return fmt.Errorf("get %s: got %s, want %s", name, short(got), short(want))
	}
	info, err := e.store.Stat(ctx, e.key(name))
	if err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if info.Key != e.key(name) || info.Size != int64(len(want)) {
		return fmt.Errorf("stat %s: got key %s and %d bytes, want %d bytes", name, info.Key, info.Size, len(want))
	}
	return nil
}

// wantAbsent checks that an object isn't there.
func (e *env) wantAbsent(ctx context.Context, name string) error {
	called := false
	err := e.store.Get(ctx, e.key(name), 0, -1, func(io.Reader) error {
		called = true
		return nil
	})
	if !errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("get %s, which isn't there: got error %v, want ErrNotExist", name, err)
	}
	if called {
		return fmt.Errorf("get %s, which isn't there: fn was called", name)
	}
	if info, err := e.store.Stat(ctx, e.key(name)); !errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("stat %s, which isn't there: got %+v and error %v, want ErrNotExist", name, info, err)
	}
	return nil
}

// list returns names below the check's prefix and prefix.
func (e *env) list(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	err := e.store.List(ctx, e.prefix+prefix, func(info storage.Info) error {
		name, ok := strings.CutPrefix(string(info.Key), e.prefix)
		if !ok {
			return fmt.Errorf("list %s%s shows %s", e.prefix, prefix, info.Key)
		}
		names = append(names, name)
		return nil
	})
	return names, err
}

func short(s string) string {
	if len(s) > 40 {
		return fmt.Sprintf("%d bytes, %q…", len(s), s[:40])
	}
	return fmt.Sprintf("%q", s)
}
