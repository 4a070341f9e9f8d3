package serve_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/servetest"
)

const fixtures = "../../testdata/couchdb-3.5.0"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// backedUp is a backup of the fixtures' node.
func backedUp(t *testing.T) (*repo.Repo, *manifest.Manifest) {
	t.Helper()
	data := t.TempDir()
	must(t, os.CopyFS(data, os.DirFS(fixtures+"/data")))
	return servetest.Backup(t, data)
}

func read(t *testing.T, path string, to any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, "expected", path))
	must(t, err)
	must(t, json.Unmarshal(b, to))
}

// The databases are those that the server listed, and each document of each is what it answered.
func TestNodeAnswersAsServer(t *testing.T) {
	t.Parallel()
	r, m := backedUp(t)
	n, err := serve.OpenNode(t.Context(), r, m)
	must(t, err)
	defer n.Close()
	var names []string
	read(t, "_all_dbs.json", &names)
	if got := n.Databases(); !reflect.DeepEqual(got, names) {
		t.Errorf("databases %q, want %q", got, names)
	}
	var folders map[string]string
	read(t, "_folder_names.json", &folders)
	docs := 0
	for name, folder := range folders {
		d, err := n.Database(name)
		must(t, err)
		var all struct {
			Rows []struct {
				ID  string         `json:"id"`
				Doc map[string]any `json:"doc"`
			} `json:"rows"`
		}
		read(t, folder+"/all_docs.json", &all)
		for i, row := range all.Rows {
			if i > 200 {
				break // of one with thousands alike
			}
			db, err := d.Find(t.Context(), row.ID)
			must(t, err)
			b, err := db.Doc(row.ID, couchfile.DocOptions{Conflicts: true})
			must(t, err)
			var got map[string]any
			must(t, json.Unmarshal(b, &got))
			if !reflect.DeepEqual(got, row.Doc) {
				t.Errorf("%s/%s: %s, want %v", name, row.ID, b, row.Doc)
			}
			docs++
		}
		if _, err := d.Find(t.Context(), "no such document"); err != nil {
			t.Error(err)
		}
	}
	if docs < 1000 {
		t.Errorf("%d documents were compared", docs)
	}
	if _, err := n.Database("nosuch"); !errors.Is(err, serve.ErrNoDatabase) {
		t.Errorf("a database that isn't there: %v", err)
	}
}

// Without a shard map files tell which databases there are; with one, a shard that it names and that is missing is no empty one.
func TestNodeWithoutFiles(t *testing.T) {
	t.Parallel()
	r, m := backedUp(t)
	all := m.Files
	m.Files = nil
	for _, f := range all {
		if f.Path != "_dbs.couch" {
			m.Files = append(m.Files, f)
		}
	}
	n, err := serve.OpenNode(t.Context(), r, m)
	must(t, err)
	defer n.Close()
	d, err := n.Database("conflicted")
	must(t, err)
	db, err := d.Find(t.Context(), "c00")
	must(t, err)
	if _, err := db.Doc("c00", couchfile.DocOptions{}); err != nil {
		t.Error(err)
	}

	m.Files = nil
	for _, f := range all {
		if name, _ := filepath.Match("shards/*/conflicted.*", f.Path); !name {
			m.Files = append(m.Files, f)
		}
	}
	n, err = serve.OpenNode(t.Context(), r, m)
	must(t, err)
	defer n.Close()
	d, err = n.Database("conflicted")
	must(t, err)
	if _, err := d.Find(t.Context(), "c00"); !errors.Is(err, serve.ErrNoShard) {
		t.Errorf("a document of a missing shard: %v", err)
	}
}
