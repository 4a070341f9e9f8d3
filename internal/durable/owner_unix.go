//go:build !windows

package durable

import (
	"os"
	"path/filepath"
	"syscall"
)

// Tests that aren't root take the call's place.
var (
	isRoot = func() bool { return os.Geteuid() == 0 }
	chown  = func(f *os.File, uid, gid int) error { return f.Chown(uid, gid) }
)

// adopt gives a file or folder that root has just made to whom the folder belongs that
// it is in: a command that is run once as root must not shut out the user whose files
// these are. It does nothing for other users, or in a folder of root's. What a file
// system refuses to give away, as NFS may, stays as it is. f must be new: one that was
// there could be a link to something that is not the user's.
//
// Good path: stat of the folder, fchown.
func adopt(f *os.File) {
	if !isRoot() {
		return
	}
	dir, err := os.Stat(filepath.Dir(f.Name()))
	if err != nil {
		return
	}
	if st, ok := dir.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
		_ = chown(f, int(st.Uid), int(st.Gid))
	}
}

// adoptDir is adopt for a folder. It is opened, and no link is followed: whoever owns
// the folder around it may have put something else in its place.
func adoptDir(path string) {
	if !isRoot() {
		return
	}
	d, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer d.Close()
	adopt(d)
}
