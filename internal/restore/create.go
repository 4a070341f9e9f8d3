package restore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// CreateOptions are the options of Create.
type CreateOptions struct {
	Repo   *repo.Repo
	Record *manifest.Record // nil, and Repo too: a new, empty CouchDB
	// Moment is as in Options.
	Moment *manifest.Manifest

	Name string // of the instance: letters, digits, ".", "_", "-"
	// Dir gets data, etc, the program that starts it, and its log. It must be empty or
	// missing, or be what an earlier Create with the same options left; CouchDB takes no
	// path with spaces.
	Dir         string
	BindAddress string // of HTTP: an IP address; 127.0.0.1 if empty
	Port        int    // of HTTP; 0 is a free one

	// NodeName is the Erlang name of its node; "" is the one that the backup's shard maps
	// know, or couchdb@127.0.0.1. For another the maps are rewritten.
	NodeName string

	AdminUser     string // "admin" if empty
	AdminPassword string // made if empty, and then only Created says it
	CouchDBBin    string // "" is COUCHDB_BIN, /opt/couchdb/bin/couchdb, or couchdb in PATH
	Start         bool   // start it, if there is a CouchDB on this machine
	Owner         string // as in Options; the server then runs as that user
	// History is as in Options. With HistoryByMoment the newest backup keeps it.
	History History

	Timeout  time.Duration // for the server to answer; 30 s if 0
	Parallel int
	Progress *Progress

	Tell func(*ComesBack) // as in Options

	extraIni string // lines for the end of the ini file
	trial    bool
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

	Restored *Result  `json:"restored"` // nil without a backup
	Notes    []string `json:"notes"`
}

const defaultTimeout = 30 * time.Second

// plainPath is what CouchDB's start script and ini files take as it is: the
// script passes paths on without quotes.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9/._+@%,-]+$`)

// Create makes a CouchDB instance of its own: from a backup, or without one an empty
// one. Made from a backup it keeps the node's name, so that nothing in the files must
// change, and never meets the original: it has a cookie of its own, listens for no
// other node, registers with no epmd, and its replicator does nothing until that is
// allowed.
//
// It may be killed at any moment and called again with the same options: then it goes
// on with the data, writes the configuration anew, and stops a server that it had
// started. Once it is complete the same call, with a password given, starts the
// instance if it doesn't run, and changes nothing; without one, and with another name
// or backup, it is ErrInstanceExists. While another Create, Start, Stop or Remove works
// on the directory it is ErrInUse.
//
// Good path, each file whole and durable before the next:
//
//	mkdir(DIR), DIR/slipcover-instance.json    says what is being made; is locked
//	DIR/data                                   as Files does
//	DIR/slipcover-instance-state.json          the data is restored
//	DIR/etc/local.ini, DIR/etc/vm.args, DIR/start
//	DIR/couchdb.pid                            of a process that waits for a word
//	the word: the process becomes CouchDB
//	DIR/slipcover-instance-state.json          the instance is complete
func Create(ctx context.Context, opts CreateOptions) (*Created, error) {
	c := &creation{opts: opts, given: opts.AdminPassword != ""}
	if err := c.opts.check(); err != nil {
		return nil, err
	}
	if c.bin = CouchDBBinary(opts.CouchDBBin); opts.CouchDBBin != "" && c.bin == "" {
		return nil, fmt.Errorf("%w: there is no CouchDB program %s", ErrOptions, opts.CouchDBBin)
	}
	in, err := claim(c.opts.Dir, c.opts.card())
	if err != nil {
		return nil, err
	}
	defer in.release()
	return c.create(ctx, in)
}

// creation is an instance in the making.
type creation struct {
	opts  CreateOptions
	given bool // the admin's password is the caller's
	in    *instance
	bin   string // CouchDB's program; "" if there is none

	nodePort int // of CouchDB 2's node-local server
	state    state
	uuid     string
	secret   string
	single   bool // the cluster is this node alone
}

