package server_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// Names that are there twice don't spoil the metrics.
func TestMetricsOfEqualNames(t *testing.T) {
	b := openBus(t)
	reg := prometheus.NewPedanticRegistry()
	s := start(t, b, server.Config{Metrics: reg})
	p := join(t, s, "db1", "p")
	for range 2 {
		if _, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "nightly", Instance: p.node, Enabled: true, Cron: "@daily"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteInstance(t.Context(), who("p"), p.node); err != nil { // its name is free
		t.Fatal(err)
	}
	q := join(t, s, "db1", "q")
	for range 2 {
		if _, err := s.CreateSchedule(t.Context(), who("q"), &job.Schedule{Name: "nightly", Instance: q.node, Enabled: true, Cron: "@daily"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
}
