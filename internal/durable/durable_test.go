package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func writeText(s string) func(*os.File) error {
	return func(f *os.File) error {
		_, err := f.WriteString(s)
		return err
	}
}

// record notes the calls below root, with TEMP for temporary names, and lets the
// one with the number fail (from 1; 0 for none) fail.
func record(t *testing.T, root string, fail int) *[]string {
	t.Helper()
	var calls []string
	hook = func(call, path string) error {
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if IsTemp(filepath.Base(rel)) {
			rel = filepath.Join(filepath.Dir(rel), "TEMP")
		}
		calls = append(calls, call+" "+filepath.ToSlash(rel))
		if len(calls) == fail {
			return errInjected
		}
		return nil
	}
	t.Cleanup(func() { hook = nil })
	return &calls
}

var errInjected = errors.New("injected")

func TestOrderOfCalls(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("folders aren't synced on Windows")
	}
	tests := []struct {
		name string
		do   func(root string) error
		want string
	}{
		{"write", func(root string) error {
			return WriteFile(filepath.Join(root, "a"), 0o600, writeText("x"))
		}, "create TEMP, sync TEMP, rename a, sync ."},
		{"write new", func(root string) error {
			return WriteNewFile(filepath.Join(root, "a"), 0o600, writeText("x"))
		}, "create TEMP, sync TEMP, rename-new a, sync ."},
		{"mkdir", func(root string) error {
			return MkdirAll(filepath.Join(root, "b", "c", "d"), 0o700)
		}, "mkdir b, sync ., mkdir b/c, sync b, mkdir b/c/d, sync b/c"},
		{"mkdir of what exists", func(root string) error {
			return MkdirAll(root, 0o700)
		}, ""},
		{"sync", SyncDir, "sync ."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			calls := record(t, root, 0)
			if err := tt.do(root); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(*calls, ", "); got != tt.want {
				t.Errorf("calls:\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestFailureAtEachCall(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("folders aren't synced on Windows")
	}
	for fail := 1; fail <= 4; fail++ {
		t.Run(strconv.Itoa(fail), func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, "a")
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			calls := record(t, root, fail)
			if err := WriteFile(path, 0o600, writeText("new")); !errors.Is(err, errInjected) {
				t.Fatalf("error: got %v, want the injected one", err)
			}
			want := "old"
			if strings.HasPrefix((*calls)[len(*calls)-1], "sync .") {
				want = "new" // it has its name, but is not known to be durable
			}
			checkFolder(t, root, "a="+want)
		})
	}
}

func checkFolder(t *testing.T, root string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(root, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Name()+"="+string(b))
	}
	if !slices.Equal(got, want) {
		t.Errorf("folder: got %q, want %q", got, want)
	}
}

func TestWriteFile(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "a")
	for _, s := range []string{"first", "", "second"} {
		if err := WriteFile(path, 0o600, writeText(s)); err != nil {
			t.Fatal(err)
		}
		checkFolder(t, root, "a="+s)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("mode: got %v, %v, want 0600", info.Mode(), err)
	}
	if err := WriteFile(path, 0o600, func(f *os.File) error {
		f.WriteString("half")
		return errInjected
	}); !errors.Is(err, errInjected) {
		t.Errorf("error: got %v, want the writer's", err)
	}
	checkFolder(t, root, "a=second")
	func() {
		defer func() { recover() }()
		WriteFile(path, 0o600, func(*os.File) error { panic("writer") })
	}()
	checkFolder(t, root, "a=second")
	if err := WriteFile(filepath.Join(root, "none", "a"), 0o600, writeText("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write into no folder: got %v, want ErrNotExist", err)
	}
}

func TestWriteNewFile(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "a")
	if err := WriteNewFile(path, 0o600, writeText("first")); err != nil {
		t.Fatal(err)
	}
	if err := WriteNewFile(path, 0o600, writeText("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second: got %v, want ErrExist", err)
	}
	checkFolder(t, root, "a=first")
}

