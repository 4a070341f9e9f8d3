package access_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
)

func TestCacheIsBounded(t *testing.T) {
	var c access.Cache
	now := time.Now()
	for i := range 3 * access.MaxCached {
		key := access.HashOf(strconv.Itoa(i))
		access.CachePut(&c, key, i, now.Add(time.Minute), now)
		if got, ok := access.CacheGet(&c, key, now); !ok || got != i {
			t.Fatalf("entry %d: %d, %v", i, got, ok)
		}
		if n := access.CacheLen(&c); n > access.MaxCached {
			t.Fatalf("%d entries", n)
		}
	}
	// What has ended goes before what hasn't.
	c = access.Cache{}
	access.CachePut(&c, access.HashOf("good"), 1, now.Add(time.Hour), now)
	for i := range access.MaxCached - 1 {
		access.CachePut(&c, access.HashOf(strconv.Itoa(i)), i, now.Add(time.Second), now)
	}
	later := now.Add(time.Minute)
	access.CachePut(&c, access.HashOf("one more"), 2, later.Add(time.Hour), later)
	if _, ok := access.CacheGet(&c, access.HashOf("0"), later); ok {
		t.Error("an entry outlives its time")
	}
	if _, ok := access.CacheGet(&c, access.HashOf("good"), later); !ok || access.CacheLen(&c) != 2 {
		t.Errorf("%d entries", access.CacheLen(&c))
	}
}
