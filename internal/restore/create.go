package restore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
)

// CreateOptions are the options of Create.
type CreateOptions struct {
	Repo   *repo.Repo
	Record *manifest.Record

	Name string // of the instance: letters, digits, ".", "_", "-"
	// Dir gets data, etc, the program that starts it, and its log. It must be empty
	// or missing; CouchDB takes no path with spaces.
	Dir  string
	Port int // of HTTP on 127.0.0.1; 0 is a free one

	AdminUser     string // "admin" if empty
	AdminPassword string // made if empty
	CouchDBBin    string // "" is COUCHDB_BIN, /opt/couchdb/bin/couchdb, or couchdb in PATH
	Start         bool   // start it, if there is a CouchDB on this machine
	Owner         string // as in Options; the server then runs as that user

	Timeout  time.Duration // for the server to answer; 30 s if 0
	Parallel int
	Progress *Progress
}

// Created is a new instance.
type Created struct {
	Name     string `json:"name"`
	Dir      string `json:"dir"`
	URL      string `json:"url"`
	User     string `json:"user"`
	Password string `json:"password"` // nowhere else in clear once the server has started
	NodeName string `json:"node_name"`
	Running  bool   `json:"running"`
	PID      int    `json:"pid,omitempty"`
	Command  string `json:"command"` // starts it; it runs in the foreground
	Log      string `json:"log"`     // of a server started by Create

	Restored *Result  `json:"restored"`
	Notes    []string `json:"notes"`
}

const defaultTimeout = 30 * time.Second

// plainPath is what CouchDB's start script and ini files take as it is: the
// script passes paths on without quotes.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9/._+@%,-]+$`)

// Create makes a CouchDB instance of its own from a backup. It keeps the node's
// name, so that nothing in the files must change, and never meets the original:
// it has a cookie of its own, listens for no other node, registers with no epmd,
// and its replicator does nothing until that is allowed.
func Create(ctx context.Context, opts CreateOptions) (*Created, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	c := &creation{opts: opts, bin: couchBinary(opts.CouchDBBin)}
	if opts.CouchDBBin != "" && c.bin == "" {
		return nil, fmt.Errorf("%w: there is no CouchDB program %s", ErrOptions, opts.CouchDBBin)
	}
	if err := c.port(); err != nil {
		return nil, err
	}
	var err error
	c.made.Restored, err = Files(ctx, Options{Repo: opts.Repo, Record: opts.Record, To: filepath.Join(opts.Dir, "data"), Owner: opts.Owner, Parallel: opts.Parallel, Progress: opts.Progress})
	if err != nil {
		return nil, err
	}
	if err := c.learn(ctx); err != nil {
		return nil, err
	}
	if err := c.writeFiles(); err != nil {
		return nil, err
	}
	if opts.Start {
		err = c.start(ctx)
	}
	return &c.made, err
}

func (o *CreateOptions) check() (err error) {
	if !manifest.ValidInstance(o.Name) {
		return fmt.Errorf("%w: %q can't name an instance: use 1 to 63 letters, digits, \".\", \"_\" and \"-\"", ErrOptions, o.Name)
	}
	if o.Dir, err = filepath.Abs(cmp.Or(o.Dir, o.Name)); err != nil {
		return err
	}
	if !plainPath.MatchString(filepath.ToSlash(o.Dir)) {
		return fmt.Errorf("%w: CouchDB can't be started on %q: name a directory whose path has no spaces or special characters", ErrOptions, o.Dir)
	}
	o.AdminUser = cmp.Or(o.AdminUser, "admin")
	o.AdminPassword = cmp.Or(o.AdminPassword, rand.Text())
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	ini := node.ParseIni([]byte("[admins]\n" + o.AdminUser + " = " + o.AdminPassword + "\n"))
	if v, _ := ini.Get("admins", o.AdminUser); v != o.AdminPassword || len(ini) != 1 || len(ini["admins"]) != 1 || strings.Contains(o.AdminUser, ":") || o.AdminPassword[0] == '-' {
		return fmt.Errorf("%w: an ini file of CouchDB can't hold that admin's name or password: use letters and digits", ErrOptions)
	}
	return o.checkDir()
}

