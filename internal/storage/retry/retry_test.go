package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/storage/probe"
	"github.com/slipcover/slipcover/internal/storage/retry"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
)

func TestContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return retry.New(mem.New(), retry.Options{}) })
}

func TestContractOfRetaining(t *testing.T) {
	s := retry.New(mem.NewRetaining(), retry.Options{})
	if _, ok := s.(storage.Retainer); !ok {
		t.Error("the ability to prolong is lost")
	}
	synctest.Test(t, func(t *testing.T) { wantContract(t, retry.New(mem.NewRetaining(), retry.Options{})) })
}

func wantContract(t *testing.T, s storage.Store) {
	t.Helper()
	for _, r := range probe.Check(t.Context(), s, probe.Options{NoSpeed: true, LargeBytes: 4 << 20}).Failed() {
		t.Errorf("%s: %v", r.Name, r.Err)
	}
}

// The contract holds too where every third call fails, before or after it took
// effect, or while the body is read.
func TestContractWithFaults(t *testing.T) {
	for name, a := range map[string]faulty.Action{
		"before":   faulty.Fail(storage.ErrUnavailable),
		"after":    faulty.FailAfter(fmt.Errorf("%w: the answer was lost", storage.ErrUnavailable)),
		"mid body": faulty.CutMidBody(3000),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tries atomic.Int64
				f := faulty.New(mem.New(), faulty.Bursts(2, 1, a))
				wantContract(t, retry.New(f, retry.Options{OnRetry: func(string, storage.Key, error, time.Duration) { tries.Add(1) }}))
				if n := tries.Load(); n < 20 {
					t.Errorf("only %d calls were tried again", n)
				}
			})
		})
	}
}

// failing returns a Store whose next n calls fail with err, and its number of calls.
func failing(n int, err error) (*faulty.Store, func() int) {
	s := mem.New()
	for _, key := range []storage.Key{"a", "d/1", "d/2", "d/3"} {
		_ = s.Put(context.Background(), key, strings.NewReader("old"), storage.PutOptions{})
	}
	f := faulty.New(s, func(faulty.Op) faulty.Action {
		if n--; n >= 0 {
			return faulty.Fail(err)
		}
		return faulty.Action{}
	})
	return f, func() int { writes, reads := f.Calls(); return writes + reads }
}

func stat(ctx context.Context, s storage.Store) error {
	_, err := s.Stat(ctx, "a")
	return err
}

// calls is each method, with arguments that go well over what failing returns.
var calls = map[string]func(context.Context, storage.Store) error{
	"put": func(ctx context.Context, s storage.Store) error {
		return s.Put(ctx, "a", strings.NewReader("new"), storage.PutOptions{})
	},
	"get": func(ctx context.Context, s storage.Store) error {
		return s.Get(ctx, "a", 0, -1, func(io.Reader) error { return nil })
	},
	"stat": stat,
	"list": func(ctx context.Context, s storage.Store) error {
		return s.List(ctx, "d/", func(storage.Info) error { return nil })
	},
	"delete": func(ctx context.Context, s storage.Store) error { return s.Delete(ctx, "a") },
}

func TestWaits(t *testing.T) {
	for op, call := range calls {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var waits []time.Duration
				f, n := failing(12, storage.ErrUnavailable)
				s := retry.New(f, retry.Options{For: time.Hour, OnRetry: func(gotOp string, key storage.Key, err error, wait time.Duration) {
					if gotOp != op || key != "a" && key != "d/" || !errors.Is(err, storage.ErrUnavailable) {
						t.Errorf("told of %s %s: %v", gotOp, key, err)
					}
					waits = append(waits, wait)
				}})
				began := time.Now()
				if err := call(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				sum, bound := time.Duration(0), 200*time.Millisecond
				for i, w := range waits {
					if w > bound {
						t.Errorf("wait %d is %s, more than %s", i+1, w, bound)
					}
					sum, bound = sum+w, min(2*bound, 30*time.Second)
				}
				if n() != 13 || len(waits) != 12 || time.Since(began) != sum {
					t.Errorf("%d calls, %d waits, %s in all, want 13, 12, %s", n(), len(waits), time.Since(began), sum)
				}
			})
		})
	}
}

