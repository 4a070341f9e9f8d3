package web_test

import (
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/looks/lookstest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/web"
)

// newCluster is a dashboard over the backups of a cluster's nodes. It can't open their repositories if fail is an error.
func newCluster(t *testing.T, fail error) *world {
	t.Helper()
	k := lookstest.NewCluster(t)
	w := newWorld(t, func(o *web.Options) {
		o.Serves = k.Set(&servertest.World{Server: o.Server, Tokens: o.Tokens, Log: o.Log})
	})
	k.Fail = fail
	k.Fill(w.World, project, 3)
	return w
}

const ofProd = "/clusters/" + project + "/prod"

// The page of a cluster says what its backups hold, and compares copies when it is asked to.
func TestClusterPage(t *testing.T) {
	t.Parallel()
	w := newCluster(t, nil)
	b := w.as(access.Operator)
	b.get("/").source(`<a href="` + ofProd + `">prod</a>`)
	a := b.get(ofProd)
	a.has(200, "Cluster of 3", "Of 1 database a range is in no node’s newest backup", "couchdb@a", "db3", "gone", "Not whole", "00000000-ffffffff", "1 copy of couchdb@d not there", "orders", "All copies",
		"Nothing is compared before you ask", "slipcover cluster compare prod")
	a.hasNot("order-10")
	if log := w.Audited(); strings.Contains(log, "documents.list") {
		t.Errorf("nothing was compared, and the audit log says: %s", log)
	}
	b.get(ofProd+"?p=te").has(200, "team", "1 to 1 of 1")

	a = b.get(a.link("compare=1", "db=orders"))
	a.has(200, "Compared 16 documents in 2 ranges of 1 database: 2 differ.", "orders 80000000-ffffffff : 2 of 9 documents differ", "order-10", "lacks it", "order-14", "lacks revisions", "2-bbbb", "_sync_shards")
	a.hasNot("The time was over", "order-12")
	b.get(a.link("/document", "doc=order-10")).has(200, "order-10")
	if log := w.Audited(); !strings.Contains(log, `"action":"documents.list","target":"prod/orders","outcome":"ok"`) {
		t.Errorf("audit log: %s", log)
	}
	b.get(ofProd+"?compare=1&db=team").has(200, "Compared 1 document in 1 range of 1 database: all copies agree.")
	b.get(ofProd+"?compare=1").has(200, "2 differ, and of 1 range not all copies were compared", "The copy of couchdb@d was not compared: it has no backup, or only damaged ones")
	b.get(ofProd+"?compare=1&db=nothing").has(200, "fits \"nothing\"")
	b.get(ofProd+"?compare=1&at=whenever").has(200, "is neither a backup nor a time")
	b.get(ofProd+"?compare=1&db=orders&at=now").has(200, "2 differ")
	b.get("/clusters/" + project + "/other").has(404)

	v := w.as(access.Viewer)
	v.get(ofProd+"?compare=1&db=orders").has(200, "Your role, viewer, may not read documents,")
	v.get(ofProd+"?compare=1&db=orders").hasNot("order-10", "Compare copies")
}

// Without a key the page says how to allow it, and shows what the catalog has.
func TestClusterPageWithoutKey(t *testing.T) {
	t.Parallel()
	w := newCluster(t, &server.Error{Kind: server.Conflict, Message: "closed", Cause: repo.ErrNoKey})
	w.as(access.Operator).get(ofProd).has(200, "What its backups hold can’t be said.", "this server has no key for this repository", "couchdb@b", "db2")
}
