package file_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
)

func TestContract(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store {
		root := t.TempDir()
		t.Cleanup(func() {
			if got := names(t, root); len(got) > 0 {
				t.Errorf("left in the folder: %q", got)
			}
		})
		return open(t, root)
	})
}

func open(t *testing.T, root string) *file.Store {
	t.Helper()
	s, err := file.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// names returns all files and folders below root.
func names(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if path != root {
			rel, _ := filepath.Rel(root, path)
			names = append(names, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func put(ctx context.Context, s storage.Store, key storage.Key, body string) error {
	return s.Put(ctx, key, strings.NewReader(body), storage.PutOptions{})
}

func get(ctx context.Context, s storage.Store, key storage.Key) (string, error) {
	var b []byte
	err := s.Get(ctx, key, 0, -1, func(r io.Reader) (err error) {
		b, err = io.ReadAll(r)
		return err
	})
	return string(b), err
}

func list(ctx context.Context, s storage.Store, prefix string) ([]storage.Key, error) {
	var keys []storage.Key
	err := s.List(ctx, prefix, func(info storage.Info) error {
		keys = append(keys, info.Key)
		return nil
	})
	return keys, err
}

func mustPut(t *testing.T, s storage.Store, keys ...storage.Key) {
	t.Helper()
	for _, key := range keys {
		if err := put(t.Context(), s, key, string(key)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenAndCreate(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "b c")
	if _, err := file.Open(root); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("open of no folder: got %v, want ErrUnavailable", err)
	}
	s, err := file.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "x/y")
	if path, err := file.PathOfURL(s.URL()); err != nil || path != root {
		t.Errorf("path of %s: got %s, %v, want %s", s.URL(), path, err, root)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s, err = file.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := get(t.Context(), s, "x/y"); got != "x/y" || err != nil {
		t.Errorf("after reopening: got %q, %v", got, err)
	}
	if _, err := file.Open(filepath.Join(root, "x", "y")); err == nil {
		t.Error("open of a file: no error")
	}
}

func TestModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes on Windows")
	}
	root := filepath.Join(t.TempDir(), "root")
	s, err := file.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mustPut(t, s, "a/b")
	for path, want := range map[string]fs.FileMode{"": fs.ModeDir | 0o700, "a": fs.ModeDir | 0o700, "a/b": 0o600} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("mode of %q: got %v, want %v", path, info.Mode(), want)
		}
	}
}

func TestPathOfURL(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths of unix")
	}
	good := map[string]string{
		"file:///var/backups":       "/var/backups",
		"file:///var//backups/":     "/var/backups",
		"file:///":                  "/",
		"file:///a%20b/%3F%23%25":   "/a b/?#%",
		"file:///with space/ümläut": "/with space/ümläut",
	}
	for raw, want := range good {
		if got, err := file.PathOfURL(raw); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", raw, got, err, want)
		}
	}
	for _, raw := range []string{
		"file://", "file://relative", "file://./relative", "file://host/path", "file://localhost/path", "file:/path", "file:path",
		"file:///path?x=1", "file:///path?", "file:///path#x", "file:///path#", "file:///%zz", "file:///a%00b", "/path", "s3://bucket", "",
	} {
		if got, err := file.PathOfURL(raw); err == nil {
			t.Errorf("%s: got %q, want an error", raw, got)
		}
	}
}

// everyMethod calls every method; key is there if the storage is.
func everyMethod(ctx context.Context, s storage.Store, key storage.Key) map[string]error {
	_, getErr := get(ctx, s, key)
	_, statErr := s.Stat(ctx, key)
	_, listErr := list(ctx, s, "")
	_, prefixErr := list(ctx, s, "none/")
	return map[string]error{
		"put":           put(ctx, s, key, "new"),
		"put at root":   put(ctx, s, "new", "new"),
		"put in folder": put(ctx, s, "newfolder/a/b", "new"),
		"put if absent": s.Put(ctx, "new/a", strings.NewReader("new"), storage.PutOptions{IfAbsent: true}),
		"get":           getErr,
		"stat":          statErr,
		"list":          listErr,
		"list prefix":   prefixErr,
		"delete":        s.Delete(ctx, key),
		"delete none":   s.Delete(ctx, "none/none"),
	}
}