// The waits are spread over all of their range, or clients would come back together.
func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var firsts []time.Duration
		for range 100 {
			f, _ := failing(1, storage.ErrUnavailable)
			s := retry.New(f, retry.Options{OnRetry: func(_ string, _ storage.Key, _ error, wait time.Duration) { firsts = append(firsts, wait) }})
			if err := stat(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		if lo, hi := slices.Min(firsts), slices.Max(firsts); lo > 50*time.Millisecond || hi < 150*time.Millisecond || hi > 200*time.Millisecond {
			t.Errorf("first waits are from %s to %s", lo, hi)
		}
	})
}

func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, n := failing(1e9, fmt.Errorf("%w: 503", storage.ErrUnavailable))
		began := time.Now()
		err := stat(t.Context(), retry.New(f, retry.Options{}))
		if took := time.Since(began); took != 5*time.Minute || !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("after %s: %v", took, err)
		}
		if want := fmt.Sprintf("gave up after %d tries in 5m0s: storage is not available: 503", n()); err.Error() != want || n() < 12 {
			t.Errorf("got %q, want %q", err, want)
		}
	})
}

// The time counts from the first failure: an operation that takes longer than it
// is tried again too.
func TestSlowTriesAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faulty.New(mem.New(), faulty.At(1, faulty.Action{Before: func() error {
			time.Sleep(time.Hour)
			return storage.ErrUnavailable
		}}))
		err := retry.New(f, retry.Options{For: time.Minute}).Put(t.Context(), "a", strings.NewReader("x"), storage.PutOptions{})
		if w, _ := f.Calls(); err != nil || w != 2 {
			t.Errorf("%d puts, %v", w, err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := &storage.UnavailableError{After: 40 * time.Second, Err: errors.New("429")}
		f, n := failing(3, asked)
		began := time.Now()
		if err := stat(t.Context(), retry.New(f, retry.Options{})); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); n() != 4 || took < 2*time.Minute || took > 2*time.Minute+2*time.Second {
			t.Errorf("%d calls in %s, want 4 in little more than 2m", n(), took)
		}
		f, n = failing(1, asked)
		began = time.Now()
		err := stat(t.Context(), retry.New(f, retry.Options{For: 30 * time.Second}))
		if !errors.Is(err, storage.ErrUnavailable) || n() != 1 || time.Since(began) != 0 {
			t.Errorf("asked to wait longer than it may: %d calls in %s, %v", n(), time.Since(began), err)
		}
	})
}

func TestCancelledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		f, _ := failing(1e9, storage.ErrUnavailable)
		began := time.Now()
		err := stat(ctx, retry.New(f, retry.Options{}))
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, storage.ErrUnavailable) || time.Since(began) != 90*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

func TestWhichErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, refused := net.Dial("tcp", l.Addr().String())
	tests := []struct {
		err   error
		again bool
	}{
		{storage.ErrUnavailable, true},
		{&storage.UnavailableError{Err: errors.New("503")}, true},
		{refused, true},
		{io.ErrUnexpectedEOF, true},
		{syscall.ECONNRESET, true},
		{syscall.EPIPE, true},
		{&net.DNSError{Err: "no such host"}, true},
		{fmt.Errorf("its own time limit: %w", context.DeadlineExceeded), true},
		{storage.ErrNotExist, false},
		{storage.ErrExist, false},
		{storage.ErrFull, false},
		{storage.ErrDenied, false},
		{storage.ErrRetained, false},
		{fmt.Errorf("%w: %w", storage.ErrDenied, io.ErrUnexpectedEOF), false},
		{fmt.Errorf("%w: %w", storage.ErrFull, syscall.ECONNRESET), false},
		{syscall.EACCES, false},
		{fs.ErrInvalid, false},
		{io.EOF, false},
		{errors.New("not a valid key"), false},
	}
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range tests {
			for op, call := range calls {
				f, n := failing(1, tt.err)
				err := call(t.Context(), retry.New(f, retry.Options{}))
				if again := n() == 2; again != tt.again || again != (err == nil) || !again && err != tt.err {
					t.Errorf("%s, %v: %d calls, got %v", op, tt.err, n(), err)
				}
			}
		}
	})
}

