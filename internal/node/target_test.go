package node_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/internal/node"
)

// The place of files that aren't there yet is found by settings and by ini files, and what is there as ever.
func TestTarget(t *testing.T) {
	dir := t.TempDir()
	etc, data, index := filepath.Join(dir, "etc"), filepath.Join(dir, "new", "data"), filepath.Join(dir, "new", "index")
	none := func(string) string { return "" }
	if err := os.Mkdir(etc, 0o700); err != nil {
		t.Fatal(err)
	}
	ini := "[couchdb]\ndatabase_dir = " + data + "\nview_index_dir = " + index + "\n"
	if err := os.WriteFile(filepath.Join(etc, "local.ini"), []byte(ini), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(etc, "vm.args"), []byte("-name couchdb@new.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []node.Options{{DataDir: data, NodeName: "couchdb@new.example"}, {ConfigDir: etc}, {DataDir: data, ConfigDir: etc}} {
		o.Getenv = none
		for _, there := range []bool{false, true} {
			if there {
				if err := os.MkdirAll(data, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			n, err := node.Target(t.Context(), o)
			if err != nil {
				t.Fatalf("%+v: %v", o, err)
			}
			wantIndex := data
			if o.ConfigDir != "" {
				wantIndex = index
			}
			if n.DataDir != data || n.IndexDir != wantIndex || n.NodeName != "couchdb@new.example" {
				t.Errorf("%+v, there %v: %s, %s, %s", o, there, n.DataDir, n.IndexDir, n.NodeName)
			}
			if err := os.RemoveAll(filepath.Dir(data)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n, err := node.Target(t.Context(), node.Options{ConfigDir: filepath.Join(dir, "no"), Getenv: none}); err == nil {
		t.Errorf("found %s without configuration", n.DataDir)
	}
}
