package cache_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/cache"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
)

const blockSize = 512 << 10

func all(storage.Key) bool { return true }

func open(t *testing.T, s storage.Store, o cache.Options) storage.Store {
	t.Helper()
	if o.Immutable == nil {
		o.Immutable = all
	}
	c, err := cache.New(s, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContract(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Store { return open(t, mem.New(), cache.Options{Size: 4 << 20}) })
	})
	t.Run("folder", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Store {
			return open(t, mem.New(), cache.Options{Size: 4 << 20, Dir: filepath.Join(t.TempDir(), "a", "b")})
		})
	})
}

func put(t *testing.T, s storage.Store, key storage.Key, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	_, _ = rand.Read(b)
	if err := s.Put(t.Context(), key, bytes.NewReader(b), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	return b
}

func get(ctx context.Context, s storage.Store, key storage.Key, off, n int64) (b []byte, err error) {
	err = s.Get(ctx, key, off, n, func(r io.Reader) (err error) {
		b, err = io.ReadAll(r)
		return err
	})
	return b, err
}

func wantGet(t *testing.T, s storage.Store, key storage.Key, off, n int64, object []byte) {
	t.Helper()
	got, err := get(t.Context(), s, key, off, n)
	from := min(off, int64(len(object)))
	if want := object[from:min(from+n, int64(len(object)))]; err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s from %d, %d bytes: got %d bytes, %v, want %d", key, off, n, len(got), err, len(want))
	}
}

func reads(f *faulty.Store) int { _, n := f.Calls(); return n }

// Any range of any object is what it is, and costs a request for each block once.
func TestRanges(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		f := faulty.New(mem.New(), nil)
		s := open(t, f, cache.Options{Size: 64 << 20, Dir: dir})
		objects := map[storage.Key][]byte{}
		blocks := 0
		for i, size := range []int{1, 1000, blockSize - 1, blockSize, blockSize + 1, 2 * blockSize, 5*blockSize + 77} {
			key := storage.Key(fmt.Sprintf("o%d", i))
			objects[key] = put(t, f, key, size)
			blocks += (size + blockSize - 1) / blockSize
		}
		rnd := mathrand.New(mathrand.NewPCG(1, 2))
		for range 60 {
			for key, b := range objects {
				wantGet(t, s, key, rnd.Int64N(int64(len(b))), 1+rnd.Int64N(1<<20), b)
			}
		}
		// A range that ends behind an object that fills its last block asks for one more.
		behind := 2 * 60
		if n := reads(f); n < blocks || n > blocks+behind {
			t.Errorf("dir %q: %d requests for %d blocks", dir, n, blocks)
		}
		before := reads(f)
		for key, b := range objects {
			for off := int64(0); off < int64(len(b)); off += 50_000 {
				wantGet(t, s, key, off, min(50_000, int64(len(b))-off), b)
			}
		}
		if n := reads(f); n != before {
			t.Errorf("dir %q: %d requests for what was read before", dir, n-before)
		}
	}
}

// Blocks that lie next to each other are asked for together, but for those that are there.
func TestRuns(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		f := faulty.New(mem.New(), nil)
		b := put(t, f, "a", 7*blockSize+5)
		s := open(t, f, cache.Options{Size: 64 << 20, Dir: dir, Immutable: func(storage.Key) bool { return true }})
		for i, r := range []struct{ off, n, want int64 }{
			{10, 3*blockSize - 20, 1},          // 0 to 2
			{5, 2 * blockSize, 1},              // all there
			{4 * blockSize, 10, 2},             // 4
			{2 * blockSize, 5 * blockSize, 4},  // 3, and 5 and 6
			{6 * blockSize, 8 * blockSize, 5},  // 7, which is the last
			{5 * blockSize, 3 * blockSize, 5},  // all there, and the end
			{5 * blockSize, blockSize + 10, 5}, // all there
		} {
			wantGet(t, s, "a", r.off, r.n, b)
			if got := reads(f); int64(got) != r.want {
				t.Errorf("dir %q, range %d: %d requests, want %d", dir, i, got, r.want)
			}
		}
	}
}

func TestPassesBy(t *testing.T) {
	f := faulty.New(mem.New(), nil)
	b := put(t, f, "segments/a", 5<<20)
	c := put(t, f, "locks/a", 1000)
	s := open(t, f, cache.Options{Size: 64 << 20, Immutable: func(k storage.Key) bool { return strings.HasPrefix(string(k), "segments/") }})
	for range 3 {
		wantGet(t, s, "segments/a", 0, 5<<20, b)
		wantGet(t, s, "locks/a", 0, 1000, c)
		if got, err := get(t.Context(), s, "segments/a", 5, -1); err != nil || !bytes.Equal(got, b[5:]) {
			t.Errorf("to its end: %d bytes, %v", len(got), err)
		}
	}
	if n := reads(f); n != 9 {
		t.Errorf("%d requests, want 9: whole objects, and those that may change, aren't kept", n)
	}
	if got := open(t, f, cache.Options{}); got != storage.Store(f) {
		t.Errorf("without a size: got %T", got)
	}
}