func TestGet(t *testing.T) {
	errOwn := errors.New("the caller's own")
	tests := []struct {
		name  string
		fault faulty.Action // of the first Get
		fn    func(io.Reader) error
		tries int
		want  error
	}{
		{"fn fails by itself", faulty.Action{}, func(io.Reader) error { return errOwn }, 1, errOwn},
		{"fn fails with a storage's error", faulty.Action{}, func(io.Reader) error { return storage.ErrUnavailable }, 1, storage.ErrUnavailable},
		{"fn misses bytes", faulty.Action{}, func(r io.Reader) error { _, err := io.ReadFull(r, make([]byte, 99)); return err }, 1, io.ErrUnexpectedEOF},
		{"the connection breaks", faulty.CutMidBody(2), nil, 2, nil},
		{"the reader fails, the Get says nothing of its own", faulty.Cut(2, syscall.ECONNRESET), nil, 2, nil},
		{"fn tells the break in its own words", faulty.Cut(2, syscall.ECONNRESET), func(r io.Reader) error {
			if _, err := io.ReadAll(r); err != nil {
				return errors.New("could not be read")
			}
			return nil
		}, 2, nil},
		{"all is read, the answer is lost", faulty.FailAfter(storage.ErrUnavailable), nil, 2, nil},
		{"the reader fails for good", faulty.Cut(2, storage.ErrDenied), nil, 1, storage.ErrDenied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				under := mem.New()
				if err := under.Put(t.Context(), "a", strings.NewReader("12345"), storage.PutOptions{}); err != nil {
					t.Fatal(err)
				}
				f := faulty.New(under, func(op faulty.Op) faulty.Action {
					if op.N == 1 {
						return tt.fault
					}
					return faulty.Action{}
				})
				fn, got := tt.fn, ""
				if fn == nil {
					fn = func(r io.Reader) error {
						b, err := io.ReadAll(r)
						got = string(b)
						return err
					}
				}
				err := retry.New(f, retry.Options{}).Get(t.Context(), "a", 0, -1, fn)
				if _, tries := f.Calls(); tries != tt.tries || err != tt.want && !errors.Is(err, tt.want) {
					t.Errorf("%d tries, got %v, want %d, %v", tries, err, tt.tries, tt.want)
				}
				if tt.want == errOwn && err != errOwn {
					t.Errorf("fn's error came back as %v", err)
				}
				if tt.fn == nil && tt.want == nil && got != "12345" {
					t.Errorf("read %q", got)
				}
			})
		})
	}
}

// A Put with IfAbsent whose answer is lost is told ErrExist by its next try.
func TestPutIfAbsentAgain(t *testing.T) {
	lost := faulty.FailAfter(storage.ErrUnavailable)
	refusedThen := func(body string) func(*mem.Store) faulty.Action { // another one puts it in between
		return func(s *mem.Store) faulty.Action {
			return faulty.Action{Before: func() error {
				_ = s.Put(context.Background(), "a", strings.NewReader(body), storage.PutOptions{})
				return storage.ErrUnavailable
			}}
		}
	}
	long := strings.Repeat("0123456789", 20_000)
	tests := []struct {
		name  string
		there string // before
		first func(*mem.Store) faulty.Action
		want  error
	}{
		{"took effect", "", func(*mem.Store) faulty.Action { return lost }, nil},
		{"took no effect", "", func(*mem.Store) faulty.Action { return faulty.Fail(storage.ErrUnavailable) }, nil},
		{"another size was first", "", refusedThen("short"), storage.ErrExist},
		{"other bytes of that size were first", "", refusedThen(long[1:] + "x"), storage.ErrExist},
		{"other bytes at the end", "", refusedThen(long[:len(long)-1] + "x"), storage.ErrExist},
		{"was there before", "other", func(*mem.Store) faulty.Action { return lost }, storage.ErrExist},
		{"was there before, the same, no fault", long, func(*mem.Store) faulty.Action { return faulty.Action{} }, storage.ErrExist},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				under := mem.New()
				want := long
				if tt.there != "" {
					if err := under.Put(t.Context(), "a", strings.NewReader(tt.there), storage.PutOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				reads := 0
				f := faulty.New(under, func(op faulty.Op) faulty.Action {
					if op.Kind.Mutates() && op.N == 1 {
						return tt.first(under)
					}
					if !op.Kind.Mutates() { // the comparison is tried again too
						if reads++; reads%2 == 1 {
							return faulty.Fail(storage.ErrUnavailable)
						}
					}
					return faulty.Action{}
				})
				err := retry.New(f, retry.Options{}).Put(t.Context(), "a", strings.NewReader(want), storage.PutOptions{IfAbsent: true})
				if !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
			})
		})
	}
}

func TestPutProtectedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faulty.New(mem.NewRetaining(), faulty.At(1, faulty.FailAfter(storage.ErrUnavailable)))
		s := retry.New(f, retry.Options{})
		opts := storage.PutOptions{RetainUntil: time.Now().Add(time.Hour)}
		if err := s.Put(t.Context(), "a", strings.NewReader("mine"), opts); err != nil {
			t.Errorf("its own put, protected since: %v", err)
		}
		if err := s.Put(t.Context(), "a", strings.NewReader("mine"), opts); !errors.Is(err, storage.ErrRetained) {
			t.Errorf("another put: got %v", err)
		}
	})
}

// failingBody counts how often it was read.
type failingBody struct{ reads int }

func (*failingBody) Size() int64 { return 1 << 20 }

func (b *failingBody) ReadAt([]byte, int64) (int, error) {
	b.reads++
	return 0, io.ErrUnexpectedEOF // of the body it isn't a connection's
}

func TestBodyThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &failingBody{}
		err := retry.New(mem.New(), retry.Options{}).Put(t.Context(), "a", b, storage.PutOptions{})
		if !errors.Is(err, io.ErrUnexpectedEOF) || b.reads != 1 {
			t.Errorf("%d reads, %v", b.reads, err)
		}
	})
}

// A list that breaks off goes on behind the last key.
func TestListGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := mem.New()
		var want []storage.Key
		for i := range 30 {
			key := storage.Key(fmt.Sprintf("d/%02d", i))
			want = append(want, key)
			if err := under.Put(t.Context(), key, strings.NewReader("x"), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		s := retry.New(&breakingList{Store: under}, retry.Options{})
		var got []storage.Key
		if err := s.List(t.Context(), "d/", func(info storage.Info) error { got = append(got, info.Key); return nil }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
	})
}

// breakingList breaks off after seven objects more at each List.
type breakingList struct {
	storage.Store
	n int
}

func (b *breakingList) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	b.n++
	shown, limit := 0, 7*b.n
	broken := errors.New("broken")
	err := b.Store.List(ctx, prefix, func(info storage.Info) error {
		if shown++; shown > limit {
			return broken
		}
		return fn(info)
	})
	if errors.Is(err, broken) {
		return storage.ErrUnavailable
	}
	return err
}

// deleter fails at its first DeleteAll, half done.
type deleter struct {
	storage.Store
	calls int
}

func (d *deleter) DeleteAll(ctx context.Context, keys []storage.Key) error {
	if d.calls++; d.calls == 1 {
		_ = d.Delete(ctx, keys[0])
		return storage.ErrUnavailable
	}
	for _, key := range keys {
		if err := d.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

func TestDeleteAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := failing(0, nil)
		d := &deleter{Store: f}
		s := retry.New(d, retry.Options{})
		if err := storage.DeleteAll(t.Context(), s, []storage.Key{"d/1", "d/2", "d/3", "a"}); err != nil || d.calls != 2 {
			t.Errorf("%d calls, %v", d.calls, err)
		}
		if err := stat(t.Context(), s); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("stat: %v", err)
		}
		if _, ok := retry.New(f, retry.Options{}).(storage.Deleter); ok {
			t.Error("a store that deletes one by one says that it deletes many")
		}
	})
}
