package restore_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/topology"
)

// madeNode is a node of a cluster that no server ever ran.
type madeNode struct {
	name string
	maps []shard.Map
	docs map[string]int // how many documents its shards have, by path
	puts []couchgen.Doc // more of each; one whose id is purge:ID is that purge
}

// made makes a couch file with as many documents as asked, or those of put.
func made(t *testing.T, path string, o couchgen.Options, docs int, put ...couchgen.Doc) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	g, err := couchgen.Create(f, o)
	must(t, err)
	for i := range docs {
		put = append(put, couchgen.Doc{ID: fmt.Sprint("d", i), Body: map[string]any{"text": strings.Repeat(fmt.Sprint(o.NodeName, i), 50)}})
	}
	for _, d := range put {
		if strings.HasPrefix(d.ID, "purge:") {
			continue
		}
		_, err := g.Put(d)
		must(t, err)
	}
	must(t, g.Commit())
	for _, d := range put {
		if id, ok := strings.CutPrefix(d.ID, "purge:"); ok {
			must(t, g.Purge(id))
			must(t, g.Commit())
		}
	}
}

// backupMade makes the nodes of a cluster and backs them up.
func backupMade(t *testing.T, r *repo.Repo, nodes []madeNode) (backups []topology.Backup, recs []*manifest.Record) {
	t.Helper()
	for i, n := range nodes {
		dir := filepath.Join(t.TempDir(), "data")
		o := couchgen.Options{NodeName: n.name, NodeLocal: true}
		var maps, names []couchgen.Doc
		for _, m := range n.maps {
			doc, err := m.Document([]byte("{}"))
			must(t, err)
			maps = append(maps, couchgen.Doc{ID: m.DB, Body: bodyOf(t, doc)})
		}
		for _, other := range nodes {
			names = append(names, couchgen.Doc{ID: other.name, Body: map[string]any{"zone": "z" + other.name}})
		}
		made(t, filepath.Join(dir, "_dbs.couch"), o, 0, maps...)
		made(t, filepath.Join(dir, "_nodes.couch"), o, 0, names...)
		for path, docs := range n.docs {
			made(t, filepath.Join(dir, path), couchgen.Options{NodeName: n.name, Seed: uint64(i + 1)}, docs, n.puts...)
		}
		found, err := node.Locate(t.Context(), node.Options{DataDir: dir, NodeName: n.name})
		must(t, err)
		instance := fmt.Sprint("db", i+1)
		res, err := backup.Run(t.Context(), backup.Options{Repo: r, Node: found, Instance: instance, StateDir: t.TempDir(), Name: "test", Parallel: 2})
		must(t, err)
		backups = append(backups, topology.Backup{Node: n.name, Instance: instance, ID: res.Record.ID})
		recs = append(recs, res.Record)
	}
	return backups, recs
}

// bodyOf is a document without its id.
func bodyOf(t *testing.T, doc []byte) any {
	t.Helper()
	var o map[string]json.RawMessage
	must(t, json.Unmarshal(doc, &o))
	maps.DeleteFunc(o, func(key string, _ json.RawMessage) bool { return strings.HasPrefix(key, "_") })
	return o
}

const madePath = "shards/00000000-ffffffff/db.1700000000.couch"

// threeCopies are three nodes, each with a copy of one shard, the first one of most documents.
func threeCopies() []madeNode {
	names := []string{"couchdb@a", "couchdb@b", "couchdb@c"}
	m := shard.Map{DB: "db", Suffix: ".1700000000", ByNode: map[string][]shard.Range{}}
	for _, n := range names {
		m.ByNode[n] = []shard.Range{shard.Full}
	}
	var out []madeNode
	for i, n := range names {
		out = append(out, madeNode{name: n, maps: []shard.Map{m}, docs: map[string]int{madePath: 300 - i}})
	}
	return append(out, madeNode{name: "couchdb@d", maps: []shard.Map{m}}) // it holds none
}

func partOf(t *testing.T, r *repo.Repo, recs []*manifest.Record, plan *topology.Plan, name string) *restore.Part {
	t.Helper()
	c, err := cluster.Open(t.Context(), r, membersOf(t, r, recs))
	must(t, err)
	part, err := restore.PartOf(c, plan, name)
	must(t, err)
	return part
}

// countIn returns how many documents a restored shard has.
func countIn(t *testing.T, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	db, err := couchfile.Open(f, info.Size())
	must(t, err)
	got, err := db.Info()
	must(t, err)
	return got.DocCount
}

