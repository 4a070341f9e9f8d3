package testenv

import (
	"embed"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed scripts
var scripts embed.FS

// service is a server that a script named NAME-up started in a folder of its own.
type service struct {
	dir  string
	env  map[string]string // the variables that the script printed
	stop func()            // ends it, and removes the folder
}

// startService runs NAME-up with arguments before its state folder, and the port
// behind it. Whatever becomes of this process, the server ends with it: a shell
// waits for the end of a pipe that this process holds open and runs NAME-down.
func startService(name string, port int, args ...string) (*service, error) {
	dir, err := os.MkdirTemp("", "slipcover-"+name+"-")
	if err != nil {
		return nil, err
	}
	for _, script := range []string{name + "-up", name + "-down"} {
		text, err := scripts.ReadFile("scripts/" + script)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, script), text, 0o755)
		}
		if err != nil {
			return nil, err
		}
	}
	s := &service{dir: dir}
	if err := s.reap(name); err != nil {
		return nil, err
	}
	state := filepath.Join(dir, "state")
	cmd := exec.Command(filepath.Join(dir, name+"-up"), append(args, state, fmt.Sprint(port))...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("%s-up: %w: %s", name, err, said.String())
	}
	s.env = parseExports(string(out))
	return s, nil
}

func (s *service) reap(name string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", `cat >/dev/null; "$0/$1-down" "$0/state"; rm -rf "$0"`, s.dir, name)
	cmd.Stdin = r
	ownGroup(cmd) // an interrupt from the terminal is not for it
	if err := cmd.Start(); err != nil {
		w.Close()
		return err
	}
	s.stop = func() {
		w.Close()
		cmd.Wait()
	}
	return nil
}

func parseExports(text string) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "export ")), "=")
		if ok {
			env[name] = value
		}
	}
	return env
}

func (s *service) environ(keep func(name string) bool) []string {
	var list []string
	for name, value := range s.env {
		if keep(name) {
			list = append(list, name+"="+value)
		}
	}
	return list
}

// firstPort and lastPort bound the ports that servers get: below those that systems
// give to outgoing connections, of which one could take a port between the look and
// the server's start.
const (
	firstPort = 12_000
	lastPort  = 32_000
)

// FreePort returns a port of loopback that nobody listens on now, and that no outgoing connection takes, neither before a server
// listens on it nor while that is started anew.
func FreePort() (int, error) { return freePorts(1) }

// freePorts returns the first of n free ports in a row, of 127.0.0.1 or of all the
// addresses.
func freePorts(n int, addresses ...string) (int, error) {
	if len(addresses) == 0 {
		addresses = []string{"127.0.0.1"}
	}
	for range 200 {
		if first := firstPort + rand.IntN(lastPort-firstPort-n); allFree(first, n, addresses) {
			return first, nil
		}
	}
	return 0, fmt.Errorf("there are no %d free ports in a row", n)
}

func allFree(first, n int, addresses []string) bool {
	for port := first; port < first+n; port++ {
		for _, address := range addresses {
			l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
			if err != nil {
				return false
			}
			defer l.Close()
		}
	}
	return true
}

// startTries bounds how often a server is started whose port another one took.
const startTries = 3

const askTimeout = time.Minute

func portTaken(err error) bool {
	return strings.Contains(err.Error(), "is in use") || strings.Contains(err.Error(), "Could not bind")
}

// ask sends one line and returns the beginning of the answer.
func ask(addr, line string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, askTimeout)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(askTimeout))
	if _, err := c.Write([]byte(line)); err != nil {
		return "", err
	}
	p := make([]byte, 100)
	n, err := c.Read(p)
	return string(p[:n]), err
}
