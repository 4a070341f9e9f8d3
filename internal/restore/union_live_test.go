package restore_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/testenv"
	"github.com/slipcover/slipcover/internal/topology"
)

// Where another copy comes back in the place of one that is damaged, the union brings in what can be read of the damaged one,
// names what can't, and sends nothing twice. A database that was deleted since, or made again, is told.
func TestUnionAfterFallback(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts two clusters")
	}
	nodes := names(2, 80)
	c := testenv.Cluster(t, 2, testenv.ClusterOptions{NodeNames: nodes, Q: 1, N: 2})
	must(t, c.Nodes[0].Put("/db", nil, nil))
	must(t, c.Nodes[0].Put("/db/both", map[string]any{}, nil))
	c.InStep("db")
	c.Stop()
	noise := make([]byte, 8<<20)
	_, _ = rand.Read(noise)
	for i, prefix := range []string{"a", "b"} { // each is alone for a while
		n := c.Nodes[i]
		n.Start()
		if i == 0 {
			must(t, n.Put("/db/big", map[string]any{"_attachments": map[string]any{"x": map[string]any{"content_type": "application/octet-stream",
				"data": base64.StdEncoding.EncodeToString(noise)}}}, nil))
		}
		for k := range 30 - 20*i {
			must(t, n.Put(testenv.DBPath("db", fmt.Sprint(prefix, k)), map[string]any{"of": prefix}, nil))
		}
		n.Stop()
	}
	store := mem.New()
	r := openRepo(t, store)
	backups, recs := backupNodes(t, r, c)
	hit := 0
	for key, b := range segments(t, store) {
		if at := bytes.Index(b, noise[4<<20:4<<20+32]); at >= 0 {
			b = bytes.Clone(b)
			b[at] ^= 1
			putSegment(t, store, key, b)
			hit++
		}
	}
	if hit != 1 {
		t.Fatalf("%d segments hold the attachment", hit)
	}
	plan := topology.New("test", backups, nodes, names(1, 82))
	cl, err := cluster.Open(t.Context(), r, membersOf(t, r, recs))
	must(t, err)
	part, err := restore.PartOf(cl, plan, plan.Nodes[0].Name)
	must(t, err)
	dir := filepath.Join(t.TempDir(), "data")
	if res := files(t, restore.Options{Repo: r, Part: part, To: dir, History: restore.HistoryByMoment}); res.OK() {
		t.Fatalf("the copy is damaged: %+v", res)
	}
	one := testenv.StartCluster(t, []testenv.NodeOptions{{NodeName: plan.Nodes[0].Name, DataDir: dir}}).Nodes[0]
	if ids := docIDs(t, one); slices.Contains(ids, "a0") || !slices.Contains(ids, "b0") {
		t.Fatalf("the other copy did not come in: %q", ids)
	}

	placed, err := plan.Place(cl.Databases)
	must(t, err)
	i := slices.IndexFunc(placed.Left, func(l topology.Left) bool { return l.Name.DB == "db" })
	left := placed.Left[i]
	copies := cl.Copies(r)
	defer copies.Close()
	srv, _, err := takeout.Open(t.Context(), one.URL, one.Admin, one.Password)
	must(t, err)
	o := takeout.UnionOptions{Server: srv, DB: "db", Used: openCopies(t, copies, left.Name, left.Used, nodes), Others: openCopies(t, copies, left.Name, left.Unused, nodes), Gone: repo.Damaged}
	for _, round := range []struct {
		dry                           bool
		documents, revisions, damaged int
	}{{true, 31, 31, 0}, {false, 31, 30, 1}, {false, 1, 0, 1}} {
		o.DryRun = round.dry
		got, err := takeout.Union(t.Context(), o)
		must(t, err)
		if got.Documents != round.documents || got.Revisions != round.revisions || len(got.Damaged) != round.damaged || len(got.Refused) > 0 || got.Gone > 0 {
			t.Errorf("%+v: united %+v", round, got)
		}
		if len(got.Damaged) > 0 && got.Damaged[0].ID != "big" {
			t.Errorf("damaged: %+v", got.Damaged)
		}
	}
	if ids := docIDs(t, one); len(ids) != 41 {
		t.Errorf("got %d documents, want 1 of both, 30 and 10: %q", len(ids), ids)
	}

	remade := func(want string) {
		t.Helper()
		if got, err := srv.Remade(t.Context(), "db", left.Name.Suffix); err != nil || want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	remade("")
	must(t, one.Delete("/db"))
	remade("no such database")
	must(t, one.Put("/db", nil, nil))
	remade("made again")
}

// docIDs lists the documents of the database db.
func docIDs(t *testing.T, c *testenv.Couch) (ids []string) {
	t.Helper()
	var all struct{ Rows []struct{ ID string } }
	must(t, c.Get("/db/_all_docs", &all))
	for _, row := range all.Rows {
		ids = append(ids, row.ID)
	}
	return ids
}