// create makes the instance in a directory that was claimed for it.
func (c *creation) create(ctx context.Context, in *instance) (*Created, error) {
	c.in = in
	var err error
	if c.state, err = in.readState(); err != nil {
		return nil, err
	}
	if c.state.Complete {
		return c.again(ctx)
	}
	// What an earlier call started had no whole configuration, or did not answer.
	if err := in.stop(ctx, stopPatience); err != nil {
		return nil, err
	}
	if err := c.port(); err != nil {
		return nil, err
	}
	if err := c.data(ctx); err != nil {
		return nil, err
	}
	c.state.Notes = nil
	if note := runsAsRoot(c.opts.Owner, os.Geteuid() == 0); note != "" {
		c.note("%s", note)
	}
	if err := c.learn(ctx); err != nil {
		return nil, err
	}
	if err := c.writeFiles(); err != nil {
		return nil, err
	}
	made, err := c.finish(ctx)
	if err != nil {
		return made, err
	}
	c.state.Complete = true
	return made, in.writeState(c.state)
}

// again is a Create of an instance that an earlier one completed.
func (c *creation) again(ctx context.Context) (*Created, error) {
	if !c.given {
		return nil, fmt.Errorf("%s: %w (%s)", c.opts.Dir, ErrInstanceExists, c.in.card)
	}
	return c.finish(ctx)
}

// finish starts the instance if that is wanted, and tells what it is.
func (c *creation) finish(ctx context.Context) (*Created, error) {
	addr, err := readAddress(c.opts.Dir)
	if err != nil {
		return nil, err
	}
	made := &Created{Name: c.opts.Name, Dir: c.opts.Dir, URL: addr.url(), User: c.opts.AdminUser, Password: c.opts.AdminPassword,
		NodeName: c.state.NodeName, Command: filepath.Join(c.opts.Dir, startName), Log: filepath.Join(c.opts.Dir, logName),
		Restored: c.state.Restored, Notes: c.state.Notes}
	switch {
	case !c.opts.Start:
	case guarded(filepath.Join(c.opts.Dir, dataName, dbsPath)):
		made.Notes = append(made.Notes, "it was not started: "+without(dbsPath))
	case c.bin == "":
		made.Notes = append(made.Notes, "no CouchDB program was found on this machine: start the instance with COUCHDB_BIN=… "+made.Command)
	case oldErlang(c.bin):
		made.Notes = append(made.Notes, fmt.Sprintf("it was not started: the Erlang of %s is older than 23 and can't be kept from other nodes, so it would meet the original; where that doesn't run, start epmd and then %s", c.bin, made.Command))
	default:
		s := starter{in: c.in, bin: c.bin, timeout: c.opts.Timeout, answers: made.answers}
		made.PID, err = s.start(ctx)
		made.Running = err == nil
	}
	return made, err
}

// data restores the backup, or makes an empty data directory.
func (c *creation) data(ctx context.Context) error {
	to := filepath.Join(c.opts.Dir, dataName)
	if c.opts.Record == nil {
		own, _, err := parseOwner(c.opts.Owner)
		if err != nil {
			return err
		}
		if err := durable.MkdirAll(to, folderMode); err != nil {
			return err
		}
		return own.path(to)
	}
	if c.state.Restored != nil { // by an earlier call
		return nil
	}
	// Nothing has ever written to files that are there but an earlier call, which may
	// have been killed when they were all complete.
	res, err := Files(ctx, Options{Repo: c.opts.Repo, Record: c.opts.Record, Moment: c.opts.Moment, To: to, Delta: true, NodeName: c.opts.NodeName, named: true, Owner: c.opts.Owner,
		History: c.opts.History, Tell: c.opts.Tell, trial: c.opts.trial, Parallel: c.opts.Parallel, Progress: c.opts.Progress})
	if err != nil {
		return err
	}
	c.state.Restored = res
	return c.in.writeState(c.state)
}

