//go:build unix

package testenv

import (
	"os/exec"
	"syscall"
)

// ownGroup makes the child the leader of a new process group.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killGroup ends the child and all that it started, and nothing else.
func killGroup(cmd *exec.Cmd) {
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
}
