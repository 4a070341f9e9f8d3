//go:build unix

package bus

import (
	"errors"
	"os"
	"syscall"
)

// lockFile locks an open file until it is closed; locked says that another
// process has it. Where the file system can't lock, nothing is locked.
func lockFile(f *os.File) (locked bool) {
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}
