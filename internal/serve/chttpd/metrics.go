package chttpd

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// counts are what Prometheus is told of a handler's requests, under the names that CouchDB has for them.
//
// Source: CouchDB 3.5.0, src/couch_prometheus, src/couch/priv/stats_descriptions.cfg.
type counts struct {
	requests prometheus.Counter
	statuses *prometheus.CounterVec
	clients  prometheus.Gauge
	sent     prometheus.Counter
	shown    http.Handler
}

func newCounts(also []prometheus.Collector) *counts {
	c := &counts{
		requests: prometheus.NewCounter(prometheus.CounterOpts{Name: "couchdb_httpd_requests_total", Help: "number of HTTP requests"}),
		statuses: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "couchdb_httpd_status_codes", Help: "number of HTTP responses by status code"}, []string{"code"}),
		clients:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "slipcover_serve_in_flight_requests", Help: "Requests under way."}),
		sent:     prometheus.NewCounter(prometheus.CounterOpts{Name: "slipcover_serve_sent_bytes_total", Help: "Bytes of bodies of answers."}),
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(c.requests, c.statuses, c.clients, c.sent)
	reg.MustRegister(also...)
	c.shown = promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, DisableCompression: true})
	return c
}

// counted is a writer of an answer that is counted.
type counted struct {
	http.ResponseWriter
	c      *counts
	status int // 0 before it is known
	bytes  int64
}

func (c *counts) begin(w http.ResponseWriter) *counted {
	c.requests.Inc()
	c.clients.Inc()
	return &counted{ResponseWriter: w, c: c}
}

// end counts an answer. One that was never begun, because who asked has left, has no status.
func (w *counted) end() {
	w.c.clients.Dec()
	w.c.sent.Add(float64(w.bytes))
	if w.status != 0 {
		w.c.statuses.WithLabelValues(strconv.Itoa(w.status)).Inc()
	}
}

// WriteHeader notes the status.
func (w *counted) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write counts the bytes.
func (w *counted) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *counted) Unwrap() http.ResponseWriter { return w.ResponseWriter }
