package access

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a Checker that takes its time, knows one token, and counts.
type slow struct {
	asked, now, most atomic.Int32
	revoked          atomic.Bool
}

func (s *slow) Check(_ context.Context, token string) (*Caller, error) {
	s.asked.Add(1)
	s.most.Store(max(s.most.Load(), s.now.Add(1)))
	defer s.now.Add(-1)
	time.Sleep(100 * time.Millisecond)
	if token == "good" && !s.revoked.Load() {
		return &Caller{User: "ann"}, nil
	}
	return nil, ErrUnauthorized
}

func knows(d *Door, header, token string) bool {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set(header, token)
	return d.Knows(r)
}

func TestDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &slow{}
		d := NewDoor(c)
		for _, header := range []string{"X-Auth-Token", "X-Auth-Key"} {
			if !knows(d, header, "good") || knows(d, header, "bad") || knows(d, header, "") {
				t.Errorf("%s: strangers and callers are mixed up", header)
			}
		}
		if n := c.asked.Load(); n != 3 { // the good one once
			t.Errorf("asked %d times", n)
		}
		time.Sleep(doorRemembers)
		if !knows(d, "X-Auth-Token", "good") || c.asked.Load() != 4 {
			t.Errorf("after a while: asked %d times", c.asked.Load())
		}
		c.revoked.Store(true)
		if _, err := d.Check(t.Context(), "good"); err == nil || knows(d, "X-Auth-Token", "good") {
			t.Error("a token that was revoked goes on")
		}
	})
}

// A flood of bad tokens is looked at one by one, and most of it not at all; who is
// remembered doesn't wait for that.
func TestDoorUnderAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &slow{}
		d := NewDoor(c)
		if _, err := d.Check(t.Context(), "good"); err != nil {
			t.Fatal(err)
		}
		var flood sync.WaitGroup
		for range 100 {
			flood.Go(func() {
				if knows(d, "X-Auth-Token", "bad") {
					t.Error("a bad token passes")
				}
			})
		}
		synctest.Wait()
		if begin := time.Now(); !knows(d, "X-Auth-Token", "good") || time.Since(begin) > 0 {
			t.Errorf("who is known waited for %v", time.Since(begin))
		}
		flood.Wait()
		if n := c.asked.Load(); n < 5 || n > 20 || c.most.Load() != 1 {
			t.Errorf("asked %d times, %d at once", n, c.most.Load())
		}
	})
}
