package faulty_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
)

func TestContractWithoutFaults(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return faulty.New(mem.New(), nil) })
}

func put(ctx context.Context, s storage.Store, key storage.Key, body string) error {
	return s.Put(ctx, key, strings.NewReader(body), storage.PutOptions{})
}

func get(ctx context.Context, s storage.Store, key storage.Key) (string, error) {
	var b []byte
	err := s.Get(ctx, key, 0, -1, func(r io.Reader) (err error) {
		b, err = io.ReadAll(r)
		return err
	})
	return string(b), err
}

// work makes three writes with reads between them and stops at the first error.
func work(ctx context.Context, s storage.Store) error {
	if err := put(ctx, s, "a", "1"); err != nil {
		return err
	}
	if _, err := s.Stat(ctx, "a"); err != nil {
		return err
	}
	if err := put(ctx, s, "b", "2"); err != nil {
		return err
	}
	if _, err := get(ctx, s, "b"); err != nil {
		return err
	}
	return s.Delete(ctx, "a")
}

func keys(t *testing.T, s storage.Store) string {
	t.Helper()
	var keys []string
	err := s.List(t.Context(), "", func(info storage.Info) error {
		keys = append(keys, string(info.Key))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(keys, " ")
}

func TestEachWrite(t *testing.T) {
	tests := []struct {
		name   string
		plan   func(n int) faulty.Plan
		states []string // what the store holds after a fault at write 1, 2, 3
	}{
		{"fail", func(n int) faulty.Plan { return faulty.At(n, faulty.Fail(faulty.Err)) }, []string{"", "a", "a b"}},
		{"take effect and fail", func(n int) faulty.Plan { return faulty.At(n, faulty.FailAfter(faulty.Err)) }, []string{"a", "a b", "b"}},
		{"gone", func(n int) faulty.Plan { return faulty.From(n, faulty.Fail(faulty.Err)) }, []string{"", "a", "a b"}},
	}
	for _, tt := range tests {
		for n := 1; n <= 4; n++ {
			t.Run(fmt.Sprintf("%s/%d", tt.name, n), func(t *testing.T) {
				under := mem.New()
				s := faulty.New(under, tt.plan(n))
				err := work(t.Context(), s)
				want := "b"
				if n <= 3 {
					want = tt.states[n-1]
				}
				if got := keys(t, under); got != want {
					t.Errorf("objects: got %q, want %q", got, want)
				}
				if got := errors.Is(err, faulty.Err); got != (n <= 3) {
					t.Errorf("error: got %v", err)
				}
				if got := s.Reached(); got != (n <= 3) {
					t.Errorf("Reached: got %v", got)
				}
			})
		}
	}
}

func TestGoneForReadsToo(t *testing.T) {
	s := faulty.New(mem.New(), faulty.From(2, faulty.Fail(storage.ErrUnavailable)))
	if err := put(t.Context(), s, "a", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t.Context(), s, "a"); err != nil {
		t.Errorf("get before: %v", err)
	}
	if err := put(t.Context(), s, "b", "1"); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("put: got %v", err)
	}
	if _, err := get(t.Context(), s, "a"); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("get after: got %v", err)
	}
}

func TestReads(t *testing.T) {
	ctx := t.Context()
	var seen []string
	s := faulty.New(mem.New(), func(op faulty.Op) faulty.Action {
		seen = append(seen, fmt.Sprintf("%d %v %s", op.N, op.Kind, op.Key))
		switch {
		case op.Kind == faulty.Get && op.N == 1:
			return faulty.Cut(3, faulty.Err)
		case op.Kind == faulty.Get && op.N == 2:
			return faulty.Cut(4, io.EOF)
		case op.Kind == faulty.Stat:
			return faulty.Fail(storage.ErrDenied)
		case op.Kind == faulty.List:
			return faulty.FailAfter(faulty.Err)
		}
		return faulty.Action{}
	})
	if err := put(ctx, s, "a", "12345"); err != nil {
		t.Fatal(err)
	}
	if got, err := get(ctx, s, "a"); got != "123" || !errors.Is(err, faulty.Err) {
		t.Errorf("cut read: got %q, %v", got, err)
	}
	if got, err := get(ctx, s, "a"); got != "1234" || err != nil {
		t.Errorf("short read: got %q, %v", got, err)
	}
	if info, err := s.Stat(ctx, "a"); info != (storage.Info{}) || !errors.Is(err, storage.ErrDenied) {
		t.Errorf("stat: got %v, %v", info, err)
	}
	listed := 0
	if err := s.List(ctx, "", func(storage.Info) error { listed++; return nil }); listed != 1 || !errors.Is(err, faulty.Err) {
		t.Errorf("list: got %d objects, %v", listed, err)
	}
	if got, want := strings.Join(seen, ", "), "1 put a, 1 get a, 2 get a, 3 stat a, 4 list "; got != want {
		t.Errorf("calls: got %q, want %q", got, want)
	}
	if w, r := s.Calls(); w != 1 || r != 4 {
		t.Errorf("Calls: got %d, %d, want 1, 4", w, r)
	}
}

