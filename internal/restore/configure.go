package restore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
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

// usualCouchDB is where CouchDB's program is looked for. Tests change it.
var usualCouchDB = []string{"/opt/couchdb/bin/couchdb", "couchdb"}

// CouchDBBinary finds CouchDB's program, or returns "".
func CouchDBBinary(given string) string {
	try := []string{given}
	if given == "" {
		try = append([]string{os.Getenv("COUCHDB_BIN")}, usualCouchDB...)
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

// oldErlang says that the Erlang of a CouchDB can't do without a port for other nodes, so
// that it can't run beside the original: it is from before 23, as those of CouchDB 2 are.
//
// Source: Erlang/OTP, erts 11 is that of OTP 23; start_erl.data, as in script.
func oldErlang(bin string) bool {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(bin)), "releases", "start_erl.data"))
	if err != nil {
		return false
	}
	major, _, _ := strings.Cut(string(b), ".")
	n, err := strconv.Atoi(strings.TrimSpace(major))
	return err == nil && n < 11
}

// freshNode names the node of an instance that isn't made of a backup.
const freshNode = "couchdb@127.0.0.1"

// learn finds out what the configuration must know: from the backup, or anew.
func (c *creation) learn(ctx context.Context) error {
	if c.opts.Record == nil {
		id := make([]byte, 16)
		_, _ = rand.Read(id) // it never fails
		c.state.NodeName, c.uuid, c.secret, c.single = cmp.Or(c.opts.NodeName, freshNode), hex.EncodeToString(id), rand.Text(), true
		return nil
	}
	m := c.opts.Moment
	if m == nil {
		var err error
		if m, err = c.opts.Repo.Manifest(ctx, c.opts.Record); err != nil {
			return err
		}
	}
	if err := c.readIni(ctx, m); err != nil {
		return err
	}
	c.state.NodeName = cmp.Or(c.opts.NodeName, c.state.Restored.NodeName, m.NodeName)
	nodes, err := c.nodes()
	if err != nil {
		c.note("%v", err)
	}
	if c.state.Restored.NodeName == "" && len(nodes) == 1 && nodes[0] != c.state.NodeName { // no shard map says it
		if c.state.NodeName != "" {
			c.note("the configuration of the original calls its node %s, and its databases were made by %s: it has that name here, to find them", c.state.NodeName, nodes[0])
		}
		c.state.NodeName = nodes[0]
	}
	if manifest.CouchDB1(m.Files) { // it had no name
		c.state.NodeName = cmp.Or(c.state.NodeName, freshNode)
	}
	name, host, ok := strings.Cut(c.state.NodeName, "@")
	if !ok || name == "" || host == "" || !plainPath.MatchString(name+host) {
		return fmt.Errorf("the backup doesn't say how its node was called (%q), and CouchDB needs that to find its shards: restore the files and configure it by hand", c.state.NodeName)
	}
	c.single = !slices.ContainsFunc(nodes, func(n string) bool { return n != c.state.NodeName })
	if !c.single {
		c.note("the original was one of the cluster %s: databases that it held only in part answer for their other ranges with errors", strings.Join(nodes, ", "))
	}
	return nil
}

