package restore

import "os/exec"

func detach(*exec.Cmd, owner) {}

func kill(cmd *exec.Cmd) { _ = cmd.Process.Kill() }