func TestKill(t *testing.T) {
	for name, a := range map[string]faulty.Action{
		"before": {Before: func() error { panic("killed") }},
		"after":  {After: func() error { panic("killed") }},
	} {
		under := mem.New()
		s := faulty.New(under, faulty.At(1, a))
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			put(t.Context(), s, "a", "1")
		}()
		if got := keys(t, under) == "a"; got != (name == "after") {
			t.Errorf("%s: object is there: %v", name, got)
		}
		if !s.Reached() {
			t.Errorf("%s: not reached", name)
		}
	}
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		under := mem.New()
		s := faulty.New(under, faulty.At(1, faulty.Stall(release)))
		done := make(chan error)
		go func() { done <- put(t.Context(), s, "a", "1") }()
		synctest.Wait()
		if got := keys(t, under); got != "" {
			t.Errorf("objects while it stalls: %q", got)
		}
		close(release)
		if err := <-done; err != nil || keys(t, under) != "a" || !s.Reached() {
			t.Errorf("after the release: %v, objects %q", err, keys(t, under))
		}

		s = faulty.New(under, faulty.At(1, faulty.Stall(nil)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		if err := put(ctx, s, "b", "1"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Hour {
			t.Errorf("never released: got %v after %v", err, time.Since(began))
		}
		if got := keys(t, under); got != "a" {
			t.Errorf("objects after the end: %q", got)
		}
	})
}

func TestMidBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		tests := []struct {
			name   string
			action faulty.Action
			got    string
			err    error // nil if the Get goes well
		}{
			{"cut", faulty.CutMidBody(3), "123", storage.ErrUnavailable},
			{"cut at once", faulty.CutMidBody(0), "", storage.ErrUnavailable},
			{"cut behind the end", faulty.CutMidBody(6), "12345", nil},
			{"wrong byte", faulty.WrongBytes(2), "12745", nil},
			{"wrong byte behind the end", faulty.WrongBytes(5), "12345", nil},
			{"stall", faulty.StallMidBody(2, nil), "12", context.DeadlineExceeded},
			{"stall for a time", faulty.StallMidBody(2, release), "12345", nil},
		}
		time.AfterFunc(time.Minute, func() { close(release) })
		under := mem.New()
		if err := put(t.Context(), under, "a", "12345"); err != nil {
			t.Fatal(err)
		}
		for _, tt := range tests {
			s := faulty.New(under, func(faulty.Op) faulty.Action { return tt.action })
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			got, err := get(ctx, s, "a")
			cancel()
			if got != tt.got || !errors.Is(err, tt.err) {
				t.Errorf("%s: got %q, %v, want %q, %v", tt.name, got, err, tt.got, tt.err)
			}
			if cut := strings.HasPrefix(tt.name, "cut") && tt.err != nil; cut != errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: got %v", tt.name, err)
			}
		}
	})
}

func TestBursts(t *testing.T) {
	s := faulty.New(mem.New(), faulty.Bursts(2, 3, faulty.Fail(storage.ErrUnavailable)))
	got := ""
	for i := range 12 {
		var err error
		if i%2 == 0 {
			err = put(t.Context(), s, "a", "1")
		} else {
			_, err = s.Stat(t.Context(), "a")
		}
		switch {
		case err == nil:
			got += "."
		case errors.Is(err, storage.ErrUnavailable):
			got += "x"
		default:
			t.Fatal(err)
		}
	}
	if want := "..xxx..xxx.."; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
