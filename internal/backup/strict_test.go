package backup_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
)

// harmless are the variants that CouchDB itself reads without a loss, or as an older
// committed state that nobody can tell from that of a crashed server.
var harmless = map[string]string{
	"bitflip-dead-bytes":   "only older headers reach the bytes",
	"torn-tail":            "as a crash leaves it",
	"torn-in-header":       "as a crash leaves it",
	"garbage-appended":     "behind the newest header",
	"zeros-appended":       "behind the newest header",
	"fake-header-markers":  "behind the newest header",
	"last-header-checksum": "as a torn header of a crash",
	"last-header-body":     "as a torn header of a crash",
}

// Strict sees what no checksum covers, in nodes and attachments, in each file that is
// new, and lets what is harmless pass.
func TestStrictWalksTheTrees(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.run()
	list, err := filepath.Glob("../../testdata/couchdb-3.5.0/damaged/*.couch")
	if err != nil || len(list) < 15 {
		t.Fatalf("%d variants, %v", len(list), err)
	}
	at := filepath.Join(e.data, "shards/00000000-7fffffff/deletions.1795334388.couch")
	for _, from := range list {
		name := strings.TrimSuffix(filepath.Base(from), ".couch")
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(at); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, b, 0o600); err != nil {
			t.Fatal(err)
		}
		o := e.options(e.store)
		o.Strict = true
		_, err = backup.Run(t.Context(), o)
		if why := harmless[name]; why != "" && err != nil {
			t.Errorf("%s (%s): %v", name, why, err)
		} else if why == "" && !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", name, err)
		}
	}
}
