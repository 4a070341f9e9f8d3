package clitest

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/slipcover/slipcover/internal/testenv"
)

// Process is a server or an agent: the real program in a process of its own.
type Process struct {
	T    testenv.TB
	Args []string
	Env  []string // beside what all such processes have
	Log  string   // the file that has its output
	Cmd  *exec.Cmd
	Gone chan struct{} // closed when it has ended
}

// NewProcess is a process that isn't started yet.
func NewProcess(t testenv.TB, env []string, args ...string) *Process {
	t.Helper()
	return &Process{T: t, Args: args, Env: env, Log: filepath.Join(t.TempDir(), "log")}
}

// Start begins the process; after its end again, with the same arguments.
func (p *Process) Start() {
	p.T.Helper()
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.T.Fatalf("log of %v: %v", p.Args, err)
	}
	defer log.Close()
	p.Cmd = exec.Command("slipcover", p.Args...)
	p.Cmd.Stdout, p.Cmd.Stderr = log, log
	p.Cmd.Env = append(testenv.Environ(), append([]string{"SLIPCOVER_CONFIG=" + os.DevNull}, p.Env...)...)
	if err := p.Cmd.Start(); err != nil {
		p.T.Fatalf("start %v: %v", p.Args, err)
	}
	p.Gone = make(chan struct{})
	go func() { _ = p.Cmd.Wait(); close(p.Gone) }()
}

// Kill ends it without a word.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill()
	<-p.Gone
}

// Stop ends it in order.
func (p *Process) Stop() {
	_ = p.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.Gone:
	case <-time.After(Patience):
		_ = p.Cmd.Process.Signal(syscall.SIGQUIT) // writes what it waits for into the log
		<-p.Gone
		p.Show()
		p.T.Fatalf("%v did not end", p.Args)
	}
}

// Show writes the end of its log into the test's.
func (p *Process) Show() {
	b, _ := os.ReadFile(p.Log)
	p.T.Logf("log of %v:\n%s", p.Args, b[max(0, len(b)-40_000):])
}

// FreePort is testenv.FreePort.
func FreePort(t testenv.TB) int {
	t.Helper()
	port, err := testenv.FreePort()
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	return port
}
