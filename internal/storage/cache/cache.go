// Package cache is a storage wrapper that keeps what is read by ranges, in memory or
// in a folder that outlives the process.
//
// It asks the storage for aligned blocks, so that readers of many small ranges, as
// age's are, make one request where they would make several, and it keeps them up
// to a size in bytes, those used last. Only objects that never change are kept,
// which the caller tells by their keys; such an object may be read from the cache
// after it was deleted. Reads of whole objects and of long ranges pass by.
//
// What a ranged read gives is as good as the storage's answer was at that time:
// whoever wants to prove what is stored now has to do without a folder.
package cache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/wrap"
)

const (
	// blockSize is what is asked for and kept at once, in bytes.
	blockSize = 512 << 10
	// longRange is the longest range that isn't taken for a long one.
	longRange = 4 << 20
)

// Options are the options of New.
type Options struct {
	// Size bounds what is kept, in bytes; 0 keeps nothing.
	Size int64
	// Dir is a folder of its own to keep it in, which is made if it isn't there;
	// empty for memory. Several processes may use it; together they may go over Size
	// by an eighth for each.
	Dir string
	// Immutable tells the keys of objects that never change.
	Immutable func(storage.Key) bool
}

// New returns s with a cache. It has the optional abilities of s.
func New(s storage.Store, o Options) (storage.Store, error) {
	if o.Size <= 0 {
		return s, nil
	}
	c := &store{Store: s, immutable: o.Immutable, flights: map[block]*flight{}}
	if o.Dir == "" {
		c.kept = newMemory(o.Size)
	} else {
		d, err := newDisk(o.Dir, s.URL(), o.Size)
		if err != nil {
			return nil, err
		}
		c.kept = d
	}
	return wrap.Keep(c, s), nil
}

// block names a block of an object.
type block struct {
	key storage.Key
	n   int64 // it begins at n*blockSize
}

// keeper keeps blocks; it may forget any at any time.
type keeper interface {
	get(block) []byte // nil if it isn't there
	has(block) int    // how many bytes it seems to have, without reading it; 0 if it isn't there
	put(block, []byte)
}

type store struct {
	storage.Store
	immutable func(storage.Key) bool
	kept      keeper

	mu      sync.Mutex
	flights map[block]*flight // guarded by mu
}

// flight is a read of a block that others wait for.
type flight struct {
	done chan struct{}
	b    []byte // these two are set before done is closed
	err  error
}

// Get reads a short range of an immutable object by its blocks.
func (s *store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	if n <= 0 || n > longRange || off < 0 || off > math.MaxInt64-blockSize-n || !s.immutable(key) {
		return s.Store.Get(ctx, key, off, n, fn)
	}
	if first, last := off/blockSize, (off+n-1)/blockSize; first < last {
		if err := s.several(ctx, key, first, last); err != nil {
			return err
		}
	}
	var parts []io.Reader
	for n > 0 {
		b, err := s.block(ctx, block{key, off / blockSize})
		if err != nil {
			return err
		}
		whole := len(b) == blockSize
		b = b[min(off%blockSize, int64(len(b))):]
		b = b[:min(n, int64(len(b)))]
		parts = append(parts, bytes.NewReader(b))
		off, n = off+int64(len(b)), n-int64(len(b))
		if !whole { // it is the last of the object
			break
		}
	}
	return fn(io.MultiReader(parts...))
}

// several reads those of the blocks from first to last that aren't kept, with one request for each run of them. Two callers
// may read the same.
func (s *store) several(ctx context.Context, key storage.Key, first, last int64) error {
	for n := first; n < last; n++ {
		end, size := n, 0
		for end <= last && size == 0 {
			if size = s.kept.has(block{key, end}); size == 0 {
				end++
			}
		}
		if size > 0 && size < blockSize && end == n { // the object ends there
			return nil
		}
		if end-n < 2 { // Get does it
			continue
		}
		err := s.Store.Get(ctx, key, n*blockSize, (end-n)*blockSize, func(r io.Reader) error {
			for ; n < end; n++ {
				b, err := io.ReadAll(io.LimitReader(r, blockSize))
				if err != nil {
					return err
				}
				if len(b) == 0 {
					break
				}
				s.kept.put(block{key, n}, b)
			}
			return nil
		})
		if err != nil {
			return err
		}
		n = end
	}
	return nil
}

// block returns a block, shorter than blockSize at the end of the object and empty
// behind it.
func (s *store) block(ctx context.Context, id block) ([]byte, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("get %s: %w", id.key, err)
		}
		s.mu.Lock()
		f, under := s.flights[id]
		if !under {
			f = &flight{done: make(chan struct{})}
			s.flights[id] = f
		}
		s.mu.Unlock()
		if !under {
			return s.fly(ctx, id, f)
		}
		select {
		case <-f.done:
			if f.err == nil {
				return f.b, nil
			}
			// The reason may have been another caller's context.
		case <-ctx.Done():
		}
	}
}

// fly reads a block for all who wait for f.
func (s *store) fly(ctx context.Context, id block, f *flight) ([]byte, error) {
	f.err = context.Canceled // for the others, if this goroutine ends in between
	defer func() {
		s.mu.Lock()
		delete(s.flights, id)
		s.mu.Unlock()
		close(f.done)
	}()
	if f.b = s.kept.get(id); f.b != nil {
		f.err = nil
		return f.b, nil
	}
	f.err = s.Store.Get(ctx, id.key, id.n*blockSize, blockSize, func(r io.Reader) (err error) {
		f.b, err = io.ReadAll(io.LimitReader(r, blockSize))
		return err
	})
	if f.err == nil && len(f.b) > 0 {
		s.kept.put(id, f.b)
	}
	return f.b, f.err
}

// DeleteAll is that of the Store below.
func (s *store) DeleteAll(ctx context.Context, keys []storage.Key) error {
	return s.Store.(storage.Deleter).DeleteAll(ctx, keys)
}

// Retain is that of the Store below.
func (s *store) Retain(ctx context.Context, key storage.Key, until time.Time) error {
	return s.Store.(storage.Retainer).Retain(ctx, key, until)
}