// checkDir accepts a directory that is empty, or in which an earlier Create was
// stopped while it restored the same backup, which Files looks at.
func (o *CreateOptions) checkDir() error {
	entries, err := os.ReadDir(o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	if k, err := readMarker(filepath.Join(o.Dir, "data")); len(entries) == 1 && entries[0].Name() == "data" && err == nil && k != nil {
		return nil
	}
	return fmt.Errorf("%w: %s is not empty: name another directory for the instance", ErrOptions, o.Dir)
}

// creation is an instance in the making.
type creation struct {
	opts   CreateOptions
	bin    string // CouchDB's program; "" if there is none
	made   Created
	uuid   string
	secret string
	single bool // the cluster is this node alone
}

// couchBinary finds CouchDB's program, or returns "".
func couchBinary(given string) string {
	try := []string{given}
	if given == "" {
		try = []string{os.Getenv("COUCHDB_BIN"), "/opt/couchdb/bin/couchdb", "couchdb"}
	}
	for _, p := range try {
		if p == "" {
			continue
		}
		path, err := exec.LookPath(p)
		if err != nil {
			continue
		}
		if path, err = filepath.Abs(path); err != nil {
			continue
		}
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return real
		}
	}
	return ""
}

// port finds a port that is free now.
func (c *creation) port() error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(c.opts.Port)))
	if err != nil {
		return fmt.Errorf("%w: port %d is not free: name another one (%w)", ErrOptions, c.opts.Port, err)
	}
	c.opts.Port = l.Addr().(*net.TCPAddr).Port
	return l.Close()
}

// learn reads out of the backup what the configuration must know.
func (c *creation) learn(ctx context.Context) error {
	m, err := c.opts.Repo.Manifest(ctx, c.opts.Record)
	if err != nil {
		return err
	}
	if err := c.readIni(ctx, m); err != nil {
		return err
	}
	c.made.NodeName = m.NodeName
	nodes, err := c.nodes()
	if err != nil {
		c.note("%v", err)
	}
	if c.made.NodeName == "" && len(nodes) == 1 {
		c.made.NodeName = nodes[0]
	}
	name, host, ok := strings.Cut(c.made.NodeName, "@")
	if !ok || name == "" || host == "" || !plainPath.MatchString(name+host) {
		return fmt.Errorf("the backup doesn't say how its node was called (%q), and CouchDB needs that to find its shards: restore the files and configure it by hand", c.made.NodeName)
	}
	c.single = !slices.ContainsFunc(nodes, func(n string) bool { return n != c.made.NodeName })
	if !c.single {
		c.note("the original was one of the cluster %s: databases that it held only in part answer for their other ranges with errors", strings.Join(nodes, ", "))
	}
	return nil
}

func (c *creation) note(format string, args ...any) {
	c.made.Notes = append(c.made.Notes, fmt.Sprintf(format, args...))
}

func (c *creation) nodes() ([]string, error) {
	f, err := os.Open(filepath.Join(c.opts.Dir, "data", nodesPath))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return readNodes(f, info.Size())
}

// iniOrder is the place of an ini file in CouchDB's chain.
//
// Source: CouchDB 3.5.0, src/config/src/config_app.erl, default.
func iniOrder(path string) int {
	for i, p := range []string{"default.ini", "default.d/", "local.ini"} {
		if strings.HasPrefix(path, p) {
			return i
		}
	}
	return 3
}

var (
	uuidForm   = regexp.MustCompile(`^[0-9a-fA-F]{32}$`)
	secretForm = regexp.MustCompile(`^[!-:<-~]+$`) // printable, no space, no ";"
)

// readIni takes the server's uuid and its cookie secret over: a new uuid would
// make replications start over, a new secret log everyone out.
func (c *creation) readIni(ctx context.Context, m *manifest.Manifest) error {
	var list []*manifest.File
	for _, f := range m.Files {
		if f.Root == manifest.EtcRoot && strings.HasSuffix(f.Path, ".ini") {
			list = append(list, f)
		}
	}
	slices.SortStableFunc(list, func(a, b *manifest.File) int { return cmp.Compare(iniOrder(a.Path), iniOrder(b.Path)) })
	rd := c.opts.Repo.NewReader(m, list)
	v := verifier{m: m, reader: rd, opts: VerifyOptions{Progress: &Progress{}}}
	for _, f := range list {
		var b strings.Builder
		if err := v.fill(ctx, f, &b); err != nil {
			return fmt.Errorf("restore %s: %w", f.Path, explain(err))
		}
		ini := node.ParseIni([]byte(b.String()))
		if s, ok := ini.Get("couchdb", "uuid"); ok && uuidForm.MatchString(s) {
			c.uuid = s
		}
		for _, section := range []string{"couch_httpd_auth", "chttpd_auth"} {
			if s, ok := ini.Get(section, "secret"); ok && secretForm.MatchString(s) {
				c.secret = s
			}
		}
	}
	if c.uuid == "" {
		c.note("the backup holds no couchdb/uuid: the server makes a new one, so replications start over")
	}
	return nil
}

