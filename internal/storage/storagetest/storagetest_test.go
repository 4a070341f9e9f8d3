package storagetest_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
)

var quick = storagetest.Options{LargeBytes: 1 << 20}

func TestCheckLeavesNothing(t *testing.T) {
	s := mem.New()
	if err := s.Put(t.Context(), "slipcover.json", strings.NewReader("{}"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	results := storagetest.Check(t.Context(), func(context.Context) (storage.Store, error) { return s, nil }, quick)
	for _, r := range results {
		if r.Err != nil {
			t.Errorf("%s: %v", r.Name, r.Err)
		}
	}
	if len(results) < 20 || results[len(results)-1].Name != "clean up" {
		t.Errorf("results: got %+v", results)
	}
	var keys []storage.Key
	s.List(t.Context(), "", func(info storage.Info) error { keys = append(keys, info.Key); return nil })
	if len(keys) != 1 {
		t.Errorf("left behind: %q", keys)
	}
}

func TestCheckCannotOpen(t *testing.T) {
	results := storagetest.Check(t.Context(), func(context.Context) (storage.Store, error) { return nil, storage.ErrDenied }, quick)
	if len(results) != 1 || !errors.Is(results[0].Err, storage.ErrDenied) {
		t.Errorf("results: got %+v, want open alone, with ErrDenied", results)
	}
}

func TestCheckCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	results := storagetest.Check(ctx, func(context.Context) (storage.Store, error) { cancel(); return mem.New(), nil }, quick)
	if len(results) != 2 {
		t.Errorf("results: got %+v, want open and clean up alone", results)
	}
}

// broken is a Store with one thing wrong, where the func isn't nil.
type broken struct {
	storage.Store
	put  func(storage.Store, context.Context, storage.Key, storage.Body, storage.PutOptions) error
	get  func(storage.Store, context.Context, storage.Key, int64, int64, func(io.Reader) error) error
	stat func(storage.Store, context.Context, storage.Key) (storage.Info, error)
	list func(storage.Store, context.Context, string, func(storage.Info) error) error
	del  func(storage.Store, context.Context, storage.Key) error
}

func (b *broken) Put(ctx context.Context, k storage.Key, body storage.Body, o storage.PutOptions) error {
	if b.put != nil {
		return b.put(b.Store, ctx, k, body, o)
	}
	return b.Store.Put(ctx, k, body, o)
}

func (b *broken) Get(ctx context.Context, k storage.Key, off, n int64, fn func(io.Reader) error) error {
	if b.get != nil {
		return b.get(b.Store, ctx, k, off, n, fn)
	}
	return b.Store.Get(ctx, k, off, n, fn)
}

func (b *broken) Stat(ctx context.Context, k storage.Key) (storage.Info, error) {
	if b.stat != nil {
		return b.stat(b.Store, ctx, k)
	}
	return b.Store.Stat(ctx, k)
}

func (b *broken) List(ctx context.Context, p string, fn func(storage.Info) error) error {
	if b.list != nil {
		return b.list(b.Store, ctx, p, fn)
	}
	return b.Store.List(ctx, p, fn)
}

func (b *broken) Delete(ctx context.Context, k storage.Key) error {
	if b.del != nil {
		return b.del(b.Store, ctx, k)
	}
	return b.Store.Delete(ctx, k)
}

// othersTurn makes the gap between two steps as wide as it is in real storage.
func othersTurn() { time.Sleep(time.Millisecond) }

// The suite is worth what it finds.
func TestCheckFinds(t *testing.T) {
	var puts atomic.Int64
	tests := []struct {
		name  string
		store broken
		finds string // the check that must fail
	}{
		{"IfAbsent ignored", broken{put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, _ storage.PutOptions) error {
			return s.Put(ctx, k, b, storage.PutOptions{})
		}}, "put if absent, concurrently"},
		{"IfAbsent not atomic", broken{put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, o storage.PutOptions) error {
			if _, err := s.Stat(ctx, k); err == nil && o.IfAbsent {
				return storage.ErrExist
			}
			othersTurn()
			return s.Put(ctx, k, b, storage.PutOptions{})
		}}, "put if absent, concurrently"},
		{"replace not atomic", broken{put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, o storage.PutOptions) error {
			if _, err := s.Stat(ctx, k); err == nil && !o.IfAbsent {
				s.Put(ctx, k, strings.NewReader("a"), o)
				othersTurn()
			}
			return s.Put(ctx, k, b, o)
		}}, "replace is atomic to readers"},
		{"short put is kept", broken{put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, o storage.PutOptions) error {
			err := s.Put(ctx, k, b, o)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				s.Put(ctx, k, strings.NewReader("part"), o)
			}
			return err
		}}, "bad bodies"},
		{"cancelled put goes on", broken{put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, o storage.PutOptions) error {
			return s.Put(context.WithoutCancel(ctx), k, b, o)
		}}, "cancel in the middle"},
		{"a put is lost now and then", broken{put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, o storage.PutOptions) error {
			if puts.Add(1)%7 == 0 {
				return nil
			}
			return s.Put(ctx, k, b, o)
		}}, "mixed load"},
		{"get from one byte on", broken{get: func(s storage.Store, ctx context.Context, k storage.Key, off, n int64, fn func(io.Reader) error) error {
			return s.Get(ctx, k, max(off, 1), n, fn)
		}}, "range reads"},
		{"get ignores n", broken{get: func(s storage.Store, ctx context.Context, k storage.Key, off, _ int64, fn func(io.Reader) error) error {
			return s.Get(ctx, k, off, -1, fn)
		}}, "range reads"},
		{"get of nothing is no error", broken{get: func(s storage.Store, ctx context.Context, k storage.Key, off, n int64, fn func(io.Reader) error) error {
			err := s.Get(ctx, k, off, n, fn)
			if errors.Is(err, storage.ErrNotExist) {
				return nil
			}
			return err
		}}, "objects that are not there"},
		{"get wraps fn's error", broken{get: func(s storage.Store, ctx context.Context, k storage.Key, off, n int64, fn func(io.Reader) error) error {
			err := s.Get(ctx, k, off, n, fn)
			if err != nil {
				return errors.Join(err)
			}
			return nil
		}}, "errors of readers"},
		{"list goes on after fn's error", broken{list: func(s storage.Store, ctx context.Context, p string, fn func(storage.Info) error) error {
			var first error
			err := s.List(ctx, p, func(info storage.Info) error {
				if err := fn(info); err != nil && first == nil {
					first = err
				}
				return nil
			})
			return errors.Join(err, first)
		}}, "list calls back"},
		{"list shows an object twice", broken{list: func(s storage.Store, ctx context.Context, p string, fn func(storage.Info) error) error {
			return s.List(ctx, p, func(info storage.Info) error {
				if err := fn(info); err != nil {
					return err
				}
				return fn(info)
			})
		}}, "list order and prefix"},
		{"list in the order of folders", broken{list: func(s storage.Store, ctx context.Context, p string, fn func(storage.Info) error) error {
			var dots []storage.Info
			err := s.List(ctx, p, func(info storage.Info) error {
				if strings.Contains(string(info.Key), "a.b") {
					dots = append(dots, info)
					return nil
				}
				return fn(info)
			})
			for _, info := range dots {
				if err := fn(info); err != nil {
					return err
				}
			}
			return err
		}}, "list order and prefix"},
		{"delete of nothing is an error", broken{del: func(s storage.Store, ctx context.Context, k storage.Key) error {
			if _, err := s.Stat(ctx, k); err != nil {
				return err
			}
			return s.Delete(ctx, k)
		}}, "delete"},
		{"delete does nothing", broken{del: func(storage.Store, context.Context, storage.Key) error { return nil }}, "delete"},
		{"stat lies about the size", broken{stat: func(s storage.Store, ctx context.Context, k storage.Key) (storage.Info, error) {
			info, err := s.Stat(ctx, k)
			info.Size++
			return info, err
		}}, "stat"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.store.Store = mem.New()
			results := storagetest.Check(t.Context(), func(context.Context) (storage.Store, error) { return &tt.store, nil }, quick)
			var failed []string
			for _, r := range results {
				if r.Err != nil {
					if r.Name == tt.finds {
						return
					}
					failed = append(failed, r.Name)
				}
			}
			t.Errorf("the check %q passed; these failed: %q", tt.finds, failed)
		})
	}
}
