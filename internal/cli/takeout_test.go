package cli_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestRestoreDBStopped stops restores by files at random moments, drops what they may have made, and lets them go on: in the
// end the database is whole, and nothing lies about.
func TestRestoreDBStopped(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Put("/d?q=4", nil, nil))
	var docs []any
	for i := range 500 {
		docs = append(docs, map[string]any{"_id": fmt.Sprintf("doc-%d", i), "n": i})
	}
	must(c.Post("/d/_bulk_docs", map[string]any{"docs": docs}, nil))
	repo := filepath.Join(t.TempDir(), "repo")
	run := func(ctx context.Context, args ...string) (int, string) {
		env, stdout, stderr := clitest.Env(t)
		env.Environ = append(slices.DeleteFunc(env.Environ, func(kv string) bool { return strings.HasPrefix(kv, "SLIPCOVER_") }), "COUCHDB_PASSWORD="+c.Password, "SLIPCOVER_CONFIG=/dev/null", "SLIPCOVER_STATE_DIR="+filepath.Join(t.TempDir(), "state"))
		return cli.Run(ctx, env, append(args, "--repo", repo)), stdout.String() + stderr.String()
	}
	for _, args := range [][]string{{"init", "--no-encryption"}, {"backup", "create", "--instance", "n1", "--name", "a", "--data-dir", c.DataDir}} {
		if code, text := run(t.Context(), args...); code != 0 {
			t.Fatal(text)
		}
	}
	server := "http://admin@" + c.URL[len("http://"):]
	began := time.Now()
	if code, text := run(t.Context(), "restore-db", "d", "--as", "whole", "--backup", "a", "--to-server", server); code != 0 {
		t.Fatal(text)
	}
	took := time.Since(began)
	stops, dropped := 0, 0
	for i := range testenv.Rounds(8) {
		name := fmt.Sprintf("copy-%d", i)
		args := []string{"restore-db", "d", "--as", name, "--backup", "a", "--to-server", server}
		want := 0
		for range 6 {
			ctx, cancel := context.WithTimeout(t.Context(), took/50+rand.N(took))
			code, _ := run(ctx, args...)
			cancel()
			if code == 0 {
				want = 11 // the database is there
				break
			}
			stops++
			if rand.IntN(2) == 0 && c.Delete("/"+name) == nil {
				dropped++
			}
		}
		if code, text := run(t.Context(), args...); code != want {
			t.Fatalf("exit code %d, not %d: %s", code, want, text)
		}
		var info struct {
			Docs int `json:"doc_count"`
		}
		must(c.Get("/"+name, &info))
		if info.Docs != len(docs) {
			t.Errorf("%s has %d documents", name, info.Docs)
		}
		must(c.Put("/"+name+"/new", map[string]any{}, nil))
		if st := testenv.Status(c.Get("/"+name+"/doc-77", nil)); st != 0 && st != http.StatusOK {
			t.Errorf("%s: %d", name, st)
		}
	}
	t.Logf("stopped %d times, dropped %d databases", stops, dropped)
	if stops == 0 {
		t.Error("it was never stopped: this proves nothing")
	}
	left, err := filepath.Glob(filepath.Join(c.DataDir, ".slipcover*"))
	if must(err); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
