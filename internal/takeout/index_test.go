package takeout_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestPlaceIndexRefuses holds indexes against shards that are not what they were built of.
func TestPlaceIndexRefuses(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{Config: map[string]map[string]string{"query_server_config": {"commit_freq": "0"}}})
	must(t, c.Put("/d?q=1", nil, nil))
	must(t, c.Put("/d/_design/v", map[string]any{"views": map[string]any{"v": map[string]any{"map": "function(d){emit(d.n)}"}}}, nil))
	var at []int64 // sizes of the shard, after each document
	shard := func(data string) string {
		list, err := filepath.Glob(filepath.Join(data, "shards/*/d.*.couch"))
		must(t, err)
		if len(list) != 1 {
			t.Fatalf("shards: %q", list)
		}
		return list[0]
	}
	for i := range 6 {
		must(t, c.Put(fmt.Sprintf("/d/doc-%d", i), map[string]any{"n": i}, nil))
		st, err := os.Stat(shard(c.DataDir))
		must(t, err)
		at = append(at, st.Size())
	}
	must(t, c.Get("/d/_design/v/_view/v", nil))
	c.Stop()
	n := servetest.Node(t, c.DataDir)
	db, err := n.Database("d")
	must(t, err)

	// copied is the data directory with the shard cut to a size.
	copied := func(size int64) string {
		dir := t.TempDir()
		must(t, os.CopyFS(dir, os.DirFS(c.DataDir)))
		must(t, os.Truncate(shard(dir), size))
		return dir
	}
	place := func(data string) takeout.PlacedIndex {
		t.Helper()
		_, out, err := takeout.PlaceIndex(t.Context(), n, db, "_design/v", data, t.TempDir())
		must(t, err)
		if len(out) != 1 {
			t.Fatalf("%+v", out)
		}
		return out[0]
	}
	if x := place(copied(at[5])); x.Refused != "" || x.Behind != 0 {
		t.Errorf("of the same: %+v", x)
	}
	if x := place(copied(at[2])); !strings.Contains(x.Refused, "ahead of its shard: update_seq") {
		t.Errorf("ahead: %+v", x)
	}
	back := copied(at[2])
	other := testenv.CouchDB(t, testenv.Options{DataDir: back})
	for i := range 6 {
		must(t, other.Put(fmt.Sprintf("/d/other-%d", i), map[string]any{"n": i}, nil))
	}
	other.Stop()
	if x := place(back); !strings.Contains(x.Refused, "set back") {
		t.Errorf("set back, and on: %+v", x)
	}
	edited := copied(at[2])
	other = testenv.CouchDB(t, testenv.Options{DataDir: edited})
	for _, id := range []string{"x", "y", "z", "doc-3", "doc-4", "doc-5"} { // those that the index has come last
		must(t, other.Put("/d/"+id, map[string]any{"n": id}, nil))
	}
	other.Stop()
	if x := place(edited); !strings.Contains(x.Refused, "set back") {
		t.Errorf("set back, and written anew: %+v", x)
	}
	gone := copied(at[5])
	must(t, os.Remove(shard(gone)))
	if x := place(gone); !strings.Contains(x.Refused, "made anew") {
		t.Errorf("without the shard: %+v", x)
	}
	index := t.TempDir()
	for range 2 {
		_, out, err := takeout.PlaceIndex(t.Context(), n, db, "_design/v", c.DataDir, index)
		must(t, err)
		b, err := os.ReadFile(filepath.Join(index, filepath.FromSlash(out[0].Path)))
		must(t, err)
		was, err := os.ReadFile(filepath.Join(c.DataDir, filepath.FromSlash(out[0].Path)))
		if must(t, err); string(b) != string(was) {
			t.Error("it is not the file that was backed up")
		}
	}
	if _, _, err := takeout.PlaceIndex(t.Context(), n, db, "_design/nosuch", c.DataDir, index); !errors.Is(err, couchfile.ErrNotFound) {
		t.Errorf("no design document: %v", err)
	}
}
