package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/slipcover/slipcover/internal/localhost"
)

const (
	// stopPatience is how long a server has to end by itself when an instance is removed
	// or made anew.
	stopPatience = 20 * time.Second
	// killPatience is how long the system may take to end a killed process.
	killPatience = 30 * time.Second
	// pollEvery is how often a process or a server is looked at.
	pollEvery = 50 * time.Millisecond
)

// StartOptions are the options of Start. The zero value will do.
type StartOptions struct {
	CouchDBBin string        // as in CreateOptions
	Timeout    time.Duration // for the server to answer; 30 s if 0
}

// Start starts the instance that Create made in dir, as the user that the directory
// belongs to, and returns when it answers. If it runs and answers, Start does nothing;
// if it runs and doesn't answer in time, that is ErrStart, and it is left alone. It
// returns ErrNoInstance, ErrInUse, and ErrStart, also for one that Create did not
// complete.
func Start(ctx context.Context, dir string, opts StartOptions) (pid int, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return 0, err
	}
	bin := CouchDBBinary(opts.CouchDBBin)
	if bin == "" {
		return 0, fmt.Errorf("%w: there is no CouchDB program on this machine: install CouchDB, or set COUCHDB_BIN", ErrStart)
	}
	if oldErlang(bin) {
		return 0, fmt.Errorf("%w: the Erlang of %s is older than 23 and can't be kept from connecting to other nodes, the original among them: set COUCHDB_BIN to another CouchDB", ErrStart, bin)
	}
	in, err := hold(dir)
	if err != nil {
		return 0, err
	}
	defer in.release()
	st, err := in.readState()
	if err != nil {
		return 0, err
	}
	if !st.Complete {
		return 0, fmt.Errorf("%w: %s was not made completely: create it again", ErrStart, dir)
	}
	addr, err := readAddress(dir)
	if err != nil {
		return 0, err
	}
	s := starter{in: in, bin: bin, timeout: cmp.Or(opts.Timeout, defaultTimeout), answers: func(ctx context.Context) error { return isUp(ctx, addr.url()) }}
	return s.start(ctx)
}

// direct asks servers of this machine.
var direct = &http.Client{Transport: localhost.Direct()}

// isUp returns nil if a CouchDB answers, whatever it says: it may want a password, or
// be in maintenance mode.
func isUp(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/_up", nil)
	if err != nil {
		return err
	}
	resp, err := direct.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if !strings.HasPrefix(resp.Header.Get("Server"), "CouchDB") {
		return fmt.Errorf("what answers at %s is no CouchDB", url)
	}
	return nil
}

// starter starts the server of an instance that is held.
type starter struct {
	in      *instance
	bin     string
	timeout time.Duration
	answers func(context.Context) error // nil when the server does what it shall
}

func (s starter) start(ctx context.Context) (pid int, err error) {
	old, err := readProcess(s.in.dir)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return 0, err
	}
	if old.PID != 0 {
		if err := s.wait(ctx, nil); err != nil {
			return old.PID, fmt.Errorf("%w: process %d runs: %w; see %s", ErrStart, old.PID, err, s.in.path(logName))
		}
		return old.PID, nil
	}
	if err := s.free(ctx); err != nil {
		return 0, err
	}
	cmd, err := s.launch()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrStart, err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // ends with the server, or with this process
	if err := s.wait(ctx, ended); err != nil {
		select {
		case <-ended:
		default:
			kill(cmd)
			<-ended
		}
		return 0, fmt.Errorf("%w: %w; see %s, and start it with %s", ErrStart, err, s.in.path(logName), s.in.path(startName))
	}
	return cmd.Process.Pid, nil
}

// free refuses to start a second server on the data, or one whose port is taken.
func (s starter) free(ctx context.Context) error {
	if err := inUse(ctx, s.in.path(dataName)); err != nil {
		return err
	}
	addr, err := readAddress(s.in.dir)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr.listener())
	if err != nil {
		return fmt.Errorf("%w: its port is not free: %w", ErrStart, err)
	}
	return l.Close()
}

// launch starts the program, cut off from this process. It waits for a word until its
// number is noted; if this process dies before, it reads the end of the pipe and ends.
func (s starter) launch() (*exec.Cmd, error) {
	word, say, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer say.Close()
	cmd, err := s.command(word)
	_ = word.Close() // the child has its own
	if err != nil {
		return nil, err
	}
	p := processOf(cmd.Process.Pid)
	if err := s.in.writeProcess(p); err != nil {
		kill(cmd)
		_ = cmd.Wait() // it was killed
		return nil, err
	}
	_, err = io.WriteString(say, "go\n")
	if err != nil {
		kill(cmd)
		_ = cmd.Wait() // it was killed
	}
	return cmd, err
}

func (s starter) command(word *os.File) (*exec.Cmd, error) {
	own, err := ownerOf(s.in.dir)
	if err != nil {
		return nil, err
	}
	// The directory may belong to the server's user, who must not choose where root writes.
	log, err := os.OpenFile(s.in.path(logName), os.O_WRONLY|os.O_CREATE|os.O_APPEND|noFollow, 0o640)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := own.file(log); err != nil {
		return nil, err
	}
	cmd := exec.Command(s.in.path(startName)) //nolint:noctx // it outlives this call
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Dir = word, log, log, s.in.dir
	cmd.Env = append(os.Environ(), "COUCHDB_BIN="+s.bin, "SLIPCOVER_WAIT=1")
	detach(cmd, own)
	return cmd, cmd.Start()
}

// wait polls the server. ended, which may be nil, says that its process has ended.
func (s starter) wait(ctx context.Context, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for {
		err := s.answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("it ended: %s", s.in.lastLines())
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(pollEvery):
		}
	}
}

// lastLines returns the end of the server's log on one line.
func (in *instance) lastLines() string {
	b, err := os.ReadFile(in.path(logName))
	if err != nil {
		return err.Error()
	}
	b = b[max(0, len(b)-1000):]
	return strings.Join(strings.Fields(string(b)), " ")
}

// Stop ends the server of the instance in dir: SIGTERM to its process group, SIGKILL
// when that did not end it within timeout (20 s if 0). It returns when the process is
// gone; one that doesn't run is no error. It returns ErrNoInstance, ErrInUse.
func Stop(ctx context.Context, dir string, timeout time.Duration) error {
	in, err := hold(dir)
	if err != nil {
		return err
	}
	defer in.release()
	return in.stop(ctx, cmp.Or(timeout, stopPatience))
}

func (in *instance) stop(ctx context.Context, timeout time.Duration) error {
	p, err := readProcess(in.dir)
	if err != nil {
		return err
	}
	if p.PID != 0 {
		gone, err := in.signal(ctx, p, syscall.SIGTERM, timeout)
		if err == nil && !gone {
			gone, err = in.signal(ctx, p, syscall.SIGKILL, killPatience)
		}
		if err != nil {
			return fmt.Errorf("stop process %d: %w", p.PID, err)
		}
		if !gone {
			return fmt.Errorf("stop process %d: it did not end when it was killed: %w", p.PID, ErrInUse)
		}
	}
	if err := os.Remove(in.path(pidName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// signal sends a signal to the group of a process and waits until that is gone.
func (in *instance) signal(ctx context.Context, p process, sig syscall.Signal, patience time.Duration) (gone bool, err error) {
	for end := time.Now().Add(patience); ; {
		alive, err := p.alive(in.dir)
		if err != nil || !alive {
			return !alive, err
		}
		if sig != 0 {
			signalGroup(p.PID, sig)
			sig = 0
		}
		if time.Now().After(end) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}