func (o *CreateOptions) check() (err error) {
	if (o.Repo == nil) != (o.Record == nil) {
		return fmt.Errorf("%w: a repository and a backup of it go together", ErrOptions)
	}
	if !manifest.ValidInstance(o.Name) {
		return fmt.Errorf("%w: %q can't name an instance: use 1 to 63 letters, digits, \".\", \"_\" and \"-\"", ErrOptions, o.Name)
	}
	if o.Dir, err = filepath.Abs(cmp.Or(o.Dir, o.Name)); err != nil {
		return err
	}
	if o.NodeName != "" && !shard.ValidNode(o.NodeName) {
		return fmt.Errorf("%w: %q is not the name of an Erlang node, such as couchdb@127.0.0.1", ErrOptions, o.NodeName)
	}
	if !plainPath.MatchString(filepath.ToSlash(o.Dir)) {
		return fmt.Errorf("%w: CouchDB can't be started on %q: name a directory whose path has no spaces or special characters", ErrOptions, o.Dir)
	}
	o.BindAddress = cmp.Or(o.BindAddress, "127.0.0.1")
	if ip, err := netip.ParseAddr(o.BindAddress); err != nil || ip.Zone() != "" {
		return fmt.Errorf("%w: %q is not an IP address to listen at", ErrOptions, o.BindAddress)
	}
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	return o.checkAdmin()
}

// checkAdmin refuses what an ini file of CouchDB can't hold.
func (o *CreateOptions) checkAdmin() error {
	o.AdminUser = cmp.Or(o.AdminUser, "admin")
	o.AdminPassword = cmp.Or(o.AdminPassword, rand.Text())
	ini := node.ParseIni([]byte("[admins]\n" + o.AdminUser + " = " + o.AdminPassword + "\n"))
	if v, _ := ini.Get("admins", o.AdminUser); v != o.AdminPassword || len(ini) != 1 || len(ini["admins"]) != 1 || strings.Contains(o.AdminUser, ":") || o.AdminPassword[0] == '-' {
		return fmt.Errorf("%w: an ini file of CouchDB can't hold that admin's name or password: use letters and digits", ErrOptions)
	}
	return nil
}

// source is what the instance is made of.
func (o *CreateOptions) source() *manifest.Summary {
	if o.Moment != nil {
		return &o.Moment.Summary
	}
	return &o.Record.Summary
}

// card is what the instance's directory will say of it.
func (o *CreateOptions) card() card {
	k := card{Says: "This directory is a CouchDB instance that Slipcover made.", Name: o.Name}
	if o.Record != nil {
		k.Backup, k.Source = o.source().ID, o.Record.Instance
	}
	return k
}

// port finds ports that are free now: the instance's, and one of loopback for the
// node-local server that a CouchDB 2 has beside it, by default at 5986, the original's.
func (c *creation) port() error {
	a := address{netip.MustParseAddr(c.opts.BindAddress), c.opts.Port}
	l, err := net.Listen("tcp", a.listener())
	if err != nil {
		return fmt.Errorf("%w: port %d of %s is not free: name another one (%w)", ErrOptions, c.opts.Port, c.opts.BindAddress, err)
	}
	c.opts.Port = l.Addr().(*net.TCPAddr).Port
	local, err := net.Listen("tcp", "127.0.0.1:0") // while the other is held, so that they differ
	if err == nil {
		c.nodePort = local.Addr().(*net.TCPAddr).Port
		err = local.Close()
	}
	return errors.Join(err, l.Close())
}

// systemDatabases are those that single_node makes CouchDB create; CouchDB 2 has no such
// setting and leaves them to whoever sets it up.
//
// Source: CouchDB's documentation, couchdb/single_node, and of 2.3, Single Node Setup; which
// ones, with 3.5.0: TestCreateEmpty.
var systemDatabases = []string{"_replicator", "_users"}

// answers returns nil when the server is up and lists all databases.
func (m *Created) answers(ctx context.Context) error {
	want := systemDatabases
	if m.Restored != nil && !m.Restored.CouchDB1 { // whose databases no list shows
		want = m.Restored.Databases
	}
	s, err := node.Ask(ctx, m.URL, m.User, m.Password)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	if err := s.EachDatabase(ctx, func(name string) error { have[name] = true; return nil }); err != nil {
		return err
	}
	for _, db := range want {
		switch {
		case have[db]:
		case m.Restored == nil && isCouchDB2(s.Version):
			if err := s.MakeDatabase(ctx, db); err != nil {
				return err
			}
		default:
			return fmt.Errorf("database %q is not there yet", db)
		}
	}
	return nil
}

func isCouchDB2(version string) bool { return strings.HasPrefix(version, "2.") }
