package httpd

import (
	"container/list"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxBuckets bounds the keys that a Limiter remembers; one takes some 300 bytes. What
// was unused for longest goes first.
const maxBuckets = 10000

// Limiter lets each key, a caller or an address, do so much per minute. Nil lets all.
type Limiter struct {
	perMinute int

	mu      sync.Mutex
	buckets map[string]*list.Element // of *bucket; guarded by mu
	recent  list.List                // the last used first; guarded by mu
}

type bucket struct {
	key   string
	limit *rate.Limiter
}

// Allowance is what a Limiter says of one request.
type Allowance struct {
	OK        bool
	Limit     int           // requests per minute
	Remaining int           // requests that may be made now
	Wait      time.Duration // until the next one may be made, in whole seconds, if not OK
}

// NewLimiter returns a Limiter of so many requests per minute, all of which may come
// at once. 0 or less means no limit, and returns nil.
func NewLimiter(perMinute int) *Limiter {
	if perMinute <= 0 {
		return nil
	}
	return &Limiter{perMinute: perMinute, buckets: map[string]*list.Element{}}
}

// Allow counts one request of the key, unless it goes over the limit.
func (l *Limiter) Allow(key string) Allowance { return l.allow(key, time.Now()) }

func (l *Limiter) allow(key string, now time.Time) Allowance {
	if l == nil {
		return Allowance{OK: true}
	}
	limit := l.bucket(key)
	r := limit.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
		return Allowance{Limit: l.perMinute, Wait: time.Duration(math.Ceil(wait.Seconds())) * time.Second}
	}
	return Allowance{OK: true, Limit: l.perMinute, Remaining: max(0, int(limit.TokensAt(now)))}
}

// Look says what Allow would, and counts nothing.
func (l *Limiter) Look(key string) Allowance { return l.look(key, time.Now()) }

func (l *Limiter) look(key string, now time.Time) Allowance {
	if l == nil {
		return Allowance{OK: true}
	}
	l.mu.Lock()
	e, ok := l.buckets[key]
	l.mu.Unlock()
	left := float64(l.perMinute)
	if ok {
		left = e.Value.(*bucket).limit.TokensAt(now)
	}
	a := Allowance{OK: left >= 1, Limit: l.perMinute, Remaining: max(0, int(left))}
	if !a.OK {
		a.Wait = time.Duration(math.Ceil((1-left)*60/float64(l.perMinute))) * time.Second
	}
	return a
}

func (l *Limiter) bucket(key string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.buckets[key]; ok {
		l.recent.MoveToFront(e)
		return e.Value.(*bucket).limit
	}
	if len(l.buckets) >= maxBuckets {
		last := l.recent.Back()
		delete(l.buckets, l.recent.Remove(last).(*bucket).key)
	}
	b := &bucket{key, rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.perMinute)}
	l.buckets[key] = l.recent.PushFront(b)
	return b.limit
}

// AddressKey is the key of an address for a Limiter: of IPv6 the first 64 bits, since
// one machine has all the rest.
func AddressKey(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if a = a.Unmap().WithZone(""); a.Is4() {
		return a.String()
	}
	p, _ := a.Prefix(64) // of an IPv6 address there is one
	return p.String()
}

// SetHeader sets Retry-After, if the request isn't allowed.
func (a Allowance) SetHeader(w http.ResponseWriter) {
	if !a.OK {
		w.Header().Set("Retry-After", strconv.Itoa(int(a.Wait/time.Second)))
	}
}
