package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// check --max-age finds an instance whose newest backup is older, by the clock of
// who asks.
func TestCheckMaxAge(t *testing.T) {
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	now := time.Now()
	run := func(args ...string) int {
		stdout.Reset()
		stderr.Reset()
		env := &Env{Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Now: func() time.Time { return now }}
		env.Environ = []string{"SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_REPOSITORY=file://" + filepath.ToSlash(dir) + "/repo", "SLIPCOVER_STATE_DIR=" + filepath.Join(dir, "state")}
		return Run(t.Context(), env, args)
	}
	must := func(args ...string) {
		t.Helper()
		if code := run(args...); code != 0 {
			t.Fatalf("%s: code %d: %s", args, code, &stderr)
		}
	}
	must("init", "--no-encryption")
	must("backup", "create", "--data-dir", "../../testdata/couchdb-3.5.0/data", "--instance", "db1", "--progress", "none")
	now = now.Add(25 * time.Hour)
	must("check", "--max-age", "26h")
	now = now.Add(2 * time.Hour)
	if code := run("check", "--max-age", "26h"); code != 4 || !strings.Contains(stdout.String(), "is the newest backup and was made at") {
		t.Errorf("after 27 hours: code %d, %s%s", code, &stdout, &stderr)
	}
}
