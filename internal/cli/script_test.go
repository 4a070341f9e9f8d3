package cli_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/testenv"
)

func TestMain(m *testing.M) { clitest.Main(m, cli.Run, map[string]func(){"stopwhen": stopWhen}) }

// TestScripts runs the stories in testdata/script.
func TestScripts(t *testing.T) { runScripts(t, "testdata/script", nil) }

// TestLiveScripts runs those in testdata/live, which need a CouchDB: at $COUCH with the user admin, whose password is $PASSWORD,
// and its data in $DATA. Each has a database of its own.
func TestLiveScripts(t *testing.T) {
	c := testenv.CouchDB(t, testenv.Options{Config: map[string]map[string]string{"query_server_config": {"commit_freq": "0"}}}) // indexes are written at once
	runScripts(t, "testdata/live", func(e *testscript.Env) {
		e.Setenv("COUCH", c.URL)
		e.Setenv("HOST", strings.TrimPrefix(c.URL, "http://"))
		e.Setenv("PASSWORD", c.Password)
		e.Setenv("DATA", c.DataDir)
	})
}

// runScripts runs the stories in a folder.
func runScripts(t *testing.T, dir string, more func(*testscript.Env)) {
	t.Helper()
	fixture, err := filepath.Abs("../../testdata/couchdb-3.5.0")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			if more != nil {
				more(e)
			}
			e.Setenv("FIXTURE", fixture)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("TMPDIR", filepath.Join(e.WorkDir, "tmp"))
			e.Setenv("SLIPCOVER_STATE_DIR", filepath.Join(e.WorkDir, "state"))
			e.Setenv("SLIPCOVER_CONFIG", os.DevNull)
			e.Setenv("GORACE", os.Getenv("GORACE"))
			e.Setenv("SLIPCOVER_OWNER", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())) // a user couchdb is there or not
			return os.MkdirAll(filepath.Join(e.WorkDir, "tmp"), 0o755)
		},
		Condition: condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"copydir":   copyDir,
			"fillsize":  fillSize,
			"nodedir":   nodeDir,
			"growshard": growShard,
			"setjson":   setJSON,
			"marker":    marker,
			"recipient": recipient,
			"normal":    normal,
			"locked":    locked,
			"flip":      flip,
			"gone":      gone,
			"tmpfs":     tmpfs,
			"readonly":  readOnly,
			"exitcode":  exitCode,
			"same":      same,
			"freeport":  setFreePort,
			"ready":     ready,
		},
	})
}

func condition(name string) (bool, error) {
	if name == "race" {
		return clitest.Race, nil
	}
	if name == "tmpfs" { // may a test mount one?
		if runtime.GOOS != "linux" || os.Getuid() != 0 {
			return false, nil
		}
		dir, err := os.MkdirTemp("", "slipcover-tmpfs-")
		if err != nil {
			return false, err
		}
		defer os.Remove(dir)
		if exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir).Run() != nil {
			return false, nil
		}
		return true, exec.Command("umount", dir).Run()
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// copyDir copies a folder: copydir FROM TO.
func copyDir(ts *testscript.TestScript, _ bool, args []string) {
	from, to := ts.MkAbs(args[0]), ts.MkAbs(args[1])
	ts.Check(os.CopyFS(to, os.DirFS(from)))
}

// fillSize makes a data directory of about that many MiB: fillsize DIR MIB.
func fillSize(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	_, err = couchgen.DataDir(ts.MkAbs(args[0]), couchgen.OneShard(int64(n)<<20))
	ts.Check(err)
}

// nodeDir makes a small data directory of a node and says which nodes its cluster has: nodedir DIR NODE [NODES…].
// With DIR:N it is that of another CouchDB for each N.
func nodeDir(ts *testscript.TestScript, _ bool, args []string) {
	dir, number, _ := strings.Cut(args[0], ":")
	seed, err := strconv.ParseUint(cmp.Or(number, "0"), 10, 64)
	ts.Check(err)
	_, err = couchgen.DataDir(ts.MkAbs(dir), couchgen.DirOptions{NodeName: args[1], Nodes: args[2:], DocsPerDB: 4, Q: 1, Seed: seed})
	ts.Check(err)
}

// growShard writes a new document into a shard's file, another one for each number: growshard PATH N.
func growShard(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	ts.Check(couchgen.GrowShard(ts.MkAbs(args[0]), n))
}

// marker marks a directory as a kill in the middle of a restore leaves it: marker DIR BACKUP INSTANCE.
func marker(ts *testscript.TestScript, _ bool, args []string) {
	b, err := json.Marshal(map[string]string{"backup": args[1], "instance": args[2]})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(ts.MkAbs(args[0]), restore.MarkerName), b, 0o644))
}

