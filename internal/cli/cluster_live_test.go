package cli_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// A cluster is backed up node by node while it is written to, and comes back on fewer nodes: all that it
// acknowledged before the first backup began is there, and all nodes list the same. A moment of what was shipped comes back
// on one node alone.
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
	repo, state := filepath.Join(dir, "repo"), filepath.Join(dir, "state")
	exits := func(want int, args ...string) string {
		t.Helper()
		env, stdout, stderr := clitest.Env(t)
		env.Environ = append(testenv.Environ(), "COUCHDB_PASSWORD="+c.Nodes[0].Password, "SLIPCOVER_CONFIG=/dev/null", "SLIPCOVER_STATE_DIR="+state, "SLIPCOVER_CLUSTER=prod")
		if code := cli.Run(t.Context(), env, append(args, "--repo", repo)); code != want {
			t.Fatalf("%q: exit code %d, want %d\n%s%s", args, code, want, stdout, stderr)
		}
		return stdout.String() + stderr.String()
	}
	run := func(args ...string) string {
		t.Helper()
		return exits(0, args...)
	}
	run("init", "--no-encryption")

	writing := c.Write("d", 0, 150)
	before := len(writing.Acknowledged())
	of := func(i int) []string {
		n := c.Nodes[i]
		return []string{"--instance", fmt.Sprintf("db%d", i+1), "--couch-url", address(n)}
	}
	for i, n := range c.Nodes {
		run(append([]string{"backup", "create"}, of(i)...)...)
		if i == 0 { // the others no longer know it when they are backed up
			must(n.Delete("/gone"))
		}
	}
	if during := len(writing.Acknowledged()) - before; during == 0 {
		t.Error("nothing was written while the nodes were backed up: this proves less")
	}
	writing.Stop()
	acknowledged := writing.Acknowledged()
	c.InStep("d")
	ship := func() time.Time {
		for i := range c.Nodes {
			run(append([]string{"ship", "--once"}, of(i)...)...)
		}
		return time.Now()
	}
	at := ship()
	time.Sleep(time.Second)
	must(c.Nodes[1].Put("/d/later", map[string]any{}, nil))
	ship()
	c.Stop()

	if text := run("cluster", "list"); !strings.Contains(text, "prod") {
		t.Errorf("clusters: %s", text)
	}
	// The backups differ by what was written between them; the moments of when the nodes were in step don't.
	if text := run("cluster", "compare", "prod", "--db", "d"); !strings.Contains(text, " of 1 database: ") || !strings.Contains(text, "the cuts lie within ") {
		t.Errorf("compared backups: %s", text)
	}
	if text := run("cluster", "compare", "prod", "--db", "d", "--at", at.Format(time.RFC3339Nano)); !strings.Contains(text, " in 4 ranges of 1 database: all copies agree\n") {
		t.Errorf("compared moments: %s", text)
	}
	restore := func(plan string, names []string, more ...string) *testenv.CouchCluster {
		plan = filepath.Join(dir, plan)
		run(append([]string{"cluster", "plan", "prod", "--nodes", strings.Join(names, ","), "--out", plan + ".yml"}, more...)...)
		var nodes []testenv.NodeOptions
		for _, name := range names {
			to := filepath.Join(plan, name)
			run("restore", "--plan", plan+".yml", "--as-node", name, "--to", to)
			nodes = append(nodes, testenv.NodeOptions{NodeName: name, DataDir: to, Config: map[string]map[string]string{"couchdb": {"maintenance_mode": "true"}}})
		}
		c := testenv.StartCluster(t, nodes)
		if text := run("restore-check", "--plan", plan+".yml", "--to-server", address(c.Nodes[0])); !strings.Contains(text, fmt.Sprintf("%d node", len(names))) || !strings.Contains(text, " in maintenance mode: --open takes them out") {
			t.Errorf("checked: %s", text)
		}
		if err := c.Nodes[0].Get("/d", nil); err == nil {
			t.Error("it serves before it was opened")
		}
		if text := run("restore-check", "--plan", plan+".yml", "--to-server", address(c.Nodes[0]), "--open"); strings.Count(text, " is out of maintenance mode\n") != len(names) {
			t.Errorf("opened: %s", text)
		}
		return c
	}
	other := restore("two", []string{"db1@127.0.0.41", "db2@127.0.0.42"}, "--n", "2")
	other.InStep("d")
	var first []string
	for i, n := range other.Nodes {
		ids := idsOf(t, n)
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
	if text := run("restore-union", "--plan", filepath.Join(dir, "two.yml"), "--to-server", address(other.Nodes[1])); !strings.Contains(text, " ranges compared in ") {
		t.Errorf("what the third copies have: %s", text)
	}
	must(other.Nodes[0].Delete("/gone"))
	if text := exits(4, "restore-check", "--plan", filepath.Join(dir, "two.yml"), "--to-server", address(other.Nodes[1])); !strings.Contains(text, "problem: database gone: "+other.Nodes[0].NodeName+" has no shard map of it\n") {
		t.Errorf("checked without a database: %s", text)
	}
	run("cluster", "plan", "prod", "--nodes", other.Nodes[1].NodeName, "--out", filepath.Join(dir, "fewer.yml"))
	if text := exits(4, "restore-check", "--wait", "0", "--plan", filepath.Join(dir, "fewer.yml"), "--to-server", address(other.Nodes[1])); !strings.Contains(text, "problem: "+other.Nodes[0].NodeName+" is none of the plan's nodes") {
		t.Errorf("checked with a node that is none of the plan's: %s", text)
	}
	other.Stop()
	t.Logf("%d documents acknowledged before the backups, %d in all, %d restored", before, len(acknowledged), len(first))

	alone := restore("one", []string{"alone@127.0.0.43"}, "--at", at.UTC().Format(time.RFC3339Nano))
	slices.Sort(acknowledged)
	if ids := idsOf(t, alone.Nodes[0]); !slices.Equal(ids, acknowledged) {
		t.Errorf("one node, as of a moment: got %d documents, want all %d that were there and not the later one", len(ids), len(acknowledged))
	}
	// The database again, of all nodes' backups, with other ranges.
	run("restore-db", "d", "--cluster", "prod", "--at", at.UTC().Format(time.RFC3339Nano), "--as", "d2", "--q", "8", "--to-server", address(alone.Nodes[0]))
	var copied struct {
		Docs    int `json:"doc_count"`
		Cluster struct{ Q int }
	}
	must(alone.Nodes[0].Get("/d2", &copied))
	twins(t, exits, c, dir)
	if copied.Docs != len(acknowledged) || copied.Cluster.Q != 8 {
		t.Errorf("with other ranges: got %+v, want %d documents", copied, len(acknowledged))
	}
}

