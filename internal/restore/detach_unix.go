//go:build !windows

package restore

import (
	"os"
	"os/exec"
	"syscall"
)

// noFollow makes the opening of a symbolic link fail.
const noFollow = syscall.O_NOFOLLOW

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

// kill ends a detached program that was not waited for, and what it started.
func kill(cmd *exec.Cmd) { signalGroup(cmd.Process.Pid, syscall.SIGKILL) }

// signalGroup signals a detached program and what it started.
func signalGroup(pid int, sig syscall.Signal) {
	_ = syscall.Kill(-pid, sig) // it may have ended
}

// ownerOf returns the owner of a directory, if this process may run programs as others.
func ownerOf(dir string) (owner, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return owner{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || st.Uid == 0 {
		return owner{}, nil
	}
	return owner{set: true, uid: int(st.Uid), gid: int(st.Gid)}, nil
}
