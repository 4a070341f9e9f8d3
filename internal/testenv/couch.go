package testenv

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// DefaultNode is the node name of a server whose options don't name one. It is
// the one that couchgen's files have by default.
const DefaultNode = "couchdb-unique@127.0.0.1"

const defaultBinary = "/opt/couchdb/bin/couchdb"

// Options say what CouchDB to start.
type Options struct {
	// DataDir is a prepared data directory, which the server changes; empty = a
	// new one.
	DataDir string
	// NodeName must be the one that the shard maps of DataDir name; DefaultNode if
	// empty. Servers of one name don't disturb each other: none uses epmd, and
	// each has its own cookie.
	NodeName        string
	Admin, Password string                       // "admin" and "secret" if empty
	Config          map[string]map[string]string // more ini settings: section, key, value
	// AutoCompact leaves CouchDB's own compaction on; otherwise files are only
	// compacted on demand.
	AutoCompact  bool
	StartTimeout time.Duration // two minutes if 0
}

// Couch is a running CouchDB that belongs to the test.
type Couch struct {
	Client
	DataDir  string
	NodeName string
	LogFile  string // what the server printed

	t       TB
	opts    Options
	binary  string
	dir     string // configuration
	address string // on which it listens
	port    int
	cookie  string

	prepared string // the configuration that it has, as of NodeOptions
	epmd     int    // the port at which nodes find one another; another free one at each start if 0
	process  *process
}

// CouchDBBinary returns the path of bin/couchdb, or why there is none.
func CouchDBBinary() (path, missing string) {
	if path := os.Getenv("COUCHDB_BIN"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", "COUCHDB_BIN: " + err.Error()
		}
		return path, ""
	}
	if _, err := os.Stat(defaultBinary); err != nil {
		return "", "COUCHDB_BIN is not set and there is no " + defaultBinary
	}
	return defaultBinary, ""
}

// CouchDB starts a server for the test, on loopback and a free port, and stops it
// when the test ends. When the test failed, the end of the server's log is shown.
// Without a CouchDB the test is skipped; see Missing.
func CouchDB(t TB, opts Options) *Couch {
	t.Helper()
	binary, missing := CouchDBBinary()
	if missing != "" {
		Missing(t, "couchdb", missing)
	}
	c := newCouch(t, binary, opts)
	old, err := os.ReadDir(c.DataDir)
	c.firstStart()
	if err == nil && len(old) == 0 && c.singleNode() {
		if err := c.settleUsers(); err != nil {
			t.Fatalf("design document of _users: %v\n%s", err, c.LogTail(8<<10))
		}
	}
	return c
}

// newCouch makes a server, which is ended with the test, and its data directory. It
// doesn't start it.
func newCouch(t TB, binary string, opts Options) *Couch {
	t.Helper()
	c := &Couch{t: t, opts: opts, binary: binary, dir: t.TempDir(), address: "127.0.0.1"}
	c.NodeName = cmp.Or(opts.NodeName, DefaultNode)
	c.cookie = randomHex(16)
	c.Admin, c.Password = cmp.Or(opts.Admin, "admin"), cmp.Or(opts.Password, "secret")
	c.DataDir = cmp.Or(opts.DataDir, filepath.Join(c.dir, "data"))
	c.LogFile = filepath.Join(c.dir, "couchdb.log")
	c.HTTP = &http.Client{Timeout: 5 * time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	dataDir, err := filepath.Abs(c.DataDir)
	if err == nil {
		c.DataDir = dataDir
		err = os.MkdirAll(dataDir, 0o755)
	}
	if err != nil {
		t.Fatalf("data directory: %v", err)
	}
	t.Cleanup(c.cleanUp)
	return c
}

func (c *Couch) singleNode() bool { return c.opts.Config["couchdb"]["single_node"] != "false" }

// authDesign is the design document that CouchDB gives to _users, once one server of
// this process has.
var authDesign struct {
	sync.Mutex
	doc map[string]any
}

// settleUsers waits until a new server has written the design document of _users, which
// it does up to five seconds after it made the database (chttpd_auth_cache:
// listen_for_changes): a test that compares files would see it come at any moment. All
// but the first server are given it.
func (c *Couch) settleUsers() error {
	path := DBPath("_users", "_design/_auth")
	authDesign.Lock()
	defer authDesign.Unlock()
	if authDesign.doc != nil {
		err := c.Put(path, authDesign.doc, nil)
		if Status(err) == http.StatusConflict {
			return nil // the server was first
		}
		return err
	}
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var doc map[string]any
		if err = c.Get(path, &doc); err == nil {
			delete(doc, "_rev")
			authDesign.doc = doc
			return nil
		}
	}
	return err
}

