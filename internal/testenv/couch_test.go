package testenv_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/testenv"
)

func TestCouchDBLives(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	if err := c.Put("/a?q=1", nil, nil); err != nil {
		t.Fatal(err)
	}
	var created struct{ Rev string }
	if err := c.Put("/a/one", map[string]any{"n": 1}, &created); err != nil {
		t.Fatal(err)
	}
	if err := c.Compact("a"); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){c.Stop, c.Kill} {
		end()
		c.Start()
		var doc struct {
			Rev string `json:"_rev"`
			N   int
		}
		if err := c.Get("/a/one", &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Rev != created.Rev || doc.N != 1 {
			t.Errorf("after a new start: got %+v, want n 1 at revision %s", doc, created.Rev)
		}
	}
	if err := c.Get("/nosuch", nil); testenv.Status(err) != 404 {
		t.Errorf("missing database: got %v, want status 404", err)
	}
}
