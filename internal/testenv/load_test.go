package testenv_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/testenv"
)

// TestLoad kills the server under a load: what it acknowledged must be there.
func TestLoad(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	for _, db := range []string{"/one?q=1", "/two?q=2"} {
		if err := c.Put(db, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	load := c.Load(testenv.LoadOptions{
		Databases: []string{"one", "two"}, Writers: 3, Duration: 10 * time.Minute,
		Seed: 7, Updates: 40, Deletes: 10, Attachments: 15,
	})
	grown := func(by int) {
		for n := len(load.Journal.Writes()); len(load.Journal.Writes()) < n+by; {
			time.Sleep(10 * time.Millisecond)
		}
	}
	grown(200)
	c.Kill() // its writers are at work
	c.Start()
	grown(200)
	journal := load.Stop()
	writes := journal.Writes()
	kinds := map[string]int{}
	for _, w := range writes {
		switch {
		case w.Deleted:
			kinds["delete"]++
		case len(w.Attachments) > 0:
			kinds["attachment"]++
		case strings.HasPrefix(w.Rev, "1-"):
			kinds["create"]++
		default:
			kinds["update"]++
		}
	}
	if len(kinds) != 4 {
		t.Errorf("got writes %v, want all four kinds", kinds)
	}
	if len(journal.Errors()) == 0 {
		t.Error("no errors, although the server was killed")
	}
	wrong, err := journal.Compare(time.Now(), c.State)
	if err != nil {
		t.Fatal(err)
	}
	if len(wrong) > 0 {
		t.Errorf("%d of %d writes, such as:\n%s", len(wrong), len(writes), strings.Join(wrong[:min(10, len(wrong))], "\n"))
	}
}

func TestCompare(t *testing.T) {
	// A server that loses what it acknowledged must be found out.
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	if err := c.Put("/one?q=1", nil, nil); err != nil {
		t.Fatal(err)
	}
	journal := c.Load(testenv.LoadOptions{Databases: []string{"one"}, Writers: 1, MaxWrites: 60, Updates: 50}).Wait()
	writes := journal.Writes()
	cut := writes[len(writes)/2].Acked
	states := map[string]testenv.State{}
	for _, w := range writes {
		states[w.ID] = testenv.State{Rev: w.Rev, Deleted: w.Deleted, BodyHash: w.BodyHash, Attachments: w.Attachments}
	}
	last := slices.MaxFunc(writes[:len(writes)/2], func(a, b testenv.Write) int { return a.Acked.Compare(b.Acked) })
	for _, tc := range []struct {
		name   string
		change func(s *testenv.State) (found bool)
		want   string
	}{
		{"as it was", func(*testenv.State) bool { return true }, ""},
		{"lost", func(*testenv.State) bool { return false }, "lost, was acknowledged"},
		{"other body", func(s *testenv.State) bool { s.BodyHash = "x"; return true }, "body hash is x"},
		{"unknown revision", func(s *testenv.State) bool { s.Rev = "9-x"; return true }, "which nobody wrote"},
		{"extra attachment", func(s *testenv.State) bool {
			s.Attachments = map[string]string{"a": "", "b": "", "c": "", "d": ""}
			return true
		}, "attachments, want"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wrong, err := journal.Compare(cut, func(_, id string) (testenv.State, bool, error) {
				s := states[id]
				if id != last.ID {
					return s, true, nil
				}
				found := tc.change(&s)
				return s, found, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(wrong, "\n")
			if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
