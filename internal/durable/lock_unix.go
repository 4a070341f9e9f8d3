//go:build unix

package durable

import (
	"errors"
	"os"
	"syscall"
)

// TryLock locks an open file until it is closed; locked says that another process, or another
// opening of it, has the lock. Where the file system can't lock, nothing is locked.
func TryLock(f *os.File) (locked bool) {
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}
