package service_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli/clitest"
)

// process is a server or an agent: the real program in a process of its own.
type process struct {
	*clitest.Process
	t *testing.T

	url      string // of a server
	natsPort int
	state    string
}

func newProcess(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	return &process{Process: clitest.NewProcess(t, env, args...), t: t}
}

// serverOf is a server with its state in a folder, on free ports.
func serverOf(dir string) *process { return &process{Process: &clitest.Process{}, state: dir} }

// startServer starts a server and waits until it serves.
func startServer(t *testing.T, p *process, args ...string) *process {
	t.Helper()
	http, nats := clitest.FreePort(t), clitest.FreePort(t)
	p.T, p.t, p.natsPort = t, t, nats
	p.url = fmt.Sprintf("http://127.0.0.1:%d", http)
	p.Args = append([]string{"server", "--listen", fmt.Sprintf("127.0.0.1:%d", http)}, args...)
	p.Env = append(p.Env, "SLIPCOVER_RATE_LIMIT=0")
	if !strings.Contains(strings.Join(p.Env, " "), "SLIPCOVER_NATS_URL") {
		p.Env = append(p.Env, fmt.Sprintf("SLIPCOVER_NATS_LISTEN=127.0.0.1:%d", nats))
	}
	p.Log = filepath.Join(t.TempDir(), "log")
	p.Start()
	t.Cleanup(p.stop)
	p.waitReady()
	return p
}

// startAgent starts an agent.
func startAgent(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := newProcess(t, env, append([]string{"agent"}, args...)...)
	p.Start()
	t.Cleanup(p.stop)
	return p
}

// stop ends it in order, and shows its log if the test failed.
func (p *process) stop() {
	p.Stop()
	if p.t.Failed() {
		p.Show()
	}
}

func (p *process) waitReady() {
	p.t.Helper()
	c := &client{t: p.t, url: p.url}
	eventually(p.t, clitest.Patience, "the server is ready", func() bool {
		select {
		case <-p.Gone:
			b, _ := os.ReadFile(p.Log)
			p.t.Fatalf("%v ended: %s", p.Args, b)
		default:
		}
		_, err := c.do("GET", "/readyz", nil, nil)
		return err == nil
	})
}

// client is the administrator.
func (p *process) client(t *testing.T) *client {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.state, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	return &client{t: t, url: p.url, token: strings.TrimSpace(string(b))}
}

// eventually waits for what other processes bring about.
func eventually(t *testing.T, within time.Duration, what string, fn func() bool) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if fn() {
			return
		}
	}
	t.Fatalf("not within %v: %s", within, what)
}
