//go:build !unix || aix

package follow

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zeebo/xxh3"
)

// printAt returns 8 bytes that are others when the size or the time of a file is
// another one; 0 if there is no such file. Links are followed.
func printAt(dir *os.File, name string) (uint64, error) {
	return stat(filepath.Join(dir.Name(), name))
}

// printOf is printAt by path.
func printOf(path string) uint64 {
	print, _ := stat(path) // what it is then stands for the error
	return print
}

func stat(path string) (uint64, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return unreadable, err
	case !info.Mode().IsRegular():
		return 0, nil
	}
	var p [16]byte
	binary.LittleEndian.PutUint64(p[0:], uint64(info.Size()))
	binary.LittleEndian.PutUint64(p[8:], uint64(info.ModTime().UnixNano()))
	return max(unreadable+1, xxh3.Hash(p[:])), nil
}
