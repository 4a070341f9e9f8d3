package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// renameNew renames unless to exists. ENOTSUP is the answer of file systems without
// that flag.
func renameNew(from, to string) error {
	for {
		err := unix.RenamexNp(from, to, unix.RENAME_EXCL)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.EINVAL, unix.ENOSYS, unix.ENOTSUP:
			return linkNew(from, to)
		default:
			return &os.LinkError{Op: "renamex_np", Old: from, New: to, Err: err}
		}
	}
}
