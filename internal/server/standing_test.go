package server_test

import (
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// How an instance stands is measured by the same as the alerts.
func TestStandings(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	changed := s.Changed()
	db := join(t, s, "db1", "p")
	select {
	case <-changed:
	default:
		t.Error("nobody was told of the new instance")
	}
	one := func() *server.Standing {
		t.Helper()
		list := s.Standings(who("p"), false)
		if len(list) != 1 || list[0].ID != db.node {
			t.Fatalf("standings: %v", list)
		}
		return list[0]
	}
	if st := one(); !st.Never || st.Late || st.Limit != server.SafeFor || st.Schedule != nil {
		t.Errorf("new: %+v", st)
	}
	s.pass(server.SafeFor + time.Minute)
	if st := one(); !st.Never || !st.Late {
		t.Errorf("without a backup for 26 h: %+v", st)
	}
	if len(s.Standings(who("q"), false)) != 0 || len(s.Standings(who("q"), true)) != 1 {
		t.Error("another project sees it, or an administrator doesn't")
	}
	if _, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "weekly", Instance: db.node, Enabled: true, Cron: "0 5 * * sun"}); err != nil {
		t.Fatal(err)
	}
	if st := one(); st.Limit != 7*24*time.Hour+2*time.Hour || st.Late || st.Schedule == nil || st.Next.IsZero() {
		t.Errorf("with a weekly schedule: %+v", st)
	}
	ships := func(what string, behind bool) {
		t.Helper()
		if st := one(); st.Behind != behind {
			t.Errorf("%s: behind is %v: %+v", what, st.Behind, st.Ship)
		}
	}
	if _, err := s.SetShipping(t.Context(), who("p"), db.node, true, ""); err != nil {
		t.Fatal(err)
	}
	ships("the agent has not heard of it yet", false)
	s.pass(server.BehindAfter + time.Second)
	ships("the agent says nothing of it", true)
}
