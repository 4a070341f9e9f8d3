package restore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

const fixtureData = "../../testdata/couchdb-3.5.0/data"

// manifestLike returns a manifest of the fixture's files, as a version made it that took
// the node's name from vm.args.
func manifestLike(t *testing.T, nodeName string) *manifest.Manifest {
	t.Helper()
	m := &manifest.Manifest{Summary: manifest.Summary{NodeName: nodeName}}
	err := filepath.WalkDir(filepath.Join(fixtureData, "shards"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(fixtureData, p)
			m.Files = append(m.Files, &manifest.File{Root: manifest.DataRoot, Kind: manifest.Shard, Path: filepath.ToSlash(rel), Header: &manifest.Header{}})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func openMaps(t *testing.T, m *manifest.Manifest, told string) (*nodeMaps, error) {
	t.Helper()
	f, err := os.Open(filepath.Join(fixtureData, dbsPath))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return readMaps(t.Context(), f, info.Size(), m, told)
}

// What an old backup says of its node is held against its maps and files.
func TestNodeOfOldBackup(t *testing.T) {
	t.Parallel()
	maps, err := openMaps(t, manifestLike(t, "nonode@nohost"), "")
	if err != nil {
		t.Fatal(err)
	}
	if maps.self.Name != "couchdbfix@127.0.0.1" || !strings.Contains(strings.Join(maps.self.Notes, ""), "nonode@nohost by what the backup's record says") {
		t.Errorf("the node is %q, notes %q", maps.self.Name, maps.self.Notes)
	}
}

func TestRenaming(t *testing.T) {
	t.Parallel()
	doc := `{"_id":"db","_rev":"3-a","shard_suffix":[46],"changelog":[["add","00000000-ffffffff","a@h"],["split","00000000-ffffffff",2,"b@h"]],` +
		`"by_node":{"a@h":["00000000-ffffffff"],"b@h":["00000000-ffffffff"]},"by_range":{"00000000-ffffffff":["a@h","b@h"]},"props":{"auto_purge":{"deleted_document_ttl":3600}},"later":{"a":[1]}}`
	m, _, err := shard.ParseMap([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	self := shard.FindSelf([]shard.Map{m}, func(shard.Name) bool { return true }, []shard.Candidate{{Name: "a@h"}})
	for to, from := range map[string]string{"c@h": "a@h", "b@h": ""} {
		n := renaming{self: self, to: to}
		if got := n.from(m); got != from {
			t.Errorf("for %s %q is replaced, want %q", to, got, from)
		}
	}
	got, err := renameNode([]byte(doc), "a@h", "c@h")
	want := `{"_id":"db","_rev":"3-a","by_node":{"b@h":["00000000-ffffffff"],"c@h":["00000000-ffffffff"]},"by_range":{"00000000-ffffffff":["c@h","b@h"]},` +
		`"changelog":[["add","00000000-ffffffff","c@h"],["split","00000000-ffffffff",2,"b@h"]],` +
		`"later":{"a":[1]},"props":{"auto_purge":{"deleted_document_ttl":3600}},"shard_suffix":[46]}`
	if err != nil || string(got) != want {
		t.Errorf("%v\ngot  %s\nwant %s", err, got, want)
	}
}

// A name that the maps give to another node of the cluster, with other shards, can't be
// that of the restored one.
func TestNodeNameOfAnother(t *testing.T) {
	t.Parallel()
	n := &nodeMaps{list: []dbMap{{Map: shard.Map{DB: "db", ByNode: map[string][]shard.Range{"a@h": {{Begin: 0, End: 9}}, "b@h": {{Begin: 10, End: 1<<32 - 1}}}}}}}
	m := &manifest.Manifest{Summary: manifest.Summary{NodeName: "a@h"}, Files: []*manifest.File{{Root: manifest.DataRoot, Kind: manifest.Shard, Path: "shards/00000000-00000009/db.couch"}}}
	if err := n.findSelf(m, nil, "b@h"); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), "which is a@h") {
		t.Errorf("another's name: %v", err)
	}
	if err := n.findSelf(m, nil, "c@h"); err != nil || n.self.Name != "a@h" {
		t.Errorf("a new name: %v, %q", err, n.self.Name)
	}
}
