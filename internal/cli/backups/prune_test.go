package backups_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/core"
)

// What is stored of the newest backup is gone but its record: a prune that would keep it
// alone keeps the newest that restores too, tells, and ends with code 4.
func TestPruneIncomplete(t *testing.T) {
	for _, lost := range []string{"segments/db1/*/*", "backups/db1/*/manifest.json.zst"} {
		for _, cut := range []bool{false, true} {
			dir := t.TempDir()
			var stdout, stderr bytes.Buffer
			now := time.Now()
			run := func(want int, args ...string) {
				t.Helper()
				stdout.Reset()
				stderr.Reset()
				env := &core.Env{Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Now: func() time.Time { return now }}
				env.Environ = []string{"SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_REPOSITORY=file://" + filepath.ToSlash(dir) + "/repo", "SLIPCOVER_STATE_DIR=" + filepath.Join(dir, "state")}
				if code := cli.Run(t.Context(), env, args); code != want {
					t.Fatalf("%s: code %d, want %d: %s%s", args, code, want, &stdout, &stderr)
				}
			}
			run(0, "init", "--no-encryption")
			var ids []string
			for _, name := range []string{"first", "second", "third"} {
				run(0, "backup", "create", "--full", "--data-dir", "../../../testdata/couchdb-3.5.0/data", "--instance", "db1", "--progress", "none", "--name", name)
				all, err := filepath.Glob(filepath.Join(dir, "repo", "backups", "db1", "*"))
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range all {
					if id := filepath.Base(p); !slices.Contains(ids, id) {
						ids = append(ids, id)
					}
				}
			}
			files, err := filepath.Glob(filepath.Join(dir, "repo", filepath.FromSlash(strings.Replace(lost, "*", ids[2], 1))))
			if err != nil || len(files) == 0 {
				t.Fatalf("nothing of %s is stored: %v", ids[2], err)
			}
			for _, f := range files {
				if cut {
					err = os.Truncate(f, 0)
				} else {
					err = os.Remove(f)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second finds it as the first left it
				run(4, "prune", "--keep-last", "1")
				if !strings.Contains(stdout.String(), "problem: "+ids[2]+" can't be restored") {
					t.Errorf("%s, cut %v: prune tells nothing: %s", lost, cut, &stdout)
				}
			}
			run(4, "prune", "--keep-last", "1", "--json")
			var out struct {
				Instances []struct {
					Backups []struct {
						Incomplete string `json:"incomplete"`
					} `json:"backups"`
				} `json:"instances"`
			}
			if err := json.Unmarshal(stdout.Bytes(), &out); err != nil || len(out.Instances) != 1 || len(out.Instances[0].Backups) != 2 || out.Instances[0].Backups[0].Incomplete == "" || out.Instances[0].Backups[1].Incomplete != "" {
				t.Errorf("%s, cut %v: %v, %s", lost, cut, err, &stdout)
			}
			run(0, "restore", "second", "--to", filepath.Join(dir, "out"))
			run(0, "backup", "delete", "third", "--yes")
			run(0, "prune", "--keep-last", "1")
		}
	}
}
