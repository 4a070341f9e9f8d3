package httpd

import (
	"net/http"
	"time"
)

const MaxBuckets = maxBuckets

func (l *Limiter) LookAt(key string, now time.Time) Allowance { return l.look(key, now) }

func (l *Limiter) AllowAt(key string, now time.Time) Allowance { return l.allow(key, now) }

func (l *Limiter) Buckets() int { return len(l.buckets) }

func (a *API) AddressOf(remote string, forwarded ...string) string {
	return a.address(&http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": forwarded}})
}
