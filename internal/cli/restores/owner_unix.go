//go:build !windows

package restores

import (
	"fmt"
	"os"
	"syscall"
)

// ownerOf returns whose a file is, as --owner has it; ok if this process can make such files.
func ownerOf(path string) (owner string, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return "", false
	}
	st, is := info.Sys().(*syscall.Stat_t)
	if !is {
		return "", false
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid), os.Geteuid() == 0 || os.Geteuid() == int(st.Uid)
}
