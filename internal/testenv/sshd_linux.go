package testenv

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// SSHDServer is an OpenSSH server with keys of its own, which serves SFTP alone.
type SSHDServer struct {
	Addr       string // host:port
	Users      []string
	Identity   string // private key that may log in
	Stranger   string // private key that may not
	KnownHosts string // file that knows the server's key

	t       TB
	dir     string
	binary  string
	process *process
}

// SSHD starts an OpenSSH server for the test, on loopback and a free port, and stops
// it when the test ends. One may log in as the user that runs the test, and when that
// is root as "nobody", for whom permissions count: Users names them.
func SSHD(t TB) *SSHDServer {
	t.Helper()
	keygen := Tool(t, "ssh-keygen")
	s := &SSHDServer{t: t, dir: t.TempDir()}
	s.binary = sshdBinary()
	if s.binary == "" {
		Missing(t, "sshd", "no sshd in PATH, /usr/sbin or /usr/local/sbin")
	}
	if err := s.prepare(keygen); err != nil {
		t.Fatalf("prepare sshd: %v", err)
	}
	t.Cleanup(s.Stop)
	var err error
	for range 3 {
		var port int
		if port, err = FreePort(); err != nil {
			break
		}
		s.Addr = fmt.Sprintf("127.0.0.1:%d", port)
		if err = s.start(); err == nil {
			return s
		}
	}
	log, _ := os.ReadFile(s.path("log"))
	t.Fatalf("start sshd: %v\n%s", err, log)
	return nil
}

// sshdBinary returns an absolute path, which sshd insists on, or "".
func sshdBinary() string {
	path, _ := exec.LookPath("sshd")
	for _, p := range []string{path, "/usr/sbin/sshd", "/usr/local/sbin/sshd"} {
		if _, err := os.Stat(p); p != "" && err == nil {
			return p
		}
	}
	return ""
}

func (s *SSHDServer) path(name string) string { return filepath.Join(s.dir, name) }

// prepare makes the keys, and the folder that sshd wants when root runs it.
func (s *SSHDServer) prepare(keygen string) error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	s.Users = []string{me.Username}
	if os.Getuid() == 0 {
		s.Users = append(s.Users, "nobody")
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return err
		}
	}
	s.Identity, s.Stranger, s.KnownHosts = s.path("user"), s.path("stranger"), s.path("known_hosts")
	for _, path := range []string{s.Identity, s.Stranger, s.path("host"), s.path("host_rsa")} {
		kind := "ed25519"
		if strings.HasSuffix(path, "_rsa") {
			kind = "rsa"
		}
		if out, err := exec.Command(keygen, "-q", "-t", kind, "-N", "", "-C", "test", "-f", path).CombinedOutput(); err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	public, err := os.ReadFile(s.Identity + ".pub")
	if err != nil {
		return err
	}
	// Other users read it, too.
	if err := os.WriteFile(s.path("authorized_keys"), public, 0o644); err != nil {
		return err
	}
	return errors.Join(os.Chmod(filepath.Dir(s.dir), 0o755), os.Chmod(s.dir, 0o755))
}

// Start starts a server that was stopped, on the same port and with the same keys.
func (s *SSHDServer) Start() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatalf("start sshd: %v", err)
	}
}

func (s *SSHDServer) start() error {
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return err
	}
	config := []string{
		"ListenAddress " + host, "Port " + port,
		"HostKey " + s.path("host"), "HostKey " + s.path("host_rsa"),
		"AuthorizedKeysFile " + s.path("authorized_keys"), "StrictModes no",
		"PidFile none", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password",
		"AllowUsers " + strings.Join(s.Users, " "), "MaxStartups 100",
		"Subsystem sftp internal-sftp", "ForceCommand internal-sftp", "AllowTcpForwarding no",
	}
	if err := os.WriteFile(s.path("config"), []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	key, err := os.ReadFile(s.path("host.pub"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.KnownHosts, fmt.Appendf(nil, "[%s]:%s %s", host, port, key), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(s.binary, "-D", "-f", s.path("config"), "-E", s.path("log"))
	if s.process, err = startProcess(cmd); err != nil {
		return err
	}
	return s.waitUp()
}

func (s *SSHDServer) waitUp() error {
	for began := time.Now(); ; {
		c, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err == nil {
			return c.Close()
		}
		if time.Since(began) > 2*time.Minute {
			return err
		}
		select {
		case <-s.process.done:
			return fmt.Errorf("it ended while starting: %v", s.process.err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server and its sessions, as a crash would; a stopped one stays so.
func (s *SSHDServer) Stop() {
	if s.process == nil {
		return
	}
	s.Cut()
	s.process.kill()
	s.process = nil
	if s.t.Failed() {
		log, _ := os.ReadFile(s.path("log"))
		s.t.Logf("end of the log of sshd:\n%s", log[max(0, len(log)-4<<10):])
	}
}

// Cut ends all sessions in the middle, and leaves the server.
func (s *SSHDServer) Cut() {
	for _, pid := range descendants(s.process.cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
}

// Freeze stops all sessions without ending them, as a server that hangs does, until
// Cut or Stop.
func (s *SSHDServer) Freeze() {
	for _, pid := range descendants(s.process.cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGSTOP) // it may have ended
	}
}

// descendants returns the processes that one has started, and those that they have:
// sessions leave their parent's process group. It knows only Linux's way.
func descendants(of int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// 12 (a name) S 34 …: pid, name, state, parent; the name may hold anything.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 {
			continue
		}
		pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent, err2 := strconv.Atoi(fields[1])
		if cmp.Or(err1, err2) == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	var all []int
	for queue := []int{of}; len(queue) > 0; queue = queue[1:] {
		all = append(all, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return all
}
