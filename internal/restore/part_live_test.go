package restore_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/diverge"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/testenv"
	"github.com/slipcover/slipcover/internal/topology"
)

// clusterDBs are the databases of a test's cluster, with the arguments that make them.
var clusterDBs = map[string]string{"three": "?q=4", "two": "?q=2&n=2", "parts": "?partitioned=true"}

// fillCluster writes what a restore has to bring back.
func fillCluster(t *testing.T, c *testenv.Client) {
	t.Helper()
	for db, query := range clusterDBs {
		must(t, c.Put("/"+db+query, nil, nil))
		id := func(i int) string {
			if db == "parts" {
				return fmt.Sprintf("p%d:d%d", i%5, i)
			}
			return fmt.Sprintf("d%d", i)
		}
		var docs []any
		for i := range 200 {
			docs = append(docs, map[string]any{"_id": id(i), "n": i, "_attachments": map[string]any{
				"a.txt": map[string]any{"content_type": "text/plain", "data": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte('a' + i%26)}, 100+i))}}})
		}
		must(t, c.Post("/"+db+"/_bulk_docs", map[string]any{"docs": docs}, nil))
		for i := range 20 { // conflicts
			must(t, c.Post("/"+db+"/_bulk_docs", map[string]any{"new_edits": false, "docs": []any{
				map[string]any{"_id": id(i), "_rev": fmt.Sprintf("1-%032x", i+1), "other": i}}}, nil))
		}
		for i := 100; i < 120; i++ {
			var doc struct {
				Rev string `json:"_rev"`
			}
			must(t, c.Get(testenv.DBPath(db, id(i)), &doc))
			must(t, c.Delete(testenv.DBPath(db, id(i))+"?rev="+doc.Rev))
		}
		must(t, c.Put("/"+db+"/_local/mine", map[string]any{"kept": db}, nil))
		must(t, c.Put("/"+db+"/_security", map[string]any{"members": map[string]any{"names": []string{"jan"}}}, nil))
		must(t, c.Put("/"+db+"/_design/d", map[string]any{"options": map[string]any{"partitioned": false},
			"views": map[string]any{"v": map[string]any{"map": "function(d){emit(d.n,1)}", "reduce": "_sum"}}}, nil))
		must(t, c.Get("/"+db+"/_design/d/_view/v", nil))
	}
	var gone struct{ Rev string }
	must(t, c.Put("/two/purged", map[string]any{}, &gone))
	must(t, c.Post("/two/_purge", map[string][]string{"purged": {gone.Rev}}, nil))
	must(t, c.Put("/_users/org.couchdb.user:jan", map[string]any{"type": "user", "name": "jan", "password": "apple", "roles": []string{}}, nil))
}

// answersOf is what a cluster answers of its databases, but for sequences.
func answersOf(t *testing.T, c *testenv.Client) map[string]map[string]string {
	t.Helper()
	out := map[string]map[string]string{}
	for db := range clusterDBs {
		out[db] = map[string]string{}
		for _, path := range []string{"/_all_docs?include_docs=true&conflicts=true&attachments=true", "/_local/mine", "/_security",
			"/_design/d/_view/v?reduce=false", "/_design/d/_view/v?group=true"} {
			var got json.RawMessage
			if err := c.Get("/"+db+path, &got); err != nil {
				t.Errorf("%s%s: %v", db, path, err)
			}
			out[db][path] = string(got)
		}
		var info struct {
			Docs    int             `json:"doc_count"`
			Deleted int             `json:"doc_del_count"`
			Props   json.RawMessage `json:"props"`
		}
		must(t, c.Get("/"+db, &info))
		out[db]["counts"] = fmt.Sprintf("%d %d %s", info.Docs, info.Deleted, info.Props)
		maps.Copy(out[db], revisionsOf(t, c, db))
	}
	out["_users"] = revisionsOf(t, c, "_users")
	return out
}

// revisionsOf is every leaf of each document of a database with its history and
// attachments, deleted ones too, by the document's id, and local documents but for the
// checkpoints between copies.
func revisionsOf(t *testing.T, c *testenv.Client, db string) map[string]string {
	t.Helper()
	out := map[string]string{}
	var changes struct{ Results []struct{ ID string } }
	must(t, c.Get("/"+db+"/_changes", &changes))
	var ask struct {
		Docs []map[string]string `json:"docs"`
	}
	for _, change := range changes.Results {
		ask.Docs = append(ask.Docs, map[string]string{"id": change.ID})
	}
	var found struct {
		Results []struct {
			ID   string
			Docs []json.RawMessage // the leaves
		}
	}
	must(t, c.Post("/"+db+"/_bulk_get?revs=true&attachments=true", ask, &found))
	for _, doc := range found.Results {
		list := make([]string, len(doc.Docs))
		for i, leaf := range doc.Docs {
			list[i] = string(leaf)
		}
		slices.Sort(list)
		out[doc.ID] = strings.Join(list, "\n")
	}
	var local struct {
		Rows []struct {
			ID  string
			Doc json.RawMessage
		}
	}
	must(t, c.Get("/"+db+"/_local_docs?include_docs=true", &local))
	for _, row := range local.Rows {
		if !strings.HasPrefix(row.ID, "_local/shard-sync-") && !strings.HasPrefix(row.ID, "_local/purge-") {
			out[row.ID] = string(row.Doc)
		}
	}
	return out
}

