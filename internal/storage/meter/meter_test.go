package meter_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/storage/meter"
	"github.com/slipcover/slipcover/internal/storage/probe"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
)

func TestContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return meter.New(mem.New(), &meter.Meter{}) })
}

// able is a Store with all optional abilities.
type able struct{ *mem.Retaining }

func (a able) DeleteAll(ctx context.Context, keys []storage.Key) error {
	return storage.DeleteAll(ctx, struct{ storage.Store }{a.Retaining}, keys)
}

func TestContractOfAbilities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &meter.Meter{}
		for _, r := range probe.Check(t.Context(), meter.New(able{mem.NewRetaining()}, m), probe.Options{NoSpeed: true, LargeBytes: 1 << 20}).Failed() {
			t.Errorf("%s: %v", r.Name, r.Err)
		}
		for k := meter.Put; k <= meter.Retain; k++ {
			if m.Snapshot().Kinds[k].Requests == 0 {
				t.Errorf("no %s was counted", k)
			}
		}
	})
}

func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, m := t.Context(), &meter.Meter{}
		dead, cancel := context.WithCancel(ctx)
		cancel()
		errOwn := errors.New("the caller's own")
		slow := func(d time.Duration, err error) faulty.Action {
			return faulty.Action{Before: func() error { time.Sleep(d); return err }}
		}
		var next faulty.Action
		s := meter.New(faulty.New(mem.New(), func(faulty.Op) faulty.Action { return next }), m)
		put := func(text string, o storage.PutOptions) error { return s.Put(ctx, "a", strings.NewReader(text), o) }
		get := func(fn func(io.Reader) error) error { return s.Get(ctx, "a", 0, -1, fn) }
		readAll := func(r io.Reader) error { _, err := io.ReadAll(r); return err }
		for _, step := range []struct {
			action faulty.Action
			do     func() error
			want   error
		}{
			{slow(3*time.Second, nil), func() error { return put("12345", storage.PutOptions{}) }, nil},
			{slow(time.Second, storage.ErrUnavailable), func() error { return put("lost", storage.PutOptions{}) }, storage.ErrUnavailable},
			{faulty.Action{}, func() error { return put("x", storage.PutOptions{IfAbsent: true}) }, storage.ErrExist},
			{slow(time.Second, nil), func() error { return get(readAll) }, nil},
			{faulty.CutMidBody(2), func() error { return get(readAll) }, storage.ErrUnavailable},
			{faulty.Action{}, func() error { return get(func(io.Reader) error { return errOwn }) }, errOwn},
			{faulty.Action{}, func() error { _, err := s.Stat(ctx, "none"); return err }, storage.ErrNotExist},
			{faulty.Fail(storage.ErrDenied), func() error { _, err := s.Stat(ctx, "a"); return err }, storage.ErrDenied},
			{faulty.Action{}, func() error { return s.List(ctx, "", func(storage.Info) error { return errOwn }) }, errOwn},
			{faulty.Fail(storage.ErrDenied), func() error { return s.List(ctx, "", func(storage.Info) error { return nil }) }, storage.ErrDenied},
			{faulty.Action{}, func() error { return s.Delete(ctx, "a") }, nil},
			{faulty.Action{}, func() error { return s.Delete(dead, "a") }, context.Canceled},
		} {
			next = step.action
			if err := step.do(); !errors.Is(err, step.want) {
				t.Errorf("got %v, want %v", err, step.want)
			}
		}
		m.Retried()
		time.Sleep(time.Hour) // nothing is under way
		got := m.Snapshot()
		want := map[meter.Kind]meter.Counts{
			meter.Put:    {Requests: 3, Errors: 1, Sum: 4 * time.Second, Max: 3 * time.Second},
			meter.Get:    {Requests: 3, Errors: 1, Sum: time.Second, Max: time.Second},
			meter.Stat:   {Requests: 2, Errors: 1},
			meter.List:   {Requests: 2, Errors: 1},
			meter.Delete: {Requests: 2},
		}
		if !maps.Equal(got.Kinds, want) {
			t.Errorf("got  %+v\nwant %+v", got.Kinds, want)
		}
		if got.Up != 5 || got.Down != 7 || got.Retries != 1 || got.Busy != 5*time.Second || got.Requests() != 12 || got.Errors() != 4 {
			t.Errorf("got %+v, %d requests, %d errors", got, got.Requests(), got.Errors())
		}
	})
}

// Requests side by side make the storage busy once.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &meter.Meter{}
		s := meter.New(faulty.New(mem.New(), func(faulty.Op) faulty.Action {
			return faulty.Action{Before: func() error { time.Sleep(10 * time.Second); return nil }}
		}), m)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { _, _ = s.Stat(t.Context(), "a") })
			time.Sleep(time.Second)
		}
		if got := m.Snapshot(); got.Busy != 5*time.Second || got.Requests() != 0 {
			t.Errorf("under way: %+v", got)
		}
		wg.Wait()
		time.Sleep(time.Minute)
		if got := m.Snapshot(); got.Busy != 14*time.Second || got.Kinds[meter.Stat].Sum != 50*time.Second {
			t.Errorf("in the end: %+v", got)
		}
	})
}
