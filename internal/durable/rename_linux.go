package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// renameNew renames unless to exists. EINVAL is the answer of file systems without
// that flag, ENOSYS of kernels without the call (and of filters around it).
func renameNew(from, to string) error {
	for {
		err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.EINVAL, unix.ENOSYS, unix.ENOTSUP:
			return linkNew(from, to)
		default:
			return &os.LinkError{Op: "renameat2", Old: from, New: to, Err: err}
		}
	}
}
