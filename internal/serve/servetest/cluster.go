package servetest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/testenv"
)

// ClusterNodes are the nodes of Cluster.
var ClusterNodes = []string{"couchdb@a", "couchdb@b", "couchdb@c"}

// Cluster writes the data directories of three nodes, which no server ever ran, and returns them. The copies of their
// databases disagree:
//
//	orders  q 2, n 3, order-01 to order-16. In the second one b lacks order-10 and c the second revision of order-14.
//	team    q 1, n 2, on a and b, which agree
//	gone    q 1, n 1, on couchdb@d, which is none of the nodes any more
func Cluster(t testenv.TB) []string {
	t.Helper()
	low, high := shard.Range{Begin: 0, End: 1<<31 - 1}, shard.Range{Begin: 1 << 31, End: 1<<32 - 1}
	maps := []shard.Map{
		{DB: "gone", Suffix: ".1700000000", ByNode: map[string][]shard.Range{"couchdb@d": {shard.Full}}},
		{DB: "orders", Suffix: ".1700000000", ByNode: map[string][]shard.Range{"couchdb@a": {low, high}, "couchdb@b": {low, high}, "couchdb@c": {low, high}}},
		{DB: "team", Suffix: ".1700000000", ByNode: map[string][]shard.Range{"couchdb@a": {shard.Full}, "couchdb@b": {shard.Full}}},
	}
	var dirs []string
	for i, name := range ClusterNodes {
		dir := filepath.Join(t.TempDir(), "data")
		must(t, os.MkdirAll(dir, 0o700))
		own := couchgen.Options{NodeName: name, NodeLocal: true}
		var docs, nodes []couchgen.Doc
		for _, m := range maps {
			text, err := m.Document([]byte("{}"))
			must(t, err)
			var body map[string]json.RawMessage
			must(t, json.Unmarshal(text, &body))
			for key := range body {
				if strings.HasPrefix(key, "_") {
					delete(body, key)
				}
			}
			docs = append(docs, couchgen.Doc{ID: m.DB, Body: body})
		}
		for _, other := range ClusterNodes {
			nodes = append(nodes, couchgen.Doc{ID: other})
		}
		couchFile(t, filepath.Join(dir, "_dbs.couch"), own, docs)
		couchFile(t, filepath.Join(dir, "_nodes.couch"), own, nodes)
		for n, rg := range []shard.Range{low, high} {
			var docs []couchgen.Doc
			for k := range 16 {
				d := couchgen.Doc{ID: fmt.Sprintf("order-%02d", k+1), Body: map[string]any{"n": k}, RevID: strings.Repeat("a", 32)}
				switch {
				case !rg.Contains(shard.Hash(d.ID, false)):
					continue
				case d.ID == "order-10" && i == 1:
					continue
				case d.ID == "order-14" && i != 2:
					docs = append(docs, d)
					d.RevID = strings.Repeat("b", 32)
				}
				docs = append(docs, d)
			}
			couchFile(t, filepath.Join(dir, filepath.FromSlash(shard.Name{Range: rg, DB: "orders", Suffix: ".1700000000"}.Path())), couchgen.Options{NodeName: name, Seed: uint64(10*n + i + 1)}, docs)
		}
		if i < 2 {
			couchFile(t, filepath.Join(dir, filepath.FromSlash(shard.Name{Range: shard.Full, DB: "team", Suffix: ".1700000000"}.Path())), couchgen.Options{NodeName: name, Seed: uint64(100 + i)}, []couchgen.Doc{{ID: "x"}})
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

// couchFile writes a file of documents.
func couchFile(t testenv.TB, path string, o couchgen.Options, docs []couchgen.Doc) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	g, err := couchgen.Create(f, o)
	must(t, err)
	for _, d := range docs {
		_, err := g.Put(d)
		must(t, err)
	}
	must(t, g.Commit())
}
