package access

import (
	"crypto/sha256"
	"time"
)

var Parse = parse

func (t *Tokens) SetNow(now func() time.Time) { t.now = now }

func (k *Keystone) SetNow(now func() time.Time) { k.now = now }

const MaxCached = maxCached

type Cache = cache[int]

func HashOf(text string) hash { return sha256.Sum256([]byte(text)) }

func CachePut(c *Cache, key hash, value int, until, now time.Time) { c.put(key, value, until, now) }

func CacheGet(c *Cache, key hash, now time.Time) (int, bool) { return c.get(key, now) }

func CacheLen(c *Cache) int { return len(c.entries) }
