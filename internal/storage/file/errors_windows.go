package file

import (
	"errors"

	"golang.org/x/sys/windows"
)

func isAny(err error, errnos ...windows.Errno) bool {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func isFull(err error) bool {
	return isAny(err, windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

func isReadOnly(err error) bool { return isAny(err, windows.ERROR_WRITE_PROTECT) }

// A file where a folder is needed is ERROR_PATH_NOT_FOUND, which is fs.ErrNotExist.
func isNotDir(err error) bool { return isAny(err, windows.ERROR_DIRECTORY) }

func isUnavailable(err error) bool {
	return isAny(err, windows.ERROR_NOT_READY, windows.ERROR_BAD_NETPATH, windows.ERROR_BAD_NET_NAME, windows.ERROR_NETNAME_DELETED,
		windows.ERROR_DEV_NOT_EXIST, windows.ERROR_DEVICE_NOT_CONNECTED, windows.ERROR_NETWORK_UNREACHABLE, windows.ERROR_HOST_UNREACHABLE)
}
