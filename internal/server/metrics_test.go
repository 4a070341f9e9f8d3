package server_test

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// Names that are there twice don't spoil the metrics.
func TestMetricsOfEqualNames(t *testing.T) {
	t.Parallel()
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

// What the newest backup lacks of copies is told until one lacks none.
func TestMissingCopies(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	s := start(t, openBus(t), server.Config{Metrics: reg})
	p := join(t, s, "db1", "p")
	for _, want := range []float64{2, 0} {
		if _, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node}); err != nil {
			t.Fatal(err)
		}
		r := made("r1")
		r.Result.Uncopied = int(want)
		p.do(job.KindBackup, r)
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var got []float64
		for _, f := range all {
			for _, m := range f.GetMetric() {
				if f.GetName() == "slipcover_backup_last_missing_copies" {
					got = append(got, m.GetGauge().GetValue())
				}
			}
		}
		if !slices.Equal(got, []float64{want}) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}