func randomHex(n int) string {
	p := make([]byte, n/2)
	_, _ = rand.Read(p)
	return hex.EncodeToString(p)
}

func (c *Couch) cleanUp() {
	c.Stop()
	c.HTTP.CloseIdleConnections()
	if c.t.Failed() {
		c.t.Logf("end of the log of CouchDB %s:\n%s", c.NodeName, c.LogTail(8<<10))
	}
}

// LogTail returns the last n bytes of the server's log.
func (c *Couch) LogTail(n int64) string {
	f, err := os.Open(c.LogFile)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		f.Seek(max(0, size-n), io.SeekStart) // the read says it
	}
	p, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(p)
}

// Start starts a server that was stopped, on the same data and port, and waits
// until it answers. Another process may have the port for a moment, as a client of a
// third one.
func (c *Couch) Start() {
	c.t.Helper()
	var err error
	for range 5 {
		if err = c.start(); err == nil || !strings.Contains(c.LogTail(8<<10), "eaddrinuse") {
			break
		}
		time.Sleep(time.Second)
	}
	if err != nil {
		c.t.Fatalf("start CouchDB: %v\n%s", err, c.LogTail(8<<10))
	}
}

// firstStart finds a port. Another process may take it before the server does.
func (c *Couch) firstStart() {
	c.t.Helper()
	var err error
	for range 3 {
		var port int
		if port, err = FreePort(); err != nil {
			break
		}
		c.listenAt(port)
		if err = c.start(); err == nil || !strings.Contains(c.LogTail(64<<10), "eaddrinuse") {
			break
		}
	}
	if err != nil {
		c.t.Fatalf("start CouchDB: %v\n%s", err, c.LogTail(8<<10))
	}
}

func (c *Couch) listenAt(port int) {
	c.port = port
	c.URL = fmt.Sprintf("http://%s:%d", c.address, port)
}

func (c *Couch) start() error {
	if c.process != nil {
		return errors.New("it runs already")
	}
	epmd := c.epmd
	if epmd == 0 {
		var err error
		if epmd, err = FreePort(); err != nil {
			return err
		}
	}
	if err := c.configure(epmd); err != nil {
		return err
	}
	log, err := os.OpenFile(c.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(c.binary)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(),
		"COUCHDB_INI_FILES="+c.iniFiles(),
		"COUCHDB_ARGS_FILE="+filepath.Join(c.dir, "vm.args"),
		"ERL_EPMD_ADDRESS="+c.address,
		"ERL_CRASH_DUMP_SECONDS=0",
		"HOME="+c.dir,
	)
	if c.process, err = startProcess(cmd); err != nil {
		return err
	}
	if err := c.waitUp(cmp.Or(c.opts.StartTimeout, 2*time.Minute)); err != nil {
		c.Kill()
		return err
	}
	return nil
}

// ConfigFile is the ini file to which the server writes what is set, and the hashes of its administrators' passwords.
func (c *Couch) ConfigFile() string { return filepath.Join(c.dir, "test.ini") }

func (c *Couch) iniFiles() string {
	defaults := filepath.Join(filepath.Dir(filepath.Dir(c.binary)), "etc", "default.ini")
	if c.prepared != "" {
		before, _ := filepath.Glob(filepath.Join(c.prepared, "*.ini"))
		return strings.Join(append(append([]string{defaults}, before...), c.ConfigFile(), filepath.Join(c.prepared, "local.d")), " ")
	}
	return defaults + " " + c.ConfigFile()
}

