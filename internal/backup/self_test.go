package backup_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
)

const (
	lower = "00000000-7fffffff"
	upper = "80000000-ffffffff"
)

// cluster leaves one database of the fixture in the data directory, whose shard map
// gives each node its ranges.
func (e *env) cluster(nodes map[string][]string) {
	e.t.Helper()
	shards, err := filepath.Glob(filepath.Join(e.data, "shards/*/*"))
	if err != nil {
		e.t.Fatal(err)
	}
	for _, p := range shards {
		if !strings.HasPrefix(filepath.Base(p), "viewed.") {
			if err := os.RemoveAll(p); err != nil {
				e.t.Fatal(err)
			}
		}
	}
	byNode := map[string]any{}
	for node, ranges := range nodes {
		byNode[node] = ranges
	}
	path := filepath.Join(e.data, "_dbs.couch")
	if err := os.Remove(path); err != nil {
		e.t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		e.t.Fatal(err)
	}
	defer f.Close()
	g, err := couchgen.Create(f, couchgen.Options{NodeName: "couchdbfix@127.0.0.1", NodeLocal: true})
	if err != nil {
		e.t.Fatal(err)
	}
	_, err = g.Put(couchgen.Doc{ID: "viewed", Body: map[string]any{"shard_suffix": []int{46, 49, 55, 57, 53, 51, 51, 52, 51, 56, 56}, "by_node": byNode}})
	if err != nil {
		e.t.Fatal(err)
	}
	if err := g.Commit(); err != nil {
		e.t.Fatal(err)
	}
}

func findings(list []manifest.Damage, what string) (out []manifest.Damage) {
	return slices.DeleteFunc(slices.Clone(list), func(d manifest.Damage) bool { return d.What != what })
}

// A renamed node, whose files were not written to since: by their epochs and vm.args
// no shard would be its own, and none missing.
func TestNodeNameOfMapsAndFiles(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.cluster(map[string][]string{"renamed@127.0.0.1": {lower, upper}, "other@127.0.0.1": {lower}})
	helm := func(o *backup.Options) { o.Node.NodeName, o.Node.NameSource = "nonode@nohost", "vm.args" }
	for range 2 { // the second finds nothing new
		res := e.run(helm)
		if res.Record.NodeName != "renamed@127.0.0.1" || len(res.Damage) > 0 {
			t.Errorf("the node is %q, damage %v, want renamed@127.0.0.1", res.Record.NodeName, res.Damage)
		}
	}
	if err := os.Remove(filepath.Join(e.data, "shards", upper, "viewed.1795334388.couch")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		res := e.run(helm)
		if list := findings(res.Damage, "shard file"); len(list) != 1 || res.Record.NodeName != "renamed@127.0.0.1" {
			t.Errorf("a shard is gone: node %q, damage %v", res.Record.NodeName, res.Damage)
		}
	}
}

// Where all nodes have all shards, a name that no map knows is a finding until one is told.
func TestNodeNameIsInDoubt(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.cluster(map[string][]string{"a@h": {lower, upper}, "b@h": {lower, upper}})
	for range 2 {
		res := e.run()
		if list := findings(res.Damage, manifest.DamageNode); len(list) != 1 || !strings.Contains(list[0].Error, "--node-name") {
			t.Errorf("damage %v", res.Damage)
		}
	}
	res := e.run(func(o *backup.Options) { o.Node.NodeName, o.Node.NameTold = "b@h", true })
	if res.Record.NodeName != "b@h" || len(res.Damage) > 0 {
		t.Errorf("told: %q, %v", res.Record.NodeName, res.Damage)
	}
	if res = e.run(); res.Record.NodeName != "b@h" || len(res.Damage) > 0 {
		t.Errorf("after it was told: %q, %v", res.Record.NodeName, res.Damage)
	}
}
