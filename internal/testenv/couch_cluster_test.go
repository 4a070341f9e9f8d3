package testenv_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/testenv"
)

func TestClusterLives(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := testenv.Cluster(t, 3, testenv.ClusterOptions{Q: 4, N: 3})
	t.Logf("three nodes joined after %v", time.Since(began).Round(10*time.Millisecond))
	first, second, third := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	// Of two copies a third node holds none: what it says comes from the others.
	for db, want := range map[string]struct {
		query string
		files int
	}{
		"two":   {"?q=4&n=2", 8},
		"three": {"", 12},
	} {
		if err := first.Put("/"+db+want.query, nil, nil); err != nil {
			t.Fatal(err)
		}
		for i := range 40 {
			if err := first.Put(testenv.DBPath(db, fmt.Sprint(i)), map[string]any{"n": i}, nil); err != nil {
				t.Fatal(err)
			}
		}
		c.InStep(db)
		if got := count(t, third, db); got != 40 {
			t.Errorf("%s, read through %s: got %d documents, want 40", db, third.NodeName, got)
		}
		files := 0
		for _, node := range c.Nodes {
			names, err := node.NodeShards(db)
			if err != nil {
				t.Fatal(err)
			}
			files += len(names)
		}
		if files != want.files {
			t.Errorf("%s: got %d shards on all nodes, want %d", db, files, want.files)
		}
	}

	if err := third.Compact("two"); err != nil {
		t.Errorf("compact: %v", err)
	}

	second.Kill()
	c.Joined() // the others notice
	for i := range 40 {
		if err := first.Put(testenv.DBPath("three", fmt.Sprint("later", i)), map[string]any{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	second.Start()
	c.Joined()
	// What was written meanwhile comes to its copies by itself.
	c.InStep("three")
	files, err := second.NodeShards("three")
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for _, file := range files {
		var info struct {
			Docs int `json:"doc_count"`
		}
		if err := second.Get("/_node/_local"+testenv.DBPath(file), &info); err != nil {
			t.Fatal(err)
		}
		got += info.Docs
	}
	if got != 80 {
		t.Errorf("copies of the node that was killed: got %d documents, want 80", got)
	}
	c.Stop()
	c.Start()
	if got := count(t, third, "three"); got != 80 {
		t.Errorf("after a new start: got %d documents, want 80", got)
	}

	if got := userOf(t, third, cookie(t, first)); got != first.Admin {
		t.Errorf("cookie of the first node, at the third: got user %q, want %q", got, first.Admin)
	}
}

// cookie is what a node gives to an administrator who logs in.
func cookie(t *testing.T, c *testenv.Couch) *http.Cookie {
	t.Helper()
	resp, err := http.PostForm(c.URL+"/_session", url.Values{"name": {c.Admin}, "password": {c.Password}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if len(resp.Cookies()) == 0 {
		t.Fatalf("log in: got %s and no cookie", resp.Status)
	}
	return resp.Cookies()[0]
}

// userOf asks a node whose cookie that is.
func userOf(t *testing.T, c *testenv.Couch, cookie *http.Cookie) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.URL+"/_session", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(cookie)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var session struct{ UserCtx struct{ Name string } }
	if err := json.NewDecoder(resp.Body).Decode(&session); err != nil {
		t.Fatal(err)
	}
	return session.UserCtx.Name
}

func TestClusterOfOwnNamesStartsElsewhere(t *testing.T) {
	t.Parallel()
	names := []string{"db4@127.0.0.4", "db5@127.0.0.5"}
	c := testenv.Cluster(t, 2, testenv.ClusterOptions{NodeNames: names})
	if err := c.Nodes[0].Put("/a", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes[1].Put("/a/one", map[string]any{"n": 1}, nil); err != nil {
		t.Fatal(err)
	}
	c.Stop()
	again := testenv.StartCluster(t, []testenv.NodeOptions{
		{NodeName: names[0], DataDir: c.Nodes[0].DataDir},
		{NodeName: names[1], DataDir: c.Nodes[1].DataDir, Config: map[string]map[string]string{"couchdb": {"maintenance_mode": "true"}}},
	})
	if got := count(t, again.Nodes[0], "a"); got != 1 {
		t.Errorf("on the data directories of another cluster: got %d documents, want 1", got)
	}
	if err := again.Nodes[1].Get("/_up", nil); testenv.Status(err) != 404 {
		t.Errorf("node in maintenance: got %v, want status 404", err)
	}
}

func count(t *testing.T, c *testenv.Couch, db string) int {
	t.Helper()
	var all struct{ Rows []struct{ ID string } }
	if err := c.Get(testenv.DBPath(db, "_all_docs"), &all); err != nil {
		t.Fatal(err)
	}
	return len(all.Rows)
}