// twins restores a node of the cluster under its own name and backs it up as another instance: names can't tell it from the
// original, and whatever reads all nodes as one cluster asks whose backups count.
func twins(t *testing.T, exits func(want int, args ...string) string, c *testenv.CouchCluster, dir string) {
	t.Helper()
	const usage = 2
	plan, data := filepath.Join(dir, "twin.yml"), filepath.Join(dir, "twin")
	exits(0, "cluster", "plan", "prod", "--out", plan)
	exits(0, "restore", "--plan", plan, "--as-node", c.Nodes[0].NodeName, "--to", data)
	exits(0, "backup", "create", "--instance", "twin", "--data-dir", data)
	url := address(c.Nodes[0]) // nothing answers there, and nothing is asked
	for _, command := range [][]string{
		{"cluster", "plan", "prod"}, {"cluster", "compare", "prod", "--db", "gone"}, {"get", "d", "0-0", "--cluster", "prod"}, {"find", "d", "{}", "--cluster", "prod"},
		{"serve", "--cluster", "prod", "--listen", "127.0.0.1:0"}, {"restore-db", "d", "--cluster", "prod", "--to-server", url},
	} {
		if text := exits(usage, command...); !strings.Contains(text, "db1 and twin are backups of different CouchDBs that are called "+c.Nodes[0].NodeName) {
			t.Errorf("%q: %s", command, text)
		}
		if command[0] != "serve" && command[0] != "restore-db" {
			exits(0, append(command, "--instances", "db1,db2,db3")...)
		}
	}
	exits(usage, "get", "d", "0-0", "--instances", "db1")
	if text := exits(0, "cluster", "show", "prod"); !strings.Contains(text, "problem: db1 and twin are backups") {
		t.Errorf("shown: %s", text)
	}
}

// address is a node's URL with its administrator.
func address(n *testenv.Couch) string { return strings.Replace(n.URL, "://", "://"+n.Admin+"@", 1) }

// idsOf lists the documents of the database d, sorted.
func idsOf(t *testing.T, n *testenv.Couch) (ids []string) {
	t.Helper()
	var all struct{ Rows []struct{ ID string } }
	if err := n.Get("/d/_all_docs", &all); err != nil {
		t.Fatal(err)
	}
	for _, row := range all.Rows {
		ids = append(ids, row.ID)
	}
	slices.Sort(ids) // CouchDB's order is another one
	return ids
}
