package durable

import (
	"os"

	"golang.org/x/sys/windows"
)

// A folder can't be synced on Windows: no handle, nothing to do.
func openDir(path string) (*os.File, error) {
	_, err := os.Stat(path)
	return nil, err
}

func syncOpenDir(*os.File) error { return nil }

// rename and renameNew return when the rename is on the disk, in place of the
// sync of the folder.
func rename(from, to string) error {
	return moveFile(from, to, windows.MOVEFILE_REPLACE_EXISTING|windows.MOVEFILE_WRITE_THROUGH)
}

func renameNew(from, to string) error {
	return moveFile(from, to, windows.MOVEFILE_WRITE_THROUGH)
}

func moveFile(from, to string, flags uint32) error {
	f, err := windows.UTF16PtrFromString(from)
	if err != nil {
		return &os.LinkError{Op: "movefile", Old: from, New: to, Err: err}
	}
	t, err := windows.UTF16PtrFromString(to)
	if err != nil {
		return &os.LinkError{Op: "movefile", Old: from, New: to, Err: err}
	}
	if err := windows.MoveFileEx(f, t, flags); err != nil {
		return &os.LinkError{Op: "movefile", Old: from, New: to, Err: err}
	}
	return nil
}
