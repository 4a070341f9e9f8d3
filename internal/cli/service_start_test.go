package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ended waits until a process ends by itself, and returns its exit code and its log.
func (p *process) ended() (code int, log string) {
	p.t.Helper()
	select {
	case <-p.gone:
	case <-time.After(patience):
		p.t.Errorf("%v does not end", p.args)
		p.kill()
	}
	b, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode(), string(b)
}

// TestServerEndsWhenItsAgentCannotStart: what fails inside a server that serves already
// ends it, and is told.
func TestServerEndsWhenItsAgentCannotStart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, log: filepath.Join(dir, "log"), env: []string{"SLIPCOVER_STATE_DIR=" + filepath.Join(dir, "state")},
		args: []string{"server", "--listen", fmt.Sprintf("127.0.0.1:%d", freePort(t)), "--with-agent", "--repo", filepath.Join(file, "repo")}}
	p.start()
	code, log := p.ended()
	if code <= 0 || !strings.Contains(log, "serving") || !strings.Contains(log, "slipcover: ") || !strings.Contains(log, filepath.Join(file, "repo")) {
		t.Errorf("it ended with code %d:\n%s", code, log)
	}
}
