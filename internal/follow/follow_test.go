package follow_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/slipcover/slipcover/internal/follow"
)

// both runs a test with changes that are told and with changes that are looked for.
func both(t *testing.T, test func(t *testing.T, f func(follow.Options) *follow.Follower)) {
	t.Run("told", func(t *testing.T) {
		t.Parallel()
		test(t, func(o follow.Options) *follow.Follower { return start(t, o) })
	})
	t.Run("polled", func(t *testing.T) {
		t.Parallel()
		test(t, func(o follow.Options) *follow.Follower {
			f := startPolling(t, o)
			if got := f.Status().Polling; got == "" {
				t.Error("the status doesn't say that it polls")
			}
			return f
		})
	})
}

func TestFiles(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(follow.Options) *follow.Follower) {
		dir := t.TempDir()
		db := write(t, dir, "shards/00000000-ffffffff/db.1.couch")
		other := write(t, dir, "shards/00000000-ffffffff/other.1.couch")
		doomed := write(t, dir, "doomed.couch")
		write(t, dir, ".shards/x_design/mrview/a.couch")
		f := open(follow.Options{Dirs: []string{dir}})

		write(t, db)
		exactly(t, f, dir, db)
		write(t, dir, ".shards/x_design/mrview/a.couch")
		write(t, dir, "db.couch.compact.data")
		made := write(t, dir, "shards/00000000-ffffffff/made.1.couch")
		exactly(t, f, dir, made)
		remove(t, doomed)
		exactly(t, f, dir, doomed)

		// As a compaction ends.
		compact := write(t, db+".compact.data")
		trash := filepath.Join(mkdir(t, dir, ".delete"), "1f")
		rename(t, compact, db+".compact")
		rename(t, db, trash)
		rename(t, db+".compact", db)
		remove(t, trash)
		exactly(t, f, dir, db)

		rename(t, db, other)
		exactly(t, f, dir, db, other)
	})
}

// A database a/b/c is in folders that come and go with it.
func TestFolders(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(follow.Options) *follow.Follower) {
		dir := t.TempDir()
		shards := mkdir(t, dir, "shards/00000000-ffffffff")
		f := open(follow.Options{Dirs: []string{dir}})
		var paths []string
		for i := range 100 {
			paths = append(paths, write(t, shards, fmt.Sprintf("a%d/b/c/db.%d.couch", i%10, i)))
		}
		exactly(t, f, dir, paths...)
		for _, p := range paths {
			write(t, p)
		}
		exactly(t, f, dir, paths...)

		rename(t, filepath.Join(shards, "a0"), filepath.Join(shards, "z"))
		here, there := filepath.Join(shards, "a0/b/c/db.0.couch"), filepath.Join(shards, "z/b/c/db.0.couch")
		await(t, f, here, there)
		settle(t, f, dir)
		write(t, there)
		exactly(t, f, dir, there)

		remove(t, filepath.Join(shards, "a1"))
		await(t, f, filepath.Join(shards, "a1/b/c/db.1.couch"))
		again := write(t, shards, "a1/b/c/db.1.couch")
		await(t, f, again)
		write(t, again)
		await(t, f, again)

		// Another folder takes the place of one.
		write(t, dir, ".aside/b/c/db.7.couch")
		rename(t, filepath.Join(shards, "a2"), filepath.Join(dir, ".gone"))
		rename(t, filepath.Join(dir, ".aside"), filepath.Join(shards, "a2"))
		moved := filepath.Join(shards, "a2/b/c/db.7.couch")
		await(t, f, moved, filepath.Join(shards, "a2/b/c/db.2.couch"))
		write(t, moved)
		await(t, f, moved)
		if s := f.Status(); s.Polling == "" && s.Watches < 3 {
			t.Errorf("%+v", s)
		}
	})
}

// Folders and the files in them are made while nobody waits for anything.
func TestMadeAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := start(t, follow.Options{Dirs: []string{dir}})
	var paths []string
	for i := range 2000 {
		p := write(t, dir, fmt.Sprintf("a%d/b/c%d/db.couch", i%50, i))
		if i%3 == 0 {
			remove(t, filepath.Join(dir, fmt.Sprintf("a%d/b/c%d", i%50, i)))
		} else {
			paths = append(paths, p)
		}
	}
	await(t, f, paths...)
	for _, p := range paths {
		write(t, p)
	}
	await(t, f, paths...)
	if s := f.Status(); s.Polling != "" {
		t.Errorf("%+v", s)
	}
}

