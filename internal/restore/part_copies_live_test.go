package restore_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
	"github.com/slipcover/slipcover/internal/topology"
)

// A single node's backup comes back as a cluster of three, each of which has all of it: in
// copies of one file that know themselves for different ones.
func TestSingleNodeBecomesCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("TestClusterElsewhere does much of it")
	}
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	fillCluster(t, &c.Client)
	want := answersOf(t, &c.Client)
	r := openRepo(t, mem.New())
	backups, recs := backupNodes(t, r, &testenv.CouchCluster{Nodes: []*testenv.Couch{c}})
	c.Stop()

	nodes := names(3, 20)
	plan := topology.New("test", backups, []string{c.NodeName}, nodes)
	plan.N = 3
	whole, err := cluster.Open(t.Context(), r, []cluster.Member{{Record: recs[0], Manifest: manifestOf(t, r, recs[0])}})
	must(t, err)
	part, err := restore.PartOf(whole, plan, nodes[0])
	must(t, err)
	if _, err := restore.Files(t.Context(), restore.Options{Repo: r, Part: part, To: filepath.Join(t.TempDir(), "data"), History: restore.HistoryKept}); !errors.Is(err, restore.ErrOptions) {
		t.Errorf("old history in copies of one file: got %v, want ErrOptions", err)
	}
	other := restoreNodes(t, r, recs, plan)
	uuids := map[string]string{}
	for _, n := range other.Nodes {
		sameAnswers(t, n, want)
		jan := n.Client
		jan.Admin, jan.Password = "jan", "apple"
		if err := jan.Get("/three/_local/mine", nil); err != nil {
			t.Errorf("%s: a user who was restored: %v", n.NodeName, err)
		}
		shards, err := n.NodeShards("three")
		must(t, err)
		if len(shards) != 4 {
			t.Errorf("%s: got %d shards, want all 4", n.NodeName, len(shards))
		}
		for _, name := range shards {
			var info struct{ UUID string }
			must(t, n.Get("/_node/_local"+testenv.DBPath(name), &info))
			if at := uuids[info.UUID]; at != "" {
				t.Errorf("%s of %s has the uuid of %s: between copies of one uuid CouchDB loses track of what it has passed on", name, n.NodeName, at)
			}
			uuids[info.UUID] = name + " of " + n.NodeName
		}
	}
}

// What only some copies of a range had when they were backed up is on all nodes again, if as many get a copy; and one
// node alone gets the copy with the most.
func TestCopiesThatDiffer(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes two clusters")
	}
	t.Parallel()
	c := testenv.Cluster(t, 3, testenv.ClusterOptions{Q: 2})
	first, second, third := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	must(t, first.Put("/a", nil, nil))
	put := func(n *testenv.Couch, prefix string, from, to int) {
		t.Helper()
		var docs []any
		for i := from; i < to; i++ {
			docs = append(docs, map[string]any{"_id": fmt.Sprint(prefix, i), "at": n.NodeName})
		}
		must(t, n.Post("/a/_bulk_docs", map[string]any{"docs": docs}, nil))
	}
	put(first, "all", 0, 50)
	var doc struct {
		Rev string `json:"_rev"`
	}
	must(t, first.Get("/a/all1", &doc)) // of all that have the same members
	update := func(n *testenv.Couch) {
		t.Helper()
		must(t, n.Put("/a/all1?rev="+doc.Rev, map[string]any{"updated at": n.NodeName}, nil))
	}

	second.Stop()
	put(first, "some", 0, 30)
	update(first)
	must(t, first.Delete("/a/all2?rev="+doc.Rev))
	must(t, first.Put("/a/_security", map[string]any{"members": map[string]any{"names": []string{"jan"}}}, nil))
	first.Stop()
	third.Stop()
	second.Start()
	put(second, "one", 0, 20)
	update(second)
	second.Stop()

	r := openRepo(t, mem.New())
	backups, recs := backupNodes(t, r, c)
	old := []string{first.NodeName, second.NodeName, third.NodeName}
	other := restoreNodes(t, r, recs, topology.New("test", backups, old, names(3, 30)))
	other.InStep("a") // nobody asks for it: nodes that see each other tell what they have
	for _, n := range other.Nodes {
		shards, err := n.NodeShards("a")
		must(t, err)
		for _, name := range shards {
			var got string
			for end := time.Now().Add(patience); !strings.Contains(got, "jan") && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				var b []byte
				must(t, n.Get("/_node/_local"+testenv.DBPath(name, "_security"), &b))
				got = string(b)
			}
			if !strings.Contains(got, "jan") {
				t.Errorf("%s: %s has %s, want what most copies have", n.NodeName, name, got)
			}
		}
		got := revisionsOf(t, &n.Client, "a")
		if len(got) != 100 {
			t.Errorf("%s: got %d documents, want 50 of all nodes, 30 of two and 20 of one", n.NodeName, len(got))
		}
		if text := got["all1"]; !strings.Contains(text, first.NodeName) || !strings.Contains(text, second.NodeName) {
			t.Errorf("%s: document that was written on both sides: got %s", n.NodeName, text)
		}
	}
	other.Stop()

	alone := restoreNodes(t, r, recs, topology.New("test", backups, old, names(1, 33)))
	if got := revisionsOf(t, &alone.Nodes[0].Client, "a"); len(got) != 80 || got["some1"] == "" {
		t.Errorf("one node: got %d documents, want the 80 of the copies with most", len(got))
	}
}
