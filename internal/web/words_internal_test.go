package web

import (
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// What the dashboard says needs somebody is what the API calls a problem.
func TestTroublesAreProblems(t *testing.T) {
	c := &call{Site: &Site{o: Options{Now: time.Now}}, set: &set{zone: time.UTC}}
	for n := range 1 << 7 {
		is := func(bit int) bool { return n>>bit&1 == 1 }
		st := &server.Standing{Instance: &job.Instance{ID: "i", Name: "db1"}, Last: &job.Backup{ID: "b"}, Proven: &job.Backup{ID: "p", Proof: &job.Proof{OK: n%3 == 0, At: time.Now()}}, Ship: &server.Shipping{}}
		st.Online, st.Late, st.Behind, st.Unproven = is(0), is(1), is(2), is(3)
		if is(4) {
			st.Damaged = 2
		}
		if is(5) {
			st.Uncopied = 1
		}
		if is(6) {
			st.Failed = "it failed"
		}
		if got, want := len(c.stateOf(st).Trouble), len(st.Problems()); got != want {
			t.Errorf("%07b: %d troubles, and the problems %q", n, got, st.Problems())
		}
	}
}
