package follow_test

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/follow"
	"github.com/slipcover/slipcover/internal/testenv"
)

// Whatever happens to files and folders: what differs is told, and what nobody touched
// isn't.
func TestHistory(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(follow.Options) *follow.Follower) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		h := &history{t: t, rand: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir()}
		for range 30 {
			h.step()
		}
		f := open(follow.Options{Dirs: []string{h.dir}, Poll: time.Hour})
		before := h.state()
		for range testenv.Rounds(40) {
			h.last, h.touched, h.moves = h.touched, map[string]bool{}, nil
			for range 1 + h.rand.IntN(40) {
				h.step()
			}
			after := h.state()
			told := settle(t, f, h.dir)
			maps.Copy(told, await(t, f, slices.DeleteFunc(differences(before, after), func(p string) bool { return told[p] })...))
			for path := range told {
				if !h.touched[path] && !h.last[path] && !isMark(path) {
					t.Errorf("%s was told, and nobody touched it", path)
				}
			}
			before = after
		}
		all, err := f.All(t.Context())
		if wanted := slices.Sorted(maps.Keys(before)); err != nil || !slices.Equal(all, wanted) {
			t.Errorf("all: %q, %v; want %q", all, err, wanted)
		}
	})
}

type history struct {
	t             *testing.T
	rand          *rand.Rand
	dir           string
	touched, last map[string]bool // in this round and the one before
	moves         [][2]string     // of folders in this round, from and to
}

// state returns how all wanted files are.
func (h *history) state() map[string]string {
	files := map[string]string{}
	err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && !want(path, true) {
			return fs.SkipDir
		}
		if info, err := d.Info(); err == nil && !d.IsDir() && want(path, false) {
			files[path] = fmt.Sprintf("%d %v %+v", info.Size(), info.ModTime(), info.Sys())
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return files
}

func differences(a, b map[string]string) []string {
	var paths []string
	for path, was := range a {
		if b[path] != was {
			paths = append(paths, path)
		}
	}
	for path := range b {
		if a[path] == "" {
			paths = append(paths, path)
		}
	}
	return paths
}

func (h *history) path(ext string) string {
	parts := []string{h.dir}
	for range h.rand.IntN(4) {
		parts = append(parts, string(rune('a'+h.rand.IntN(3))))
	}
	return filepath.Join(filepath.Join(parts...), string(rune('a'+h.rand.IntN(3)))+ext)
}

// touch notes that something happened to files. What is in a folder that was moved may be
// told by its old name until the move is noticed.
func (h *history) touch(paths ...string) {
	for _, path := range paths {
		names := []string{path}
		for _, move := range slices.Backward(h.moves) {
			for _, name := range names {
				if rest, ok := strings.CutPrefix(name, move[1]+"/"); ok {
					names = append(names, filepath.Join(move[0], rest))
				}
			}
		}
		for _, name := range names {
			h.touched[name] = true
		}
	}
}

// below touches all wanted files below a folder, as if it were at another place.
func (h *history) below(dir, as string) {
	for path := range h.state() {
		if rest, ok := strings.CutPrefix(path, dir+"/"); ok {
			h.touch(filepath.Join(as, rest))
		}
	}
}

func (h *history) step() {
	if h.touched == nil {
		h.touched = map[string]bool{}
	}
	path := h.path(".couch")
	switch n := h.rand.IntN(12); {
	case n < 5:
		h.touch(write(h.t, path))
	case n == 5:
		h.touch(path)
		remove(h.t, path)
	case n == 6: // a compaction
		h.touch(path)
		write(h.t, path)
		rename(h.t, write(h.t, path+".compact"), path)
	case n == 7:
		to := h.path(".couch")
		h.touch(write(h.t, path), to)
		mkdir(h.t, filepath.Dir(to))
		rename(h.t, path, to)
	case n == 8:
		write(h.t, h.dir, ".shards", "x.couch")
	case n == 9:
		dir := h.path("")
		h.below(dir, dir)
		remove(h.t, dir)
	default:
		h.move(h.path(""), h.path(""))
	}
}

// move renames a folder, if that can be.
func (h *history) move(from, to string) {
	_, err := os.Stat(from)
	if err != nil || from == to || strings.HasPrefix(to, from+"/") || strings.HasPrefix(from, to+"/") {
		return
	}
	h.below(to, to)
	h.below(from, from)
	h.below(from, to)
	remove(h.t, to)
	mkdir(h.t, filepath.Dir(to))
	rename(h.t, from, to)
	h.moves = append(h.moves, [2]string{from, to})
}
