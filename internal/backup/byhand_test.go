package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/testenv"
)

const byHand = "../../docs/restore-by-hand.md"

// The page that restores a database with stock tools is run as it stands, on a
// backup with an incremental on top, and a real CouchDB serves the result.
func TestRestoreByHand(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "age", "zstd", "jq", "dd", "sha256sum"} {
		testenv.Tool(t, tool)
	}
	e := newFileEnv(t)
	dir := t.TempDir()
	key := filepath.Join(dir, "key.txt")
	must(t, os.WriteFile(key, []byte(e.identity.String()+"\n"), 0o600))
	_, rest := e.cutBack(batches, 3)
	e.run()
	e.grow(batches, rest)
	e.run()
	for db, files := range map[string][]string{
		"batches":              {batches, "shards/80000000-ffffffff/batches.1795334390.couch"},
		"team/a+b_$(c)-d/2026": {"shards/00000000-7fffffff/team/a+b_$(c)-d/2026.1795334390.couch", "shards/80000000-ffffffff/team/a+b_$(c)-d/2026.1795334390.couch"},
	} {
		out := filepath.Join(dir, strings.ReplaceAll(db, "/", "_"))
		env := []string{"REPO=" + e.store.URL()[len("file://"):], "KEY=" + key, "INSTANCE=node1", "DB=" + db, "OUT=" + out}
		printed := testenv.Shell(t, testenv.PageBlocks(t, byHand, "```sh"), env...)
		if n := strings.Count(printed, ": OK"); n != 3 {
			t.Errorf("%d hashes were right, want those of the manifest and two files:\n%s", n, printed)
		}
		for _, f := range files {
			got, err := os.ReadFile(filepath.Join(out, f))
			must(t, err)
			want, err := os.ReadFile(filepath.Join(fixtures, "data", f))
			must(t, err)
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs", f)
			}
		}
		serveByHand(t, db, env)
	}
}

// TestReplayByHand is that of a database that was compacted twice and written to: replays
// of tails and compactions, one resting on another.
func TestReplayByHand(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "age", "zstd", "jq", "dd", "sha256sum", "python3"} {
		testenv.Tool(t, tool)
	}
	e := newFileEnv(t)
	e.data = t.TempDir()
	dir := t.TempDir()
	key := filepath.Join(dir, "key.txt")
	must(t, os.WriteFile(key, []byte(e.identity.String()+"\n"), 0o600))
	for _, stage := range []string{"2-grown", "3-compacted", "4-grown", "5-compacted-under-writes"} {
		e.stage("3.5.0", stage)
		e.run(replayingAll)
	}
	program, err := filepath.Abs("../../docs/replay.py")
	must(t, err)
	printed := testenv.Shell(t, testenv.PageBlocks(t, byHand, "```sh"), "REPO="+e.store.URL()[len("file://"):], "KEY="+key, "INSTANCE=node1", "DB=grow", "OUT="+filepath.Join(dir, "out"), "REPLAY="+program)
	if n := strings.Count(printed, ": OK"); n != 2 {
		t.Errorf("%d hashes were right, want those of the manifest and the file:\n%s", n, printed)
	}
	left, err := filepath.Glob(filepath.Join(dir, "out", filepath.Dir(grownShard), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("it left %v, %v", left, err)
	}
}

func serveByHand(t *testing.T, db string, env []string) {
	t.Helper()
	if _, missing := testenv.CouchDBBinary(); missing != "" {
		t.Logf("not served: %s", missing)
		return
	}
	testenv.Tool(t, "curl")
	c := testenv.CouchDB(t, testenv.Options{})
	url := strings.Replace(c.URL, "://", "://"+c.Admin+":"+c.Password+"@", 1)
	testenv.Shell(t, testenv.PageBlocks(t, byHand, "```sh couchdb"), append(env, "DATABASE_DIR="+c.DataDir, "NODE="+c.NodeName, "COUCH_URL="+url)...)
	var info struct {
		Docs int `json:"doc_count"`
	}
	must(t, c.Get(testenv.DBPath(db), &info))
	if want := map[string]int{"batches": 3000, "team/a+b_$(c)-d/2026": 20}[db]; info.Docs != want {
		t.Errorf("%s: %d documents, want %d", db, info.Docs, want)
	}
	c.Stop()
}
