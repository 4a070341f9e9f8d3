package access

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxCached bounds each cache; one entry is some 500 bytes.
const maxCached = 10000

// hash stands for a token, so that the caches don't hold any.
type hash [sha256.Size]byte

// cache holds values for a time. When it is full of values that are still good, all
// go: what is lost is a question to be asked again.
type cache[V any] struct {
	mu      sync.Mutex
	entries map[hash]entry[V] // guarded by mu
}

type entry[V any] struct {
	value V
	until time.Time
}

func (c *cache[V]) get(key hash, now time.Time) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok || !now.Before(e.until) {
		return value, false
	}
	return e.value, true
}

func (c *cache[V]) put(key hash, value V, until, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[hash]entry[V]{}
	}
	if len(c.entries) >= maxCached {
		for k, e := range c.entries {
			if !now.Before(e.until) {
				delete(c.entries, k)
			}
		}
		if len(c.entries) > maxCached*9/10 { // else the next puts would look through all again
			clear(c.entries)
		}
	}
	c.entries[key] = entry[V]{value, until}
}

func (c *cache[V]) drop(key hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, key)
}
