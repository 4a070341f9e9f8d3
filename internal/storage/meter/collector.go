package meter

import "github.com/prometheus/client_golang/prometheus"

// collector tells Prometheus what a Meter has counted.
type collector struct {
	m                                         *Meter
	requests, errors, retries, up, down, busy *prometheus.Desc
}

// Collector returns the counts of a Meter for Prometheus, under names with a prefix such as slipcover_storage_.
func Collector(m *Meter, prefix string) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+name, help, labels, nil)
	}
	return &collector{m: m,
		requests: desc("requests_total", "Requests to the storage, each try of its own.", "kind"),
		errors:   desc("errors_total", "Requests to the storage that failed.", "kind"),
		retries:  desc("retries_total", "Requests that were made because one before had failed."),
		up:       desc("uploaded_bytes_total", "Bytes that were sent to the storage."),
		down:     desc("downloaded_bytes_total", "Bytes that were read from the storage."),
		busy:     desc("busy_seconds_total", "Time in which a request to the storage was under way."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.errors, c.retries, c.up, c.down, c.busy} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.m.Snapshot()
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	for k, n := range s.Kinds {
		count(c.requests, float64(n.Requests), k.String())
		count(c.errors, float64(n.Errors), k.String())
	}
	count(c.retries, float64(s.Retries))
	count(c.up, float64(s.Up))
	count(c.down, float64(s.Down))
	count(c.busy, s.Busy.Seconds())
}
