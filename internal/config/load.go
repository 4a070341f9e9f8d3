package config

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/internal/userfile"
	"github.com/slipcover/slipcover/internal/words"
)

const (
	envPrefix = "SLIPCOVER_"
)

// Options say where settings come from. The zero value is what the program uses
// without flags.
type Options struct {
	// File is --config. Without it SLIPCOVER_CONFIG names the file, and without
	// that the first that exists of $XDG_CONFIG_HOME/slipcover/slipcover.yml
	// (~/.config if unset) and /etc/slipcover/slipcover.yml is read. A file in the
	// working directory is not looked for: whoever can write there could send the
	// backups of whoever works there elsewhere. /dev/null is no file at all.
	File string
	// Flags are the settings given as flags, by key: data_dir, not data-dir.
	Flags map[string]string
	// Environ replaces os.Environ(); nil for that.
	Environ []string
	// Hostname replaces os.Hostname; nil for that.
	Hostname func() (string, error)

	// system is the file that is searched last; empty for /etc/slipcover/slipcover.yml.
	system string
	// uid replaces os.Geteuid; nil for that.
	uid func() int
}

// Load gathers the settings and checks them. Each error is a sentence that names
// the place and says what to do.
func Load(o Options) (*Config, error) {
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	env := environment(o.Environ)
	c := &Config{origin: map[string]string{}}
	for _, k := range keys {
		if k.Default != "" {
			if err := c.set(k, value{text: k.Default, origin: "default"}); err != nil {
				return nil, err
			}
		}
	}
	fromFile, err := c.readFile(o, env)
	if err != nil {
		return nil, err
	}
	fromEnv, err := ourVariables(env)
	if err != nil {
		return nil, err
	}
	fromFlags, err := flagLayer(o.Flags)
	if err != nil {
		return nil, err
	}
	if err := c.apply(couchVariables(env)); err != nil {
		c.fault("couch_url", err)
	}
	for _, layer := range []map[string]value{fromFile, fromEnv, fromFlags} {
		if err := c.apply(layer); err != nil {
			return nil, err
		}
	}
	if c.CouchURL != "" {
		delete(c.Faults, "couch_url") // of a layer that no longer counts
	}
	if err := c.complete(o, env); err != nil {
		return nil, err
	}
	return c, c.check()
}

// environment splits "NAME=value" lines. An empty variable counts as not set.
func environment(environ []string) map[string]string {
	env := map[string]string{}
	for _, kv := range environ {
		if name, v, ok := strings.Cut(kv, "="); ok && v != "" {
			env[name] = v
		}
	}
	return env
}

// notSettings are variables with our prefix that mean something else: which file
// to read, and which tests must not be skipped.
var notSettings = []string{envPrefix + "CONFIG", envPrefix + "MUST_RUN"}

