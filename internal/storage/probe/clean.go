package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/wrap"
)

// memory is a Store that remembers what was put, since a listing may not show it yet.
type memory struct {
	storage.Store

	mu   sync.Mutex
	keys map[storage.Key]bool // guarded by mu
}

func remember(s storage.Store) *memory {
	return &memory{Store: s, keys: map[storage.Key]bool{}}
}

func (m *memory) store() storage.Store { return wrap.Keep(m, m.Store) }

func (m *memory) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	if key.Valid() {
		m.mu.Lock()
		m.keys[key] = true
		m.mu.Unlock()
	}
	return m.Store.Put(ctx, key, body, opts)
}

func (m *memory) DeleteAll(ctx context.Context, keys []storage.Key) error {
	return storage.DeleteAll(ctx, m.Store, keys)
}

func (m *memory) Retain(ctx context.Context, key storage.Key, until time.Time) error {
	return m.Store.(storage.Retainer).Retain(ctx, key, until)
}

// hasPut reports whether anything may have been put.
func (m *memory) hasPut() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.keys) > 0
}

// cleanUp removes what was put, and what is listed below prefix.
func (m *memory) cleanUp(ctx context.Context, prefix string) error {
	m.mu.Lock()
	var keys []storage.Key
	for key := range m.keys {
		keys = append(keys, key)
	}
	m.mu.Unlock()
	slices.Sort(keys)
	if err := removeAll(ctx, m.Store, keys); err != nil {
		return fmt.Errorf("remove all below %s by hand: %w", prefix, err)
	}
	if err := Empty(ctx, m.Store, prefix); err != nil {
		return fmt.Errorf("remove all below %s by hand: %w", prefix, err)
	}
	return nil
}

// Empty removes what is below prefix.
func Empty(ctx context.Context, s storage.Store, prefix string) error {
	var keys []storage.Key
	err := s.List(ctx, prefix, func(info storage.Info) error {
		keys = append(keys, info.Key)
		return nil
	})
	if err != nil {
		return err
	}
	return removeAll(ctx, s, keys)
}

// removeAll removes keys, waiting for those that the storage protects, which a
// check asks for no longer than some seconds.
func removeAll(ctx context.Context, s storage.Store, keys []storage.Key) error {
	if len(keys) == 0 || storage.DeleteAll(ctx, s, keys) == nil {
		return nil
	}
	var errs []error
	for _, key := range keys {
		if err := removeProtected(ctx, s, key, 10*time.Second); err != nil {
			errs = append(errs, err)
			if len(errs) == 3 {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// removeProtected removes an object as soon as the storage allows it.
func removeProtected(ctx context.Context, s storage.Store, key storage.Key, within time.Duration) error {
	for end := time.Now().Add(within); ; {
		err := s.Delete(ctx, key)
		if !errors.Is(err, storage.ErrRetained) || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}
