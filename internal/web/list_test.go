package web

import "testing"

func TestFinder(t *testing.T) {
	for query, want := range map[string]bool{"": true, "NODE": true, "node7 nightly": true, "nightly node7": true, "ode7nig": false, "ä": true, "Ä ÖST": true, "x": false, "node7 x": false} {
		f := finderOf(query)
		for range 2 { // the room is used again
			if got := f.fits("Node7", "nightly", "", "Älter ist östlich"); got != want {
				t.Errorf("%q: %v", query, got)
			}
		}
	}
	if !finderOf(" ").none() || finderOf("x").none() {
		t.Error("nothing is something")
	}
}
