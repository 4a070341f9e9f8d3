package cli_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// A cluster is backed up node by node while it is written to, and comes back on fewer nodes: all that it
// acknowledged before the first backup began is there, and all nodes list the same.
func TestClusterByCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes two clusters")
	}
	t.Parallel()
	c := testenv.Cluster(t, 3, testenv.ClusterOptions{Q: 4})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Nodes[0].Put("/d", nil, nil))
	must(c.Nodes[0].Put("/gone", nil, nil))
	dir := t.TempDir()
	repo, state, plan := filepath.Join(dir, "repo"), filepath.Join(dir, "state"), filepath.Join(dir, "plan.yml")
	run := func(args ...string) string {
		t.Helper()
		env, stdout, stderr := clitest.Env(t)
		env.Environ = append(testenv.Environ(), "COUCHDB_PASSWORD="+c.Nodes[0].Password, "SLIPCOVER_CONFIG=/dev/null", "SLIPCOVER_STATE_DIR="+state)
		if code := cli.Run(t.Context(), env, append(args, "--repo", repo)); code != 0 {
			t.Fatalf("%q: exit code %d\n%s%s", args, code, stdout, stderr)
		}
		return stdout.String() + stderr.String()
	}
	run("init", "--no-encryption")

	var mu sync.Mutex
	var acknowledged []string
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	done := make(chan struct{})
	var writers sync.WaitGroup
	for k, n := range c.Nodes {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d", k, i)
				if err := n.Put(testenv.DBPath("d", id), map[string]any{"i": i}, nil); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				mu.Lock()
				acknowledged = append(acknowledged, id)
				mu.Unlock()
			}
		})
	}
	stop := sync.OnceFunc(func() { close(done); writers.Wait() })
	defer stop()
	for end := time.Now().Add(clitest.Patience); count() < 150 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	before := count()
	for i, n := range c.Nodes {
		run("backup", "create", "--cluster", "prod", "--instance", fmt.Sprintf("db%d", i+1), "--couch-url", strings.Replace(n.URL, "://", "://"+n.Admin+"@", 1))
		if i == 0 { // the others no longer know it when they are backed up
			must(n.Delete("/gone"))
		}
	}
	if during := count() - before; during == 0 {
		t.Error("nothing was written while the nodes were backed up: this proves less")
	}
	stop()
	c.Stop()

	if text := run("cluster", "list"); !strings.Contains(text, "prod") {
		t.Errorf("clusters: %s", text)
	}
	run("cluster", "plan", "prod", "--nodes", "db1@127.0.0.41,db2@127.0.0.42", "--n", "2", "--out", plan)
	var nodes []testenv.NodeOptions
	for _, name := range []string{"db1@127.0.0.41", "db2@127.0.0.42"} {
		to := filepath.Join(dir, name)
		run("restore", "--plan", plan, "--as-node", name, "--to", to)
		nodes = append(nodes, testenv.NodeOptions{NodeName: name, DataDir: to})
	}
	other := testenv.StartCluster(t, nodes)
	other.InStep("d")
	var first []string
	for i, n := range other.Nodes {
		var all struct{ Rows []struct{ ID string } }
		must(n.Get("/d/_all_docs", &all))
		var ids []string
		for _, row := range all.Rows {
			ids = append(ids, row.ID)
		}
		missing := 0
		for _, id := range acknowledged[:before] {
			if _, ok := slices.BinarySearch(ids, id); !ok {
				missing++
			}
		}
		if missing > 0 {
			t.Errorf("%s: %d of %d documents are missing that were acknowledged before the first backup", n.NodeName, missing, before)
		}
		if i == 0 {
			first = ids
		} else if !slices.Equal(ids, first) {
			t.Errorf("%s lists %d documents, %s %d", n.NodeName, len(ids), other.Nodes[0].NodeName, len(first))
		}
		must(n.Get("/gone/_all_docs", nil))
	}
	for _, n := range other.Nodes {
		must(n.Put(testenv.DBPath("d", "new through "+n.NodeName), map[string]any{}, nil))
	}
	t.Logf("%d documents acknowledged before, %d in all, %d restored", before, len(acknowledged), len(first))
}
