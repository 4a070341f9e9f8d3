//go:build !windows

package restore

import (
	"os"
	"os/exec"
	"syscall"
)

// detach makes a program outlive this one and its terminal, and run as own.
func detach(cmd *exec.Cmd, own owner) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if own.set && own.uid >= 0 {
		gid := own.gid
		if gid < 0 {
			gid = os.Getegid()
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(own.uid), Gid: uint32(gid)}
	}
}

// kill ends a detached program and what it started.
func kill(cmd *exec.Cmd) {
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
}
