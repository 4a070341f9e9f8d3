package restore

import (
	"os"
	"os/exec"
	"syscall"
)

const noFollow = 0

func detach(*exec.Cmd, owner) {}

func kill(cmd *exec.Cmd) { _ = cmd.Process.Kill() }

func signalGroup(pid int, _ syscall.Signal) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill() // it may have ended
	}
}

func ownerOf(string) (owner, error) { return owner{}, nil }