// configure writes vm.args, and the ini file unless there is one: the server
// keeps hashed passwords and runtime settings in it.
func (c *Couch) configure(epmd int) error {
	args := []string{
		"-name " + c.NodeName,
		"-setcookie " + c.cookie,
		"-kernel inet_dist_use_interface {" + strings.ReplaceAll(c.address, ".", ",") + "}",
		"-kernel error_logger silent",
		"-kernel prevent_overlapping_partitions false",
		"-sasl sasl_error_logger false",
		"-os_mon start_cpu_sup false",
		"-os_mon start_memsup false",
		"-start_epmd false",                    // the daemon would outlive the server
		fmt.Sprintf("-erl_epmd_port %d", epmd), // it listens there itself
		"+Bd -noinput",
		"+sbwt none", // idle schedulers don't spin: tests share the machine
	}
	if c.prepared != "" {
		text, err := os.ReadFile(filepath.Join(c.prepared, "vm.args"))
		if err != nil {
			return err
		}
		old := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
			return strings.HasPrefix(line, "-erl_epmd_port ") || strings.HasPrefix(line, "-kernel inet_dist_use_interface ")
		})
		args = append(old, args[2], fmt.Sprintf("-erl_epmd_port %d", epmd))
	}
	if err := os.WriteFile(filepath.Join(c.dir, "vm.args"), []byte(strings.Join(args, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	path := c.ConfigFile()
	old, err := os.ReadFile(path)
	if err == nil {
		return os.WriteFile(path, replacePort(old, c.port), 0o600)
	}
	return os.WriteFile(path, c.ini(), 0o600)
}

const portLine = "\nport = "

func replacePort(ini []byte, port int) []byte {
	before, rest, _ := bytes.Cut(ini, []byte(portLine))
	_, after, _ := bytes.Cut(rest, []byte("\n"))
	return fmt.Appendf(nil, "%s%s%d\n%s", before, portLine, port, after)
}

func (c *Couch) ini() []byte {
	ini := map[string]map[string]string{
		"chttpd": {"port": fmt.Sprint(c.port), "bind_address": c.address},
		"couchdb": {
			"database_dir": c.DataDir, "view_index_dir": c.DataDir,
			"single_node": "true", "uuid": randomHex(32),
		},
		"cluster": {"n": "1"},
		"admins":  {c.Admin: c.Password},
		"log":     {"writer": "stderr", "level": "warning"},
		"smoosh":  {"state_dir": c.dir},
		// The welcome looks for Clouseau, and waits seconds for a node that isn't there, but
		// not for one whose name can't be.
		"dreyfus": {"name": "none"},
	}
	prefix := filepath.Dir(filepath.Dir(c.binary))
	if _, err := os.Stat(filepath.Join(prefix, "bin", "couchjs")); err != nil {
		ini["couchdb"]["js_engine"] = "quickjs"
	}
	if !c.opts.AutoCompact {
		for _, ch := range []string{"upgrade_dbs", "ratio_dbs", "slack_dbs", "upgrade_views", "ratio_views", "slack_views", "index_cleanup"} {
			ini["smoosh."+ch] = map[string]string{"concurrency": "0"}
		}
	}
	if c.prepared != "" {
		delete(ini, "admins")
	}
	for section, settings := range c.opts.Config {
		if c.prepared != "" && section == "admins" {
			continue
		}
		if ini[section] == nil {
			ini[section] = map[string]string{}
		}
		maps.Copy(ini[section], settings)
	}
	var b bytes.Buffer
	for _, section := range slices.Sorted(maps.Keys(ini)) {
		fmt.Fprintf(&b, "[%s]\n", section)
		for _, key := range slices.Sorted(maps.Keys(ini[section])) {
			fmt.Fprintf(&b, "%s = %s\n", key, ini[section][key])
		}
	}
	return b.Bytes()
}

// waitUp waits until /_up says ok, and on a single node until the system
// databases are there, so that a test's first file listing is stable.
func (c *Couch) waitUp(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	paths := []string{"/_up"}
	if c.opts.Config["couchdb"]["maintenance_mode"] != "" {
		paths = []string{"/"} // it says that it isn't up
	}
	if c.singleNode() {
		paths = append(paths, "/_users", "/_replicator")
	}
	for {
		err := c.probe(ctx, paths)
		if err == nil {
			return nil
		}
		select {
		case <-c.process.done:
			return fmt.Errorf("it ended while starting: %v", c.process.err)
		case <-ctx.Done():
			return fmt.Errorf("not up after %v: %w", limit, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *Couch) probe(ctx context.Context, paths []string) error {
	for _, path := range paths {
		if err := c.Do(ctx, http.MethodGet, path, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends the server with SIGTERM, and after 20 seconds with SIGKILL.
func (c *Couch) Stop() {
	if c.process != nil {
		c.process.stop(20 * time.Second)
		c.process = nil
	}
}

// Kill ends the server with SIGKILL, as a crash would.
func (c *Couch) Kill() {
	if c.process != nil {
		c.process.kill()
		c.process = nil
	}
}

// Restart stops and starts the server.
func (c *Couch) Restart() {
	c.t.Helper()
	c.Stop()
	c.Start()
}

// process is a child and, where the system has them, its process group.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the child has ended
	err  error         // how it ended, once done is closed
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) stop(patience time.Duration) {
	p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(patience):
	}
	p.kill() // and helpers that outlived it
}

func (p *process) kill() {
	killGroup(p.cmd)
	<-p.done
}