func (c *creation) note(format string, args ...any) {
	c.state.Notes = append(c.state.Notes, fmt.Sprintf(format, args...))
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

// eachIni calls fn with the ini files of a backup in CouchDB's order; err says that one
// can't be read back.
func eachIni(ctx context.Context, r *repo.Repo, m *manifest.Manifest, fn func(path string, ini node.Ini, err error)) error {
	var list []*manifest.File
	for _, f := range m.Files {
		if f.Root == manifest.EtcRoot && strings.HasSuffix(f.Path, ".ini") {
			list = append(list, f)
		}
	}
	slices.SortStableFunc(list, func(a, b *manifest.File) int { return cmp.Compare(iniOrder(a.Path), iniOrder(b.Path)) })
	v := verifier{m: m, reader: r.NewReader(m, list), opts: VerifyOptions{Progress: &Progress{}}}
	for _, f := range list {
		var b strings.Builder
		err := v.fill(ctx, f, &b)
		if err != nil && !unreadable(err) {
			return fmt.Errorf("restore %s: %w", f.Path, err)
		}
		if err != nil {
			b.Reset()
		}
		fn(f.Path, node.ParseIni([]byte(b.String())), err)
	}
	return nil
}

// tellIndexDir says where CouchDB looks for view indexes, if the backup's configuration
// keeps them elsewhere than where they are restored to.
func (r *run) tellIndexDir(ctx context.Context) error {
	if !r.whole() || !slices.ContainsFunc(r.plan.items, func(it item) bool { return it.f.Kind == manifest.View }) {
		return nil
	}
	var data, index string
	err := eachIni(ctx, r.opts.Repo, r.m, func(_ string, ini node.Ini, _ error) {
		if s, ok := ini.Get("couchdb", "database_dir"); ok {
			data = s
		}
		if s, ok := ini.Get("couchdb", "view_index_dir"); ok {
			index = s
		}
	})
	here := r.targets.dirOf(manifest.IndexRoot)
	if err != nil || index == "" || filepath.Clean(index) == here || index == data {
		return err
	}
	r.res.note("the view indexes are in %s, and by the backup's configuration CouchDB looks for them in %s (couchdb/view_index_dir): restore with --index-to %s, move them there, or change the setting; else it builds them anew", here, index, index)
	return nil
}

// readIni takes the server's uuid and its cookie secret over: a new uuid would
// make replications start over, a new secret log everyone out.
func (c *creation) readIni(ctx context.Context, m *manifest.Manifest) error {
	err := eachIni(ctx, c.opts.Repo, m, func(path string, ini node.Ini, err error) {
		if err != nil {
			c.note("%s can't be read back, so what it says of the server's uuid and secret is lost: %v", path, err)
		}
		if s, ok := ini.Get("couchdb", "uuid"); ok && uuidForm.MatchString(s) {
			c.uuid = s
		}
		for _, section := range []string{"couch_httpd_auth", "chttpd_auth"} {
			if s, ok := ini.Get(section, "secret"); ok && secretForm.MatchString(s) {
				c.secret = s
			}
		}
	})
	if err != nil {
		return err
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
	for _, f := range []struct {
		path, text string
		mode       fs.FileMode
	}{
		{filepath.Join(etc, iniName), c.ini(), 0o600},
		{filepath.Join(etc, "vm.args"), c.vmArgs(), 0o600},
		{filepath.Join(c.opts.Dir, startName), c.script(), 0o750},
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
	if c.opts.Record != nil {
		c.note("its replicator runs no jobs, so that it doesn't do those of the original: remove max_jobs from %s to let it", filepath.Join(etc, iniName))
	}
	return nil
}

func (c *creation) ini() string {
	data := filepath.ToSlash(filepath.Join(c.opts.Dir, "data"))
	var b strings.Builder
	fmt.Fprintf(&b, "; CouchDB instance %s, made by Slipcover", c.opts.Name)
	switch {
	case c.opts.Moment != nil:
		fmt.Fprintf(&b, " from the moment of %s", c.opts.Moment.Finished.UTC().Format(time.RFC3339))
	case c.opts.Record != nil:
		fmt.Fprintf(&b, " from backup %s", c.opts.Record.ID)
	}
	fmt.Fprintf(&b, "\n[couchdb]\ndatabase_dir = %s\nview_index_dir = %s\n", data, data)
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
	if c.single {
		b.WriteString("\n[cluster]\nn = 1\n")
	}
	fmt.Fprintf(&b, "\n[chttpd]\nbind_address = %s\nport = %d\n", c.opts.BindAddress, c.opts.Port)
	fmt.Fprintf(&b, "\n; The node-local port of a CouchDB 2; a CouchDB 3 has none.\n[httpd]\nbind_address = 127.0.0.1\nport = %d\n", c.nodePort)
	if c.secret != "" {
		fmt.Fprintf(&b, "\n[chttpd_auth]\nsecret = %s\n", c.secret)
		fmt.Fprintf(&b, "\n; as a CouchDB 2 calls it\n[couch_httpd_auth]\nsecret = %s\n", c.secret)
	}
	b.WriteString("\n[log]\nwriter = stderr\nlevel = warning\n")
	fmt.Fprintf(&b, "\n[smoosh]\nstate_dir = %s\n", data)
	if c.opts.Record != nil {
		b.WriteString("\n; The original's replications are in the data: here they don't run.\n[replicator]\nmax_jobs = 0\n")
	}
	b.WriteString(c.opts.extraIni)
	fmt.Fprintf(&b, "\n[admins]\n%s = %s\n", c.opts.AdminUser, c.opts.AdminPassword)
	return b.String()
}

// vmArgs names the node as it was and cuts it off from all others.
//
// -dist_listen false, which Erlang has since 23: it opens no port for other nodes, hence no epmd either, so
// it can run beside the original on one machine. Source: Erlang/OTP, kernel
// reference manual, net_kernel and erl; tried with OTP 25.
func (c *creation) vmArgs() string {
	return strings.Join([]string{
		"# The node keeps the name that its shards know it by.",
		nameFlag(c.state.NodeName) + " " + c.state.NodeName,
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

// nameFlag is the argument that gives a node its name: hosts of short names have no dot.
func nameFlag(name string) string {
	if _, host, _ := strings.Cut(name, "@"); !strings.Contains(host, ".") {
		return "-sname"
	}
	return "-name"
}

// script starts CouchDB with the instance's own configuration, and as it does itself.
//
// Source: CouchDB 3.5.0, rel/files/couchdb.in; 2.1.2 and 2.2.0, rel/overlay/bin/couchdb, and
// 2.3.1, rel/files/couchdb.in, which know no COUCHDB_INI_FILES, the first no COUCHDB_ARGS_FILE
// either; src/config/src/config_app.erl, command_line (couch_ini).
func (c *creation) script() string {
	dir := filepath.ToSlash(c.opts.Dir)
	bin := cmp.Or(c.bin, "/opt/couchdb/bin/couchdb")
	return strings.NewReplacer("@DIR@", dir, "@BIN@", filepath.ToSlash(bin), "@NAME@", c.opts.Name).Replace(`#!/bin/sh
# Starts the CouchDB instance @NAME@ in the foreground; SIGTERM stops it.
# Slipcover notes the number of this process first, and then says go.
if [ -n "$SLIPCOVER_WAIT" ]; then read -r go || exit 1; fi
bin=${COUCHDB_BIN:-@BIN@}
root=$(dirname "$(dirname "$bin")")
unset SLIPCOVER_WAIT COUCHDB_SYSCONFIG_FILE ERL_FLAGS ERL_AFLAGS ERL_ZFLAGS
COUCHDB_INI_FILES="$root/etc/default.ini @DIR@/etc/local.ini"
COUCHDB_ARGS_FILE=@DIR@/etc/vm.args
ERL_EPMD_ADDRESS=127.0.0.1
ERL_CRASH_DUMP=@DIR@/erl_crash.dump
HOME=@DIR@
export COUCHDB_INI_FILES COUCHDB_ARGS_FILE ERL_EPMD_ADDRESS ERL_CRASH_DUMP HOME
read -r erts version 2>/dev/null <"$root/releases/start_erl.data"
case $version in
2.*) # its own start script takes no ini files, and would start with the installation's
	cd "$root" || exit 1
	export ROOTDIR="$root" BINDIR="$root/erts-$erts/bin" EMU=beam PROGNAME=couchdb
	export COUCHDB_QUERY_SERVER_JAVASCRIPT="${COUCHDB_QUERY_SERVER_JAVASCRIPT:-$root/bin/couchjs $root/share/server/main.js}"
	exec "$BINDIR/erlexec" -boot "$root/releases/$version/couchdb" -args_file "$COUCHDB_ARGS_FILE" \
		-couch_ini $COUCHDB_INI_FILES -config "$root/releases/$version/sys.config" </dev/null ;;
esac
exec "$bin" </dev/null
`)
}

// address is where the instance listens, as its ini file says.
type address struct {
	ip   netip.Addr
	port int
}

// listener returns what to listen at to see whether the address is free.
func (a address) listener() string {
	return net.JoinHostPort(a.ip.String(), strconv.Itoa(a.port))
}

// url returns how this machine reaches the instance.
func (a address) url() string {
	ip := a.ip
	switch {
	case ip == netip.IPv4Unspecified():
		ip = netip.MustParseAddr("127.0.0.1")
	case ip == netip.IPv6Unspecified():
		ip = netip.IPv6Loopback()
	}
	return "http://" + net.JoinHostPort(ip.String(), strconv.Itoa(a.port))
}

// readAddress reads it out of an instance's ini file, which CouchDB may have changed.
func readAddress(dir string) (address, error) {
	path := filepath.Join(dir, "etc", iniName)
	b, err := os.ReadFile(path)
	if err != nil {
		return address{}, err
	}
	ini := node.ParseIni(b)
	host, _ := ini.Get("chttpd", "bind_address")
	text, _ := ini.Get("chttpd", "port")
	ip, err1 := netip.ParseAddr(cmp.Or(host, "127.0.0.1"))
	port, err2 := strconv.Atoi(text)
	if err := errors.Join(err1, err2); err != nil {
		return address{}, fmt.Errorf("%s does not say where the instance listens: %w", path, err)
	}
	return address{ip, port}, nil
}
