package file_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
)

const straceVar = "FILE_TEST_STRACE"

// step is something a Store is asked to do, and the changes and syncs that it must
// consist of, in that order.
type step struct {
	name string
	do   func(t *testing.T, s storage.Store)
	want string
}

func putStep(name string, key storage.Key, opts storage.PutOptions, want string) step {
	return step{name, func(t *testing.T, s storage.Store) {
		if err := s.Put(t.Context(), key, strings.NewReader("x"), opts); err != nil {
			t.Error(err)
		}
	}, want}
}

func deleteStep(name string, key storage.Key, want string) step {
	return step{name, func(t *testing.T, s storage.Store) {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Error(err)
		}
	}, want}
}

func steps() []step {
	isNew := storage.PutOptions{IfAbsent: true}
	return []step{
		putStep("into new folders", "a/b/c", storage.PutOptions{},
			"mkdir a, sync ., mkdir a/b, sync a, sync a/b/TEMP, rename a/b/TEMP a/b/c, sync a/b"),
		putStep("into a known folder", "a/b/d", storage.PutOptions{},
			"sync a/b/TEMP, rename a/b/TEMP a/b/d, sync a/b"),
		putStep("if absent", "a/b/e", isNew,
			"sync a/b/TEMP, rename-new a/b/TEMP a/b/e, sync a/b"),
		{"if absent of what is there", func(t *testing.T, s storage.Store) {
			if err := s.Put(t.Context(), "a/b/e", strings.NewReader("x"), isNew); err == nil {
				t.Error("no error")
			}
		}, "sync a/b"},
		putStep("at the root", "r", storage.PutOptions{},
			"sync TEMP, rename TEMP r, sync ."),
		putStep("into a folder that another made", "other/x", storage.PutOptions{},
			"sync ., sync other/TEMP, rename other/TEMP other/x, sync other"),
		deleteStep("one of several", "a/b/c", "unlink a/b/c, sync a/b"),
		deleteStep("what isn't there", "a/b/c", "sync a/b"),
		deleteStep("what has no folder", "a/none/none", "sync a"),
		deleteStep("the last of a folder", "other/x", "unlink other/x, sync other, rmdir other"),
		putStep("again into the folder that was removed", "other/x", isNew,
			"mkdir other, sync ., sync other/TEMP, rename-new other/TEMP other/x, sync other"),
	}
}

// TestSystemCalls runs itself under strace.
func TestSystemCalls(t *testing.T) {
	if root := os.Getenv(straceVar); root != "" {
		s := open(t, root)
		for i, st := range steps() {
			os.Stat(filepath.Join(root, "step", st.name)) // is seen in the trace
			if i == 5 {
				if err := os.Mkdir(filepath.Join(root, "other"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			st.do(t, s)
		}
		return
	}
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
	root := t.TempDir()
	out := filepath.Join(t.TempDir(), "trace")
	const calls = "stat,newfstatat,fsync,fdatasync,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat"
	cmd := exec.Command("strace", "-f", "-y", "-s", "1000", "-e", "signal=none", "-e", "trace=?"+strings.ReplaceAll(calls, ",", ",?"), "-o", out,
		os.Args[0], "-test.run=^TestSystemCalls$")
	cmd.Env = append(os.Environ(), straceVar+"="+root, "GOMAXPROCS=1") // one at a time, so no line is cut in two
	if msg, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(string(msg), "ptrace") {
			t.Skipf("strace may not trace here: %s", msg)
		}
		t.Fatalf("%v: %s", err, msg)
	}
	trace, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got := parseTrace(string(trace), root)
	for _, st := range steps() {
		want := st.want
		if st.name == "into a folder that another made" {
			want = "mkdir other, " + want // by the test
		}
		if got := strings.Join(got[st.name], ", "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", st.name, got, want)
		}
	}
}

var (
	traceLine = regexp.MustCompile(`^\d+ +(\w+)\((.*)\) += (-?\d+)`)
	quoted    = regexp.MustCompile(`"([^"]*)"|<([^>]*)>`)
	tempName  = regexp.MustCompile(`\.tmp-\w+~`)
)

// parseTrace returns the calls below root that did something, by step.
func parseTrace(trace, root string) map[string][]string {
	steps := map[string][]string{}
	step := ""
	for line := range strings.Lines(trace) {
		m := traceLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		call, args := m[1], m[2]
		var paths []string
		for _, q := range quoted.FindAllStringSubmatch(args, -1) {
			path := q[1] + q[2]
			if rel, err := filepath.Rel(root, path); err == nil && !strings.HasPrefix(rel, "..") {
				paths = append(paths, tempName.ReplaceAllString(rel, "TEMP"))
			}
		}
		if len(paths) == 0 {
			continue
		}
		if strings.HasSuffix(call, "stat") || call == "newfstatat" {
			if name, ok := strings.CutPrefix(paths[0], "step/"); ok {
				step = name
			}
			continue
		}
		if m[3] != "0" {
			continue
		}
		name := strings.TrimSuffix(call, "at")
		switch {
		case strings.Contains(args, "RENAME_NOREPLACE"):
			name = "rename-new"
		case strings.Contains(args, "AT_REMOVEDIR"):
			name = "rmdir"
		case name == "fsync":
			name = "sync"
		}
		steps[step] = append(steps[step], name+" "+strings.Join(paths, " "))
	}
	return steps
}
