//go:build !windows

package file

import (
	"errors"
	"syscall"
)

func isAny(err error, errnos ...syscall.Errno) bool {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func isFull(err error) bool { return isAny(err, syscall.ENOSPC, syscall.EDQUOT) }

func isReadOnly(err error) bool { return isAny(err, syscall.EROFS) }

func isNotDir(err error) bool { return isAny(err, syscall.ENOTDIR) }

// isUnavailable is about disks that went away (ENXIO, ENODEV), servers of network
// file systems (ESTALE and the rest), and processes of FUSE (ENOTCONN).
// EIO isn't there: a bad block in one file is no reason to wait for the storage.
func isUnavailable(err error) bool {
	return isAny(err, syscall.ENXIO, syscall.ENODEV, syscall.ESTALE, syscall.ENOTCONN, syscall.ETIMEDOUT,
		syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.ENETUNREACH, syscall.ESHUTDOWN)
}
