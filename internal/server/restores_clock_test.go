package server_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// A server whose clock was ahead for a while keeps no restore from being made once it is right.
func TestRestoreAfterAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	one, two := join(t, s, "db1", "p"), join(t, s, "db2", "p")
	q := server.RestoreRequest{Plan: restorePlan, Agents: map[string]string{"couchdb@c": "db1", "couchdb@d": "db2"}, DB: "orders"}
	suffixOf := func() string {
		t.Helper()
		if _, err := s.StartRestore(t.Context(), who("p"), q); err != nil {
			t.Fatal(err)
		}
		suffix := one.do(job.KindRestore, job.Report{State: job.Done}).Spec.Part.Suffix
		two.do(job.KindRestore, job.Report{State: job.Failed, Fault: "the disk is full"})
		return suffix
	}
	s.pass(365 * 24 * time.Hour)
	one.hello()
	two.hello()
	ahead := suffixOf()
	s.pass(-365 * 24 * time.Hour)
	one.hello()
	two.hello()
	first := suffixOf()
	second := suffixOf()
	most := fmt.Sprintf(".%010d", s.now().Unix()+60)
	if first > most || second > most || first == second || first == ahead {
		t.Errorf("the suffixes %s, %s and then %s; now is %s", ahead, first, second, most)
	}
}
