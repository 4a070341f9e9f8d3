//go:build !windows

package durable

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// What root makes belongs to the owner of the folder it is in. Where the test isn't
// root, it sees to whom it would have been given.
func TestRootMakesWhatBelongsToTheFoldersOwner(t *testing.T) {
	dir := t.TempDir()
	uid, gid := os.Getuid(), os.Getgid()
	var given []string
	if uid == 0 {
		uid, gid = 54321, 54322
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Skip("this root may not give files away: ", err)
		}
	}
	isRoot, chown = func() bool { return true }, func(f *os.File, u, g int) error {
		if u != uid || g != gid {
			t.Errorf("%s is given to %d:%d, want %d:%d", f.Name(), u, g, uid, gid)
		}
		given = append(given, filepath.Base(f.Name()))
		return f.Chown(u, g)
	}
	t.Cleanup(func() {
		isRoot, chown = func() bool { return os.Geteuid() == 0 }, func(f *os.File, u, g int) error { return f.Chown(u, g) }
	})
	if err := MkdirAll(filepath.Join(dir, "a/b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "a/b/c"), 0o600, writeText("x")); err != nil {
		t.Fatal(err)
	}
	f, err := Open(filepath.Join(dir, "a/log"), os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, name := range []string{"a", "a/b", "a/b/c", "a/log"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != uid || int(st.Gid) != gid {
			t.Errorf("%s belongs to %d:%d, want %d:%d", name, st.Uid, st.Gid, uid, gid)
		}
	}
	if len(given) != 4 {
		t.Errorf("given away: %q", given)
	}

	// What was there is not given away: it may be a link to another's file.
	given = nil
	if err := os.Symlink(filepath.Join(dir, "a/b/c"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/log", "link"} {
		f, err := Open(filepath.Join(dir, name), os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if len(given) > 0 {
		t.Errorf("given away though they were there: %q", given)
	}
}
