package httpd

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are those of requests:
//
//	slipcover_http_requests_total{api,method,code}
//	slipcover_http_request_duration_seconds{api}    from the header to the end of the answer
//	slipcover_http_in_flight_requests{api}
//
// Nil counts nothing.
type Metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
}

// NewMetrics registers the metrics, once for all APIs.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "slipcover_http_requests_total", Help: "Requests that were answered."}, []string{"api", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "slipcover_http_request_duration_seconds", Help: "Time that requests took.", Buckets: prometheus.DefBuckets}, []string{"api"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "slipcover_http_in_flight_requests", Help: "Requests under way."}, []string{"api"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.inFlight} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) begin(api string) {
	if m != nil {
		m.inFlight.WithLabelValues(api).Inc()
	}
}

func (m *Metrics) end(api, method string, status int, took time.Duration) {
	if m == nil {
		return
	}
	m.inFlight.WithLabelValues(api).Dec()
	m.seconds.WithLabelValues(api).Observe(took.Seconds())
	m.requests.WithLabelValues(api, methodLabel(method), strconv.Itoa(status)).Inc()
}

// methodLabel keeps whoever invents methods from inventing metrics.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

// MetricsHandler serves what g has. With a token, whoever reads it must send it as
// "Authorization: Bearer"; without one and with loopback, must be on this machine
// and not behind a proxy; else everybody may.
func MetricsHandler(g prometheus.Gatherer, token string, loopback bool) http.Handler {
	h := promhttp.HandlerFor(g, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token != "" && !hasBearer(r, token) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "metrics need their token", http.StatusUnauthorized)
			return
		}
		if token == "" && loopback && !onThisMachine(r) {
			http.Error(w, "metrics are for this machine only; set a token to read them from others", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// hasBearer reports whether a request has the token, without telling by the time that it
// takes how much of one was right.
func hasBearer(r *http.Request, token string) bool {
	_, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum, want := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], want[:]) == 1
}

// onThisMachine reports whether a request was made here, and not passed on by a proxy.
func onThisMachine(r *http.Request) bool {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && a.Addr().Unmap().IsLoopback() && r.Header.Get("X-Forwarded-For") == "" && r.Header.Get("Forwarded") == ""
}
