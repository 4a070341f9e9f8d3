package backup_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/testenv"
)

// putNodes writes a _nodes.couch with some documents.
func (e *env) putNodes(ids ...string) {
	e.t.Helper()
	path := filepath.Join(e.data, "_nodes.couch")
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
	for _, id := range ids {
		name, gone := strings.CutPrefix(id, "-")
		if gone {
			_, err = g.Delete(name)
		} else {
			_, err = g.Put(couchgen.Doc{ID: name})
		}
		if err == nil {
			err = g.Commit()
		}
		if err != nil {
			e.t.Fatal(err)
		}
	}
}

// nodes makes a backup and returns what its record, read anew, and its manifest say of the cluster's nodes.
func (e *env) nodes(edit ...func(*backup.Options)) []string {
	e.t.Helper()
	res := e.run(edit...)
	rec, err := e.repo(e.store).Record(e.t.Context(), "node1", res.Record.ID)
	if err != nil {
		e.t.Fatal(err)
	}
	if m := e.check(rec); !slices.Equal(m.Nodes, rec.Nodes) || m.Cluster != rec.Cluster {
		e.t.Errorf("the manifest says %q %v, the record %q %v", m.Cluster, m.Nodes, rec.Cluster, rec.Nodes)
	}
	return rec.Nodes
}

func TestNodesOfTheCluster(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const self, b, c = "couchdbfix@127.0.0.1", "couchdb@b.example", "couchdb@c.example"
	if got := e.nodes(); got != nil {
		t.Errorf("a node that is alone: %v", got)
	}
	e.putNodes(c, self, b, "_design/x")
	for _, what := range []string{"three", "nothing new"} {
		if got := e.nodes(); !slices.Equal(got, []string{b, c, self}) {
			t.Errorf("%s: got %v", what, got)
		}
	}
	if res := e.run(); res.Record.ReadBytes != 0 {
		t.Errorf("of a node of which nothing is new %d bytes were read", res.Record.ReadBytes)
	}
	if got := e.nodes(func(o *backup.Options) { o.Full = true }); !slices.Equal(got, []string{b, c, self}) {
		t.Errorf("a full backup: got %v", got)
	}
	e.putNodes(c, self, b, "-"+c)
	if got := e.nodes(); !slices.Equal(got, []string{b, self}) {
		t.Errorf("one was removed: got %v", got)
	}
	e.putNodes(c, self, "-"+c)
	if got := e.nodes(); got != nil {
		t.Errorf("all others were removed: got %v", got)
	}
}

// What can't be read of the nodes is not known, and no backup fails of it.
func TestNodesUnknown(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.putNodes("a@h", "couchdbfix@127.0.0.1", strings.Repeat("x", 256))
	if got := e.nodes(); got != nil {
		t.Errorf("a name that no node can have: got %v", got)
	}
	e.putNodes("a@h", "couchdbfix@127.0.0.1")
	path := filepath.Join(e.data, "_nodes.couch")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.nodes(); len(got) != 2 {
		t.Fatalf("got %v", got)
	}
	for name, damage := range map[string]func(){
		"no header": func() {
			if err := os.WriteFile(path, make([]byte, 4096), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"damaged": func() {
			torn := slices.Clone(whole) // its trees, which have no checksums: no terms any more
			for i := range torn {
				if bytes.HasPrefix(torn[i:], []byte("a@h")) {
					clear(torn[i-8 : i])
				}
			}
			if bytes.Equal(torn, whole) {
				t.Fatal("nothing was damaged")
			}
			if err := os.WriteFile(path, torn, 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"missing": func() {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		if err := os.WriteFile(path, whole, 0o644); err != nil {
			t.Fatal(err)
		}
		damage()
		if got := e.nodes(); got != nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestClusterName(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	res := e.run(func(o *backup.Options) { o.Cluster = "prod" })
	if m := e.check(res.Record); res.Record.Cluster != "prod" || m.Cluster != "prod" {
		t.Errorf("got %q and %q", res.Record.Cluster, m.Cluster)
	}
	if rec := e.run().Record; rec.Cluster != "" { // as the settings are now, not as they were
		t.Errorf("then: got %q", rec.Cluster)
	}
	opts := e.options(e.store)
	opts.Cluster = "a b"
	if _, err := backup.Run(context.Background(), opts); !errors.Is(err, backup.ErrOptions) {
		t.Errorf("got %v, want ErrOptions", err)
	}
}

// A CouchDB that is alone has itself in _nodes.couch, and nobody else; one of several has all.
func TestNodesLive(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.data = testenv.CouchDB(t, testenv.Options{}).DataDir
	if got := e.nodes(); got != nil {
		t.Errorf("a node that is alone: %v", got)
	}
	if _, err := os.Stat(filepath.Join(e.data, "_nodes.couch")); err != nil {
		t.Fatal(err)
	}
	want := []string{"couchdb@127.0.0.1", "couchdb@127.0.0.2", "couchdb@127.0.0.3"}
	for i, node := range testenv.Cluster(t, 3, testenv.ClusterOptions{}).Nodes {
		e := newEnv(t)
		e.data = node.DataDir
		if got := e.nodes(); !slices.Equal(got, want) {
			t.Errorf("node %d of a cluster: %v", i+1, got)
		}
		if got := e.run().Record.NodeName; got != want[i] {
			t.Errorf("node %d of a cluster is %q", i+1, got)
		}
	}
}