// writeFiles writes the configuration and the program that starts the server.
func (c *creation) writeFiles() error {
	own, _, err := parseOwner(c.opts.Owner)
	if err != nil {
		return err
	}
	etc := filepath.Join(c.opts.Dir, "etc")
	if err := durable.MkdirAll(etc, folderMode); err != nil {
		return err
	}
	start := filepath.Join(c.opts.Dir, "start")
	for _, f := range []struct {
		path, text string
		mode       fs.FileMode
	}{
		{filepath.Join(etc, "local.ini"), c.ini(), 0o600},
		{filepath.Join(etc, "vm.args"), c.vmArgs(), 0o600},
		{start, c.script(), 0o750},
	} {
		err := durable.WriteFile(f.path, f.mode, func(w *os.File) error {
			if _, err := io.WriteString(w, f.text); err != nil {
				return err
			}
			return own.file(w)
		})
		if err != nil {
			return err
		}
	}
	if err := errors.Join(own.path(etc), own.path(c.opts.Dir)); err != nil {
		return err
	}
	c.made.Name, c.made.Dir = c.opts.Name, c.opts.Dir
	c.made.URL = "http://127.0.0.1:" + strconv.Itoa(c.opts.Port)
	c.made.User, c.made.Password = c.opts.AdminUser, c.opts.AdminPassword
	c.made.Command = start
	c.made.Log = filepath.Join(c.opts.Dir, "couchdb.log")
	c.note("its replicator runs no jobs, so that it doesn't do those of the original: remove max_jobs from %s to let it", filepath.Join(etc, "local.ini"))
	return nil
}

func (c *creation) ini() string {
	data := filepath.ToSlash(filepath.Join(c.opts.Dir, "data"))
	var b strings.Builder
	fmt.Fprintf(&b, "; CouchDB instance %s, made by Slipcover from backup %s\n", c.opts.Name, c.opts.Record.ID)
	fmt.Fprintf(&b, "[couchdb]\ndatabase_dir = %s\nview_index_dir = %s\n", data, data)
	if c.uuid != "" {
		fmt.Fprintf(&b, "uuid = %s\n", c.uuid)
	}
	if c.single {
		b.WriteString("single_node = true\n")
	}
	if c.bin != "" {
		if _, err := os.Stat(filepath.Join(filepath.Dir(c.bin), "couchjs")); err != nil {
			b.WriteString("js_engine = quickjs\n")
		}
	}
	fmt.Fprintf(&b, "\n[chttpd]\nbind_address = 127.0.0.1\nport = %d\n", c.opts.Port)
	if c.secret != "" {
		fmt.Fprintf(&b, "\n[chttpd_auth]\nsecret = %s\n", c.secret)
	}
	b.WriteString("\n[log]\nwriter = stderr\nlevel = warning\n")
	fmt.Fprintf(&b, "\n[smoosh]\nstate_dir = %s\n", data)
	b.WriteString("\n; The original's replications are in the data: here they don't run.\n[replicator]\nmax_jobs = 0\n")
	fmt.Fprintf(&b, "\n[admins]\n%s = %s\n", c.opts.AdminUser, c.opts.AdminPassword)
	return b.String()
}

// vmArgs names the node as it was and cuts it off from all others.
//
// -dist_listen false: it opens no port for other nodes, hence no epmd either, so
// it can run beside the original on one machine. Source: Erlang/OTP, kernel
// reference manual, net_kernel and erl; tried with OTP 25.
func (c *creation) vmArgs() string {
	flag := "-name"
	if _, host, _ := strings.Cut(c.made.NodeName, "@"); !strings.Contains(host, ".") {
		flag = "-sname"
	}
	return strings.Join([]string{
		"# The node keeps the name that its shards know it by.",
		flag + " " + c.made.NodeName,
		"# It meets no other node: a cookie of its own, no port for others, no epmd.",
		"-setcookie " + rand.Text(),
		"-dist_listen false",
		"-start_epmd false",
		"-kernel dist_auto_connect never",
		"-kernel inet_dist_use_interface {127,0,0,1}",
		"-kernel prevent_overlapping_partitions false",
		"-kernel error_logger silent",
		"-sasl sasl_error_logger false",
		"-ssl session_lifetime 300",
		"-os_mon start_cpu_sup false",
		"-os_mon start_memsup false",
		"-os_mon start_disksup false",
		"+Bd -noinput",
		"",
	}, "\n")
}

