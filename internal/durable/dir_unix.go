//go:build !windows

package durable

import (
	"errors"
	"os"
	"syscall"
)

func openDir(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
}

// syncOpenDir takes "this file system can't" for an answer: EINVAL and ENOTSUP come
// from network file systems that send each change to their server as it is made.
func syncOpenDir(d *os.File) error {
	err := d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}

func rename(from, to string) error { return os.Rename(from, to) }