func TestRoots(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(follow.Options) *follow.Follower) {
		dir := t.TempDir()
		data, etc := mkdir(t, dir, "data"), filepath.Join(dir, "etc")
		db := write(t, data, "shards/a.couch")
		f := open(follow.Options{Dirs: []string{data, etc, data + "/"}})
		if got := f.Status().Missing; !slices.Equal(got, []string{etc}) {
			t.Errorf("missing: %q, want %q", got, etc)
		}
		ini := write(t, etc, "local.ini")
		await(t, f, ini)
		awaitStatus(t, f, "no folder is missing", func(s follow.Status) bool { return len(s.Missing) == 0 })

		for _, away := range []func(){
			func() { rename(t, data, filepath.Join(dir, "away")) },
			func() { rename(t, data, filepath.Join(dir, "empty")); mkdir(t, data) }, // a mount point
		} {
			away()
			await(t, f, db)
			awaitStatus(t, f, "the data is missing", func(s follow.Status) bool { return slices.Equal(s.Missing, []string{data}) })
			remove(t, data)
			write(t, db)
			await(t, f, db)
			awaitStatus(t, f, "the data is there again", func(s follow.Status) bool { return len(s.Missing) == 0 })
			write(t, db)
			await(t, f, db)
		}
	})
}

func TestLinks(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, open func(follow.Options) *follow.Follower) {
		dir := t.TempDir()
		real, disk2 := mkdir(t, dir, "real"), mkdir(t, dir, "disk2")
		write(t, disk2, "a.couch")
		write(t, real, "shards/loop.couch")
		mkdir(t, real, "shards/sub")
		for to, from := range map[string]string{
			"data": "real", "real/shards/range": disk2, "real/shards/sub/up": "../..", "real/nowhere": "nothing",
		} {
			if err := os.Symlink(from, filepath.Join(dir, to)); err != nil {
				t.Fatal(err)
			}
		}
		data := filepath.Join(dir, "data")
		f := open(follow.Options{Dirs: []string{data}})
		db := filepath.Join(data, "shards/range/a.couch")
		all, err := f.All(t.Context())
		if wanted := []string{filepath.Join(data, "shards/loop.couch"), db}; err != nil || !slices.Equal(all, wanted) {
			t.Errorf("got %q, %v; want %q", all, err, wanted)
		}
		write(t, db)
		exactly(t, f, data, db)

		// The range moves to another disk.
		disk3 := mkdir(t, dir, "disk3")
		write(t, disk3, "b.couch")
		link := filepath.Join(dir, "new")
		if err := os.Symlink(disk3, link); err != nil {
			t.Fatal(err)
		}
		rename(t, link, filepath.Join(data, "shards/range"))
		b := filepath.Join(data, "shards/range/b.couch")
		await(t, f, db, b)
		write(t, b)
		await(t, f, b)
	})
}

func TestAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	paths := []string{write(t, dir, "a/b.couch"), write(t, dir, "a.couch"), write(t, dir, "a/b/c.couch")}
	slices.Sort(paths)
	write(t, dir, "a/b.couch.compact.data")
	nowhere := filepath.Join(dir, "nowhere")
	f := start(t, follow.Options{Dirs: []string{dir, nowhere}})
	all, err := f.All(t.Context())
	if !slices.Equal(all, paths) {
		t.Errorf("got %q, want %q", all, paths)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder is missing, got %v", err)
	}
	if got := f.Take(); len(got) != 0 {
		t.Errorf("told: %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.All(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := follow.New(ctx, follow.Options{Dirs: []string{dir}}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if got := f.Take(); len(got) != 0 {
		t.Errorf("told: %q", got)
	}
}

// What was taken isn't told again by a look, however it was told.
func TestToldOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := write(t, dir, "a.couch"), write(t, dir, "b.couch")
	f := start(t, follow.Options{Dirs: []string{dir}})
	for range 3 {
		write(t, a)
		remove(t, b)
		c := write(t, dir, "c.couch")
		exactly(t, f, dir, a, b, c)
		remove(t, c)
		exactly(t, f, dir, c)
		write(t, b)
		exactly(t, f, dir, b)
		settle(t, f, dir)
		if _, err := f.All(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Take() {
			if !isMark(p) {
				t.Errorf("%s was told again", p)
			}
		}
	}
}
