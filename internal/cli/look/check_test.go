package look_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/core"
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
		env := &core.Env{Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Now: func() time.Time { return now }}
		env.Environ = []string{"SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_REPOSITORY=file://" + filepath.ToSlash(dir) + "/repo", "SLIPCOVER_STATE_DIR=" + filepath.Join(dir, "state")}
		return cli.Run(t.Context(), env, args)
	}
	must := func(args ...string) {
		t.Helper()
		if code := run(args...); code != 0 {
			t.Fatalf("%s: code %d: %s", args, code, &stderr)
		}
	}
	must("init", "--identity-out", filepath.Join(dir, "id.txt"))
	must("check")
	if code := run("check", "--max-age", "26h"); code != 4 || !strings.Contains(stdout.String(), "problem: the repository holds no backup") {
		t.Errorf("without any backup: code %d, %s%s", code, &stdout, &stderr)
	}
	must("backup", "create", "--data-dir", "../../../testdata/couchdb-3.5.0/data", "--instance", "db1", "--progress", "none")
	for _, args := range [][]string{{"check"}, {"restore", "latest", "--to", filepath.Join(dir, "out")}} {
		if code := run(append(args, "--instance", "typo")...); code != 6 || !strings.Contains(stderr.String(), "nothing of typo is here; instances here: db1") {
			t.Errorf("%s of an instance that isn't there: code %d, %s", args, code, &stderr)
		}
	}
	if must("backup", "list", "--instance", "typo"); !strings.Contains(stdout.String(), "no backups of typo in ") || !strings.Contains(stdout.String(), "instances here: db1") {
		t.Errorf("list of an instance that isn't there: %s", &stdout)
	}
	now = now.Add(25 * time.Hour)
	must("check", "--max-age", "26h")
	now = now.Add(2 * time.Hour)
	if code := run("check", "--max-age", "26h"); code != 4 || !strings.Contains(stdout.String(), "is the newest backup and was made at") {
		t.Errorf("after 27 hours: code %d, %s%s", code, &stdout, &stderr)
	}
	for _, sub := range []string{"backups", "segments", "locks"} {
		if err := os.RemoveAll(filepath.Join(dir, "repo", sub)); err != nil {
			t.Fatal(err)
		}
	}
	if code := run("check", "--max-age", "26h"); code != 4 || !strings.Contains(stdout.String(), "problem: db1: has no backup") {
		t.Errorf("with nothing left but a key: code %d, %s%s", code, &stdout, &stderr)
	}
}

// A backup of a clock that was ahead is the newest until the next is made, and says
// nothing of its age to check; one of 1970 is not the first to go.
func TestWrongClocks(t *testing.T) {
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	now := time.Date(2026, 11, 1, 2, 0, 0, 0, time.UTC)
	run := func(args ...string) int {
		stdout.Reset()
		stderr.Reset()
		env := &core.Env{Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Now: func() time.Time { return now }}
		env.Environ = []string{"SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_REPOSITORY=file://" + filepath.ToSlash(dir) + "/repo", "SLIPCOVER_STATE_DIR=" + filepath.Join(dir, "state")}
		return cli.Run(t.Context(), env, args)
	}
	at := func(day string, args ...string) {
		t.Helper()
		var err error
		if now, err = time.Parse("2006-01-02 15", day+" 02"); err != nil {
			t.Fatal(err)
		}
		if code := run(args...); code != 0 {
			t.Fatalf("%s: code %d: %s%s", args, code, &stdout, &stderr)
		}
	}
	create := []string{"backup", "create", "--data-dir", "../../../testdata/couchdb-3.5.0/data", "--instance", "db1", "--progress", "none", "--name"}
	at("2026-11-01", "init", "--no-encryption")
	at("2026-11-01", append(create, "first")...)
	at("2099-01-01", append(create, "ahead")...)
	now = time.Date(2026, 11, 3, 0, 0, 0, 0, time.UTC)
	if code := run("check", "--max-age", "26h"); code != 4 || !strings.Contains(stdout.String(), "one of the two clocks is or was wrong") {
		t.Errorf("the newest is stamped in the future: code %d, %s%s", code, &stdout, &stderr)
	}
	at("2026-11-03", append(create, "right")...)
	at("2026-11-03", "check", "--max-age", "26h")
	at("2026-11-03", "backup", "show", "latest")
	if !strings.Contains(stdout.String(), "right") {
		t.Errorf("the latest is %s", &stdout)
	}
	at("1970-01-02", append(create, "behind")...)
	now = time.Date(2026, 11, 3, 3, 0, 0, 0, time.UTC)
	if code := run("check", "--max-age", "26h"); code != 4 || !strings.Contains(stdout.String(), "its clock was wrong") {
		t.Errorf("the newest is stamped 1970: code %d, %s%s", code, &stdout, &stderr)
	}
	at("2026-11-03", "prune", "--keep-last", "1")
	at("2026-11-03", "backup", "list")
	if got := stdout.String(); !strings.Contains(got, "behind") || strings.Contains(got, "right") || strings.Contains(got, "ahead") {
		t.Errorf("left are %s", got)
	}
}
