//go:build unix

package service_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/slipcover/slipcover/internal/cli/clitest"
)

// TestHungAgentIsTold: a request that an agent must answer ends with an answer, before the
// server cuts the connection.
func TestHungAgentIsTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := serverOf(filepath.Join(dir, "state"))
	p.Env = []string{"SLIPCOVER_STATE_DIR=" + p.state}
	startServer(t, p)
	agent := p.join(p.url, "", filepath.Join(dir, "agent"))
	agent.says("a server answers")
	c := p.client(t)
	var list struct{ Instances []struct{ ID string } }
	c.get("/v1.0/default/instances", &list)
	if len(list.Instances) != 1 {
		t.Fatalf("%+v", list)
	}
	if err := agent.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Cmd.Process.Signal(syscall.SIGCONT) }()
	eventually(t, clitest.Patience, "the agent is stopped", func() bool { // each of its threads, when it would run next
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", agent.Cmd.Process.Pid))
		return err == nil && !slices.ContainsFunc(stats, func(name string) bool {
			b, err := os.ReadFile(name)
			return err == nil && !bytes.Contains(b, []byte(") T "))
		})
	})
	if status, err := c.do(http.MethodGet, "/v1.0/default/instances/"+list.Instances[0].ID+"/databases", nil, nil); status != http.StatusServiceUnavailable {
		t.Errorf("%d, %v", status, err)
	}
}

// TestAgentHangsUp: SIGHUP ends an agent in order, as SIGTERM does.
func TestAgentHangsUp(t *testing.T) {
	if hups := make(chan os.Signal, 1); signal.Ignored(syscall.SIGHUP) { // below nohup: what is caught here isn't ignored there
		signal.Notify(hups, syscall.SIGHUP)
		defer signal.Stop(hups)
	}
	dir := t.TempDir()
	p := serverOf(filepath.Join(dir, "state"))
	p.Env = []string{"SLIPCOVER_STATE_DIR=" + p.state}
	startServer(t, p)
	agent := p.join(p.url, "", filepath.Join(dir, "agent"))
	agent.says("a server answers")
	if err := agent.Cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if code, log := agent.ended(); code != 0 {
		t.Errorf("it ended with code %d:\n%s", code, log)
	}
}
