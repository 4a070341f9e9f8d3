//go:build !windows

package file_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
)

// A command that is run once as root must not shut the node's own user out of the
// repository.
func TestObjectsOfRootBelongToTheFoldersOwner(t *testing.T) {
	const uid, gid = 54321, 54322
	root := t.TempDir()
	if err := os.Chown(root, uid, gid); err != nil {
		t.Skip("only root can give files away: ", err)
	}
	s := open(t, root)
	for _, key := range []storage.Key{"top", "locks/n/1.json", "backups/n/x/record.jsonl"} {
		if err := s.Put(t.Context(), key, strings.NewReader("x"), storage.PutOptions{IfAbsent: key != "top"}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != uid || st.Gid != gid {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
		n++
		return nil
	})
	if err != nil || n != 9 {
		t.Errorf("%d files and folders, %v", n, err)
	}
}
