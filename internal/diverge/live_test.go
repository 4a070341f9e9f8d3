package diverge_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/diverge"
	"github.com/slipcover/slipcover/internal/testenv"
)

// liveCopy opens the one shard of a database as it is now on a node.
func liveCopy(t *testing.T, dataDir, node, db string) diverge.Copy {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dataDir, "shards", "*", db+".*.couch"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("files of %s: %v, %v", db, paths, err)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	return diverge.Copy{Node: node, DB: open(t, b)}
}

// request sends one that must be answered well.
func request(t *testing.T, c *testenv.Couch, method, path string, body, into any) {
	t.Helper()
	if err := c.Do(t.Context(), method, path, body, into); err != nil {
		t.Fatal(err)
	}
}

// scatter gives databases random revisions of n documents: each gets some of them, with their history.
func scatter(t *testing.T, c *testenv.Couch, rnd *rand.Rand, dbs []string, n int) {
	t.Helper()
	docs := map[string][]any{}
	for i := range n {
		id := fmt.Sprintf("doc-%d", i)
		for branch := range 1 + rnd.IntN(3) {
			start := 1 + rnd.IntN(6)
			ids := make([]string, start)
			for k := range ids { // the newest first; all branches begin alike
				pos := start - k
				if pos > 2 {
					ids[k] = fmt.Sprintf("%028x%02x%02x", i, branch, pos)
				} else {
					ids[k] = fmt.Sprintf("%032x", i*10+pos)
				}
			}
			for _, db := range dbs {
				upTo := rnd.IntN(start + 1) // of this branch; 0 is none
				if rnd.IntN(3) > 0 {
					upTo = start
				}
				if upTo == 0 {
					continue
				}
				docs[db] = append(docs[db], map[string]any{
					"_id": id, "_revisions": map[string]any{"start": upTo, "ids": ids[start-upTo:]},
					"_deleted": upTo == 6, "n": i, "branch": branch,
				})
			}
		}
	}
	for db, list := range docs {
		rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		request(t, c, "POST", "/"+db+"/_bulk_docs", map[string]any{"docs": list, "new_edits": false}, nil)
	}
}

// missing asks the server which leaf revisions of one database another one lacks, as its replicator does.
func missing(t *testing.T, c *testenv.Couch, from, to string) map[string][]string {
	t.Helper()
	var changes struct {
		Results []struct {
			ID      string
			Changes []struct{ Rev string }
		}
	}
	request(t, c, "GET", "/"+from+"/_changes?style=all_docs", nil, &changes)
	ask := map[string][]string{}
	for _, r := range changes.Results {
		for _, ch := range r.Changes {
			ask[r.ID] = append(ask[r.ID], ch.Rev)
		}
	}
	var diff map[string]struct{ Missing []string }
	request(t, c, "POST", "/"+to+"/_revs_diff", ask, &diff)
	out := map[string][]string{}
	for id, d := range diff {
		slices.Sort(d.Missing)
		out[id] = d.Missing
	}
	return out
}

// lacks is what was told that a copy lacks.
func lacks(each []diverge.Difference, i int) map[string][]string {
	out := map[string][]string{}
	for _, d := range each {
		for _, l := range d.Copies[i].Lacks {
			out[d.ID] = append(out[d.ID], l.Rev.String())
		}
		slices.Sort(out[d.ID])
		if len(out[d.ID]) == 0 {
			delete(out, d.ID)
		}
	}
	return out
}

// What is told of a real server's files is what the server's own _revs_diff says; and nothing is left once replication has
// run both ways, but what it doesn't bring.
func TestAgainstServer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server")
	}
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	for round := range testenv.Rounds(1) {
		rnd := rand.New(rand.NewPCG(testenv.Seed(t), uint64(round)))
		dbs := []string{fmt.Sprintf("left%d", round), fmt.Sprintf("right%d", round)}
		for _, db := range dbs {
			request(t, c, "PUT", "/"+db+"?q=1", nil, nil)
		}
		request(t, c, "PUT", "/"+dbs[1]+"/_revs_limit", 1+rnd.IntN(4), nil)
		scatter(t, c, rnd, dbs, 60)
		if err := c.Compact(dbs[0]); err != nil {
			t.Fatal(err)
		}
		both := func() []diverge.Copy {
			return []diverge.Copy{liveCopy(t, c.DataDir, "left", dbs[0]), liveCopy(t, c.DataDir, "right", dbs[1])}
		}
		r, each := compareCopies(t, both())
		for i, db := range dbs {
			want := missing(t, c, dbs[1-i], db)
			if got := lacks(each, i); len(want) == 0 || !maps.EqualFunc(got, want, slices.Equal) {
				t.Errorf("round %d: %s lacks\n%v, the server says\n%v", round, db, got, want)
			}
		}
		for _, d := range each {
			checkDifference(t, d)
		}
		if len(r.Settings) != 1 || r.Settings[0].Name != "revs_limit" {
			t.Errorf("settings: %v", r.Settings)
		}

		request(t, c, "PUT", "/"+dbs[0]+"/_local/mine", map[string]any{"v": 1}, nil)
		request(t, c, "PUT", "/"+dbs[0]+"/_revs_limit", 1000, nil)
		request(t, c, "PUT", "/"+dbs[1]+"/_revs_limit", 1000, nil)
		for i, db := range dbs {
			local := strings.TrimSuffix(c.URL, "/") + "/"
			auth := map[string]any{"basic": map[string]any{"username": c.Admin, "password": c.Password}}
			request(t, c, "POST", "/_replicate", map[string]any{
				"source": map[string]any{"url": local + db, "auth": auth}, "target": map[string]any{"url": local + dbs[1-i], "auth": auth},
			}, nil)
		}
		r, each = compareCopies(t, both())
		if r.Different != 0 || r.Equal < 50 || len(r.Settings) > 0 {
			for _, d := range each {
				t.Logf("%s: %v", d.ID, d.Leaves)
			}
			t.Errorf("round %d: after replication %d differ, settings %v", round, r.Different, r.Settings)
		}
		if l := r.Copies[1].LocalMissing; l.Count != 1 || l.First[0].ID != "_local/mine" {
			t.Errorf("local documents: %+v", l)
		}

		var got struct {
			Rev string `json:"_rev"`
		}
		id := ""
		for i := 0; id == "" || c.Get("/"+dbs[0]+"/"+id, &got) != nil; i++ {
			id = fmt.Sprintf("doc-%d", i)
		}
		request(t, c, "POST", "/"+dbs[0]+"/_purge", map[string]any{id: []string{got.Rev}}, nil)
		r, _ = compareCopies(t, both())
		if p := r.Copies[0].Purged; r.Different != 1 || p.Count != 1 || p.First[0].ID != id || !slices.Equal(p.First[0].Revs, []string{got.Rev}) {
			t.Errorf("round %d: after the purge of %s %s: %s", round, id, got.Rev, story(r))
		}
	}
}
