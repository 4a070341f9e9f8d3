//go:build !windows

package takeout

import (
	"os"
	"syscall"
)

// giveLike gives a file or folder to whom another one belongs, if this process may.
func giveLike(path, like string) error {
	info, err := os.Lstat(like)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return os.Lchown(path, int(st.Uid), int(st.Gid))
}
