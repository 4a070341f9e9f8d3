package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// saying says a hello with how the shipping of the agent's node is doing.
func (p *player) saying(ship *job.Shipping) job.HelloReply {
	p.said++
	return ask[job.HelloReply](p, job.VerbHello, job.Hello{Session: p.session, Number: p.said, Repository: job.Repository{ID: "repo-1", URL: "file:///backups"},
		Instances: []job.Seen{{Instance: p.node, Up: true, Ship: ship}}})
}

// shipMetrics are those of shipping, by name.
func shipMetrics(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range all {
		if name, ok := strings.CutPrefix(f.GetName(), "slipcover_ship_"); ok {
			out[name] = f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return out
}

// What is to be shipped is told to the agent, and how that is doing to whoever asks.
func TestShipping(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	b := openBus(t)
	s := start(t, b, server.Config{Metrics: reg})
	p := join(t, s, "db1", "p")
	ctx := t.Context()
	i, err := s.Instance(ctx, who("p"), p.node)
	if err != nil {
		t.Fatal(err)
	}
	if got := shipMetrics(t, reg); len(got) > 0 || s.Shipping(i) != nil || p.hello().Ship != nil {
		t.Errorf("nothing is to be shipped, and there is %v", got)
	}
	if _, err := s.SetShipping(ctx, who("q"), p.node, true, ""); kindOf(err) != server.NotFound {
		t.Errorf("another project: %v", err)
	}
	for _, keep := range []string{"14", "0", "-1d", "a"} {
		if _, err := s.SetShipping(ctx, who("p"), p.node, true, keep); kindOf(err) != server.Invalid {
			t.Errorf("keep_moments %q: %v", keep, err)
		}
	}
	if i, err = s.SetShipping(ctx, who("p"), p.node, true, "2w"); err != nil {
		t.Fatal(err)
	}
	if r := p.hello(); len(r.Ship) != 1 || r.Ship[0] != (job.Ship{Instance: p.node, RepoName: "db1", KeepMoments: 14 * 24 * time.Hour}) {
		t.Errorf("the agent is told %+v", r.Ship)
	}
	if got := shipMetrics(t, reg); len(got) != 2 || got["reported"] != 0 || got["failing"] != 0 {
		t.Errorf("of an agent that says nothing of it: %v", got)
	}
	p.saying(&job.Shipping{Error: "no\nbackup", ErrorSince: s.now()})
	if got := s.Shipping(i); got == nil || !got.Reported || got.Error != "no backup" || !got.Newest.IsZero() {
		t.Errorf("of one that waits: %+v", got)
	}
	now := s.now()
	said := &job.Shipping{Shipped: now.Add(-time.Hour), LagSeconds: 30, LagBytes: 99, Chain: now.Add(-48 * time.Hour), Window: now.Add(-24 * time.Hour)}
	p.saying(said)
	got := shipMetrics(t, reg)
	if got["reported"] != 1 || got["failing"] != 0 || got["lag_seconds"] != 30 || got["lag_bytes"] != 99 {
		t.Errorf("of one that is behind: %v", got)
	}
	for name, want := range map[string]time.Time{"oldest_timestamp_seconds": said.Window, "newest_timestamp_seconds": now.Add(-30 * time.Second), "chain_start_timestamp_seconds": said.Chain} {
		if d := got[name] - float64(want.UnixMilli())/1000; d < -60 || d > 60 {
			t.Errorf("%s is %v s beside it", name, d)
		}
	}
	s.pass(time.Hour) // in which nothing is heard of it
	if got := shipMetrics(t, reg); got["reported"] != 0 || got["lag_seconds"] < 3600 {
		t.Errorf("of one that is gone: %v", got)
	}
	if i, err = s.SetShipping(ctx, who("p"), p.node, false, ""); err != nil {
		t.Fatal(err)
	}
	if r := p.saying(nil); r.Ship != nil || s.Shipping(i) != nil || len(shipMetrics(t, reg)) > 0 {
		t.Errorf("it is shipped no more, and the agent is told %+v", r.Ship)
	}
}

// An agent without a repository of its own can't ship, and whoever asks for it learns so.
func TestShippingNeedsARepository(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	p.said++
	ask[job.HelloReply](p, job.VerbHello, job.Hello{Session: p.session, Number: p.said, Instances: []job.Seen{{Instance: p.node, Up: true}}})
	if _, err := s.SetShipping(t.Context(), who("p"), p.node, true, ""); kindOf(err) != server.Conflict || !strings.Contains(err.Error(), "setting repository") {
		t.Errorf("got %v", err)
	}
}

// A restore test of the newest backup of an instance that is shipped tests what was shipped too.
func TestShippedIsProved(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	var ids []string
	for _, id := range []string{"r1", "r2"} {
		b, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: id, Instance: p.node})
		if err != nil {
			t.Fatal(err)
		}
		p.do(job.KindBackup, made(id))
		ids = append(ids, b.ID)
		s.pass(time.Minute)
	}
	for _, test := range []struct {
		on     bool
		backup string
		want   bool
	}{{false, ids[1], false}, {true, ids[1], true}, {true, ids[0], false}} {
		if _, err := s.SetShipping(t.Context(), who("p"), p.node, test.on, ""); err != nil {
			t.Fatal(err)
		}
		p.hello()
		if _, err := s.Prove(t.Context(), who("p"), test.backup); err != nil {
			t.Fatal(err)
		}
		j := p.do(job.KindProve, job.Report{State: job.Done, Proof: &job.Proof{At: s.now(), OK: true}})
		if j.Spec.Moment != test.want {
			t.Errorf("shipped %t, backup %s: %t", test.on, test.backup, j.Spec.Moment)
		}
	}
}
