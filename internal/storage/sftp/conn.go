package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/slipcover/slipcover/internal/localhost"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/userfile"
)

const (
	// loginTime bounds connecting and logging in.
	loginTime = 30 * time.Second

	// aliveTime is how often the server is asked for a sign of life, and how long it
	// has for it.
	aliveTime = 15 * time.Second
)

// extensions are what the server must have beyond version 3 of the protocol.
var extensions = []string{"fsync@openssh.com", "posix-rename@openssh.com", "hardlink@openssh.com"}

// target is a parsed URL.
type target struct {
	user, addr string // addr is host:port
	root       string // absolute and clean
	identity   string // file of a private key, "" = the agent's keys
	knownHosts string // file
	url        string // for messages
}

// parseURL takes apart sftp://user@host:port/path. Its errors don't quote what may be
// a secret.
func parseURL(raw string) (target, error) {
	const form = "write sftp://user@host/path/of/the/folder"
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "sftp" || u.Opaque != "" || u.Fragment != "" || u.Hostname() == "" {
		return target{}, fmt.Errorf("that is not a URL of an SFTP storage: %s", form)
	}
	if _, ok := u.User.Password(); ok {
		return target{}, errors.New("a storage URL holds no password: log in with a key, from an SSH agent or ?identity_file=")
	}
	if !strings.HasPrefix(u.Path, "/") || strings.ContainsRune(u.Path, 0) {
		return target{}, fmt.Errorf("the SFTP URL names no absolute folder: %s", form)
	}
	t := target{user: u.User.Username(), root: path.Clean(u.Path)}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return target{}, errors.New("the parameters of the storage URL can't be read")
	}
	for p, values := range q {
		if len(values) > 1 {
			return target{}, fmt.Errorf("the parameter %s is given more than once", p)
		}
		switch p {
		case "identity_file":
			t.identity, err = userfile.Path(values[0])
		case "known_hosts":
			t.knownHosts, err = userfile.Path(values[0])
		default:
			return target{}, fmt.Errorf("a URL of sftp:// has no parameter %q; it can have identity_file and known_hosts", p)
		}
		if err != nil {
			return target{}, fmt.Errorf("the parameter %s: %w", p, err)
		}
	}
	if t.user == "" {
		me, err := user.Current()
		if err != nil {
			return target{}, fmt.Errorf("the SFTP URL names no user: %s", form)
		}
		t.user = me.Username
	}
	if t.knownHosts == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return target{}, errors.New("there is no home folder to look for .ssh/known_hosts in: add ?known_hosts=/path to the URL")
		}
		t.knownHosts = filepath.Join(home, ".ssh", "known_hosts")
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	t.addr = net.JoinHostPort(u.Hostname(), port)
	t.url = (&url.URL{Scheme: "sftp", User: url.User(t.user), Host: u.Host, Path: t.root}).String()
	return t, nil
}

// conn is a connection that is logged in.
type conn struct {
	*sftp.Client
	ssh  *ssh.Client
	dead chan struct{} // closed when the connection has ended
	wg   sync.WaitGroup
}

// dial connects, logs in and looks what the server can do.
func dial(ctx context.Context, t target) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	config, err := t.config()
	if err != nil {
		return nil, err
	}
	agentConn, err := t.logIn(ctx, config)
	if err != nil {
		return nil, err
	}
	if agentConn != nil {
		defer drop(agentConn)
	}
	raw, err := localhost.Dialer(&net.Dialer{})(ctx, "tcp", t.addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	stop := context.AfterFunc(ctx, func() { drop(raw) })
	defer stop()
	c, err := handshake(raw, t, config)
	if err != nil {
		drop(raw)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %s didn't log us in within %v", storage.ErrUnavailable, t.addr, loginTime)
		}
		return nil, err
	}
	return c, nil
}

func handshake(raw net.Conn, t target, config *ssh.ClientConfig) (*conn, error) {
	sc, channels, requests, err := ssh.NewClientConn(raw, t.addr, config)
	if err != nil {
		return nil, loginError(t, err)
	}
	client := ssh.NewClient(sc, channels, requests)
	files, err := sftp.NewClient(client, sftp.UseConcurrentWrites(true))
	if err != nil {
		drop(client)
		return nil, fmt.Errorf("%w: %s gives no SFTP to %s: %w", storage.ErrUnavailable, t.addr, t.user, err)
	}
	for _, name := range extensions {
		if _, ok := files.HasExtension(name); !ok {
			drop(files)
			drop(client)
			return nil, fmt.Errorf("the SFTP server at %s lacks %s, without which a backup can't be stored safely; use OpenSSH's server", t.addr, name)
		}
	}
	c := &conn{Client: files, ssh: client, dead: make(chan struct{})}
	c.wg.Go(func() {
		defer close(c.dead)
		_ = files.Wait() // how it ended is what each call learns
		drop(client)
	})
	c.wg.Go(func() { c.keepAlive(aliveTime) })
	return c, nil
}