// A copy that the repository can't give back is one of several: the next best takes its place, and so do other nodes' lists
// of databases and nodes. Only when none is left is the range guarded.
func TestPartTakesAnotherCopy(t *testing.T) {
	t.Parallel()
	store := mem.New()
	r := openRepo(t, store)
	backups, recs := backupMade(t, r, threeCopies())
	plan := topology.New("test", backups, nil, []string{"couchdb@x"})
	before := segments(t, store)
	for i, want := range []uint64{300, 299, 298, 0} {
		dir := filepath.Join(t.TempDir(), "data")
		o := restore.Options{Repo: r, Part: partOf(t, r, recs, plan, "couchdb@x"), To: dir, History: restore.HistoryByMoment}
		res := files(t, o)
		path := filepath.Join(dir, madePath)
		if want == 0 {
			if info, err := os.Stat(path); err != nil || !info.IsDir() || len(res.Lost) != 1 {
				t.Errorf("none is left: %v, %v, %+v", info, err, res)
			}
			break
		}
		if got := countIn(t, path); got != want || res.OK() != (i == 0) || len(res.Lost) > 0 || len(res.Damaged) > 0 {
			t.Errorf("%d copies are damaged: got %d documents, want %d; %+v", i, got, want, res)
		}
		if i > 0 {
			contains(t, res.Problems, recs[i].NodeName)
		}
		spoil(t, store, r, manifestOf(t, r, recs[i]), madePath)
		o.Delta = true // what is there is right, and kept
		if res = files(t, o); countIn(t, path) != want || len(res.Lost) > 0 {
			t.Errorf("onto what is there: got %d documents, want %d; %+v", countIn(t, path), want, res)
		}
	}
	for _, path := range []string{"_nodes.couch", "_dbs.couch"} {
		for key, b := range before {
			putSegment(t, store, key, b)
		}
		part := partOf(t, r, recs, plan, "couchdb@x")
		spoil(t, store, r, manifestOf(t, r, recs[0]), path)
		dir := filepath.Join(t.TempDir(), "data")
		files(t, restore.Options{Repo: r, Part: part, To: dir})
		if got := countIn(t, filepath.Join(dir, path)); got != 1 {
			t.Errorf("%s holds %d documents, want 1", path, got)
		}
	}
}

// What is wrong with shard maps is told by each restore: a gap, a name that no database has, a map that one backup can't give.
func TestPartTellsOfMaps(t *testing.T) {
	t.Parallel()
	nodes := threeCopies()
	half := shard.Range{Begin: 0, End: 1<<31 - 1}
	gap := shard.Map{DB: "gap", Suffix: ".1700000000", ByNode: map[string][]shard.Range{"couchdb@a": {half}}}
	odd := shard.Map{DB: "../../odd", Suffix: ".1700000000", ByNode: map[string][]shard.Range{"couchdb@a": {shard.Full}}}
	for i := range nodes {
		nodes[i].maps = append(nodes[i].maps, gap, odd)
	}
	nodes[0].docs["shards/00000000-7fffffff/gap.1700000000.couch"] = 3
	r := openRepo(t, mem.New())
	backups, recs := backupMade(t, r, nodes)
	plan := topology.New("test", backups, nil, []string{"couchdb@x"})
	dir := filepath.Join(t.TempDir(), "data")
	res := files(t, restore.Options{Repo: r, Part: partOf(t, r, recs, plan, "couchdb@x"), To: dir})
	contains(t, res.Warnings, "80000000-ffffffff")
	contains(t, res.Warnings, "../../odd")
	if !slices.Equal(res.Databases, []string{"db", "gap"}) {
		t.Errorf("databases %q", res.Databases)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("beside the data directory: %v", entries)
	}
}

// Backups of two clusters whose nodes have the same names come not into one plan: each has its own database of one name.
func TestPartOfTwoClusters(t *testing.T) {
	t.Parallel()
	nodes := threeCopies()
	other := shard.Map{DB: "db", Suffix: ".1700000001", ByNode: nodes[0].maps[0].ByNode}
	nodes[1].maps = []shard.Map{other}
	r := openRepo(t, mem.New())
	backups, recs := backupMade(t, r, nodes)
	plan := topology.New("test", backups, nil, []string{"couchdb@x"})
	c, err := cluster.Open(t.Context(), r, membersOf(t, r, recs))
	must(t, err)
	if _, err := restore.PartOf(c, plan, "couchdb@x"); !errors.Is(err, topology.ErrPlan) || !strings.Contains(err.Error(), `couchdb@a (db1) and couchdb@b (db2) are of different clusters: each has a database "db" of its own`) {
		t.Errorf("got %v, want ErrPlan", err)
	}
}

// A purge that only a left-out copy knows brings the document back, and is named; one that a restored copy knows does not.
func TestPurgedBack(t *testing.T) {
	t.Parallel()
	nodes := threeCopies()[:3]
	for i := range nodes {
		for _, id := range []string{"gone", "known"} {
			nodes[i].puts = append(nodes[i].puts, couchgen.Doc{ID: id, Body: map[string]any{"same": true}})
		}
	}
	nodes[0].puts = append(nodes[0].puts, couchgen.Doc{ID: "purge:known"})
	nodes[2].puts = append(nodes[2].puts, couchgen.Doc{ID: "purge:gone"}, couchgen.Doc{ID: "purge:known"})
	r := openRepo(t, mem.New())
	backups, recs := backupMade(t, r, nodes)
	c, err := cluster.Open(t.Context(), r, membersOf(t, r, recs))
	must(t, err)
	copies := c.Copies(r)
	defer copies.Close()
	for n, want := range map[int][]cluster.PurgedDoc{1: {{Database: "db", ID: "gone", Node: "couchdb@c"}}, 3: {}} {
		plan := topology.New("test", backups, nil, []string{"couchdb@x", "couchdb@y", "couchdb@z"})
		plan.N = n
		placed, err := plan.Place(c.Databases)
		must(t, err)
		got, err := c.PurgedBack(t.Context(), copies, placed.Left)
		must(t, err)
		if !slices.Equal(got.Docs, want) || got.Count != len(want) || len(got.Unread) > 0 {
			t.Errorf("n %d: got %+v, want %v", n, got, want)
		}
	}
}
