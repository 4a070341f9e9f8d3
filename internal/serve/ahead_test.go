package serve_test

import (
	"errors"
	"iter"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/serve"
)

// count iterates over numbers, and ends with an error.
func count(n int, err error) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := range n {
			if !yield(i, nil) {
				return
			}
		}
		if err != nil {
			yield(0, err)
		}
	}
}

func TestAhead(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad")
	var running, most atomic.Int32
	slow := func(i int) (int, error) {
		n := running.Add(1)
		defer running.Add(-1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		time.Sleep(time.Duration(7-i%7) * 100 * time.Microsecond) // later ones are done first
		if i == 77 {
			return 0, bad
		}
		return i * i, nil
	}
	n := 0
	for v, err := range serve.Ahead(count(100, nil), 1, slow) { // one by one
		if err != nil {
			if !errors.Is(err, bad) || n != 77 {
				t.Errorf("%d: %v", n, err)
			}
			break
		}
		if v != n*n {
			t.Fatalf("%d in place of %d", v, n*n)
		}
		n++
	}
	for name, c := range map[string]struct {
		values iter.Seq2[int, error]
		stop   int // after so many
		want   int
		err    error
	}{
		"all": {count(50, nil), 100, 50, nil}, "none": {count(0, nil), 100, 0, nil}, "an error behind": {count(20, bad), 100, 20, bad},
		"an error of one": {count(100, nil), 100, 77, bad}, "stopped": {count(100, nil), 13, 13, nil},
	} {
		n := 0
		var got error
		for v, err := range serve.Ahead(c.values, 8, slow) {
			if err != nil {
				got = err
				continue
			}
			if v != n*n {
				t.Fatalf("%s: %d in place of %d", name, v, n*n)
			}
			if n++; n == c.stop {
				break
			}
		}
		if n != c.want || !errors.Is(got, c.err) {
			t.Errorf("%s: %d values and %v, want %d and %v", name, n, got, c.want, c.err)
		}
		if k := running.Load(); k != 0 {
			t.Errorf("%s: %d are still under way", name, k)
		}
	}
	if m := most.Load(); m < 4 || m > 8 {
		t.Errorf("%d at a time", m)
	}
}
