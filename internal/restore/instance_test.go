//go:build linux

package restore_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

func needInstances(t *testing.T) {
	t.Helper()
	needCouchDB(t)
	if runtime.GOOS != "linux" {
		t.Skip("processes are told apart on Linux only")
	}
}

// newDir returns a directory for an instance, which is removed with its server at
// the end of the test.
func newDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "instance")
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "couchdb.log"))
			t.Logf("log of %s:\n%s", dir, b)
		}
		if err := removeNow(dir); err != nil { // t.Context is done by now
			t.Error(err)
		}
	})
	return dir
}

func create(t *testing.T, o restore.CreateOptions) (*restore.Created, *testenv.Client) {
	t.Helper()
	o.Start, o.Timeout = true, patience
	made, err := restore.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return made, &testenv.Client{URL: made.URL, Admin: made.User, Password: made.Password}
}

func running(t *testing.T, dir string) int {
	t.Helper()
	pid, err := restore.Running(dir)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestCreateEmpty(t *testing.T) {
	needInstances(t)
	t.Parallel()
	dir := newDir(t)
	made, c := create(t, restore.CreateOptions{Name: "fresh", Dir: dir, BindAddress: "127.0.0.2", AdminPassword: "first"})
	if !made.Running || made.PID != running(t, dir) || made.NodeName != "couchdb@127.0.0.1" || made.Restored != nil || !strings.HasPrefix(made.URL, "http://127.0.0.2:") {
		t.Errorf("%+v, running %d", made, running(t, dir))
	}
	s, err := node.Ask(t.Context(), made.URL, made.User, made.Password)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.UUID) != 32 || s.NodeName != made.NodeName || s.Version == "" {
		t.Errorf("%+v", s)
	}
	if err := c.Put("/shop?q=4", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Put("/shop/a", map[string]any{"n": 1}, nil); err != nil {
		t.Fatal(err)
	}
	names, err := restore.Databases(t.Context(), filepath.Join(dir, "data"))
	if want := []string{"_replicator", "_users", "shop"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("databases %q, %v, want %q", names, err, want)
	}
	// The same call again changes nothing; one that wants something else is refused.
	again, _ := create(t, restore.CreateOptions{Name: "fresh", Dir: dir, AdminPassword: "first"})
	if again.PID != made.PID || again.URL != made.URL {
		t.Errorf("again: %+v, was %+v", again, made)
	}
	for _, o := range []restore.CreateOptions{{Name: "fresh", Dir: dir}, {Name: "other", Dir: dir, AdminPassword: "first"}} {
		if _, err := restore.Create(t.Context(), o); !errors.Is(err, restore.ErrInstanceExists) {
			t.Errorf("%+v: got %v, want ErrInstanceExists", o, err)
		}
	}
	stopAndStart(t, dir, made.PID)
	var doc struct{ N int }
	if err := c.Get("/shop/a", &doc); err != nil || doc.N != 1 {
		t.Errorf("%+v, %v", doc, err)
	}
	for range 2 {
		if err := restore.Remove(t.Context(), dir); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if err := c.Get("/", nil); err == nil {
		t.Error("it answers after it was removed")
	}
}

// A vm.args that isn't the one the node ran with: by its name no shard would be found.
func TestCreateUnderAnotherNodeName(t *testing.T) {
	t.Parallel()
	needInstances(t)
	n, err := node.Locate(t.Context(), node.Options{DataDir: fixture + "/data"})
	if err != nil {
		t.Fatal(err)
	}
	n.NodeName, n.NameTold = "other@127.0.0.1", true
	r := openRepo(t, mem.New())
	rec := takeNode(t, r, n, t.TempDir())
	made, c := create(t, restore.CreateOptions{Repo: r, Record: rec, Name: "copy", Dir: newDir(t)})
	sameDatabases(t, c)
	if made.NodeName != nodeName {
		t.Errorf("its node is %s, want %s", made.NodeName, nodeName)
	}
	contains(t, manifestOf(t, r, rec).Notes, "other@127.0.0.1")
}

func stopAndStart(t *testing.T, dir string, pid int) {
	t.Helper()
	if got, err := restore.Start(t.Context(), dir, restore.StartOptions{}); err != nil || got != pid {
		t.Errorf("start of a running one: %d, %v, want %d", got, err, pid)
	}
	for range 2 {
		if err := restore.Stop(t.Context(), dir, patience); err != nil {
			t.Fatal(err)
		}
	}
	if got := running(t, dir); got != 0 {
		t.Errorf("process %d runs after the stop", got)
	}
	if left := groupOf(t, pid); len(left) > 0 {
		t.Errorf("left of its group: %q", left)
	}
	got, err := restore.Start(t.Context(), dir, restore.StartOptions{Timeout: patience})
	if err != nil || got == 0 || got != running(t, dir) {
		t.Fatalf("start: %d, %v, running %d", got, err, running(t, dir))
	}
	// As after a power cut: the process is gone and its file is there.
	if err := syscall.Kill(got, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for running(t, dir) != 0 {
		time.Sleep(time.Millisecond)
	}
	if _, err := restore.Start(t.Context(), dir, restore.StartOptions{Timeout: patience}); err != nil {
		t.Fatal(err)
	}
}

// groupOf returns the processes of a group that have not ended.
func groupOf(t *testing.T, pgid int) (list []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[1-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range stats {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if f[2] == fmt.Sprint(pgid) && f[0] != "Z" {
			list = append(list, string(b))
		}
	}
	return list
}

// A process whose number stands in the file and that is another one is left alone.
func TestStopSparesOthers(t *testing.T) {
	t.Parallel()
	needInstances(t)
	dir := newDir(t)
	if _, err := restore.Create(t.Context(), restore.CreateOptions{Name: "a", Dir: dir}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	start, boot := restore.ProcessOf(pid)
	for name, text := range map[string]string{
		"its number alone":     fmt.Sprintf("%d\n", pid),
		"another start":        fmt.Sprintf("%d\n%s1\n%s\n", pid, start, boot),
		"another boot":         fmt.Sprintf("%d\n%s\n%s\n", pid, start, "x"+boot),
		"no number":            "x\n\n\n",
		"all that are allowed": fmt.Sprintf("-1\n%s\n%s\n", start, boot),
	} {
		if err := os.WriteFile(filepath.Join(dir, "couchdb.pid"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := running(t, dir); got != 0 {
			t.Errorf("%s: process %d runs", name, got)
		}
		if err := restore.Stop(t.Context(), dir, time.Second); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process was ended: %v", err)
	}
	// The one that is named whole is ended.
	if err := os.WriteFile(filepath.Join(dir, "couchdb.pid"), fmt.Appendf(nil, "%d\n%s\n%s\n", pid, start, boot), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := restore.Stop(t.Context(), dir, patience); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it was not signalled")
	}
}

func TestRemoveRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := restore.Remove(t.Context(), dir); !errors.Is(err, restore.ErrNoInstance) {
		t.Errorf("got %v, want ErrNoInstance", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if _, err := restore.Running(dir); !errors.Is(err, restore.ErrNoInstance) {
		t.Errorf("got %v, want ErrNoInstance", err)
	}
	if err := restore.Stop(t.Context(), dir, 0); !errors.Is(err, restore.ErrNoInstance) {
		t.Errorf("got %v, want ErrNoInstance", err)
	}
	if _, err := restore.Create(t.Context(), restore.CreateOptions{Name: "a", Dir: dir}); !errors.Is(err, restore.ErrTaken) {
		t.Errorf("got %v, want ErrTaken", err)
	}
}

// Create is killed at random moments, and repeated; then Remove is.
func TestKilledCreate(t *testing.T) {
	t.Parallel()
	needInstances(t)
	store, err := file.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	r := openRepo(t, store)
	rec := take(t, r, copyFixture(t), t.TempDir())
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	rounds := testenv.Computed(3, 2)
	for round := range rounds {
		dir := newDir(t)
		spec := childSpec{Repo: store.URL()[len("file://"):], ID: string(rec.ID), To: dir, Do: "create"}
		if round%2 == 1 {
			spec.ID = ""
		}
		for range 1 + rnd.IntN(2) {
			killedChild(t, spec, time.Duration(rnd.Int64N(int64(4*time.Second))))
		}
		o := restore.CreateOptions{Name: "killed", Dir: dir, AdminPassword: childPassword}
		if spec.ID != "" {
			o.Repo, o.Record = r, rec
		}
		made, c := create(t, o)
		if made.PID != running(t, dir) {
			t.Errorf("process %d, running %d", made.PID, running(t, dir))
		}
		if spec.ID != "" {
			sameDatabases(t, c)
		} else if err := c.Put("/new", nil, nil); err != nil {
			t.Error(err)
		}
		if got := servers(t, dir); len(got) != 1 {
			t.Errorf("servers: %q", got)
		}
		spec.Do = "remove"
		killedChild(t, spec, time.Duration(rnd.Int64N(int64(2*time.Second))))
		if err := restore.Remove(t.Context(), dir); err != nil {
			t.Error(err)
		}
		if got := servers(t, dir); len(got) != 0 {
			t.Errorf("servers after the removal: %q", got)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("still there: %v", err)
		}
	}
}

// killedChild starts this program to do something, and kills it after a while.
func killedChild(t *testing.T, spec childSpec, after time.Duration) {
	t.Helper()
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killEnv+"="+string(b))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != -1 {
		t.Errorf("%s: %v", spec.Do, err)
	}
}

// servers returns the CouchDBs that run with the configuration of an instance.
func servers(t *testing.T, dir string) (list []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[1-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range files {
		b, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(b), dir+"/") && strings.Contains(string(b), "/etc/local.ini\x00") {
			list = append(list, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return list
}

// A server that was started by hand is not removed from under itself, nor doubled.
func TestStartedByHand(t *testing.T) {
	needInstances(t)
	t.Parallel()
	dir := newDir(t)
	made, err := restore.Create(t.Context(), restore.CreateOptions{Name: "hand", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(made.Command)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := http.Get(made.URL + "/_up")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := restore.Start(t.Context(), dir, restore.StartOptions{}); !errors.Is(err, restore.ErrInUse) {
		t.Errorf("start: got %v, want ErrInUse", err)
	}
	if err := restore.Remove(t.Context(), dir); !errors.Is(err, restore.ErrInUse) {
		t.Errorf("remove: got %v, want ErrInUse", err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
}

// An agent that is root makes instances that belong to CouchDB's user and run as it.
func TestCreateForAnotherUser(t *testing.T) {
	t.Parallel()
	needInstances(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can run programs as others")
	}
	parent, err := os.MkdirTemp("", "slipcover-owner-")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "i")
	t.Cleanup(func() {
		if err := errors.Join(removeNow(dir), os.Remove(parent)); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	r, rec := fixtureBackup(t)
	made, _ := create(t, restore.CreateOptions{Repo: r, Record: rec, Name: "i", Dir: dir, Owner: "nobody"})
	first := uidOfProcess(t, made.PID)
	if err := restore.Stop(t.Context(), dir, 0); err != nil {
		t.Fatal(err)
	}
	pid, err := restore.Start(t.Context(), dir, restore.StartOptions{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	if second := uidOfProcess(t, pid); first == 0 || second != first {
		t.Errorf("ran as user %d, then as %d", first, second)
	}
	// The server's user puts a link in the place of the log: root must not write there.
	if err := restore.Stop(t.Context(), dir, 0); err != nil {
		t.Fatal(err)
	}
	log, victim := filepath.Join(dir, "couchdb.log"), filepath.Join(parent, "victim")
	if err := errors.Join(os.Remove(log), os.Symlink(victim, log)); err != nil {
		t.Fatal(err)
	}
	if _, err := restore.Start(t.Context(), dir, restore.StartOptions{}); !errors.Is(err, restore.ErrStart) {
		t.Errorf("got %v, want ErrStart", err)
	}
	if _, err := os.Lstat(victim); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("root wrote through a link: %v", err)
	}
}

func uidOfProcess(t *testing.T, pid int) uint32 {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}