func (c *creation) script() string {
	dir := filepath.ToSlash(c.opts.Dir)
	bin := cmp.Or(c.bin, "/opt/couchdb/bin/couchdb")
	return strings.NewReplacer("@DIR@", dir, "@BIN@", filepath.ToSlash(bin), "@NAME@", c.opts.Name).Replace(`#!/bin/sh
# Starts the CouchDB instance @NAME@ in the foreground; SIGTERM stops it.
bin=${COUCHDB_BIN:-@BIN@}
root=$(dirname "$(dirname "$bin")")
unset COUCHDB_SYSCONFIG_FILE ERL_FLAGS ERL_AFLAGS ERL_ZFLAGS
COUCHDB_INI_FILES="$root/etc/default.ini @DIR@/etc/local.ini"
COUCHDB_ARGS_FILE=@DIR@/etc/vm.args
ERL_EPMD_ADDRESS=127.0.0.1
ERL_CRASH_DUMP=@DIR@/erl_crash.dump
HOME=@DIR@
export COUCHDB_INI_FILES COUCHDB_ARGS_FILE ERL_EPMD_ADDRESS ERL_CRASH_DUMP HOME
exec "$bin"
`)
}

// start starts the server and waits until the databases of the backup answer.
func (c *creation) start(ctx context.Context) error {
	if c.bin == "" {
		c.note("no CouchDB program was found on this machine: start the instance with COUCHDB_BIN=… %s", c.made.Command)
		return nil
	}
	cmd, err := c.command()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStart, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the server, or with this process
	err = c.wait(ctx, ended)
	if err != nil {
		kill(cmd)
		return fmt.Errorf("%w: %w; see %s, and start it with %s", ErrStart, err, c.made.Log, c.made.Command)
	}
	c.made.Running, c.made.PID = true, cmd.Process.Pid
	pid := []byte(strconv.Itoa(cmd.Process.Pid) + "\n")
	return os.WriteFile(filepath.Join(c.opts.Dir, "couchdb.pid"), pid, 0o644)
}

// command starts the program, cut off from this process.
func (c *creation) command() (*exec.Cmd, error) {
	own, _, err := parseOwner(c.opts.Owner)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(c.made.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := own.file(log); err != nil {
		return nil, err
	}
	cmd := exec.Command(c.made.Command) //nolint:noctx // it outlives this call
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, c.opts.Dir
	cmd.Env = append(os.Environ(), "COUCHDB_BIN="+c.bin)
	detach(cmd, own)
	return cmd, cmd.Start()
}

// wait polls the server.
func (c *creation) wait(ctx context.Context, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	for {
		err := c.answers(ctx, client)
		if err == nil {
			return nil
		}
		select {
		case eerr := <-ended:
			return fmt.Errorf("it ended (%s): %s", fmt.Sprint(eerr), c.lastLines())
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// answers returns nil when the server is up and lists all databases.
func (c *creation) answers(ctx context.Context, client *http.Client) error {
	if err := c.get(ctx, client, "/_up", nil); err != nil {
		return err
	}
	var have []string
	if err := c.get(ctx, client, "/_all_dbs", &have); err != nil {
		return err
	}
	slices.Sort(have)
	for _, db := range c.made.Restored.Databases {
		if _, ok := slices.BinarySearch(have, db); !ok {
			return fmt.Errorf("database %q is not there yet", db)
		}
	}
	return nil
}

func (c *creation) get(ctx context.Context, client *http.Client, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.made.URL+path, nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth(c.made.User, c.made.Password)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	if v == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

// lastLines returns the end of the server's log on one line.
func (c *creation) lastLines() string {
	b, err := os.ReadFile(c.made.Log)
	if err != nil {
		return err.Error()
	}
	b = b[max(0, len(b)-1000):]
	return strings.Join(strings.Fields(string(b)), " ")
}