// sameAnswers compares what a node answers with what the original did.
func sameAnswers(t *testing.T, n *testenv.Couch, want map[string]map[string]string) {
	t.Helper()
	for db, got := range answersOf(t, &n.Client) {
		for path, text := range want[db] {
			if got[path] != text {
				t.Errorf("%s: %s %s\ngot  %.300s\nwant %.300s", n.NodeName, db, path, got[path], text)
			}
		}
		for path := range got {
			if want[db][path] == "" {
				t.Errorf("%s: %s %s should not be there", n.NodeName, db, path)
			}
		}
	}
}

// backupNodes backs all nodes of a cluster up and returns the backups as a plan names them.
func backupNodes(t *testing.T, r *repo.Repo, c *testenv.CouchCluster) (backups []topology.Backup, recs []*manifest.Record) {
	t.Helper()
	for i, couch := range c.Nodes {
		n, err := node.Locate(t.Context(), node.Options{DataDir: couch.DataDir})
		must(t, err)
		instance := fmt.Sprintf("db%d", i+1)
		res, err := backup.Run(t.Context(), backup.Options{Repo: r, Node: n, Instance: instance, StateDir: t.TempDir(), Name: "test", Indexes: true, Parallel: 2})
		must(t, err)
		if res.Record.NodeName != couch.NodeName {
			t.Errorf("the backup of %s says that its node is %s", couch.NodeName, res.Record.NodeName)
		}
		backups = append(backups, topology.Backup{Node: couch.NodeName, Instance: instance, ID: res.Record.ID})
		recs = append(recs, res.Record)
	}
	return backups, recs
}

// restoreNodes restores each node's part of a plan, and starts the cluster that they make.
func restoreNodes(t *testing.T, r *repo.Repo, recs []*manifest.Record, plan *topology.Plan) *testenv.CouchCluster {
	t.Helper()
	members := membersOf(t, r, recs)
	text, err := plan.YAML()
	must(t, err)
	if plan, err = topology.Parse(bytes.NewReader(text)); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var nodes []testenv.NodeOptions
	for _, n := range plan.Nodes {
		c, err := cluster.Open(t.Context(), r, members) // as each node does for itself
		must(t, err)
		part, err := restore.PartOf(c, plan, n.Name)
		must(t, err)
		dir := filepath.Join(t.TempDir(), "data")
		res := files(t, restore.Options{Repo: r, Part: part, To: dir, History: restore.HistoryByMoment})
		if !res.OK() || len(res.Warnings) > 0 || len(res.Dropped) > 0 || res.History == nil || !res.History.New {
			t.Errorf("%s: problems %q, damaged %q, warnings %q, dropped %v, history %v", n.Name, res.Problems, res.Damaged, res.Warnings, res.Dropped, res.History)
		}
		nodes = append(nodes, testenv.NodeOptions{NodeName: n.Name, DataDir: dir})
	}
	return testenv.StartCluster(t, nodes)
}

func membersOf(t *testing.T, r *repo.Repo, recs []*manifest.Record) []cluster.Member {
	t.Helper()
	members := make([]cluster.Member, len(recs))
	for i, rec := range recs {
		m, err := r.Manifest(t.Context(), rec)
		must(t, err)
		members[i] = cluster.Member{Record: rec, Manifest: m}
	}
	return members
}

func names(n, from int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("db%d@127.0.0.%d", i+from, i+from))
	}
	return out
}

