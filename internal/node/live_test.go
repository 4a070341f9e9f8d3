package node_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestLiveServer asks a running CouchDB where its files are, and holds the
// listing against what the server says it has.
func TestLiveServer(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{Config: map[string]map[string]string{"couchdb": {"enable_database_recovery": "true"}}})
	const odd = "team/a+b_$(c)-d"
	for _, path := range []string{testenv.DBPath("plain") + "?q=2", testenv.DBPath(odd) + "?q=4", testenv.DBPath("gone") + "?q=1"} {
		must(t, c.Put(path, nil, nil))
	}
	for _, db := range []string{"plain", odd, "gone"} {
		view := map[string]any{"views": map[string]any{"v": map[string]any{"map": "function(d){emit(d._id)}"}}}
		must(t, c.Put(testenv.DBPath(db)+"/_design/d", view, nil))
		must(t, c.Get(testenv.DBPath(db)+"/_design/d/_view/v", nil))
	}
	must(t, c.Delete(testenv.DBPath("gone")))
	var name struct{ Name string }
	must(t, c.Get("/_node/_local", &name))

	resolved, err := filepath.EvalSymlinks(c.DataDir)
	must(t, err)
	n := locate(t, node.Options{URL: c.URL, User: c.Admin, Password: c.Password})
	if n.DataDir != resolved || n.NodeName != name.Name || n.Version == "" || n.UUID == "" {
		t.Errorf("got %+v, want data directory %s and node name %s", n, c.DataDir, name.Name)
	}

	var got, listed []string
	for {
		l := scan(t, n, node.ScanOptions{Indexes: true})
		got = got[:0]
		for _, e := range l.Shards {
			got = append(got, e.DB+" "+e.Range.String()+e.Suffix)
		}
		for _, o := range l.LeftOut {
			if o.Reason == "not a file that CouchDB keeps here" || o.Reason == "not a name that CouchDB opens" {
				t.Errorf("%s: %s", o.Path, o.Reason)
			}
		}
		for _, db := range []string{"plain", odd} {
			if !slices.ContainsFunc(l.Views, func(e node.Entry) bool { return e.DB == db && e.Kind == manifest.View }) {
				t.Errorf("no view of %s in\n%s", db, text(l))
			}
		}
		if !slices.ContainsFunc(l.System, func(e node.Entry) bool { return e.Path == "_dbs.couch" }) {
			t.Errorf("no _dbs.couch in\n%s", text(l))
		}
		// CouchDB removes files after it has answered a DELETE.
		if !slices.ContainsFunc(l.Shards, func(e node.Entry) bool { return e.DB == "gone" }) || t.Context().Err() != nil {
			if !slices.ContainsFunc(l.LeftOut, func(o manifest.LeftOut) bool {
				return o.Reason == "deleted database, kept by enable_database_recovery" && strings.HasSuffix(o.Path, ".couch")
			}) {
				t.Errorf("the deleted database is not named in\n%s", text(l))
			}
			break
		}
	}
	var maps struct {
		Rows []struct {
			ID  string
			Doc struct {
				ByRange map[string][]string `json:"by_range"`
				Codes   []int               `json:"shard_suffix"`
			}
		}
	}
	must(t, c.Get("/_node/_local/_dbs/_all_docs?include_docs=true", &maps))
	for _, row := range maps.Rows {
		suffix := ""
		for _, code := range row.Doc.Codes {
			suffix += string(rune(code))
		}
		for r := range row.Doc.ByRange {
			listed = append(listed, row.ID+" "+r+suffix)
		}
	}
	slices.Sort(got)
	slices.Sort(listed)
	if len(listed) < 6 || !slices.Equal(got, listed) {
		t.Errorf("scan finds %q\nthe shard map has %q", got, listed)
	}
}

func TestAsk(t *testing.T) {
	c := testenv.CouchDB(t, testenv.Options{})
	for i := range 3 {
		if err := c.Put(fmt.Sprintf("/db%d%%2Fx", i), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"a", "b", "c"} {
		if err := c.Put("/db1%2Fx/"+id, map[string]any{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	var doc struct {
		Rev string `json:"_rev"`
	}
	if err := c.Get("/db1%2Fx/c", &doc); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete("/db1%2Fx/c?rev=" + doc.Rev); err != nil {
		t.Fatal(err)
	}
	s, err := node.Ask(t.Context(), c.URL, c.Admin, c.Password)
	if err != nil {
		t.Fatal(err)
	}
	if s.NodeName != c.NodeName || s.Version == "" || s.URL != c.URL || len(s.UUID) != 32 {
		t.Errorf("%+v", s)
	}
	defer node.SetPages(2, 1)() // the five databases are more than a page
	got, err := s.Databases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := node.Database{Name: "db1/x", Docs: 2, Deleted: 1}
	if len(got) != 5 || !slices.Contains(got, want) || !slices.IsSortedFunc(got, func(a, b node.Database) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("got %+v, want 5 and %+v among them", got, want)
	}
	if _, err := node.Ask(t.Context(), c.URL, c.Admin, "wrong-one"); err == nil || strings.Contains(err.Error(), "wrong-one") {
		t.Errorf("wrong password: %v", err)
	}
}

// TestCouchDB2 asks a server that answers what real ones of 2.1 and 2.3 do to the paths that
// CouchDB 3 brought. It is a 3.5 with these answers put before it, for there is no real
// CouchDB 2 to start here.
func TestCouchDB2(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	must(t, c.Put(testenv.DBPath("a+b/c"), nil, nil))
	must(t, c.Put(testenv.DBPath("a+b/c", "doc"), map[string]any{}, nil))
	resolved, err := filepath.EvalSymlinks(c.DataDir)
	must(t, err)
	for _, version := range []string{"2.1.2", "2.3.1"} {
		front := testenv.NewFront(t, c.URL)
		front.Set(testenv.AsCouchDB2(version))
		n := locate(t, node.Options{URL: front.URL, User: c.Admin, Password: c.Password})
		if n.DataDir != resolved || n.NodeName != c.NodeName || !n.NameTold || n.Version != version || len(n.UUID) != 32 {
			t.Errorf("%s: got %+v, want data directory %s and node name %s", version, n, resolved, c.NodeName)
		}
		if s := n.Served; s == nil || s.MapUUID != "" || !slices.Contains(s.Databases, "a+b/c") {
			t.Errorf("%s: it serves %+v", version, n.Served)
		}
		s, err := node.Ask(t.Context(), front.URL, c.Admin, c.Password)
		must(t, err)
		if s.UUID != n.UUID || s.NodeName != c.NodeName {
			t.Errorf("%s: got %+v, want uuid %s and node name %s", version, s, n.UUID, c.NodeName)
		}
		got, err := s.Databases(t.Context())
		for tries := 0; err != nil && tries < 10; tries++ { // a server that has just started may break an answer off
			time.Sleep(time.Second)
			got, err = s.Databases(t.Context())
		}
		if want := (node.Database{Name: "a+b/c", Docs: 1}); err != nil || !slices.Contains(got, want) || len(got) != 3 {
			t.Errorf("%s: got %+v, %v, want 3 and %+v among them", version, got, err, want)
		}
	}
}
