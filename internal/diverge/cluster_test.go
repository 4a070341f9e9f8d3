package diverge_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/diverge"
	"github.com/slipcover/slipcover/internal/testenv"
)

// While a node of a real cluster is away its copy falls behind, and what it lacks is told; once it is back CouchDB brings it
// all but the local documents.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	t.Parallel()
	c := testenv.Cluster(t, 2, testenv.ClusterOptions{Q: 1, N: 2})
	stays, leaves := c.Nodes[0], c.Nodes[1]
	const db = "team"
	path := func(id string) string { return testenv.DBPath(db, id) }
	put := func(id string, body map[string]any) (rev string) {
		var got struct{ Rev string }
		request(t, stays, "PUT", path(id), body, &got)
		return got.Rev
	}
	now := func() (*diverge.Report, []diverge.Difference) {
		t.Helper()
		return compareCopies(t, []diverge.Copy{
			liveCopy(t, stays.DataDir, stays.NodeName, db), liveCopy(t, leaves.DataDir, leaves.NodeName, db),
		})
	}
	// settled waits until internal replication has nothing more to bring.
	settled := func(when string) *diverge.Report {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			r, _ := now()
			if r.Different == 0 {
				return r
			}
			if time.Now().After(end) {
				t.Fatalf("%s: still\n%s", when, story(r))
			}
		}
	}
	request(t, stays, "PUT", "/"+db, nil, nil)
	revs := map[string]string{}
	for i := range 50 {
		id := fmt.Sprintf("doc-%02d", i)
		revs[id] = put(id, map[string]any{"n": i})
	}
	put("_local/both", map[string]any{"v": 1})
	put("_local/gone", map[string]any{"v": 1})
	if r := settled("at first"); !r.Agrees() || r.Equal != 50 || r.Local.Equal != 2 || r.SameState {
		t.Fatalf("at first: %+v\n%s", r, story(r))
	}

	leaves.Kill()
	c.Joined()
	put("new", map[string]any{})
	put("doc-01", map[string]any{"_rev": revs["doc-01"], "n": -1})
	request(t, stays, "DELETE", path("doc-02")+"?rev="+revs["doc-02"], nil, nil)
	request(t, stays, "POST", "/"+db+"/_bulk_docs", map[string]any{"new_edits": false, "docs": []any{
		map[string]any{"_id": "doc-03", "_rev": "1-abc"},
	}}, nil)
	request(t, stays, "POST", "/"+db+"/_purge", map[string]any{"doc-04": []string{revs["doc-04"]}}, nil)
	put("_local/new", map[string]any{"v": 1})
	put("_local/both", map[string]any{"_rev": "0-1", "v": 2})
	request(t, stays, "DELETE", path("_local/gone")+"?rev=0-1", nil, nil)

	r, each := now()
	if len(each) != 8 || r.Equal != 46 || r.Different != 5 || r.Local.Different != 3 {
		t.Errorf("while a node is away: %d differences, %+v", len(each), r)
	}
	states := map[string]diverge.State{}
	for _, d := range each {
		behind := 1 // which copy it is that isn't complete
		if d.ID == "doc-04" || d.ID == "_local/gone" {
			behind = 0
		}
		states[d.ID] = d.Copies[behind].State
		if other := d.Copies[1-behind].State; !d.Local && other != diverge.Complete {
			t.Errorf("%s: the other copy is %v", d.ID, other)
		}
	}
	for id, want := range map[string]diverge.State{
		"new": diverge.Missing, "doc-01": diverge.Behind, "doc-02": diverge.Behind, "doc-03": diverge.Behind, "doc-04": diverge.Purged,
		"_local/new": diverge.Missing, "_local/both": diverge.Differs, "_local/gone": diverge.Missing,
	} {
		if states[id] != want {
			t.Errorf("%s: got %v, want %v", id, states[id], want)
		}
	}

	leaves.Start()
	c.Joined()
	r = settled("after it came back")
	if r.Local.Different != 3 || r.Copies[1].LocalMissing.Count != 1 || r.Copies[0].LocalMissing.Count != 1 || len(r.Settings) > 0 {
		t.Errorf("after it came back: %+v\n%s", r, story(r))
	}
	if r.Documents != 50 { // the purge came to it
		t.Errorf("after it came back: %d documents", r.Documents)
	}
}
