package takeout_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestPlaceBack puts files in a database's place that are not what they should be: the server gets the old ones back, but not
// in the place of a database that somebody made meanwhile.
func TestPlaceBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *testenv.Couch) {
		for _, db := range []string{"d", "other"} {
			must(t, c.Put("/"+db+"?q=1", nil, nil))
			must(t, c.Put("/"+db+"/"+db, map[string]any{}, nil))
		}
	})
	// suffix is that of the files that the server has of d.
	suffix := func() (string, error) {
		var m struct {
			Suffix []rune `json:"shard_suffix"`
		}
		err := w.Get("/_node/_local/_dbs/d", &m)
		return string(m.Suffix), err
	}
	old, err := suffix()
	must(t, err)
	// stage makes new files of d, with a suffix.
	stage := func(as string) string {
		dir := filepath.Join(w.DataDir, ".staged"+as)
		const folder = "shards/00000000-ffffffff"
		must(t, os.MkdirAll(filepath.Join(dir, folder), 0o700))
		must(t, os.Mkdir(filepath.Join(dir, "shard-maps"), 0o700))
		b, err := os.ReadFile(filepath.Join(w.DataDir, folder, "d"+old+".couch"))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, folder, "d"+as+".couch"), b, 0o600))
		var m map[string]any
		must(t, w.Get("/_node/_local/_dbs/d", &m))
		delete(m, "_rev")
		m["shard_suffix"] = []rune(as)
		b, err = json.Marshal(m)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "shard-maps", "d.json"), b, 0o600))
		return dir
	}
	place := func(from *serve.Database, as string) error {
		staged := stage(as)
		_, err := takeout.Place(t.Context(), takeout.Placement{Server: w.srv, DB: "d", From: from, Staged: staged, Indexes: staged, Data: w.DataDir, Index: w.DataDir, Replace: true})
		return err
	}
	err = place(w.from(t, "other"), ".1000000001")
	now, serr := suffix()
	must(t, serr)
	if err == nil || !strings.Contains(err.Error(), "the one that it was before") || now != old {
		t.Errorf("files of another database: %v; the suffix is %s, and was %s", err, now, old)
	}
	must(t, w.Get("/d/d", nil))

	const put = ".1000000002"
	made := make(chan error, 1)
	go func() {
		made <- func() error {
			for now := ""; now != put; time.Sleep(10 * time.Millisecond) {
				if err := t.Context().Err(); err != nil {
					return err
				}
				now, _ = suffix()
			}
			if err := w.Delete("/d"); err != nil {
				return err
			}
			if err := w.Put("/d?q=1", nil, nil); err != nil {
				return err
			}
			return w.Put("/d/mine", map[string]any{}, nil)
		}()
	}()
	err = place(w.from(t, "other"), put)
	select {
	case err := <-made:
		must(t, err)
	case <-time.After(time.Minute):
		t.Fatalf("the files were never put there: %v", err)
	}
	if err == nil || !strings.Contains(err.Error(), "another one now") {
		t.Errorf("somebody made it anew: %v", err)
	}
	if err := w.Get("/d/mine", nil); err != nil {
		t.Errorf("a document of a database that somebody made meanwhile: %v", err)
	}
}
