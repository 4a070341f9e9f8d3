//go:build unix && !aix

package follow

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
)

// printAt returns 8 bytes that are others when the size, a time or the inode of a file
// is another one; 0 if there is no such file. Links are followed.
func printAt(dir *os.File, name string) (uint64, error) {
	print, err := stat(int(dir.Fd()), name)
	if err != nil {
		return unreadable, &fs.PathError{Op: "stat", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	return print, nil
}

// printOf is printAt by path.
func printOf(path string) uint64 {
	print, err := stat(unix.AT_FDCWD, path)
	if err != nil {
		return unreadable
	}
	return print
}

func stat(dir int, name string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, 0)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fstatat(dir, name, &st, 0)
	}
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return 0, nil
	case err != nil:
		return 0, err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, nil
	}
	var p [40]byte
	b := binary.LittleEndian
	b.PutUint64(p[0:], uint64(st.Size))
	b.PutUint64(p[8:], uint64(st.Mtim.Nano()))
	b.PutUint64(p[16:], uint64(st.Ctim.Nano()))
	b.PutUint64(p[24:], uint64(st.Ino))
	b.PutUint64(p[32:], uint64(st.Dev))
	return max(unreadable+1, xxh3.Hash(p[:])), nil
}