func wantAll(t *testing.T, errs map[string]error, want error, but ...string) {
	t.Helper()
	for name, err := range errs {
		if !slices.Contains(but, name) && !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
}

func TestRootRenamed(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows doesn't rename a folder that is open")
	}
	parent := t.TempDir()
	root, away := filepath.Join(parent, "root"), filepath.Join(parent, "away")
	s, err := file.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mustPut(t, s, "a/b")

	if err := os.Rename(root, away); err != nil {
		t.Fatal(err)
	}
	wantAll(t, everyMethod(t.Context(), s, "a/b"), storage.ErrUnavailable)
	if got := names(t, parent); slices.Contains(got, "root") {
		t.Errorf("the root was made again: %q", got)
	}

	// As with a bare mount point: there is a folder, but not that one.
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	wantAll(t, everyMethod(t.Context(), s, "a/b"), storage.ErrUnavailable)
	if got := names(t, root); len(got) > 0 {
		t.Errorf("written into another folder: %q", got)
	}

	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantAll(t, everyMethod(t.Context(), s, "a/b"), storage.ErrUnavailable)

	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, root); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t.Context(), s, "a/b"); got != "a/b" || err != nil {
		t.Errorf("after it came back: got %q, %v", got, err)
	}
	mustPut(t, s, "a/c")
}

// bodyFunc is a Body of zeros that calls a func before each read.
type bodyFunc struct {
	size int64
	fn   func(off int64)
}

func (b bodyFunc) Size() int64 { return b.size }

func (b bodyFunc) ReadAt(p []byte, off int64) (int, error) {
	b.fn(off)
	clear(p)
	return len(p), nil
}

func TestRootRenamedInThePut(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows doesn't rename a folder that is open")
	}
	parent := t.TempDir()
	root, away := filepath.Join(parent, "root"), filepath.Join(parent, "away")
	s, err := file.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, again := range []bool{false, true} {
		b := bodyFunc{1 << 20, func(off int64) {
			if off > 0 {
				return
			}
			if err := os.Rename(root, away); err != nil {
				t.Error(err)
			}
			if again {
				if err := os.Mkdir(root, 0o700); err != nil {
					t.Error(err)
				}
			}
		}}
		if err := s.Put(t.Context(), "a/b", b, storage.PutOptions{}); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("put, folder made again: %v: got %v, want ErrUnavailable", again, err)
		}
		if again {
			if got := names(t, root); len(got) > 0 {
				t.Errorf("written into another folder: %q", got)
			}
			os.Remove(root)
		}
		if err := os.Rename(away, root); err != nil {
			t.Fatal(err)
		}
	}
}

func TestForeignFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("names and links of unix")
	}
	root := t.TempDir()
	s := open(t, root)
	mustPut(t, s, "a/b", "c")
	other := t.TempDir()
	for _, err := range []error{
		os.Mkdir(filepath.Join(root, "lost+found"), 0o000),
		os.WriteFile(filepath.Join(root, "a", ".tmp-x~"), nil, 0o600),
		os.WriteFile(filepath.Join(root, "with space"), nil, 0o600),
		os.WriteFile(filepath.Join(root, strings.Repeat("n", 255)), nil, 0o600), // a key, as it happens
		os.Symlink("nowhere", filepath.Join(root, "dangling")),
		os.WriteFile(filepath.Join(other, "x"), []byte("x"), 0o600),
		os.Symlink(other, filepath.Join(root, "link")),
		os.Symlink(filepath.Join(other, "x"), filepath.Join(root, "linkfile")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []storage.Key{"a/b", "c", "link/x", "linkfile", storage.Key(strings.Repeat("n", 255))}
	got, err := list(t.Context(), s, "")
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("list: got %q, %v, want %q", got, err, want)
	}
	for _, key := range want {
		if _, err := s.Stat(t.Context(), key); err != nil {
			t.Error(err)
		}
	}

	// The folder behind the link is not removed with its last object but one.
	mustPut(t, s, "link/sub/y")
	if err := s.Delete(t.Context(), "link/sub/y"); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t.Context(), s, "link/x"); got != "x" || err != nil {
		t.Errorf("behind the link: got %q, %v", got, err)
	}

	if err := os.Symlink("..", filepath.Join(root, "a", "loop")); err != nil {
		t.Fatal(err)
	}
	if _, err := list(t.Context(), s, ""); err == nil || !strings.Contains(err.Error(), "loop") {
		t.Errorf("list with a loop of links: got %v, want an error that names it", err)
	}
}

