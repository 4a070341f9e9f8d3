package service_test

import (
	"fmt"
	"net"
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
	t    *testing.T
	args []string
	env  []string
	log  string
	cmd  *exec.Cmd
	gone chan struct{}

	pid      int
	url      string // of a server
	natsPort int
	state    string
}

// serverOf is a server with its state in a folder, on free ports.
func serverOf(dir string) *process { return &process{state: dir} }

// startServer starts a server and waits until it serves.
func startServer(t *testing.T, p *process, args ...string) *process {
	t.Helper()
	http, nats := freePort(t), freePort(t)
	p.t, p.natsPort = t, nats
	p.url = fmt.Sprintf("http://127.0.0.1:%d", http)
	p.args = append([]string{"server", "--listen", fmt.Sprintf("127.0.0.1:%d", http)}, args...)
	p.env = append(p.env, "SLIPCOVER_RATE_LIMIT=0")
	if !strings.Contains(strings.Join(p.env, " "), "SLIPCOVER_NATS_URL") {
		p.env = append(p.env, fmt.Sprintf("SLIPCOVER_NATS_LISTEN=127.0.0.1:%d", nats))
	}
	p.log = filepath.Join(t.TempDir(), "log")
	p.start()
	t.Cleanup(p.stop)
	p.waitReady()
	return p
}

// startAgent starts an agent.
func startAgent(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, env: env, args: append([]string{"agent"}, args...), log: filepath.Join(t.TempDir(), "log")}
	p.start()
	t.Cleanup(p.stop)
	return p
}

// start begins the process; after a kill again, with the same arguments.
func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command("slipcover", p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(testenv.Environ(), append([]string{"SLIPCOVER_CONFIG=" + os.DevNull}, p.env...)...)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.pid, p.gone = p.cmd.Process.Pid, make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(p.gone) }()
}

// kill ends it without a word.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.gone
}

// stop ends it in order, and shows its log if the test failed.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.gone:
	case <-time.After(clitest.Patience):
		p.t.Errorf("%v does not end", p.args)
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // writes what it waits for into the log
		<-p.gone
	}
	if p.t.Failed() {
		b, _ := os.ReadFile(p.log)
		p.t.Logf("log of %v:\n%s", p.args, b[max(0, len(b)-40_000):])
	}
}

func (p *process) waitReady() {
	p.t.Helper()
	c := &client{t: p.t, url: p.url}
	eventually(p.t, clitest.Patience, "the server is ready", func() bool {
		select {
		case <-p.gone:
			b, _ := os.ReadFile(p.log)
			p.t.Fatalf("%v ended: %s", p.args, b)
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

// freePort returns a port of loopback that was free just now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
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
