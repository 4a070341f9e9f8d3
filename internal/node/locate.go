package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/internal/shard"
)

// ErrNotFound says that there is nothing to go by: no directory was given, and
// none of the usual places holds a CouchDB.
var ErrNotFound = errors.New("no CouchDB found on this machine: pass --config-dir (the folder of default.ini and local.ini) or --data-dir (the folder of _dbs.couch and shards)")

// Options say where to look. The first that is set decides, from top to bottom;
// if none is, COUCHDB_INI_FILES, the URL and the usual directories are tried.
type Options struct {
	// DataDir is the data directory itself. Configuration then comes from
	// ConfigDir alone, and without one there is none.
	DataDir string
	// ConfigDir is the folder of default.ini, default.d, local.ini and local.d.
	ConfigDir string
	// URL of the node's server, which is asked for its directories. It must run on
	// this machine. It may carry user:password@.
	URL string
	// User and Password are those of a server admin.
	User, Password string
	// NodeName is the node's Erlang name, if it is known better than by asking.
	NodeName string

	// Getenv replaces os.Getenv; nil for that.
	Getenv func(string) string
	// Usual replaces the configuration directories that are tried last; nil for
	// /opt/couchdb/etc and /etc/couchdb.
	Usual []string
	// HTTP replaces the client; nil for one that gives up after ten seconds.
	HTTP *http.Client
}

var usual = []string{"/opt/couchdb/etc", "/etc/couchdb"}

// Locate finds the node's files. The order is that of Options: DataDir,
// ConfigDir, the environment variable COUCHDB_INI_FILES (as in CouchDB's own
// start script it replaces the chain), URL, the usual directories.
func Locate(ctx context.Context, o Options) (*Node, error) {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Usual == nil {
		o.Usual = usual
	}
	if o.NodeName != "" && !shard.ValidNode(o.NodeName) {
		return nil, fmt.Errorf("node_name is %q, and must be the name of an Erlang node such as couchdb@127.0.0.1", o.NodeName)
	}
	n, err := locate(ctx, o)
	if err != nil {
		return nil, err
	}
	switch {
	case o.NodeName != "":
		n.NodeName, n.NameSource, n.NameTold = o.NodeName, "node_name", true
	case n.NodeName != "": // a server said it
		n.NameSource, n.NameTold = "the server at "+n.Source, true
	default:
		name, source := nodeName(n.vmArgs, o.Getenv, hostname())
		if name != "" && (source != vmArgsName || n.vmArgs != nil) {
			n.NodeName, n.NameSource = name, source
		}
	}
	n.vmArgs = nil
	return n, nil
}

func locate(ctx context.Context, o Options) (*Node, error) {
	chain := strings.Fields(o.Getenv("COUCHDB_INI_FILES"))
	switch {
	case o.DataDir != "":
		return fromDataDir(ctx, o)
	case o.ConfigDir != "":
		n, err := fromConfigDir(ctx, o.ConfigDir, "")
		return finish(n, err, "--config-dir")
	case len(chain) > 0:
		n, err := fromChain(ctx, o, chain)
		return finish(n, err, "COUCHDB_INI_FILES")
	case o.URL != "":
		return fromURL(ctx, o)
	}
	for _, dir := range o.Usual {
		if isDir(dir) && hasIni(dir) {
			n, err := fromConfigDir(ctx, dir, o.Getenv("COUCHDB_ARGS_FILE"))
			return finish(n, err, dir)
		}
	}
	return nil, ErrNotFound
}

// finish resolves the directories that the ini files of n name.
func finish(n *Node, err error, source string) (*Node, error) {
	if err != nil {
		return nil, err
	}
	n.Source = source
	data, ok := n.Settings.Get("couchdb", "database_dir")
	if !ok {
		return nil, fmt.Errorf("no ini file of %s sets couchdb/database_dir: pass --data-dir", source)
	}
	if n.DataDir, err = n.existing("database_dir", data); err != nil {
		return nil, err
	}
	n.IndexDir = n.DataDir
	if index, ok := n.Settings.Get("couchdb", "view_index_dir"); ok {
		abs, err := n.absolute("view_index_dir", index)
		if err != nil {
			return nil, err
		}
		n.IndexDir = resolved(abs)
	}
	return n, nil
}

// absolute makes a directory of the ini files absolute.
func (n *Node) absolute(key, dir string) (string, error) {
	if filepath.IsAbs(dir) {
		return filepath.Clean(dir), nil
	}
	if n.ReleaseDir == "" {
		return "", fmt.Errorf("couchdb/%s is %q, which is relative to where CouchDB is installed, and that is not known: pass --config-dir or --data-dir", key, dir)
	}
	return filepath.Join(n.ReleaseDir, dir), nil
}

// existing is absolute for a directory that must be there.
func (n *Node) existing(key, dir string) (string, error) {
	abs, err := n.absolute(key, dir)
	if err != nil {
		return "", err
	}
	real, err := realDir(abs)
	if err != nil {
		return "", fmt.Errorf("couchdb/%s is %q: %w: pass --data-dir if it is elsewhere", key, dir, err)
	}
	return real, nil
}

