package probe_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/storage/probe"
)

var quick = probe.Options{LargeBytes: 1 << 20, RetainFor: 500 * time.Millisecond}

func TestCheckLeavesNothing(t *testing.T) {
	s := mem.New()
	if err := s.Put(t.Context(), "slipcover.json", strings.NewReader("{}"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	opts := quick
	var told []string
	opts.Each = func(r probe.Result) { told = append(told, r.Name) }
	report := probe.Check(t.Context(), s, opts)
	for _, r := range report.Failed() {
		t.Errorf("%s: %v", r.Name, r.Err)
	}
	var names []string
	for _, r := range report.Results {
		names = append(names, r.Name)
	}
	if len(names) != len(probe.Checks())+3 || names[0] != probe.Reach || names[len(names)-1] != probe.CleanUp || !slices.Equal(names, told) {
		t.Errorf("results: got %q, told %q", names, told)
	}
	if v := report.Speed; v == nil || v.Put1 <= 0 || v.Get1 <= 0 || v.Put4 <= 0 || v.Get4 <= 0 ||
		v.SmallPut.Median <= 0 || v.SmallGet.Max < v.SmallGet.Median || v.SmallStat.Max <= 0 {
		t.Errorf("speed: got %+v", v)
	}
	wantLeft(t, s, "slipcover.json")
}

func wantLeft(t *testing.T, s storage.Store, want ...storage.Key) {
	t.Helper()
	var keys []storage.Key
	if err := s.List(t.Context(), "", func(info storage.Info) error { keys = append(keys, info.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(keys, want) {
		t.Errorf("left behind: got %q, want %q", keys, want)
	}
}

func TestCheckCannotReach(t *testing.T) {
	for name, s := range map[string]*broken{
		"stat": {stat: func(storage.Store, context.Context, storage.Key) (storage.Info, error) {
			return storage.Info{}, storage.ErrDenied
		}},
		"put": {put: func(storage.Store, context.Context, storage.Key, storage.Body, storage.PutOptions) error {
			return storage.ErrDenied
		}},
		"the answer to put is lost": {put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, o storage.PutOptions) error {
			return errors.Join(s.Put(ctx, k, b, o), storage.ErrDenied)
		}},
	} {
		s.Store = mem.New()
		if r := probe.Check(t.Context(), s, quick).Results; len(r) != 1 || r[0].Name != probe.Reach || !errors.Is(r[0].Err, storage.ErrDenied) {
			t.Errorf("%s: got %+v, want %q alone, with ErrDenied", name, r, probe.Reach)
		}
		wantLeft(t, s.Store)
	}
}

// A cancel at any check leaves nothing either, although a listing doesn't show yet
// what was put.
func TestCheckCancelled(t *testing.T) {
	for _, at := range []string{"the first put", probe.Reach, "range reads", "list order and prefix", "put and delete, concurrently", "mixed load"} {
		t.Run(at, func(t *testing.T) {
			s := mem.New()
			late := &broken{Store: s, list: func(storage.Store, context.Context, string, func(storage.Info) error) error { return nil }}
			ctx, cancel := context.WithCancel(t.Context())
			var puts atomic.Int64
			stop := &broken{Store: late, put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, o storage.PutOptions) error {
				err := s.Put(ctx, k, b, o)
				switch puts.Add(1); at {
				case "range reads":
					cancel() // in the middle of a check
				case "the first put": // which takes effect all the same
					cancel()
					err = ctx.Err()
				}
				return err
			}}
			opts := quick
			opts.Each = func(r probe.Result) {
				if r.Name == at {
					cancel()
				}
			}
			report := probe.Check(ctx, stop, opts)
			if last := report.Results[len(report.Results)-1]; last.Name != probe.CleanUp || last.Err != nil || report.Speed != nil {
				t.Errorf("the last is %+v, the speed %+v", last, report.Speed)
			}
			if puts.Load() == 0 && at != probe.Reach {
				t.Error("nothing was put")
			}
			wantLeft(t, s)
		})
	}
}

func TestCleanUpFails(t *testing.T) {
	s := &broken{Store: mem.New(), del: func(storage.Store, context.Context, storage.Key) error { return storage.ErrDenied }}
	opts := quick
	opts.Prefix = "mine"
	report := probe.Check(t.Context(), s, opts)
	last := report.Results[len(report.Results)-1]
	if last.Name != probe.CleanUp || !errors.Is(last.Err, storage.ErrDenied) || !strings.Contains(last.Err.Error(), "remove all below mine/ by hand") {
		t.Errorf("got %+v", last)
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
		{"a negative offset is taken for 0", broken{get: func(s storage.Store, ctx context.Context, k storage.Key, off, n int64, fn func(io.Reader) error) error {
			return s.Get(ctx, k, max(off, 0), n, fn)
		}}, "range reads"},
		{"any prefix is listed", broken{list: func(s storage.Store, ctx context.Context, p string, fn func(storage.Info) error) error {
			if p != "" && !storage.Key(strings.TrimSuffix(p, "/")).Valid() || !strings.HasSuffix(p, "/") && p != "" {
				return nil
			}
			return s.List(ctx, p, fn)
		}}, "invalid keys"},
		{"delete leaves an object now and then", broken{del: func(s storage.Store, ctx context.Context, k storage.Key) error {
			if strings.HasSuffix(string(k), "7") {
				return ctx.Err()
			}
			return s.Delete(ctx, k)
		}}, "delete many at once"},
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
			if tt.store.Store == nil {
				tt.store.Store = mem.New()
			}
			wantFound(t, &tt.store, tt.finds)
		})
	}
}

// wantFound runs the check of that name alone.
func wantFound(t *testing.T, s storage.Store, name string) {
	t.Helper()
	for _, c := range probe.Checks() {
		if c.Name == name {
			if err := c.Do(t.Context(), s, quick); err == nil {
				t.Errorf("the check %q passed", name)
			}
			return
		}
	}
	t.Errorf("there is no check %q", name)
}

// retaining is a broken Store that can protect objects.
type retaining struct {
	broken
	retain func(ctx context.Context, k storage.Key, until time.Time) error
	delAll func(ctx context.Context, keys []storage.Key) error
}

func (r *retaining) Retain(ctx context.Context, k storage.Key, until time.Time) error {
	return r.retain(ctx, k, until)
}

func (r *retaining) DeleteAll(ctx context.Context, keys []storage.Key) error {
	return r.delAll(ctx, keys)
}

func TestCheckFindsInAbilities(t *testing.T) {
	under := mem.NewRetaining()
	each := func(ctx context.Context, keys []storage.Key) error {
		for _, k := range keys {
			if err := under.Delete(ctx, k); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	tests := []struct {
		name  string
		store retaining
		finds string
	}{
		{"nothing wrong", retaining{broken{Store: under}, under.Retain, each}, ""},
		{"delete of many does nothing", retaining{broken{Store: under}, under.Retain, func(ctx context.Context, _ []storage.Key) error { return ctx.Err() }}, "delete many at once"},
		{"delete of many takes any key", retaining{broken{Store: under}, under.Retain, func(ctx context.Context, keys []storage.Key) error {
			return each(ctx, slices.DeleteFunc(slices.Clone(keys), func(k storage.Key) bool { return !k.Valid() }))
		}}, "delete many at once"},
		{"delete of many leaves those behind the first thousand", retaining{broken{Store: under}, under.Retain, func(ctx context.Context, keys []storage.Key) error {
			return each(ctx, keys[max(0, len(keys)-1000):])
		}}, "delete many at once"},
		{"prolonging fails", retaining{broken{Store: under}, func(context.Context, storage.Key, time.Time) error { return storage.ErrDenied }, each}, "protected objects"},
		{"replace of a protected object", retaining{broken{Store: under, put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, o storage.PutOptions) error {
			if err := s.Put(ctx, k, b, o); !errors.Is(err, storage.ErrRetained) {
				return err
			}
			return nil
		}}, under.Retain, each}, "protected objects"},
		{"delete of a protected object", retaining{broken{Store: under, put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, o storage.PutOptions) error {
			return s.Put(ctx, k, b, storage.PutOptions{IfAbsent: o.IfAbsent})
		}}, func(context.Context, storage.Key, time.Time) error { return nil }, each}, "protected objects"},
		{"refused but put", retaining{broken{Store: under, put: func(s storage.Store, ctx context.Context, k storage.Key, b storage.Body, o storage.PutOptions) error {
			err := s.Put(ctx, k, b, storage.PutOptions{IfAbsent: o.IfAbsent})
			if !o.RetainUntil.IsZero() {
				return errReader
			}
			return err
		}}, under.Retain, each}, "protected objects"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				// What a check that failed leaves protected is not for long.
				if err := probe.Empty(t.Context(), under, ""); err != nil {
					t.Error(err)
				}
			}()
			if tt.finds != "" {
				wantFound(t, &tt.store, tt.finds)
				return
			}
			opts := quick
			opts.NoSpeed = true
			for _, r := range probe.Check(t.Context(), &tt.store, opts).Failed() {
				t.Errorf("%s: %v", r.Name, r.Err)
			}
		})
	}
}

var errReader = errors.New("an error of the storage")
