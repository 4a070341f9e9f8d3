//go:build unix

package restore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/internal/restore"
)

// A directory gets its other name with all that is in it, and an empty one with its rights comes in its place; a name that is taken,
// and a volume of its own, stop it with nothing changed.
func TestAside(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	old := dir + ".before"
	must(t, os.MkdirAll(filepath.Join(dir, "shards"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "shards", "a.couch"), []byte("a"), 0o600))
	must(t, os.Chmod(dir, 0o710))
	must(t, restore.Aside(t.Context(), dir, old, ""))
	if b, err := os.ReadFile(filepath.Join(old, "shards", "a.couch")); err != nil || string(b) != "a" {
		t.Errorf("what was there: %q, %v", b, err)
	}
	list, err := os.ReadDir(dir)
	info, serr := os.Stat(dir)
	if err := errors.Join(err, serr); err != nil || len(list) > 0 || info.Mode().Perm() != 0o710 {
		t.Errorf("in its place: %v, %v, %v", list, info, err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "b.couch"), []byte("b"), 0o600))
	if err := restore.Aside(t.Context(), dir, old, ""); err == nil {
		t.Error("a name that is taken was given")
	}
	if _, err := os.Stat(filepath.Join(dir, "b.couch")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/proc/self"); err == nil {
		if err := restore.MayGoAside(t.Context(), "/proc"); !errors.Is(err, restore.ErrMounted) && !errors.Is(err, restore.ErrInUse) {
			t.Errorf("a volume of its own: %v", err)
		}
	}
}
