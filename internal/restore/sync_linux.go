package restore

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// preallocateFrom is the size from which a file's space is asked for at once.
const preallocateFrom = 1 << 20

func preallocate(f *os.File, size int64) error {
	if size < preallocateFrom {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	if err == unix.ENOSPC || err == unix.EDQUOT || err == unix.EFBIG {
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil // the file system can't; writing finds the space
}

// batch makes all that was written since it was made durable with one call for
// each file system, in place of one for each file.
type batch struct {
	dirs map[uint64]*os.File // a folder on each file system, open since before the first write
}

// newBatch returns nil where syncfs doesn't report that writing back failed: it
// does since Linux 5.8, for failures since the descriptor was opened.
func newBatch() *batch {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return nil
	}
	major, minor := release(unix.ByteSliceToString(u.Release[:]))
	if major < 5 || major == 5 && minor < 8 {
		return nil
	}
	return &batch{dirs: map[uint64]*os.File{}}
}

func release(s string) (major, minor int) {
	a, rest, _ := strings.Cut(s, ".")
	b, _, _ := strings.Cut(rest, ".")
	major, _ = strconv.Atoi(a)
	minor, _ = strconv.Atoi(b)
	return major, minor
}

// add takes the file system that a folder is on into the batch. It must be
// called before anything is written there.
func (b *batch) add(dir string) error {
	if b == nil {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || b.dirs[st.Dev] != nil {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	b.dirs[st.Dev] = f
	return nil
}

// sync returns when all is on the disks.
func (b *batch) sync() error {
	for _, f := range b.dirs {
		if err := unix.Syncfs(int(f.Fd())); err != nil {
			return fmt.Errorf("sync the file system of %s: %w", f.Name(), err)
		}
	}
	return nil
}

func (b *batch) close() {
	if b == nil {
		return
	}
	for _, f := range b.dirs {
		_ = f.Close() // it was only read
	}
}
