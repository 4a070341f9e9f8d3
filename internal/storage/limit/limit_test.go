package limit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/limit"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/storage/probe"
)

func TestContract(t *testing.T) {
	for _, perSecond := range []int64{100 << 10, math.MaxInt64} {
		t.Run(fmt.Sprint(perSecond), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := probe.Options{NoSpeed: true, LargeBytes: 1 << 20, RetainFor: 10 * time.Minute}
				s := limit.New(mem.NewRetaining(), limit.NewLimits(perSecond, perSecond))
				for _, r := range probe.Check(t.Context(), s, opts).Failed() {
					t.Errorf("%s: %v", r.Name, r.Err)
				}
			})
		})
	}
}

func TestNoLimit(t *testing.T) {
	s := mem.New()
	if got := limit.New(s, limit.NewLimits(0, 0)); got != storage.Store(s) {
		t.Errorf("got %T, want the store itself", got)
	}
}

const mib = 1 << 20

func burst(perSecond int64) int64 { return max(512, min(256<<10, perSecond/10)) }

// All operations together take as long as their bytes need, less what passes at once.
func TestExact(t *testing.T) {
	text := strings.Repeat("x", mib)
	for _, perSecond := range []int64{5_000, 500_000, mib, 20 * mib, 1000 * mib} {
		for _, parallel := range []int{1, 7} {
			t.Run(fmt.Sprintf("%d bytes per second, %d at a time", perSecond, parallel), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx := t.Context()
					l := limit.NewLimits(perSecond, perSecond)
					stores := []storage.Store{limit.New(mem.New(), l), limit.New(mem.New(), l)} // they share it
					each := func(do func(s storage.Store, key storage.Key) error) time.Duration {
						began := time.Now()
						var wg sync.WaitGroup
						for i := range parallel {
							wg.Go(func() {
								if err := do(stores[i%2], storage.Key(fmt.Sprint(i))); err != nil {
									t.Error(err)
								}
							})
						}
						wg.Wait()
						return time.Since(began)
					}
					want := time.Duration(float64(int64(parallel)*mib-burst(perSecond)) / float64(perSecond) * float64(time.Second))
					up := each(func(s storage.Store, key storage.Key) error {
						return s.Put(ctx, key, strings.NewReader(text), storage.PutOptions{})
					})
					down := each(func(s storage.Store, key storage.Key) error {
						return s.Get(ctx, key, 0, -1, func(r io.Reader) error {
							n, err := io.Copy(io.Discard, r)
							if n != mib {
								t.Errorf("read %d bytes", n)
							}
							return err
						})
					})
					for what, took := range map[string]time.Duration{"up": up, "down": down} {
						if diff := (took - want).Abs(); diff > time.Millisecond {
							t.Errorf("%s: took %s, want %s", what, took, want)
						}
					}
				})
			})
		}
	}
}

// In no tenth of a second pass more bytes than twice its share.
func TestSmooth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond = mib
		s := limit.New(mem.New(), limit.NewLimits(perSecond, 0))
		b := &timedBody{Reader: strings.NewReader(strings.Repeat("x", 3*mib))}
		if err := s.Put(t.Context(), "a", b, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		for i := range b.at {
			sum := 0
			for j := i; j < len(b.at) && b.at[j].Sub(b.at[i]) < 100*time.Millisecond; j++ {
				sum += b.n[j]
			}
			if sum > 2*perSecond/10+1 {
				t.Errorf("%d bytes within a tenth of a second from %s", sum, b.at[i].Sub(b.at[0]))
			}
		}
		if len(b.at) < 20 {
			t.Errorf("only %d reads", len(b.at))
		}
	})
}

type timedBody struct {
	*strings.Reader
	at []time.Time
	n  []int
}

func (b *timedBody) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.Reader.ReadAt(p, off)
	b.at, b.n = append(b.at, time.Now()), append(b.n, n)
	return n, err
}

// What is left of a wait that is cancelled goes to the others.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := mem.New()
		s := limit.New(under, limit.NewLimits(1000, 1000))
		text := strings.Repeat("x", 100_000)
		if err := under.Put(t.Context(), "a", strings.NewReader(text), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		var wg sync.WaitGroup
		for name, err := range map[string]func() error{
			"put": func() error { return s.Put(ctx, "b", strings.NewReader(text), storage.PutOptions{}) },
			"get": func() error {
				return s.Get(ctx, "a", 0, -1, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err })
			},
		} {
			wg.Go(func() {
				if err := err(); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Second {
					t.Errorf("%s: after %s: %v", name, time.Since(began), err)
				}
			})
		}
		wg.Wait()
		began = time.Now()
		if err := s.Put(t.Context(), "c", strings.NewReader(text[:1000]), storage.PutOptions{}); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("after the cancel a put of 1000 bytes took %s: %v", time.Since(began), err)
		}
	})
}

// hashing reads each body twice, as drivers do that send a checksum first.
type hashing struct{ storage.Store }

func (h hashing) Put(ctx context.Context, key storage.Key, b storage.Body, opts storage.PutOptions) error {
	plain := storage.Preread(b)
	if _, err := io.Copy(io.Discard, io.NewSectionReader(plain, 0, plain.Size())); err != nil {
		return err
	}
	return h.Store.Put(ctx, key, b, opts)
}

func TestHashingIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limit.New(hashing{mem.New()}, limit.NewLimits(mib, 0))
		began := time.Now()
		if err := s.Put(t.Context(), "a", strings.NewReader(strings.Repeat("x", 2*mib)), storage.PutOptions{}); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("took %s: %v", time.Since(began), err)
		}
	})
}
