//go:build unix

package stories_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// process is a server or an agent: the real program in a process of its own.
type process struct {
	t    testing.TB
	args []string
	env  []string
	log  string
	cmd  *exec.Cmd
	gone chan struct{}
}

func newProcess(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	return &process{t: t, args: args, env: env, log: filepath.Join(t.TempDir(), "log")}
}

// start begins the process; after its end again, with the same arguments.
func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(p.t, err)
	defer log.Close()
	p.cmd = exec.Command("slipcover", p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(testenv.Environ(), append([]string{"SLIPCOVER_CONFIG=" + os.DevNull}, p.env...)...)
	must(p.t, p.cmd.Start())
	p.gone = make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(p.gone) }()
}

// stop ends it in order, one that stands still too.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.gone:
	case <-time.After(clitest.Patience):
		p.t.Errorf("%v does not end", p.args)
		_ = p.cmd.Process.Kill()
		<-p.gone
	}
}

// show writes the end of the log into the test's.
func (p *process) show() {
	b, _ := os.ReadFile(p.log)
	p.t.Logf("log of %v:\n%s", p.args, b[max(0, len(b)-20_000):])
}

// ready waits until a server answers.
func (p *process) ready(url string) error {
	for end := time.Now().Add(clitest.Patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		select {
		case <-p.gone:
			b, _ := os.ReadFile(p.log)
			return fmt.Errorf("%v ended: %s", p.args, b)
		default:
		}
		resp, err := http.Get(url + "/readyz") //nolint:noctx // on loopback, and it answers or isn't there
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	return errors.New("the server is not ready")
}

// freePort returns a port of loopback that was free just now.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// slipcover runs a command that must end well, and returns what it prints.
func slipcover(t testing.TB, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command("slipcover", args...)
	cmd.Env = append(testenv.Environ(), append([]string{"SLIPCOVER_CONFIG=" + os.DevNull}, env...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", args, err, errs.String())
	}
	return string(out)
}