func TestKeyIsFolderOfAnother(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	mustPut(t, s, "a/b")
	for _, opts := range []storage.PutOptions{{}, {IfAbsent: true}} {
		if err := s.Put(t.Context(), "a", strings.NewReader("x"), opts); err == nil || errors.Is(err, storage.ErrExist) {
			t.Errorf("put %+v of a, which is a folder: got %v", opts, err)
		}
		if err := s.Put(t.Context(), "a/b/c", strings.NewReader("x"), opts); err == nil || errors.Is(err, storage.ErrExist) {
			t.Errorf("put %+v below an object: got %v", opts, err)
		}
	}
	if got := names(t, root); !slices.Equal(got, []string{"a", "a/b"}) {
		t.Errorf("files: got %q", got)
	}
}

func TestLeftovers(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	mustPut(t, s, "a/b", "c/d/e", "c/f")
	for name, age := range map[string]time.Duration{
		".tmp-old~": 25 * time.Hour, "a/.tmp-old~": 25 * time.Hour, "a/.tmp-new~": 23 * time.Hour,
		"c/d/.tmp-old~": 25 * time.Hour, "a/.tmp-mine": 25 * time.Hour,
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.WriteFile(path, []byte("part"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := list(t.Context(), s, ""); err != nil || !slices.Equal(got, []storage.Key{"a/.tmp-mine", "a/b", "c/d/e", "c/f"}) {
		t.Errorf("list: got %q, %v", got, err)
	}
	s = open(t, root) // has seen none of the folders
	mustPut(t, s, "a/b")
	if err := s.Delete(t.Context(), "c/d/e"); err != nil {
		t.Fatal(err)
	}
	want := []string{"a", "a/.tmp-mine", "a/.tmp-new~", "a/b", "c", "c/f"}
	if got := names(t, root); !slices.Equal(got, want) {
		t.Errorf("files: got %q, want %q", got, want)
	}
}

// Two Stores over one folder know nothing of each other, as two processes.
func TestTwoStores(t *testing.T) {
	root := t.TempDir()
	stores := []*file.Store{open(t, root), open(t, root), open(t, root)}
	var wg sync.WaitGroup
	for i, s := range stores {
		for w := range 3 {
			wg.Go(func() {
				for n := range 40 {
					key := storage.Key(fmt.Sprintf("deep/er/%d-%d", i, w))
					if err := put(t.Context(), s, key, "x"); err != nil {
						t.Errorf("put %d: %v", n, err)
					}
					if got, err := get(t.Context(), stores[(i+1)%3], key); got != "x" || err != nil {
						t.Errorf("get: %q, %v", got, err)
					}
					if err := s.Delete(t.Context(), key); err != nil {
						t.Errorf("delete: %v", err)
					}
				}
			})
		}
	}
	wg.Wait()
	if got := names(t, root); len(got) > 0 {
		t.Errorf("left: %q", got)
	}

	var won atomic.Int32
	for range 4 {
		for _, s := range stores {
			wg.Go(func() {
				for n := range 50 {
					err := s.Put(t.Context(), storage.Key(fmt.Sprintf("race/%d", n)), strings.NewReader("x"), storage.PutOptions{IfAbsent: true})
					if err == nil {
						won.Add(1)
					} else if !errors.Is(err, storage.ErrExist) {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	if won.Load() != 50 {
		t.Errorf("puts if absent that won: got %d, want 50", won.Load())
	}
}

// A put if absent that meets an object which is deleted the next moment says
// ErrExist, and nothing else.
func TestIfAbsentBesideDelete(t *testing.T) {
	root := t.TempDir()
	stores := []*file.Store{open(t, root), open(t, root)}
	var wg sync.WaitGroup
	for w := range 8 {
		s := stores[w%2]
		wg.Go(func() {
			for range 150 {
				err := s.Put(t.Context(), "d/a", strings.NewReader("x"), storage.PutOptions{IfAbsent: true})
				if err != nil && !errors.Is(err, storage.ErrExist) {
					t.Error(err)
				}
				if err := s.Delete(t.Context(), "d/a"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := names(t, root); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}

const killVar = "FILE_TEST_KILL"

// TestKill starts itself, kills the child in the middle of its puts, and looks at
// what is there: objects are whole, and what was confirmed is there.
func TestKill(t *testing.T) {
	if root := os.Getenv(killVar); root != "" {
		putUntilKilled(t, root)
		return
	}
	root := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), killVar+"="+root)
		var out strings.Builder
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100*time.Millisecond + time.Duration(rnd.IntN(50_000))*time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
		checkKilled(t, root, strings.Fields(out.String()))
	}
}

func killBody(i int) string {
	return strings.Repeat(string(rune('a'+i%26)), 100_000+i)
}

// putUntilKilled prints each key that is confirmed.
func putUntilKilled(t *testing.T, root string) {
	s := open(t, root)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := storage.Key(fmt.Sprintf("d%d/%d-%d", i%3, w, i%20))
				if err := put(t.Context(), s, key, killBody(i)); err != nil {
					panic(err)
				}
				fmt.Println(key)
			}
		})
	}
	wg.Wait()
}

func checkKilled(t *testing.T, root string, confirmed []string) {
	t.Helper()
	s := open(t, root)
	keys, err := list(t.Context(), s, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		got, err := get(t.Context(), s, key)
		if err != nil {
			t.Fatal(err)
		}
		if got != killBody(len(got)-100_000) {
			t.Errorf("%s isn't whole: %d bytes", key, len(got))
		}
	}
	for _, line := range confirmed[:max(len(confirmed)-1, 0)] { // the last line may be cut
		if !slices.Contains(keys, storage.Key(line)) {
			t.Errorf("%s was confirmed and isn't there", line)
		}
	}
	if len(confirmed) == 0 {
		t.Log("killed before the first put was confirmed")
	}
}

func TestTempNamesAreNoKeys(t *testing.T) {
	f, err := durable.Create(filepath.Join(t.TempDir(), "a"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if name := filepath.Base(f.Name()); storage.Key(name).Valid() || !durable.IsTemp(name) {
		t.Errorf("temporary name %q: a valid key, or not known as temporary", name)
	}
}

// manyObjects is the number of objects in the large listings.
const manyObjects = 200_000

// BenchmarkList200k has one folder of all, and folders of about a thousand.
func BenchmarkList200k(b *testing.B) {
	for _, folders := range []int{1, 256} {
		b.Run(fmt.Sprintf("folders=%d", folders), func(b *testing.B) {
			root := b.TempDir()
			for i := range manyObjects {
				dir := filepath.Join(root, fmt.Sprintf("%02x", i%folders))
				if i < folders {
					if err := os.Mkdir(dir, 0o700); err != nil {
						b.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%032x", rand.Uint64())), nil, 0o600); err != nil {
					b.Fatal(err)
				}
			}
			s, err := file.Open(root)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.ReportAllocs()
			for b.Loop() {
				n, last := 0, storage.Key("")
				err := s.List(b.Context(), "", func(info storage.Info) error {
					if info.Key <= last {
						return fmt.Errorf("%s after %s", info.Key, last)
					}
					last = info.Key
					n++
					return nil
				})
				if err != nil || n != manyObjects {
					b.Fatalf("got %d objects, %v", n, err)
				}
			}
		})
	}
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{4 << 10, 8 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, err := file.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			body := strings.NewReader(strings.Repeat("x", size))
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				key := storage.Key(fmt.Sprintf("data/%02x/%d", i%256, i))
				if err := s.Put(b.Context(), key, body, storage.PutOptions{IfAbsent: true}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
