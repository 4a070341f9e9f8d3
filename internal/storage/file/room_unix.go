//go:build !windows

package file

import "golang.org/x/sys/unix"

// room is that for users other than root below a folder.
func room(path string) (free, total int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks-s.Bfree)*int64(s.Bsize) + int64(s.Bavail)*int64(s.Bsize), nil //nolint:unconvert // the types differ between systems
}