// setJSON sets a variable to a value in the JSON of stdout: setjson NAME a.b.0.c.
func setJSON(ts *testscript.TestScript, _ bool, args []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for key := range strings.SplitSeq(args[1], ".") {
		switch w := v.(type) {
		case map[string]any:
			v = w[key]
		case []any:
			i, err := strconv.Atoi(key)
			ts.Check(err)
			v = w[i]
		default:
			ts.Fatalf("no %s in stdout", args[1])
		}
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// recipient sets a variable to the recipient of an identity file: recipient FILE NAME.
func recipient(ts *testscript.TestScript, _ bool, args []string) {
	ids, err := age.ParseIdentities(strings.NewReader(ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Setenv(args[1], ids[0].(*age.X25519Identity).Recipient().String())
}

var normals = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<id>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "<time>"},
	{regexp.MustCompile(`\d{8}-\d{6}`), "<stamp>"},
	{regexp.MustCompile(`age1[0-9a-z]{58}`), "<recipient>"},
	{regexp.MustCompile(`[A-Za-z0-9+/]{43}=`), "<writer>"},
	{regexp.MustCompile(`(?s)("storage": )\{.*?\n  \}`), `$1"<traffic>"`},
	{regexp.MustCompile(`("(?:took_seconds|age_seconds|stored_bytes|segment_bytes|read_bytes|bytes|unreferenced_bytes)": )[0-9.]+`), `$1"<n>"`},
	{regexp.MustCompile(`"\.\d{10}"`), `".<suffix>"`},
	{regexp.MustCompile(`"slipcover [^"]*"`), `"slipcover <version>"`},
}

// normal writes stdout or another file to a file, what changes from run to run
// replaced: normal FROM TO.
func normal(ts *testscript.TestScript, _ bool, args []string) {
	text := strings.ReplaceAll(ts.ReadFile(args[0]), ts.Getenv("WORK"), "<work>")
	text = strings.ReplaceAll(text, ts.Getenv("FIXTURE"), "<fixture>")
	for _, n := range normals {
		text = n.re.ReplaceAllString(text, n.to)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o644))
}

// locked locks an instance as a process on another machine would: locked REPO INSTANCE.
func locked(ts *testscript.TestScript, _ bool, args []string) {
	now := time.Now().UTC().Format(time.RFC3339)
	path := filepath.Join(ts.MkAbs(args[0]), "locks", args[1], "0000000099.json")
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(os.WriteFile(path, fmt.Appendf(nil, `{"host":"elsewhere","pid":7,"purpose":"backup","since":%q,"renewed":%q}`, now, now), 0o644))
}

// flip changes a byte in the middle of the first file below a folder whose name
// has that beginning: flip DIR NAME.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	err := filepath.WalkDir(ts.MkAbs(args[0]), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasPrefix(e.Name(), args[1]) {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return err
		}
		return fs.SkipAll
	})
	ts.Check(err)
}

// gone removes the files below a folder whose name has that beginning: gone DIR NAME.
func gone(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasPrefix(e.Name(), args[1]) {
			return err
		}
		return os.Remove(path)
	}))
}

// tmpfs mounts a file system of that size: tmpfs DIR 1m.
func tmpfs(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(exec.Command("mount", "-t", "tmpfs", "-o", "size="+args[1], "tmpfs", dir).Run())
	ts.Defer(func() { _ = exec.Command("umount", dir).Run() })
}

func readOnly(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(exec.Command("mount", "-o", "remount,ro", ts.MkAbs(args[0])).Run())
}

// exitCode runs a program that must end with that code: exitcode 3 slipcover ….
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, not %s", got, args[0])
	}
}

// same holds a restored folder against the node's, byte by byte: each file is
// there up to its newest header, and no other: same NODE RESTORED.
func same(ts *testscript.TestScript, neg bool, args []string) {
	a, b := tree(ts, args[0]), tree(ts, args[1])
	differ := ""
	for name, text := range a {
		raw, err := couchfile.FindHeader(strings.NewReader(text), int64(len(text)))
		ts.Check(err)
		if b[name] != text[:raw.End] {
			differ = name
		}
		delete(b, name)
	}
	for name := range b {
		differ = name
	}
	if (differ == "") == neg {
		ts.Fatalf("%s and %s: differ in %q", args[0], args[1], differ)
	}
}

func tree(ts *testscript.TestScript, dir string) map[string]string {
	dir = ts.MkAbs(dir)
	out := map[string]string{}
	ts.Check(filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir)] = string(b)
		return err
	}))
	return out
}

// setFreePort sets a variable to a port of loopback that is free: freeport NAME.
func setFreePort(ts *testscript.TestScript, _ bool, args []string) {
	port, err := testenv.FreePort()
	ts.Check(err)
	ts.Setenv(args[0], strconv.Itoa(port))
}

// ready waits until a command succeeds and prints what matches: ready PATTERN slipcover ….
func ready(ts *testscript.TestScript, _ bool, args []string) {
	re := regexp.MustCompile(args[0])
	for end := time.Now().Add(clitest.Patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ts.Exec(args[1], args[2:]...) == nil && re.MatchString(ts.ReadFile("stdout")) {
			return
		}
	}
	ts.Fatalf("not within %v: %s", clitest.Patience, args[0])
}

// stopWhen is a program: stopwhen SIGNAL REPO N COMMAND…. It starts the command,
// sends it the signal once it has stored N segments, and prints how it ended and
// after how long.
func stopWhen() {
	sig := map[string]syscall.Signal{"KILL": syscall.SIGKILL, "INT": syscall.SIGINT, "TERM": syscall.SIGTERM}[os.Args[1]]
	repo := os.Args[2]
	want, err := strconv.Atoi(os.Args[3])
	if err != nil {
		panic(err)
	}
	stored := func() int {
		names, _ := filepath.Glob(filepath.Join(repo, "segments", "*", "*", "[0-9]*"))
		return len(names)
	}
	before := stored()
	cmd := exec.Command(os.Args[4], os.Args[5:]...)
	cmd.Stdout = os.Stdout
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			fmt.Printf("ended before it was stopped: %v\n", err)
			os.Exit(1)
		case <-time.After(time.Millisecond):
		}
		if stored() >= before+want {
			break
		}
	}
	began := time.Now()
	if err := cmd.Process.Signal(sig); err != nil {
		panic(err)
	}
	<-ended
	w := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(w, "ended with code %d\n", cmd.ProcessState.ExitCode())
	if time.Since(began) < time.Minute { // on an idle machine it is a tenth of a second
		fmt.Fprintln(w, "soon")
	}
	_ = w.Flush()
}