// keepAlive ends the connection when the server gives no sign of life, so that no
// call waits for it longer than that.
func (c *conn) keepAlive(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-c.dead:
			return
		case <-tick.C:
		}
		late := time.AfterFunc(every, func() { drop(c.ssh) })
		_, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			drop(c.ssh)
			return
		}
	}
}

func (c *conn) close() {
	drop(c.ssh)
	drop(c.Client)
	c.wg.Wait()
}

// drop closes what is of no more use, or is closed already.
func drop(c io.Closer) { c.Close() }

// config returns how to tell that the server is the right one.
func (t target) config() (*ssh.ClientConfig, error) {
	check, err := knownhosts.New(t.knownHosts)
	if errors.Is(err, os.ErrNotExist) {
		check, err = knownhosts.New()
	}
	if err != nil {
		return nil, fmt.Errorf("the file of known hosts can't be read: %w", err)
	}
	return &ssh.ClientConfig{
		User:              t.user,
		HostKeyCallback:   t.explain(check),
		HostKeyAlgorithms: algorithms(check, t.addr),
	}, nil
}

// explain makes the errors of check say what to do. None accepts a host.
func (t target) explain(check ssh.HostKeyCallback) ssh.HostKeyCallback {
	return func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := check(host, remote, key)
		var unknown *knownhosts.KeyError
		if !errors.As(err, &unknown) {
			return err
		}
		is := fmt.Sprintf("the host key of %s is %s %s", host, key.Type(), ssh.FingerprintSHA256(key))
		if len(unknown.Want) == 0 {
			return &hostError{fmt.Sprintf("%s, which is not known; if the server's own ssh-keygen -lf shows the same, add this line to %s: %s",
				is, t.knownHosts, knownhosts.Line([]string{host}, key))}
		}
		was := unknown.Want[0]
		return &hostError{fmt.Sprintf("%s, but line %d of %s has another one: someone may have put a server of theirs in between; if it was set up anew, replace the line",
			is, was.Line, was.Filename)}
	}
}

// hostError says that the server isn't one that we know.
type hostError struct{ text string }

func (e *hostError) Error() string { return e.text }

// algorithms returns those of the keys that are known for a host: offered others, the
// server could prove itself with a key that isn't known although another one is. For
// a host that isn't known the short modern key comes first, for its line is shown.
func algorithms(check ssh.HostKeyCallback, addr string) []string {
	var unknown *knownhosts.KeyError
	if !errors.As(check(addr, &net.TCPAddr{}, noKey{}), &unknown) {
		return nil
	}
	if len(unknown.Want) == 0 {
		return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	var names []string
	for _, known := range unknown.Want {
		if typ := known.Key.Type(); typ == ssh.KeyAlgoRSA {
			names = append(names, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			names = append(names, typ)
		}
	}
	return names
}

// noKey is a key that no host has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// logIn adds the keys to config. The connection to the agent, if there is one, must
// live until the log-in.
func (t target) logIn(ctx context.Context, config *ssh.ClientConfig) (net.Conn, error) {
	if t.identity != "" {
		text, err := userfile.ReadText(t.identity)
		if err != nil {
			return nil, fmt.Errorf("the key to log in with: %w", err)
		}
		key, err := ssh.ParsePrivateKey([]byte(text))
		if locked := (*ssh.PassphraseMissingError)(nil); errors.As(err, &locked) {
			return nil, fmt.Errorf("the key %s has a passphrase: give it to an SSH agent, and leave identity_file out", t.identity)
		}
		if err != nil {
			return nil, fmt.Errorf("%s is not a private key of SSH", t.identity)
		}
		config.Auth = []ssh.AuthMethod{ssh.PublicKeys(key)}
		return nil, nil
	}
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, errors.New("there is no key to log in with: start an SSH agent (SSH_AUTH_SOCK), or add ?identity_file=/path/of/a/key to the URL")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("the SSH agent doesn't answer: %w", err)
	}
	config.Auth = []ssh.AuthMethod{ssh.PublicKeysCallback(agent.NewClient(c).Signers)}
	return c, nil
}

// loginError says what a failed handshake means.
func loginError(t target, err error) error {
	if he := (*hostError)(nil); errors.As(err, &he) {
		return he
	}
	if strings.Contains(err.Error(), "unable to authenticate") { // x/crypto has no type for it
		return fmt.Errorf("%w: %s doesn't accept the key for %s; is its public half in authorized_keys?", storage.ErrDenied, t.addr, t.user)
	}
	return fmt.Errorf("%w: log in at %s: %w", storage.ErrUnavailable, t.addr, err)
}