// A cluster's backups come back on other nodes: each answers as the original did.
func TestClusterElsewhere(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := testenv.Cluster(t, 3, testenv.ClusterOptions{})
	fillCluster(t, &c.Nodes[0].Client)
	c.InStep("three", "two", "parts", "_users")
	want := answersOf(t, &c.Nodes[0].Client)
	r := openRepo(t, mem.New())
	backups, recs := backupNodes(t, r, c)
	old := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		old[i] = n.NodeName
	}
	c.Stop()
	t.Logf("backed up after %v", time.Since(began).Round(time.Second))
	for _, tt := range []struct {
		name  string
		nodes []string
		n     int
	}{
		{"other names", names(3, 4), 0},
		{"one node", names(1, 7), 0},
		{"five nodes", names(5, 10), 0},
		{"same names, n 2", old, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && tt.name != "other names" {
				t.Skip("one is enough")
			}
			plan := topology.New("test", backups, old, tt.nodes)
			plan.N = tt.n
			if tt.name == "five nodes" {
				for i := range plan.Nodes {
					plan.Nodes[i].Zone = []string{"z1", "z2"}[i%2]
				}
				plan.Placement = "z1:2,z2:1"
			}
			began := time.Now()
			other := restoreNodes(t, r, recs, plan)
			t.Logf("up after %v", time.Since(began).Round(time.Millisecond))
			for _, n := range other.Nodes {
				sameAnswers(t, n, want)
			}
			if plan.Placement != "" {
				placedAlike(t, &other.Nodes[1].Client, plan)
			}
		})
	}
}

// placedAlike holds a restored database against one that CouchDB places itself, by the zones that it was told.
func placedAlike(t *testing.T, c *testenv.Client, plan *topology.Plan) {
	t.Helper()
	must(t, c.Put("/new?q=4&placement="+plan.Placement, nil, nil))
	for _, db := range []string{"new", "three"} {
		var got struct{ Shards map[string][]string }
		must(t, c.Get("/"+db+"/_shards", &got))
		if len(got.Shards) != 4 {
			t.Errorf("%s has the ranges %v", db, got.Shards)
		}
		for r, nodes := range got.Shards {
			in := map[string]int{}
			for _, n := range plan.Nodes {
				if slices.Contains(nodes, n.Name) {
					in[n.Zone]++
				}
			}
			if in["z1"] != 2 || in["z2"] != 1 {
				t.Errorf("%s: the range %s is on %v: %v", db, r, nodes, in)
			}
		}
	}
	must(t, c.Delete("/new"))
}

// openCopies opens copies of a range, whose nodes have these names.
func openCopies(t *testing.T, c *cluster.Copies, name shard.Name, list []topology.Copy, nodes []string) (out []diverge.Copy) {
	t.Helper()
	for _, k := range list {
		db, done, err := c.Open(t.Context(), k.Backup, name)
		must(t, err)
		t.Cleanup(done)
		out = append(out, diverge.Copy{Node: nodes[k.Backup], DB: db})
	}
	return out
}

// What only one node had comes back with the others' where one copy of each range is restored.
func TestClusterUnion(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts two clusters")
	}
	c := testenv.Cluster(t, 3, testenv.ClusterOptions{Q: 2})
	old := []string{c.Nodes[0].NodeName, c.Nodes[1].NodeName, c.Nodes[2].NodeName}
	first := &c.Nodes[0].Client
	must(t, first.Put("/db", nil, nil))
	revs := map[string]string{}
	put := func(to *testenv.Client, id string, doc map[string]any) {
		t.Helper()
		var got struct{ Rev string }
		if revs[id] != "" {
			doc["_rev"] = revs[id]
		}
		must(t, to.Put(testenv.DBPath("db", id), doc, &got))
		revs[id] = got.Rev
	}
	for i := range 30 {
		put(first, fmt.Sprint("d", i), map[string]any{"n": i})
	}
	want := map[string]any{}
	c.Stop()
	for i, node := range c.Nodes { // each is alone for a while
		node.Start()
		for k := range 10 {
			id := fmt.Sprintf("only%d-%d", i, k)
			doc := map[string]any{"of": float64(i)}
			if k%3 == 0 {
				doc["_attachments"] = map[string]any{"a": map[string]any{"content_type": "text/plain", "data": base64.StdEncoding.EncodeToString([]byte(id))}}
			}
			put(&node.Client, id, doc)
			want[id] = doc["of"]
		}
		id := fmt.Sprint("d", i)
		put(&node.Client, id, map[string]any{"changed": true})
		must(t, node.Delete(testenv.DBPath("db", fmt.Sprint("d", 10+i))+"?rev="+revs[fmt.Sprint("d", 10+i)]))
		node.Stop()
	}
	r := openRepo(t, mem.New())
	backups, recs := backupNodes(t, r, c)
	plan := topology.New("test", backups, old, names(1, 20))
	one := restoreNodes(t, r, recs, plan).Nodes[0]

	cl, err := cluster.Open(t.Context(), r, membersOf(t, r, recs))
	must(t, err)
	placed, err := plan.Place(cl.Databases)
	must(t, err)
	copies := cl.Copies(r)
	defer copies.Close()
	srv, _, err := takeout.Open(t.Context(), one.URL, one.Admin, one.Password)
	must(t, err)
	total := &takeout.United{}
	for _, l := range placed.Left {
		if l.Name.DB != "db" {
			continue
		}
		o := takeout.UnionOptions{Server: srv, DB: "db", Used: openCopies(t, copies, l.Name, l.Used, old), Others: openCopies(t, copies, l.Name, l.Unused, old)}
		got, err := takeout.Union(t.Context(), o)
		must(t, err)
		total.Add(got)
	}
	if len(total.Refused) > 0 || total.Gone > 0 || total.Revisions < 20 {
		t.Errorf("united: %+v", total)
	}
	for id, of := range want {
		var doc map[string]any
		if err := one.Get(testenv.DBPath("db", id)+"?attachments=true", &doc); err != nil || doc["of"] != of || doc["_rev"] != revs[id] {
			t.Errorf("%s: %v, %v", id, doc, err)
		}
		if atts, ok := doc["_attachments"].(map[string]any); ok {
			if data := atts["a"].(map[string]any)["data"]; data != base64.StdEncoding.EncodeToString([]byte(id)) {
				t.Errorf("%s: its attachment is %v", id, data)
			}
		}
	}
	for i := range 3 {
		var doc map[string]any
		if err := one.Get(testenv.DBPath("db", fmt.Sprint("d", i)), &doc); err != nil || doc["changed"] != true {
			t.Errorf("d%d: %v, %v", i, doc, err)
		}
		if err := one.Get(testenv.DBPath("db", fmt.Sprint("d", 10+i)), nil); testenv.Status(err) != http.StatusNotFound {
			t.Errorf("d%d was deleted on one node: %v", 10+i, err)
		}
	}
}

