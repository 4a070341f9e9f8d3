package contents_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/admin"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/looks/lookstest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// clusterWorld is a server that reads the backups of the first n nodes of a cluster.
func clusterWorld(t *testing.T, n int) (*world, *lookstest.Cluster) {
	t.Helper()
	w := &world{t: t, World: servertest.New(t, bus.Options{Listen: "127.0.0.1:0"}, server.Config{Quota: job.Quota{Instances: -1, Backups: -1, Volumes: -1}})}
	k := lookstest.NewCluster(t)
	w.operator, w.viewer, w.other = w.Token("acme", access.Operator), w.Token("acme", access.Viewer), w.Token("shop", access.Operator)
	w.Serve(httpd.API{Name: "admin", Broken: admin.Broken, TooMany: admin.TooMany},
		admin.New(admin.Options{Server: w.Server, Checker: w.Tokens, Tokens: w.Tokens, Log: w.Log, Auth: "token", Serves: k.Set(w.World)}))
	k.Fill(w.World, "acme", n)
	return w, k
}

func (w *world) ofCluster(token, what string, params ...string) servertest.Answer {
	w.t.Helper()
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	return servertest.Do(w.t, "GET", w.HTTP.URL+"/slipcover/v1/clusters/prod"+what+"?"+q.Encode(), token, "")
}

func (w *world) intoOfCluster(to any, what string, params ...string) {
	w.t.Helper()
	a := w.ofCluster(w.operator, what, params...)
	if a.Status != 200 {
		w.t.Fatalf("%s %v: %d %s", what, params, a.Status, a.Body)
	}
	must(w.t, json.Unmarshal([]byte(a.Body), to))
}

// What the backups of all nodes hold, and which documents their copies disagree about, out of three repositories.
func TestCluster(t *testing.T) {
	t.Parallel()
	w, _ := clusterWorld(t, 3)
	var one struct {
		Cluster struct{ Nodes []struct{ Name string } }
	}
	w.intoOfCluster(&one, "")
	if len(one.Cluster.Nodes) != 3 {
		t.Errorf("nodes %+v", one)
	}
	for range 2 { // read, and kept
		var held contents.ClusterDatabases
		w.intoOfCluster(&held, "/databases")
		if held.Total != 3 || held.Gaps != 1 || held.More || len(held.Nodes) != 3 || held.Nodes[2].Shards != 2 || held.Nodes[0].Shards != 3 || held.Nodes[0].Backup == "" || held.Nodes[0].From.IsZero() {
			t.Fatalf("held %+v", held)
		}
		gone, orders := held.Databases[0], held.Databases[1]
		if gone.Name != "gone" || len(gone.Missing) != 1 || len(gone.Lacks) != 1 || gone.Lacks[0] != (contents.ClusterLacks{Node: "couchdb@d", Copies: 1}) {
			t.Errorf("gone: %+v", gone)
		}
		if orders.Name != "orders" || orders.Q != 2 || orders.N != 3 || orders.Held != 6 || orders.Copies != 6 || orders.Documents != 16 || len(orders.Missing)+len(orders.Lacks) != 0 {
			t.Errorf("orders: %+v", orders)
		}
	}
	var page contents.ClusterDatabases
	if w.intoOfCluster(&page, "/databases", "prefix", "o", "limit", "1"); page.Total != 1 || len(page.Databases) != 1 || page.Gaps != 1 {
		t.Errorf("those with o: %+v", page)
	}

	type divergence struct {
		Ranges []struct {
			Database, Range string
			Different       int
			Copies          []struct {
				Node                  string
				Missing, Behind, Only struct {
					Count int
					First []struct{ ID string }
				}
			}
			NotCompared []struct{ Node, Why string } `json:"not_compared"`
		}
		Counts   contents.DivergenceCounts
		Complete bool
		Next     string
	}
	var d divergence
	w.intoOfCluster(&d, "/divergence")
	if !d.Complete || d.Next != "" || len(d.Ranges) != 2 || d.Counts != (contents.DivergenceCounts{Databases: 3, Ranges: 4, Agree: 2, Incomplete: 1, Documents: 17, Different: 2}) {
		t.Fatalf("divergence %+v", d)
	}
	if r := d.Ranges[0]; r.Database != "gone" || len(r.NotCompared) != 1 || r.NotCompared[0].Node != "couchdb@d" {
		t.Errorf("gone: %+v", r)
	}
	r := d.Ranges[1]
	if r.Database != "orders" || r.Range != "80000000-ffffffff" || r.Different != 2 || r.Copies[1].Missing.First[0].ID != "order-10" || r.Copies[2].Behind.First[0].ID != "order-14" || r.Copies[0].Missing.Count != 0 {
		t.Errorf("orders: %+v", r)
	}
	d = divergence{}
	if w.intoOfCluster(&d, "/divergence", "db", "t*"); len(d.Ranges) != 0 || d.Counts.Ranges != 1 || d.Counts.Agree != 1 {
		t.Errorf("those with t: %+v", d)
	}
	// In pages it is the same.
	var seen []string
	for after := ""; ; {
		d = divergence{}
		w.intoOfCluster(&d, "/divergence", "limit", "1", "after", after)
		for _, r := range d.Ranges {
			seen = append(seen, r.Database+" "+r.Range)
		}
		if after = d.Next; after == "" {
			break
		}
	}
	if strings.Join(seen, ", ") != "gone 00000000-ffffffff, orders 80000000-ffffffff" {
		t.Errorf("in pages: %q", seen)
	}
	if a := w.ofCluster(w.operator, "/divergence", "db", "nothing"); a.Status != 404 {
		t.Errorf("a database that isn't there: %d %s", a.Status, a.Body)
	}
}

// Who may not read documents may see what is held, and not which documents differ. Who compared is in the audit log.
func TestClusterIsGuarded(t *testing.T) {
	t.Parallel()
	w, _ := clusterWorld(t, 1)
	if a := w.ofCluster(w.viewer, "/databases"); a.Status != 200 || !strings.Contains(a.Body, "There is no backup of this instance yet") {
		t.Errorf("a viewer: %d %s", a.Status, a.Body)
	}
	if a := w.ofCluster(w.viewer, "/divergence"); a.Status != 403 {
		t.Errorf("a viewer: %d %s", a.Status, a.Body)
	}
	for _, what := range []string{"", "/databases", "/divergence"} {
		if a := w.ofCluster(w.other, what); a.Status != 404 {
			t.Errorf("of another project: %s: %d %s", what, a.Status, a.Body)
		}
	}
	if a := w.ofCluster(w.operator, "/divergence", "db", "orders"); a.Status != 200 || !strings.Contains(a.Body, "there is no other copy to compare it with") || !strings.Contains(a.Body, "it has no backup, or only damaged ones") {
		t.Errorf("one node alone: %d %s", a.Status, a.Body)
	}
	if log := w.Audited(); !strings.Contains(log, `"action":"documents.list","target":"prod/orders","outcome":"ok"`) {
		t.Errorf("audit log: %s", log)
	}
	keyless, k := clusterWorld(t, 1)
	k.Fail = &server.Error{Kind: server.Conflict, Message: "closed", Cause: repo.ErrNoKey}
	if a := keyless.ofCluster(keyless.operator, "/databases"); a.Status != 409 || !strings.Contains(a.Body, "has no key") {
		t.Errorf("without a key: %d %s", a.Status, a.Body)
	}
}
