package serve

import (
	"iter"
	"sync"
)

// Ahead calls do for up to so many values side by side, and iterates over what it returns in the order of the values: what
// lies far away in a storage is waited for together. An error, of the values or of do, ends it. do may be called for
// values behind the one at which the caller stops; no call is under way when the iteration has ended.
func Ahead[T, R any](values iter.Seq2[T, error], most int, do func(T) (R, error)) iter.Seq2[R, error] {
	type made struct {
		value R
		err   error
		done  chan struct{}
	}
	if most <= 1 {
		return func(yield func(R, error) bool) {
			for v, err := range values {
				var r R
				if err == nil {
					r, err = do(v)
				}
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
	return func(yield func(R, error) bool) {
		var running sync.WaitGroup
		defer running.Wait()
		var queue []*made
		next := func() bool { // gives the first one out
			m := queue[0]
			queue = queue[1:]
			<-m.done
			return yield(m.value, m.err) && m.err == nil
		}
		var failed error
		for v, err := range values {
			if failed = err; err != nil {
				break
			}
			m := &made{done: make(chan struct{})}
			queue = append(queue, m)
			running.Go(func() {
				defer close(m.done)
				m.value, m.err = do(v)
			})
			if len(queue) >= most && !next() {
				return
			}
		}
		for len(queue) > 0 {
			if !next() {
				return
			}
		}
		if failed != nil {
			var none R
			yield(none, failed)
		}
	}
}
