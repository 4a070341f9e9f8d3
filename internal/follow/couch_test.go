package follow_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/follow"
	"github.com/slipcover/slipcover/internal/testenv"
)

// A real CouchDB's databases are told by their paths when they are made, written to,
// compacted and deleted, and views and work files never are.
func TestCouchDB(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	f := start(t, follow.Options{Dirs: []string{c.DataDir}})
	// Shards of a/b are in a folder of their own.
	for _, db := range []string{"plain", "a/b"} {
		if err := c.Put(testenv.DBPath(db)+"?q=2", nil, nil); err != nil {
			t.Fatal(err)
		}
		files, err := c.NodeShards(db)
		if err != nil {
			t.Fatal(err)
		}
		var shards []string
		for _, file := range files {
			shards = append(shards, filepath.Join(c.DataDir, file+".couch"))
		}
		if len(shards) != 2 {
			t.Fatalf("shards of %s: %q", db, shards)
		}
		awaitShards(t, f, append(shards, filepath.Join(c.DataDir, "_dbs.couch"))...)
		for i := range 20 {
			if err := c.Put(testenv.DBPath(db, fmt.Sprint(i)), map[string]any{"n": i}, nil); err != nil {
				t.Fatal(err)
			}
		}
		awaitShards(t, f, shards...)
		settle(t, f, c.DataDir)
		if err := c.Compact(db); err != nil {
			t.Fatal(err)
		}
		awaitShards(t, f, shards...)
		settle(t, f, c.DataDir)
		if err := c.Put(testenv.DBPath(db, "after"), map[string]any{}, nil); err != nil {
			t.Fatal(err)
		}
		awaitAny(t, f, shards...)
		settle(t, f, c.DataDir)
		if err := c.Delete(testenv.DBPath(db)); err != nil {
			t.Fatal(err)
		}
		awaitShards(t, f, shards...)
	}
	if s := f.Status(); s.Polling != "" || s.Overflows > 0 || s.Err != nil {
		t.Errorf("%+v", s)
	}
}

func awaitShards(t *testing.T, f *follow.Follower, paths ...string) {
	t.Helper()
	for path := range await(t, f, paths...) {
		if filepath.Ext(path) != ".couch" || strings.Contains(path, "/.") {
			t.Errorf("%s was told", path)
		}
	}
}

// awaitAny waits until one of the paths is told.
func awaitAny(t *testing.T, f *follow.Follower, paths ...string) {
	t.Helper()
	told := map[string]bool{}
	for {
		for _, path := range paths {
			if told[path] {
				return
			}
		}
		select {
		case <-f.Changed():
		case <-t.Context().Done():
			t.Fatalf("none of %q was told", paths)
		}
		take(t, f, told)
	}
}