// A node that was lost comes back out of its last backup into the running cluster: what was written, deleted, purged and
// dropped since reaches it, and nothing of before comes back with it.
func TestLostNodeRejoins(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	c := testenv.Cluster(t, 3, testenv.ClusterOptions{Q: 2})
	first, lost := &c.Nodes[0].Client, c.Nodes[2]
	for _, db := range []string{"db", "old"} {
		must(t, first.Put("/"+db, nil, nil))
	}
	put := func(from, to int, doc map[string]any) {
		t.Helper()
		for i := from; i < to; i++ {
			must(t, first.Put(testenv.DBPath("db", fmt.Sprint("d", i)), doc, nil))
		}
	}
	rev := func(i int) string {
		t.Helper()
		var doc struct {
			Rev string `json:"_rev"`
		}
		must(t, first.Get(testenv.DBPath("db", fmt.Sprint("d", i)), &doc))
		return doc.Rev
	}
	put(0, 100, map[string]any{"before": true})
	c.InStep("db", "old")
	n, err := node.Locate(t.Context(), node.Options{DataDir: lost.DataDir})
	must(t, err)
	r := openRepo(t, mem.New())
	rec := takeNode(t, r, n, t.TempDir())

	put(100, 150, map[string]any{"after": true})
	for i := range 10 {
		must(t, first.Delete(testenv.DBPath("db", fmt.Sprint("d", i))+"?rev="+rev(i)))
	}
	purged := map[string][]string{}
	for i := 10; i < 20; i++ {
		purged[fmt.Sprint("d", i)] = []string{rev(i)}
	}
	must(t, first.Post("/db/_purge", purged, nil))
	must(t, first.Delete("/old"))
	must(t, first.Put("/later", nil, nil))
	must(t, first.Put("/later/doc", map[string]any{}, nil))
	c.InStep("db", "later")
	lost.Kill()
	must(t, os.RemoveAll(lost.DataDir))
	put(150, 160, map[string]any{"away": true})

	res := files(t, restore.Options{Repo: r, Record: rec, To: lost.DataDir, History: restore.HistoryNew})
	if !res.OK() || !res.History.New {
		t.Errorf("restored: %+v", res)
	}
	lost.Start()
	c.Joined()
	c.InStep("db", "later", "_users")
	c.Nodes[0].Stop() // so that it is asked itself, with one other
	for i := range 160 {
		var doc map[string]any
		err := lost.Get(testenv.DBPath("db", fmt.Sprint("d", i)), &doc)
		if gone := i < 20; gone != (testenv.Status(err) == http.StatusNotFound) || !gone && err != nil {
			t.Errorf("d%d: %v, %v", i, doc, err)
		}
	}
	if err := lost.Get("/old", nil); testenv.Status(err) != http.StatusNotFound {
		t.Errorf("a database that was dropped is back: %v", err)
	}
	must(t, lost.Get("/later/doc", nil))
}