// kubernetes matches the variables that Kubernetes puts into each pod for a
// service of the name slipcover, or slipcover-something.
var kubernetes = regexp.MustCompile(`^SLIPCOVER_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

func ourVariables(env map[string]string) (map[string]value, error) {
	layer := map[string]value{}
	for name, text := range env {
		rest, ok := strings.CutPrefix(name, envPrefix)
		if !ok || slices.Contains(notSettings, name) {
			continue
		}
		k, ok := findKey(strings.ToLower(rest))
		switch {
		case ok && k.Env() == name:
			layer[k.Name] = value{text: text, origin: name}
		case !kubernetes.MatchString(name):
			names := slices.Clone(notSettings)
			for _, k := range keys {
				names = append(names, k.Env())
			}
			return nil, unknown("environment variable", name, names, "unset it")
		}
	}
	return layer, nil
}

// couchVariables are those by which others already tell of their CouchDB.
func couchVariables(env map[string]string) map[string]value {
	layer := map[string]value{}
	for name, key := range map[string]string{"COUCH_URL": "couch_url", "COUCHDB_USER": "couch_user", "COUCHDB_PASSWORD": "couch_password"} {
		if text, ok := env[name]; ok {
			layer[key] = value{text: text, origin: name}
		}
	}
	return layer
}

func flagLayer(flags map[string]string) (map[string]value, error) {
	layer := map[string]value{}
	for name, text := range flags {
		k, ok := findKey(name)
		if !ok {
			return nil, unknown("flag", name, nil, "remove it")
		}
		layer[name] = value{text: text, origin: "--" + k.Flag()}
	}
	return layer, nil
}

// unknown is the error for a name that is no setting.
func unknown(what, name string, candidates []string, otherwise string) error {
	n := words.Nearest(name, candidates)
	if n == "" {
		n = words.Nearest(strings.ToUpper(name), candidates)
	}
	if n != "" {
		return fmt.Errorf("unknown %s %s: did you mean %s?", what, name, n)
	}
	return fmt.Errorf("unknown %s %s: %s, or see 'slipcover config example' for all settings", what, name, otherwise)
}

// readFile finds and reads the configuration file.
func (c *Config) readFile(o Options, env map[string]string) (map[string]value, error) {
	path, named := cmp.Or(o.File, env[envPrefix+"CONFIG"]), true
	candidates := []string{path}
	if path == "" {
		named = false
		candidates = []string{cmp.Or(o.system, "/etc/slipcover/slipcover.yml")}
		if base := xdg(env, "XDG_CONFIG_HOME", ".config"); base != "" {
			candidates = slices.Insert(candidates, 0, filepath.Join(base, "slipcover", "slipcover.yml"))
		}
	}
	for _, file := range candidates {
		read, err := userfile.Read(file)
		if errors.Is(err, fs.ErrNotExist) && !named {
			continue
		}
		if errors.Is(err, fs.ErrPermission) && !named {
			return nil, fmt.Errorf("configuration file: %w: run as its owner, or pass --config with another file (/dev/null for none)", err)
		}
		if err != nil {
			return nil, fmt.Errorf("configuration file: %w", err)
		}
		if read.Binary {
			return nil, fmt.Errorf("configuration file: %s is not a text file: save it as UTF-8 text", file)
		}
		if c.File, err = filepath.Abs(read.Path); err != nil {
			return nil, err
		}
		layer, err := parseFile(file, []byte(read.Text), filepath.Dir(c.File))
		for _, k := range keys {
			if _, given := layer[k.Name]; given && k.Secret && worldReadable(read.Mode) {
				c.Warnings = append(c.Warnings, fmt.Sprintf("everybody on this machine can read %s, which holds %s: chmod 600 it", file, k.Name))
			}
		}
		return layer, err
	}
	return nil, nil
}

// xdg returns a directory of the XDG base directory specification; empty if the
// user has no home.
func xdg(env map[string]string, name, below string) string {
	if dir := env[name]; filepath.IsAbs(dir) {
		return dir
	}
	if home := env["HOME"]; home != "" {
		return filepath.Join(home, below)
	}
	return ""
}

// instead pairs the settings of which a layer may hold one, and of which the one
// in a stronger layer counts.
var instead = [][2]string{{"couch_password", "couch_password_file"}, {"passphrase", "passphrase_file"}, {"token", "token_file"}}

// apply puts one layer over what is there.
func (c *Config) apply(layer map[string]value) error {
	if err := splitURL(layer); err != nil {
		return err
	}
	for _, pair := range instead {
		a, okA := layer[pair[0]]
		b, okB := layer[pair[1]]
		if okA && okB {
			return fmt.Errorf("%s and %s are both given (%s, %s): keep one", pair[0], pair[1], a.origin, b.origin)
		}
		if okA || okB {
			c.unset(pair[0])
			c.unset(pair[1])
		}
	}
	for _, k := range keys {
		v, ok := layer[k.Name]
		if !ok {
			continue
		}
		if err := c.set(k, v); err != nil {
			return err
		}
		c.origin[k.Name] = v.origin
	}
	return nil
}

func (c *Config) unset(name string) {
	k, _ := findKey(name)
	delete(c.origin, name)
	if k.Secret {
		_ = c.set(k, value{}) // can't fail: any text is a secret
		return
	}
	switch name {
	case "couch_password_file":
		c.CouchPasswordFile = ""
	case "passphrase_file":
		c.PassphraseFile = ""
	case "token_file":
		c.TokenFile = ""
	}
}

// splitURL takes user and password out of the layer's couch_url.
func splitURL(layer map[string]value) error {
	v, ok := layer["couch_url"]
	if !ok || v.isList {
		return nil
	}
	if misreadUser(v.text) {
		return fmt.Errorf("%s: the user or password in couch_url has characters that a URL can't hold: write %% as %%25, @ as %%40, / as %%2F, # as %%23, ? as %%3F, or take them out and give %s", v.origin, besides(v.origin))
	}
	u, err := url.Parse(v.text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%s: couch_url must look like http://127.0.0.1:5984", v.origin) // without the value: it may hold a password
	}
	if u.User == nil {
		return nil
	}
	if other, ok := layer["couch_user"]; ok && other.text != u.User.Username() {
		return fmt.Errorf("couch_url and couch_user name different users (%s, %s): keep one", v.origin, other.origin)
	}
	layer["couch_user"] = value{text: u.User.Username(), origin: v.origin}
	if password, ok := u.User.Password(); ok {
		if other, ok := layer["couch_password"]; ok && other.text != password {
			return fmt.Errorf("couch_url and couch_password give different passwords (%s, %s): keep one", v.origin, other.origin)
		}
		layer["couch_password"] = value{text: password, origin: v.origin}
	}
	u.User = nil
	v.text = u.String()
	layer["couch_url"] = v
	return nil
}

// misreadUser says that a URL with a user is not read as it was meant: a password with a
// "#" in it would make its other half a fragment, and what stands before the host's name.
func misreadUser(text string) bool {
	_, rest, ok := strings.Cut(text, "://")
	if !ok || !strings.Contains(rest, "@") {
		return false
	}
	u, err := url.Parse(text)
	return err != nil || u.User == nil || strings.Contains(u.Path+u.RawQuery+u.Fragment, "@")
}

// besides says where a password can stand as it is.
func besides(origin string) string {
	if origin == "COUCH_URL" {
		return "COUCHDB_USER and COUCHDB_PASSWORD"
	}
	return "couch_user and couch_password_file"
}

// fault notes what is wrong with a setting that not all commands need.
func (c *Config) fault(key string, err error) {
	if c.Faults == nil {
		c.Faults = map[string]error{}
	}
	c.Faults[key] = err
}

// complete fills in what has no fixed default and reads the password files.
func (c *Config) complete(o Options, env map[string]string) error {
	if c.Instance == "" {
		hostname := o.Hostname
		if hostname == nil {
			hostname = os.Hostname
		}
		name, err := hostname()
		if err != nil || !instanceName.MatchString(name) {
			c.fault("instance", fmt.Errorf("the host name %q can't name the instance: set instance to letters, digits, dot, underscore and dash, at most 63", name))
		} else {
			c.Instance, c.origin["instance"] = name, "host name"
		}
	}
	if c.StateDir == "" {
		c.StateDir = stateDir(o, env)
		if c.StateDir == "" {
			c.fault("state_dir", errors.New("there is no home directory to keep state in: set state_dir"))
		}
	}
	for _, f := range []struct {
		key, file string
		to        *Secret
	}{{"couch_password_file", c.CouchPasswordFile, &c.CouchPassword}, {"passphrase_file", c.PassphraseFile, &c.Passphrase}, {"token_file", c.TokenFile, &c.Token}} {
		if f.file == "" {
			continue
		}
		read, err := userfile.Read(f.file)
		if err == nil {
			err = c.secretOf(f.key, read, f.to)
		}
		if err != nil {
			c.fault(f.key, fmt.Errorf("%s: %w", f.key, err))
			continue
		}
		if worldReadable(read.Mode) {
			c.Warnings = append(c.Warnings, fmt.Sprintf("everybody on this machine can read %s (%s): chmod 600 it", f.file, f.key))
		}
	}
	return nil
}

// secretOf takes the secret out of a file. A passphrase can be any bytes: those of a
// repository that was made with a file of another encoding.
func (c *Config) secretOf(key string, f *userfile.File, to *Secret) error {
	if key == "passphrase_file" {
		c.PassphraseBytes = Secret(strings.TrimRight(string(f.Raw), "\r\n"))
		if f.Binary && c.PassphraseBytes != "" {
			*to = c.PassphraseBytes
			return nil
		}
	}
	secret, err := f.Secret()
	if key == "token_file" {
		secret = strings.TrimSpace(secret)
	}
	*to = Secret(secret)
	return err
}

// Passphrases returns the spellings of the passphrase that may be meant, the likeliest
// first: without blanks around it comes second, as some are set with them, and then the
// bytes of the file, which were it before its encoding was looked at.
func (c *Config) Passphrases() []string {
	var out []string
	for _, p := range []string{c.Passphrase.Reveal(), strings.TrimSpace(c.Passphrase.Reveal()), c.PassphraseBytes.Reveal()} {
		if p != "" && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

func stateDir(o Options, env map[string]string) string {
	uid := o.uid
	if uid == nil {
		uid = os.Geteuid
	}
	if uid() == 0 {
		return "/var/lib/slipcover"
	}
	if runtime.GOOS == "windows" && env["LOCALAPPDATA"] != "" {
		return filepath.Join(env["LOCALAPPDATA"], "slipcover")
	}
	if base := xdg(env, "XDG_STATE_HOME", filepath.Join(".local", "state")); base != "" {
		return filepath.Join(base, "slipcover")
	}
	return ""
}

var (
	instanceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	recipient    = regexp.MustCompile(`^age1[0-9a-z]{58,}$`)
	ownerName    = regexp.MustCompile(`^[^:\s]+:[^:\s]+$`)
)

// check looks at what a single value can't say for itself.
func (c *Config) check() error {
	if c.Instance != "" && !instanceName.MatchString(c.Instance) {
		return fmt.Errorf("%s: instance is %q, and must be letters, digits, dot, underscore and dash, at most 63, the first a letter or digit", c.Origin("instance"), c.Instance)
	}
	if c.Cluster != "" && !instanceName.MatchString(c.Cluster) {
		return fmt.Errorf("%s: cluster is %q, and must be letters, digits, dot, underscore and dash, at most 63, the first a letter or digit", c.Origin("cluster"), c.Cluster)
	}
	if c.Owner != "" && !ownerName.MatchString(c.Owner) {
		return fmt.Errorf("%s: owner is %q, and must be user:group", c.Origin("owner"), c.Owner)
	}
	for _, key := range c.TrustedWriters {
		if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != 32 {
			return fmt.Errorf("%s: %q in trusted_writers is not an Ed25519 public key in base64 (44 characters)", c.Origin("trusted_writers"), key)
		}
	}
	for _, r := range c.Recipients {
		if !recipient.MatchString(r) {
			return fmt.Errorf("%s: recipients must be age recipients (age1…)", c.Origin("recipients")) // without the value: it may be an identity
		}
	}
	if err := c.checkService(); err != nil {
		return err
	}
	return c.checkRepositories()
}

// checkService looks at the settings of server and agent. Of URLs it prints nothing: they
// may hold a password.
func (c *Config) checkService() error {
	for _, s := range []struct{ key, at string }{{"listen", c.Listen}, {"nats_listen", c.NATSListen}} {
		if !hostPort(s.at) && (s.key == "listen" || s.at != "") {
			return fmt.Errorf("%s: %s is %q, and must be HOST:PORT such as 127.0.0.1:8779, with a port from 0 to 65535", c.Origin(s.key), s.key, s.at)
		}
	}
	for _, s := range []struct{ key, at string }{{"public_url", c.PublicURL}, {"keystone_url", c.KeystoneURL}} {
		u, err := url.Parse(s.at)
		if s.at != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
			return fmt.Errorf("%s: %s must look like https://backup.example:8779, without a user", c.Origin(s.key), s.key)
		}
	}
	for at := range strings.SplitSeq(c.NATSURL, ",") {
		u, err := url.Parse(strings.TrimSpace(at))
		if c.NATSURL != "" && misreadUser(strings.TrimSpace(at)) {
			return fmt.Errorf("%s: the user or password in nats_url has characters that a URL can't hold: write %% as %%25, @ as %%40, / as %%2F, # as %%23, ? as %%3F", c.Origin("nats_url"))
		}
		if c.NATSURL != "" && (err != nil || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Hostname() == "") {
			return fmt.Errorf("%s: nats_url must look like nats://n1:4222,nats://n2:4222, or tls:// to demand TLS", c.Origin("nats_url"))
		}
	}
	if _, err := c.Proxies(); err != nil {
		return err
	}
	for i, name := range c.Datastores {
		if !instanceName.MatchString(name) || strings.EqualFold(name, "couchdb") || slices.Contains(c.Datastores[:i], name) {
			return fmt.Errorf("%s: datastores has %q: give each name once, of letters, digits, dot, underscore and dash, and leave out couchdb, which is always there",
				c.Origin("datastores"), name)
		}
	}
	if n := c.SwiftContainer; n == "" || len(n) > 256 || strings.Contains(n, "/") {
		return fmt.Errorf("%s: swift_container is %q, and must be the name of a container: at most 256 bytes, and no slash", c.Origin("swift_container"), n)
	}
	return nil
}

// Proxies are the networks of the setting trusted_proxies.
func (c *Config) Proxies() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range c.TrustedProxies {
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); aerr == nil {
			p, err = a.Unmap().WithZone("").Prefix(a.Unmap().BitLen())
		}
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%s: trusted_proxies has %q, and each must be an address such as 10.0.0.5 or a network such as 10.1.0.0/16", c.Origin("trusted_proxies"), text)
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// hostPort says whether a text is one, with a number for the port; the host may be empty.
func hostPort(at string) bool {
	_, port, err := net.SplitHostPort(at)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func (c *Config) checkRepositories() error {
	if c.Repository != "" {
		if err := c.checkRepository("repository", c.Repository); err != nil {
			return err
		}
	}
	for i, place := range c.Repositories {
		if err := c.checkRepository("repositories", place); err != nil {
			return err
		}
		if slices.Contains(c.Repositories[:i], place) {
			return fmt.Errorf("%s: repositories names one twice: remove one of them", c.Origin("repositories"))
		}
	}
	return nil
}

// checkRepository doesn't print the place: it may hold a password.
func (c *Config) checkRepository(key, place string) error {
	if filepath.IsAbs(place) {
		return nil
	}
	u, err := url.Parse(place)
	if err != nil || u.Scheme == "" {
		return fmt.Errorf("%s: %s must be a URL such as file:///srv/backup, or an absolute path", c.Origin(key), key)
	}
	if _, ok := u.User.Password(); ok {
		return fmt.Errorf("%s: %s holds a password: give the storage its credentials by its own variables", c.Origin(key), key)
	}
	return nil
}

// absolute makes a path absolute; "~/" is the home directory.
func absolute(p, dir string) (string, error) {
	p, err := userfile.Path(p)
	if err != nil {
		return "", err
	}
	if filepath.IsAbs(p) || dir == "" {
		return filepath.Abs(p)
	}
	return filepath.Join(dir, p), nil
}

// worldReadable says whether everybody can read a regular file. Windows has no
// such bits.
func worldReadable(mode fs.FileMode) bool {
	return runtime.GOOS != "windows" && mode.IsRegular() && mode.Perm()&0o004 != 0
}
