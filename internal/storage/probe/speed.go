package probe

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/storage"
)

// Speed is how fast a storage was.
type Speed struct {
	Object     int64   // bytes of each object
	Put1, Get1 float64 // bytes per second, one object at a time
	Put4, Get4 float64 // bytes per second, four at a time
	// Small are the times of requests for objects of 1 KiB, one at a time.
	SmallPut, SmallGet, SmallStat Latency
}

// Latency is the time of single requests.
type Latency struct {
	Median, Max time.Duration
}

// Parallel is how many objects are put and got at a time for Put4 and Get4.
const Parallel = 4

const (
	// speedObject is the most bytes of an object to measure with: what a stored segment
	// of a backup has at most.
	speedObject  = 8 << 20
	smallBytes   = 1 << 10
	smallObjects = 20
)

// measure puts and gets total bytes in objects of a size that backups have.
func measure(ctx context.Context, s storage.Store, prefix string, total int64) (*Speed, error) {
	object := patternBody{max(1, min(speedObject, total/Parallel))}
	n := int(max(total/object.size, Parallel))
	key := func(kind string, i int) storage.Key { return storage.Key(fmt.Sprintf("%s%s/%d", prefix, kind, i)) }
	put := func(kind string) func(context.Context, int) error {
		return func(ctx context.Context, i int) error {
			return s.Put(ctx, key(kind, i), object, storage.PutOptions{IfAbsent: true})
		}
	}
	get := func(kind string) func(context.Context, int) error {
		return func(ctx context.Context, i int) error {
			return s.Get(ctx, key(kind, i), 0, -1, func(r io.Reader) error {
				_, err := io.Copy(io.Discard, r)
				return err
			})
		}
	}
	speed := &Speed{Object: object.size}
	for _, m := range []struct {
		to       *float64
		parallel int
		do       func(context.Context, int) error
	}{
		{&speed.Put1, 1, put("one")}, {&speed.Get1, 1, get("one")},
		{&speed.Put4, Parallel, put("four")}, {&speed.Get4, Parallel, get("four")},
	} {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(m.parallel)
		began := time.Now()
		for i := range n {
			g.Go(func() error { return m.do(gctx, i) })
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		*m.to = float64(int64(n)*object.size) / time.Since(began).Seconds()
	}
	return speed, small(ctx, s, speed, func(i int) storage.Key { return key("small", i) })
}

func small(ctx context.Context, s storage.Store, speed *Speed, key func(int) storage.Key) error {
	for _, m := range []struct {
		to *Latency
		do func(storage.Key) error
	}{
		{&speed.SmallPut, func(k storage.Key) error { return s.Put(ctx, k, patternBody{smallBytes}, storage.PutOptions{}) }},
		{&speed.SmallGet, func(k storage.Key) error {
			return s.Get(ctx, k, 0, -1, func(r io.Reader) error {
				_, err := io.Copy(io.Discard, r)
				return err
			})
		}},
		{&speed.SmallStat, func(k storage.Key) error {
			_, err := s.Stat(ctx, k)
			return err
		}},
	} {
		var took []time.Duration
		for i := range smallObjects {
			began := time.Now()
			if err := m.do(key(i)); err != nil {
				return err
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		*m.to = Latency{Median: took[len(took)/2], Max: took[len(took)-1]}
	}
	return nil
}
