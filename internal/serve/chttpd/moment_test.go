package chttpd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// momentAsks are what a server is asked at each moment.
var momentAsks = []ask{
	{path: "/d/_all_docs?include_docs=true&conflicts=true&attachments=true"}, {path: "/d/_changes?style=all_docs&include_docs=true", unordered: true}, {path: "/d/_local_docs?include_docs=true"},
	{path: "/d/_security"}, {path: "/d/doc3?revs=true&open_revs=all"}, {path: "/d/_design/v/_view/n?update=false&reduce=false"}, {path: "/e/_all_docs"}, {path: "/_all_dbs"},
}

// Moments between backups are answered as the server answered then: with compactions, a database that was dropped, and
// one that came.
func TestMomentsAnswerAsServer(t *testing.T) {
	t.Parallel()
	live := testenv.CouchDB(t, testenv.Options{})
	p := newPair(t, live)
	rnd := rand.New(rand.NewPCG(testenv.Seed(t), 5))
	r := servetest.Init(t, mem.New())()
	must(t, live.Put("/d?q=2", nil, nil))
	must(t, live.Put("/gone?q=1", nil, nil))
	n, err := node.Locate(t.Context(), node.Options{DataDir: live.DataDir})
	must(t, err)
	state := t.TempDir()
	_, err = backup.Run(t.Context(), backup.Options{Repo: r, Node: n, Instance: "node1", StateDir: state, Name: "test", Tool: "test", Indexes: true})
	must(t, err)
	s, err := ship.Open(t.Context(), ship.Options{Repo: r, Node: n, Instance: "node1", StateDir: state, Tool: "test"})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	type told struct {
		at      time.Time
		answers []reply
	}
	var list []told
	for i := range 8 {
		momentWrites(t, live, rnd, i)
		s.Look(t.Context())
		for range 3 { // a file is gone once it was not there twice
			must(t, s.Tick(t.Context()))
		}
		k := told{at: time.Now()}
		for _, a := range momentAsks {
			k.answers = append(k.answers, p.do(live.URL, a))
		}
		list = append(list, k)
		time.Sleep(5 * time.Millisecond)
	}
	for i, k := range list {
		m, _, err := r.At(t.Context(), "node1", k.at)
		must(t, err)
		opened, err := serve.OpenNode(context.Background(), r, m)
		must(t, err)
		server := httptest.NewServer(chttpd.New(context.Background(), opened, chttpd.Options{Auth: chttpd.Everybody{}}))
		for j, a := range momentAsks {
			got, want := p.do(server.URL, a), k.answers[j]
			gotText, wantText := got.normal(), want.normal()
			if a.unordered {
				gotText, wantText = sorted(gotText), sorted(wantText)
			}
			if j == 5 && got.status == 501 { // no index is shipped
				continue
			}
			if got.status != want.status || gotText != wantText {
				t.Errorf("moment %d, %s: %d %s, want %d %s", i, a.path, got.status, clip(gotText, wantText), want.status, clip(wantText, gotText))
			}
		}
		server.Close()
		opened.Close()
	}
}

// momentWrites changes something at a server.
func momentWrites(t *testing.T, live *testenv.Couch, rnd *rand.Rand, i int) {
	t.Helper()
	var docs []any
	for k := range 20 {
		doc := map[string]any{"_id": fmt.Sprintf("doc%d", k), "n": rnd.IntN(1000)}
		var old struct {
			Rev string `json:"_rev"`
		}
		if err := live.Get(testenv.DBPath("d", doc["_id"].(string)), &old); err == nil {
			doc["_rev"] = old.Rev
			if rnd.IntN(5) == 0 {
				doc["_deleted"] = true
			}
		}
		if k%5 == 0 {
			doc["_attachments"] = map[string]any{"a.txt": map[string]any{"content_type": "text/plain", "data": slices.Repeat([]byte("attached "), rnd.IntN(900))}}
		}
		docs = append(docs, doc)
	}
	must(t, live.Post("/d/_bulk_docs", map[string]any{"docs": docs}, nil))
	must(t, live.Put(fmt.Sprintf("/d/_local/l%d", i), map[string]any{"i": i}, nil))
	switch i {
	case 1:
		must(t, live.Put("/d/_design/v", map[string]any{"views": map[string]any{"n": map[string]any{"map": "function(doc){emit(doc.n)}"}}}, nil))
	case 2:
		must(t, live.Delete("/gone"))
	case 3, 6:
		must(t, live.Compact("d"))
	case 4:
		must(t, live.Put("/e?q=1", nil, nil))
		must(t, live.Put("/e/x", map[string]any{}, nil))
	case 5:
		must(t, live.Put("/d/_security", map[string]any{"members": map[string]any{"roles": []string{"staff"}}}, nil))
	}
}