func TestErrors(t *testing.T) {
	fail := true
	f := faulty.New(mem.New(), func(op faulty.Op) faulty.Action {
		if fail {
			return faulty.CutMidBody(10)
		}
		return faulty.Action{}
	})
	s := open(t, f, cache.Options{Size: 64 << 20})
	if _, err := get(t.Context(), s, "a", 0, 10); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("not there: %v", err)
	}
	b := put(t, f, "a", 1000)
	if _, err := get(t.Context(), s, "a", 0, 10); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("cut: %v", err)
	}
	fail = false
	wantGet(t, s, "a", 0, 1000, b)
	own := errors.New("the caller's own")
	if err := s.Get(t.Context(), "a", 0, 10, func(io.Reader) error { return own }); err != own {
		t.Errorf("fn's error came back as %v", err)
	}
}

// Those who want a block that is being read wait for it; when its reader is
// cancelled, another one of them reads it.
func TestSharedReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := faulty.New(mem.New(), func(op faulty.Op) faulty.Action {
			if op.Kind == faulty.Get {
				return faulty.Stall(release)
			}
			return faulty.Action{}
		})
		b := put(t, f, "a", 1000)
		s := open(t, f, cache.Options{Size: 64 << 20})
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { _, err := get(ctx, s, "a", 0, 10); first <- err }()
		synctest.Wait()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { wantGet(t, s, "a", int64(i), 10, b) })
		}
		short, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		if _, err := get(short, s, "a", 0, 10); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who waits only a second: %v", err)
		}
		if n := reads(f); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the cancelled reader: %v", err)
		}
		synctest.Wait()
		if n := reads(f); n != 2 {
			t.Errorf("after the cancel %d requests, want 2", n)
		}
		close(release)
		wg.Wait()
		if n := reads(f); n != 2 {
			t.Errorf("in the end %d requests, want 2", n)
		}
	})
}

// What was used last stays.
func TestBounded(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		t.Run("dir="+filepath.Base(dir), func(t *testing.T) {
			f := faulty.New(mem.New(), nil)
			b := put(t, f, "a", 40*blockSize)
			s := open(t, f, cache.Options{Size: 8 << 20, Dir: dir}) // 15 blocks or so
			touch := func(block int64) bool {
				before := reads(f)
				wantGet(t, s, "a", block*blockSize, 100, b)
				return reads(f) > before
			}
			for i := range int64(40) {
				touch(i)
				if i%3 == 0 {
					touch(0)
				}
				if dir != "" {
					// The times of files are those of the kernel's clock, some ms apart.
					if size := sizeOf(t, dir); size > 8<<20+blockSize {
						t.Fatalf("%d bytes in the folder", size)
					}
				}
			}
			if touch(39) || touch(0) {
				t.Error("a block that was used last was forgotten")
			}
			if !touch(1) {
				t.Error("nothing was forgotten")
			}
		})
	}
}

func sizeOf(t *testing.T, dir string) (size int64) {
	t.Helper()
	for _, path := range files(t, dir) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}

func files(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// at is a store at another place.
type at struct {
	storage.Store
	url string
}

func (a at) URL() string { return a.url }

func TestFolderOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	f := faulty.New(mem.New(), nil)
	b := put(t, f, "a", 3*blockSize)
	read := func(s storage.Store) int {
		before := reads(f)
		for i := range int64(3) {
			wantGet(t, s, "a", i*blockSize+7, 100, b)
		}
		return reads(f) - before
	}
	o := cache.Options{Size: 64 << 20, Dir: dir}
	if n := read(open(t, f, o)); n != 3 {
		t.Fatalf("at first %d requests", n)
	}
	if n := read(open(t, f, o)); n != 0 {
		t.Errorf("again: %d requests", n)
	}
	if n := read(open(t, at{f, "mem://elsewhere"}, o)); n != 3 {
		t.Errorf("of another storage: %d requests", n)
	}
	for name, harm := range map[string]func(paths []string) error{
		"torn":    func(p []string) error { return os.Truncate(p[0], 1000) },
		"emptied": func(p []string) error { return os.Truncate(p[0], 0) },
		"headed":  func(p []string) error { return os.Truncate(p[0], 32) },
		"flipped": func(p []string) error {
			return change(p[0], func(b []byte) { b[len(b)/2] ^= 1 })
		},
		"swapped":   func(p []string) error { return os.Rename(p[1], p[0]) },
		"removed":   func(p []string) error { return os.Remove(p[0]) },
		"unmounted": func([]string) error { return os.RemoveAll(dir) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, f, o)
			read(s)
			if err := harm(files(t, dir)); err != nil {
				t.Fatal(err)
			}
			before := read(s)         // checks the bytes
			if n := read(s); n != 0 { // and they are kept again
				t.Errorf("then %d requests", n)
			}
			// Of six files, three belong to the other storage.
			if name == "unmounted" && before != 3 {
				t.Errorf("%d requests, want 3", before)
			}
		})
	}
}

