//go:build !windows

package web_test

import (
	"syscall"
	"time"
)

// cpuTime is the time of processors that the process has used; 0 where that isn't told.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
