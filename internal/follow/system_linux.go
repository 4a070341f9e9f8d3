package follow

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// isNetwork says whether a folder is on a file system that others may write to: inotify
// tells what this machine does.
//
// Source: Linux, include/uapi/linux/magic.h, and the sources of those that aren't there.
func isNetwork(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return false
	}
	switch uint32(st.Type) {
	case 0x6969, // NFS
		0x517B, 0xFF534D42, 0xFE534D42, // SMB, CIFS, SMB 2
		0x65735546,             // FUSE, virtiofs
		0x01021997,             // 9P
		0x00C36400,             // Ceph
		0x0BD00BD0,             // Lustre
		0x01161970,             // GFS2
		0x7461636F,             // OCFS2
		0x47504653,             // GPFS
		0x5346414F, 0x6B414653, // AFS
		0x73757245,                         // Coda
		0x19830326,                         // BeeGFS
		0xBACBACBC, 0x786F4256, 0x7C7C6673: // shared folders of VMware, VirtualBox, Parallels
		return true
	}
	return false
}

// identOf returns which folder a path leads to; nothing if there is none.
func identOf(path string) ident {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ident{}
	}
	return ident{uint64(st.Dev), st.Ino}
}

// stopwatch returns a function that says the processor time that this goroutine took
// since, and the time. The goroutine stays on its thread in between.
func stopwatch() func() (cpu, took time.Duration) {
	runtime.LockOSThread()
	start, from := time.Now(), threadTime()
	return func() (cpu, took time.Duration) {
		defer runtime.UnlockOSThread()
		took = time.Since(start)
		if from == 0 {
			return took, took
		}
		return threadTime() - from, took
	}
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
