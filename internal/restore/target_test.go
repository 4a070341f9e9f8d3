package restore_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/slipcover/slipcover/internal/restore"
)

func mkfile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Skip(err)
	}
}

// A folder that is a link is refused before anything changes, and what is behind any
// link stays as it is.
func TestDeltaStaysInItsDirectory(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	const shard = "shards/00000000-7fffffff/attach.1795334389.couch"
	for _, folder := range []string{"shards", "shards/00000000-7fffffff", ".shards", ".shards/00000000-7fffffff/compacted.1795334420_design"} {
		t.Run(folder, func(t *testing.T) {
			dir, out := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "beside")
			mkfile(t, filepath.Join(dir, "_dbs.couch"), "old")
			for _, p := range []string{"newer.1800000000.couch", "00000000-7fffffff/newer.1800000000.couch", "attach.1795334389.couch", ".tmp-ABC~"} {
				mkfile(t, filepath.Join(out, p), "another's")
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, folder)), 0o755); err != nil {
				t.Fatal(err)
			}
			link(t, out, filepath.Join(dir, folder))
			beside := hashes(t, out)
			o := restore.Options{Repo: r, Record: rec, To: dir, Delta: true}
			if _, err := restore.Files(t.Context(), o); !errors.Is(err, restore.ErrLinked) {
				t.Errorf("got %v, want ErrLinked", err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 2 {
				t.Errorf("the target changed: %v, %v", entries, err)
			}
			sameFiles(t, hashes(t, out), beside)
		})
	}

	dir, out := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "beside")
	for _, p := range []string{"a.couch", "b.couch", "_dbs.couch", "folder/c.1800000000.couch"} {
		mkfile(t, filepath.Join(out, p), "another's")
	}
	mkfile(t, filepath.Join(dir, "shards/00000000-7fffffff/x"), "")
	link(t, filepath.Join(out, "a.couch"), filepath.Join(dir, shard))
	link(t, filepath.Join(out, "b.couch"), filepath.Join(dir, "shards/00000000-7fffffff/stray.1800000000.couch"))
	link(t, filepath.Join(out, "_dbs.couch"), filepath.Join(dir, "_dbs.couch"))
	link(t, filepath.Join(out, "folder"), filepath.Join(dir, "shards/folder"))
	link(t, dir, filepath.Join(dir, "shards/00000000-7fffffff/circle"))
	beside := hashes(t, out)
	res := files(t, restore.Options{Repo: r, Record: rec, To: dir, Delta: true})
	sameFiles(t, hashes(t, out), beside)
	if info, err := os.Lstat(filepath.Join(dir, shard)); err != nil || !info.Mode().IsRegular() || !res.OK() {
		t.Errorf("the shard: %v, %v; %+v", info, err, res)
	}
	if !slices.Contains(res.LeftAlone, filepath.Join(dir, "shards/folder")) {
		t.Errorf("left alone: %q", res.LeftAlone)
	}
}

// What the file system keeps at the top of a volume counts as nothing, and stays.
func TestFreshVolume(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	volume := func() string {
		dir := t.TempDir()
		for _, p := range []string{"lost+found", ".snapshot/hourly.0", ".zfs"} {
			if err := os.MkdirAll(filepath.Join(dir, p), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	there := func(dir string) {
		t.Helper()
		for _, p := range []string{"lost+found", ".snapshot/hourly.0", ".zfs"} {
			if info, err := os.Stat(filepath.Join(dir, p)); err != nil || !info.IsDir() {
				t.Errorf("%s: %v", p, err)
			}
		}
	}
	dir := volume()
	files(t, restore.Options{Repo: r, Record: rec, To: dir})
	there(dir)
	res := files(t, restore.Options{Repo: r, Record: rec, To: dir, Delta: true})
	if there(dir); len(res.LeftAlone) > 0 {
		t.Errorf("left alone: %q", res.LeftAlone)
	}

	dir = volume()
	mkfile(t, filepath.Join(dir, "lost+found", "#12"), "somebody's")
	if _, err := restore.Files(t.Context(), restore.Options{Repo: r, Record: rec, To: dir}); !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("with a file that was found again: %v", err)
	}

	if runtime.GOOS != "linux" {
		return // processes are told apart there only
	}
	dir = volume()
	o := restore.CreateOptions{Repo: r, Record: rec, Name: "a", Dir: dir}
	if _, err := restore.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	there(dir)
	if err := restore.Remove(t.Context(), dir); err != nil {
		t.Error(err)
	}
	there(dir)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 3 {
		t.Errorf("left: %v, %v", left, err)
	}
}