func fromDataDir(ctx context.Context, o Options) (*Node, error) {
	dir, err := realDir(o.DataDir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	n := &Node{Settings: Ini{}}
	if o.ConfigDir != "" {
		if n, err = fromConfigDir(ctx, o.ConfigDir, ""); err != nil {
			return nil, err
		}
	}
	n.Source, n.DataDir, n.IndexDir = "--data-dir", dir, dir
	// The ini files still say where the indexes are, unless they are with the data.
	index, ok := n.Settings.Get("couchdb", "view_index_dir")
	if data, _ := n.Settings.Get("couchdb", "database_dir"); !ok || index == data {
		return n, nil
	}
	abs, err := n.absolute("view_index_dir", index)
	if err != nil {
		return nil, err
	}
	n.IndexDir = resolved(abs)
	return n, nil
}

// fromConfigDir reads the chain of a configuration directory. argsFile replaces
// its vm.args unless it is empty.
func fromConfigDir(ctx context.Context, dir, argsFile string) (*Node, error) {
	if _, err := realDir(dir); err != nil {
		return nil, fmt.Errorf("configuration directory: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if !hasIni(dir) {
		hint := ""
		if etc := filepath.Join(dir, "etc"); hasIni(etc) {
			hint = ", but " + etc + " does: pass that"
		}
		return nil, fmt.Errorf("configuration directory: %s has no default.ini, default.d, local.ini or local.d%s", dir, hint)
	}
	files, err := chainOf(dir)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	release := releaseOf(dir)
	if release == "" {
		release = filepath.Dir(dir)
	}
	return readNode(ctx, &Node{EtcDir: dir, ReleaseDir: release, IniFiles: files}, argsFile)
}

// fromChain reads the files and directories that COUCHDB_INI_FILES names.
//
// Source: CouchDB 3.5.0, rel/files/couchdb.in (unquoted in the shell, so white
// space separates) and src/config/src/config_app.erl, command_line.
func fromChain(ctx context.Context, o Options, chain []string) (*Node, error) {
	release := ""
	for _, p := range slices.Concat(chain, o.Usual) {
		if release == "" && filepath.IsAbs(p) {
			release = releaseOf(p)
		}
	}
	for i, p := range chain {
		if filepath.IsAbs(p) {
			continue
		}
		if release == "" {
			return nil, fmt.Errorf("COUCHDB_INI_FILES names %s, which is relative to where CouchDB is installed, and that is not known: pass --config-dir", p)
		}
		chain[i] = filepath.Join(release, p)
	}
	files, err := expandDirs(chain)
	if err != nil {
		return nil, fmt.Errorf("COUCHDB_INI_FILES: %w", err)
	}
	if len(files) == 0 {
		return nil, errors.New("COUCHDB_INI_FILES names no ini file: unset it, or pass --config-dir")
	}
	etc := filepath.Dir(files[0])
	if release != "" && isDir(filepath.Join(release, "etc")) {
		etc = filepath.Join(release, "etc")
	}
	return readNode(ctx, &Node{EtcDir: etc, ReleaseDir: release, IniFiles: files}, o.Getenv("COUCHDB_ARGS_FILE"))
}

// readNode fills in what the ini files, vm.args and the release say.
func readNode(ctx context.Context, n *Node, argsFile string) (*Node, error) {
	var err error
	if n.Settings, err = readChain(ctx, n.IniFiles); err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	n.UUID, _ = n.Settings.Get("couchdb", "uuid")
	n.Version = versionOf(n.ReleaseDir)
	n.VMArgs = cmp.Or(argsFile, filepath.Join(n.EtcDir, vmArgsName))
	if !filepath.IsAbs(n.VMArgs) {
		n.VMArgs = filepath.Join(n.ReleaseDir, n.VMArgs)
	}
	data, err := ReadConfig(ctx, n.VMArgs)
	switch {
	case errors.Is(err, os.ErrNotExist) && argsFile == "":
		n.VMArgs = ""
	case err != nil:
		return nil, fmt.Errorf("read the arguments of the Erlang VM: %w", err)
	default:
		n.vmArgs = data
	}
	return n, nil
}

// releaseOf goes up from a file or directory to the one that CouchDB was
// installed in; it returns "" if there is none.
func releaseOf(p string) string {
	for _, start := range []string{p, resolved(p)} {
		for dir := filepath.Clean(start); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "releases", "start_erl.data")); err == nil {
				return dir
			}
		}
	}
	return ""
}

// versionOf reads CouchDB's version from an installed release: the second word
// of start_erl.data, or, where that is empty, the version of the couch library.
func versionOf(release string) string {
	if release == "" {
		return ""
	}
	if data, err := os.ReadFile(filepath.Join(release, "releases", "start_erl.data")); err == nil {
		if words := strings.Fields(string(data)); len(words) > 1 {
			return words[1]
		}
	}
	dirs, err := os.ReadDir(filepath.Join(release, "lib"))
	if err != nil {
		return ""
	}
	newest := ""
	for _, d := range dirs {
		if v, ok := strings.CutPrefix(d.Name(), "couch-"); ok && compareVersions(v, newest) > 0 {
			newest = v
		}
	}
	return newest
}

// compareVersions compares dotted numbers; what is no number counts as 0.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		var x, y int
		if i < len(as) {
			x, _ = strconv.Atoi(as[i])
		}
		if i < len(bs) {
			y, _ = strconv.Atoi(bs[i])
		}
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
	}
	return strings.Compare(a, b)
}

func hasIni(dir string) bool {
	for _, name := range []string{"default.ini", "local.ini", "default.d", "local.d"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			return true // also if it may not be read, which the reader then says
		}
	}
	return false
}

func isDir(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.IsDir()
}

// realDir makes the path of an existing directory absolute and resolves links.
func realDir(p string) (string, error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return "", fmt.Errorf("%s is not a directory", abs)
	}
	return real, nil
}

// resolved resolves links if it can, and else returns the path as it is.
func resolved(p string) string {
	if real, err := filepath.EvalSymlinks(p); err == nil {
		return real
	}
	return filepath.Clean(p)
}