func TestEndsOnce(t *testing.T) {
	root := t.TempDir()
	f, err := Create(filepath.Join(root, "a"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Abort()
	f.Abort()
	if err := f.Commit(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("commit after abort: got %v, want ErrClosed", err)
	}
	checkFolder(t, root)
}

// A folder is whole under its name or not there at all, whichever call fails, and the next removal leaves nothing.
func TestRemoveAll(t *testing.T) {
	for fail := range 4 {
		t.Run(strconv.Itoa(fail), func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, "folder")
			if err := os.MkdirAll(filepath.Join(path, "a", "b"), 0o700); err != nil {
				t.Fatal(err)
			}
			calls := record(t, root, fail)
			err := RemoveAll(path)
			if failed := fail > 0 && fail <= len(*calls); failed != errors.Is(err, errInjected) || !failed && err != nil {
				t.Fatalf("after %q: %v", *calls, err)
			}
			_, whole := os.Stat(filepath.Join(path, "a", "b"))
			_, there := os.Stat(path)
			if (whole == nil) != (fail == 1) || (there == nil) != (fail == 1) {
				t.Errorf("call %d failed: its contents %v, its name %v", fail, whole, there)
			}
			hook = nil
			for range 2 { // one that is gone is no error
				if err := RemoveAll(path); err != nil {
					t.Error(err)
				}
			}
			checkFolder(t, root)
		})
	}
}

func TestMkdirAll(t *testing.T) {
	root := t.TempDir()
	if err := MkdirAll(filepath.Join(root, "a", "b", ".."), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "a", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"a/file", "a/file/b"} {
		if err := MkdirAll(filepath.Join(root, filepath.FromSlash(p)), 0o700); err == nil {
			t.Errorf("MkdirAll(%s): got nil, want an error: a file is in the way", p)
		}
	}
}

// Both ways to rename without replacing: one winner, nothing else left.
func TestNewFileRace(t *testing.T) {
	ways := map[string]func(from, to string) error{"rename": renameNew}
	if linkWay != nil {
		ways["link"] = linkWay
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			for range 15 {
				root := t.TempDir()
				path := filepath.Join(root, "a")
				var won atomic.Int32
				var winner atomic.Value
				var wg sync.WaitGroup
				for i := range 16 {
					wg.Go(func() {
						f, err := Create(path, 0o600)
						if err != nil {
							t.Error(err)
							return
						}
						fmt.Fprintf(f, "writer %d", i)
						switch err := f.commit("rename-new", way); {
						case err == nil:
							won.Add(1)
							winner.Store(fmt.Sprintf("a=writer %d", i))
						case !errors.Is(err, fs.ErrExist):
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if won.Load() != 1 {
					t.Fatalf("winners: got %d, want 1", won.Load())
				}
				checkFolder(t, root, winner.Load().(string))
			}
		})
	}
}

func TestLinkAnswerLost(t *testing.T) {
	if linkWay == nil {
		t.Skip("no link(2) here")
	}
	root := t.TempDir()
	from, to := filepath.Join(root, "from"), filepath.Join(root, "to")
	if err := os.WriteFile(from, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(from, to); err != nil {
		t.Fatal(err)
	}
	if err := linkWay(from, to); err != nil {
		t.Errorf("link that is there already and ours: got %v, want nil", err)
	}
	checkFolder(t, root, "to=x")
}

const raceVar = "DURABLE_TEST_RACE"

// TestNewFileRaceOfProcesses starts itself several times.
func TestNewFileRaceOfProcesses(t *testing.T) {
	if path := os.Getenv(raceVar); path != "" {
		won := 0
		for i := range 100 {
			err := WriteNewFile(path+strconv.Itoa(i), 0o600, writeText("x"))
			if err == nil {
				won++
			} else if !errors.Is(err, fs.ErrExist) {
				t.Fatal(err)
			}
		}
		fmt.Printf("won %d\n", won)
		return
	}
	path := filepath.Join(t.TempDir(), "a")
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestNewFileRaceOfProcesses$")
			cmd.Env = append(os.Environ(), raceVar+"="+path)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
				return
			}
			_, after, _ := strings.Cut(string(out), "won ")
			n, err := strconv.Atoi(strings.Fields(after)[0])
			if err != nil {
				t.Error(err)
			}
			won.Add(int32(n))
		})
	}
	wg.Wait()
	if won.Load() != 100 {
		t.Errorf("names won: got %d, want 100", won.Load())
	}
}