func change(path string, fn func([]byte)) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fn(b)
	return os.WriteFile(path, b, 0o600)
}

// Each harm is to a file of this storage: no other is in the folder.
func TestHarmIsNoticed(t *testing.T) {
	for name, fn := range map[string]func([]byte){
		"checksum": func(b []byte) { b[0] ^= 1 },
		"first":    func(b []byte) { b[32] ^= 1 },
		"last":     func(b []byte) { b[len(b)-1] ^= 1 },
	} {
		dir := t.TempDir()
		f := faulty.New(mem.New(), nil)
		b := put(t, f, "a", 1000)
		s := open(t, f, cache.Options{Size: 64 << 20, Dir: dir})
		wantGet(t, s, "a", 0, 1000, b)
		p := files(t, dir)
		if len(p) != 1 {
			t.Fatalf("files: %q", p)
		}
		if err := change(p[0], fn); err != nil {
			t.Fatal(err)
		}
		wantGet(t, s, "a", 0, 1000, b)
		if n := reads(f); n != 2 {
			t.Errorf("%s: %d requests, want 2", name, n)
		}
	}
}

func TestFolderIsTidied(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * time.Hour)
	write := func(name string, when time.Time) string {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
		return path
	}
	paths := map[string]string{
		"kept":      write("ab/"+strings.Repeat("0", 62), time.Now()),
		"forgotten": write("ac/"+strings.Repeat("1", 62), old),
		"crashed":   write("ab/new-123", old),
		"writing":   write("ab/new-456", time.Now()),
		"others'":   write("ab/notes.txt", old),
		"others' 2": write("photos/"+strings.Repeat("2", 62), old),
	}
	open(t, mem.New(), cache.Options{Size: 3 << 19, Dir: dir})
	for what, path := range paths {
		_, err := os.Stat(path)
		if gone := errors.Is(err, fs.ErrNotExist); gone != (what == "forgotten" || what == "crashed") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestFolderThatCantBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := cache.New(mem.New(), cache.Options{Size: 1 << 20, Dir: filepath.Join(file, "x"), Immutable: all}); err == nil || s != nil || !strings.Contains(err.Error(), "folder of the cache") {
		t.Errorf("got %v, %v", s, err)
	}
	// One that can't be written any more costs nothing but requests.
	dir := filepath.Join(t.TempDir(), "d")
	f := faulty.New(mem.New(), nil)
	b := put(t, f, "a", 1000)
	s := open(t, f, cache.Options{Size: 1 << 20, Dir: dir})
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantGet(t, s, "a", 0, 10, b)
	wantGet(t, s, "a", 0, 10, b)
	if n := reads(f); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

// Many goroutines over two caches in one folder, which hardly holds anything.
func TestSharedFolder(t *testing.T) {
	dir := t.TempDir()
	under := mem.New()
	b := put(t, under, "a", 20*blockSize)
	o := cache.Options{Size: 3 << 20, Dir: dir}
	stores := []storage.Store{open(t, under, o), open(t, under, o)}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rnd := mathrand.New(mathrand.NewPCG(uint64(w), 3))
			for range 50 {
				wantGet(t, stores[w%2], "a", rnd.Int64N(int64(len(b))), 1+rnd.Int64N(100_000), b)
			}
		})
	}
	wg.Wait()
	if size := sizeOf(t, dir); size > 4<<20 {
		t.Errorf("%d bytes in the folder", size)
	}
}

// What it is for: age decrypts in chunks of 64 KiB, one request each.
func TestRequestsOfEncryptedReads(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, 4<<20)
	_, _ = rand.Read(plain)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	requests := map[bool]int{}
	for _, cached := range []bool{false, true} {
		f := faulty.New(mem.New(), nil)
		if err := f.Put(t.Context(), "a", bytes.NewReader(sealed.Bytes()), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		var s storage.Store = f
		if cached {
			s = open(t, f, cache.Options{Size: 64 << 20})
		}
		r, _, err := age.DecryptReaderAt(readerAt{t.Context(), s}, int64(sealed.Len()), id)
		if err != nil {
			t.Fatal(err)
		}
		for off := 1_000_000; off < 2_500_000; off += 300_000 { // five compressed frames
			got := make([]byte, 300_000)
			if _, err := r.ReadAt(got, int64(off)); err != nil || !bytes.Equal(got, plain[off:off+len(got)]) {
				t.Fatalf("decrypted wrongly: %v", err)
			}
		}
		requests[cached] = reads(f)
	}
	t.Logf("requests for five frames of 300,000 bytes: %d, with the cache %d", requests[false], requests[true])
	if requests[true] > 7 || requests[false] < 3*requests[true] {
		t.Errorf("requests: %d, with the cache %d", requests[false], requests[true])
	}
}

type readerAt struct {
	ctx context.Context
	s   storage.Store
}

func (r readerAt) ReadAt(p []byte, off int64) (n int, err error) {
	b, err := get(r.ctx, r.s, "a", off, int64(len(p)))
	if n = copy(p, b); err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}
