//go:build unix

package stories_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// process is a server or an agent: the real program in a process of its own.
type process struct{ *clitest.Process }

// stop ends it in order, one that stands still too.
func (p *process) stop() {
	_ = p.Cmd.Process.Signal(syscall.SIGCONT)
	p.Stop()
}

// ready waits until a server answers.
func (p *process) ready(url string) error {
	for end := time.Now().Add(clitest.Patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		select {
		case <-p.Gone:
			b, _ := os.ReadFile(p.Log)
			return fmt.Errorf("%v ended: %s", p.Args, b)
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
