package service

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/sdnotify"
	"github.com/slipcover/slipcover/internal/states"
	"github.com/slipcover/slipcover/internal/storage"
)

// membership is what an agent keeps of having joined a server.
type membership struct {
	AgentID  string `json:"agent_id"`
	Instance string `json:"instance"` // id of its node
	Name     string `json:"name"`
	Project  string `json:"project"`
	Server   string `json:"server"`   // URL that it joined at
	Seed     string `json:"seed"`     // of its key for the bus
	JWT      string `json:"jwt"`      // "" with credentials of the operator's
	NATSURL  string `json:"nats_url"` // "" in the server's own process
	NATSCA   string `json:"nats_ca"`  // PEM; "" is the system's
	// Recipients (age1…) are whom the server wants a repository encrypted to that this
	// agent makes; its own setting counts before them.
	Recipients []string `json:"recipients,omitempty"`
}

func membershipFile(s *core.Settings) string {
	return filepath.Join(s.StateDir, "agent", "membership.json")
}

// readMembership returns what the agent kept, or nil.
func readMembership(s *core.Settings) (*membership, error) {
	m := &membership{}
	_, err := durable.ReadJSON(membershipFile(s), m)
	var perr *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.As(err, &perr):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%s can't be used: remove it and join again (%w)", membershipFile(s), err)
	}
	return m, nil
}

func (m *membership) write(s *core.Settings) error {
	if err := durable.MkdirAll(filepath.Dir(membershipFile(s)), 0o700); err != nil {
		return err
	}
	return durable.WriteJSON(membershipFile(s), 0o600, m)
}

type agentOptions struct {
	open.Options
	join        string
	fingerprint string
}

func newAgent(env *core.Env, g *core.Global) *cobra.Command {
	o := &agentOptions{}
	c := &cobra.Command{
		Use:   "agent",
		Short: "Do a server's jobs on this CouchDB node",
		Long: `Do a server's jobs on this node: back it up, make new CouchDB instances out of backups, test that backups restore.
The first time, --join takes the one-time token that "slipcover token join" prints on the server; after that the agent
knows its server. The credentials that it gets allow its own work and nothing else.

It backs up what "slipcover backup create" would, with the same settings and into the same repository, and copies each
backup to those of the setting repositories.

The node decides where its backups may go, not the server. Besides its own repositories it accepts what is below an entry
of accept_storages: for callers' own Swift accounts, set accept_storages: [https://swift.example/v1/]. Jobs for other places
fail, and say what to add. A node that has neither a repository nor accept_storages goes where its server says. Backups in
callers' accounts are not copied.

It also ships what CouchDB commits between two backups, as "slipcover ship" does, if the setting ship or its server says so.
That goes to its own repository.

Restoring needs a key: without the setting identity_file the agent makes backups and can't read them, and its log says so at
each start. It never makes a key, which would lie on the machine that it protects. A new repository is encrypted to the
setting recipients of this node, or else to those that the server had when the agent joined.

It runs in the foreground until SIGTERM, SIGINT or SIGHUP. Its next start goes on with a job that was at work.`,
		Args: core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
			return runAgent(ctx, env, s, o)
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "which this is (default: the name of this machine)")
	core.NodeFlags(f)
	agentFlags(f)
	f.StringVar(&o.join, "join", "", "the one-time `TOKEN` of a server, to join it")
	f.StringVar(&o.fingerprint, "ca-fingerprint", "",
		"with --join: the `SHA256` of the certificate authority of a server that made its own")
	f.String("server-url", "", "with --join: `URL` of the server")
	f.String("ca-file", "", "PEM `FILE` with the authority that signed the server's certificate")
	return c
}

// agentFlags are those of an agent, also of one in the server's process.
func agentFlags(f *pflag.FlagSet) {
	f.String("instances-dir", "", "`DIR` in which new CouchDB instances are made (default: that of the state, with -instances behind its name)")
	f.String("restart-command", "", "`COMMAND` that restarts this node's CouchDB")
	f.Bool("ship", false, "store what this node's CouchDB commits as it happens, whatever the server says")
	f.String("couchdb-bin", "", "CouchDB's program, `FILE`, for new instances")
	core.ClusterFlag(f)
}

func runAgent(ctx context.Context, env *core.Env, s *core.Settings, o *agentOptions) error {
	ctx, stop := untilHangUp(ctx)
	defer stop()
	log := newLog(env, s)
	m, err := readMembership(s)
	if err != nil {
		return err
	}
	if o.join != "" {
		if err := canWork(ctx, env, s); err != nil {
			return fmt.Errorf("%w; the token of --join was not used, so run the same command again then", err)
		}
		if m, err = joinServer(ctx, s, o); err != nil {
			return err
		}
		log.InfoContext(ctx, "joined", "server", m.Server, "name", m.Name, "project", m.Project, "agent", m.AgentID,
			"instance", m.Instance)
	}
	if m == nil {
		return core.Usage("this agent belongs to no server yet: on the server run \"slipcover token join --name %s\", and here what it prints", s.Instance)
	}
	link := bus.LinkOptions{URL: cmp.Or(s.NATSURL, m.NATSURL), Agent: m.AgentID, JWT: m.JWT, Seed: m.Seed, Log: log}
	if m.JWT == "" {
		link.Creds = s.NATSCreds
	}
	if link.CA, err = natsAuthorities(s, m, link.URL); err != nil {
		return err
	}
	opts, err := agentSetup(ctx, env, s, log, readers{recipients: m.Recipients})
	if err != nil {
		return err
	}
	opts.Dial = dial(link)
	// Not only once the bus is there: a server that is away must not hold up the start of
	// this machine.
	opts.Ready = func() { tellReady(ctx, log) }
	err = ended(ctx, agent.Run(ctx, opts))
	if errors.Is(err, agent.ErrRemoved) {
		return core.Say(storage.ErrDenied, "%s: join again with a new token", err)
	}
	return err
}

// dial returns how an agent connects.
func dial(o bus.LinkOptions) func(context.Context) (agent.Link, error) {
	return func(ctx context.Context) (agent.Link, error) {
		l, err := bus.Dial(ctx, o)
		switch {
		case errors.Is(err, bus.ErrRefused):
			return nil, core.Say(storage.ErrDenied, "%s: join again with a new token (%s)", agent.ErrRemoved, err)
		case errors.Is(err, bus.ErrCertificate):
			return nil, fmt.Errorf("%w: if the server has another certificate than when this agent joined, join again with a new token, or set ca_file to what signs it; "+
				"else something else answers there", err)
		}
		if err != nil {
			return nil, err
		}
		return l, nil
	}
}

// tellReady tells systemd that the process does its work, and from then on that it lives.
func tellReady(ctx context.Context, log *slog.Logger) {
	if err := sdnotify.Notify(sdnotify.Ready); err != nil {
		log.WarnContext(ctx, "systemd was not told", "err", err)
	}
	go sdnotify.Watchdog(ctx, lives)
}

// natsAuthorities are those by which an agent knows NATS at a URL: what its server gave it
// and ca_file, or else what the system knows and, if the URL demands TLS, ca_file. Nil is
// the system's; with any other NATS must speak TLS.
func natsAuthorities(s *core.Settings, m *membership, at string) (pool *x509.CertPool, err error) {
	switch {
	case m.NATSCA != "":
		pool = x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(m.NATSCA))
	case s.CAFile == "" || !strings.Contains(at, "tls://"): // it is that of the API alone
		return nil, nil
	default:
		if pool, err = x509.SystemCertPool(); err != nil {
			pool = x509.NewCertPool()
		}
	}
	return pool, addCAs(pool, s.CAFile)
}

// untilHangUp ends a context at SIGHUP too, as when a terminal is closed: in order, and not
// where the process stands. One that is ignored, as below nohup, stays so.
func untilHangUp(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if !signal.Ignored(syscall.SIGHUP) {
		hup := hangUps()
		go func() {
			select {
			case s := <-hup:
				cancel(core.Interrupted{Signal: s})
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// lives is what a watchdog is told of a process that still runs: whether its bus or
// storage can be reached is no reason to start it again.
func lives() bool { return true }

// ended is the error of a process that runs until a signal: none, if that is what
// ended it.
func ended(ctx context.Context, err error) error {
	var sig core.Interrupted
	if errors.As(context.Cause(ctx), &sig) && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// agentSetup is how the agent of this machine works, by the settings.
func agentSetup(ctx context.Context, env *core.Env, s *core.Settings, log *slog.Logger, to readers) (agent.Options, error) {
	if err := core.CheckStrategy("backup", s.BackupNamespace, s.BackupStrategy); err != nil {
		return agent.Options{}, err
	}
	if err := core.CheckStrategy("restore", s.RestoreNamespace, s.BackupStrategy); err != nil {
		return agent.Options{}, err
	}
	if err := readyRepository(ctx, env, s, log, to); err != nil {
		return agent.Options{}, err
	}
	if s.InstancesDir == "" {
		s.InstancesDir = strings.TrimRight(s.StateDir, "/") + "-instances"
	}
	// CouchDB's user must be able to enter it.
	if err := durable.MkdirAll(s.InstancesDir, 0o755); err != nil {
		return agent.Options{}, err
	}
	host, err := os.Hostname()
	if err != nil {
		return agent.Options{}, err
	}
	quiet := s.At(s.Repository)
	quiet.Progress = "none"
	r := &agentRepositories{env: env, settings: quiet, readers: to, log: log}
	at, err := core.RepositoryURL(s.Repository)
	if err != nil {
		return agent.Options{}, err
	}
	o := agent.Options{
		Version: "slipcover " + core.ToolVersion(), Host: host, Address: ownAddress(ctx, s), StateDir: s.StateDir,
		InstancesDir: s.InstancesDir, BindAddress: s.BindAddress, Owner: s.Owner, CouchDBBin: s.CouchDBBin,
		CouchURL: s.CouchURL, CouchUser: s.CouchUser, CouchPassword: s.CouchPassword.Reveal(), AcceptWrites: s.AcceptWrites, RestartCommand: s.RestartCommand,
		AcceptRestores: s.AcceptRestores, AcceptReads: s.AcceptReads,
		Target: func(ctx context.Context) (*node.Node, error) {
			return node.Target(ctx, node.Options{DataDir: s.DataDir, ConfigDir: s.ConfigDir, NodeName: s.NodeName, Getenv: env.Getenv})
		},
		Locate:   func(ctx context.Context) (*node.Node, error) { return locateOwn(ctx, env, s) },
		OpenRepo: r.open, OpenCopies: r.openCopies, Rooms: r.rooms, RepositoryURL: core.Mask(at),
		Accept: slices.Concat(s.AcceptStorages, s.Repositories), JoinRecipients: to.recipients, CanRead: len(s.Identities) > 0 || s.Passphrase != "",
		Backup: backup.Options{Cluster: s.Cluster, Strategy: s.BackupStrategy, Namespace: s.BackupNamespace, ProveInterval: s.ProveInterval, Compaction: s.Compaction, Tails: s.Tails, Strict: s.Strict,
			Recipients: s.Recipients, Indexes: s.Indexes, Parallel: s.Parallel, Tool: "slipcover " + core.ToolVersion()},
		HookBefore: s.HookBefore, HookAfter: s.HookAfter, HookTimeout: s.HookTimeout, Log: log,
		Ship: s.Ship, ShipInterval: s.ShipInterval, KeepMoments: s.KeepMoments.Longest(), ImmutableFor: s.ImmutableFor.Longest(),
	}
	return o, nil
}

// agentRepositories opens repositories for an agent's jobs.
type agentRepositories struct {
	env      *core.Env
	settings *core.Settings
	readers  readers
	log      *slog.Logger
}

// open opens the repository of a job, in its own Swift account or by the agent's
// configuration, and makes it if the job may.
func (r *agentRepositories) open(ctx context.Context, o agent.Open) (*repo.Repo, func(), error) {
	own, env := *r.settings, *r.env // jobs run side by side
	s := &own
	useServiceKey(s)             // which may have been made since the start
	env.Stderr = discardWriter{} // the agent has a log of its own
	if o.Look {
		s.CacheDir, s.CacheSize = "", min(s.CacheSize, config.Bytes(states.CacheSize))
	}
	if o.Repository.Storage != "" {
		s = s.At(o.Repository.URL)
		env.StorageEnv = o.Getenv
	} else if s.Repository == "" {
		return nil, nil, core.Usage("this agent has no repository: give it the setting repository")
	} else if asked := o.Repository.URL; asked != "" && !o.Make && !isRepository(asked, s.Repository) { // the one of the settings may have been another
		if !sameLogIn(s.Repository, asked) {
			return nil, nil, core.Usage("the backup is in %s, which this agent's log-in isn't for: set the agent's repository to that place", core.Mask(asked))
		}
		s = s.At(asked)
	}
	env.CountTraffic(s)
	known := ""
	if o.Repository.Storage == "" {
		known = knownRepository(s)
	}
	store, err := open.Store(ctx, &env, s, o.Make && known == "")
	if err != nil {
		return nil, nil, repositoryGone(s, known, err)
	}
	opened, err := open.In(ctx, &env, s, store, false)
	switch {
	case errors.Is(err, repo.ErrNoRepository) && known != "":
		err = repositoryGone(s, known, err)
	case errors.Is(err, repo.ErrNoRepository) && o.Make:
		opened, err = r.make(ctx, &env, s, store, o)
	}
	if err == nil && o.Repository.Storage == "" {
		_ = rememberRepository(s, opened.Config().ID) // no reason not to use it
	}
	if err != nil {
		_ = store.Close()
		return nil, nil, err
	}
	return opened, func() { _ = store.Close() }, nil
}

// isRepository reports whether the URL of a job is that of the settings, as this shows it.
func isRepository(asked, own string) bool {
	at, err := core.RepositoryURL(own)
	return asked == core.Mask(own) || err == nil && asked == core.Mask(at)
}

// make makes the repository of a job, which there was none of at the start, or whose
// storage was away then.
func (r *agentRepositories) make(
	ctx context.Context, env *core.Env, s *core.Settings, store storage.Store, o agent.Open,
) (*repo.Repo, error) {
	recipients := o.Repository.Recipients
	if o.Repository.Storage == "" {
		var err error
		if recipients, err = r.readers.list(ctx, env, s, r.log); err != nil {
			return nil, err
		}
	}
	if len(recipients) == 0 { // it would be made without encryption
		return nil, core.Usage("the server names no recipients for %s: give it the setting recipients",
			core.Mask(store.URL()))
	}
	if _, err := repo.Init(ctx, store, repo.InitOptions{Recipients: recipients}); err != nil && !errors.Is(err, repo.ErrExists) {
		return nil, err
	}
	return open.In(ctx, env, s, store, false)
}

// openCopies opens the repositories of the setting repositories as `backup create` does.
func (r *agentRepositories) openCopies(ctx context.Context, first *repo.Repo) (list []agent.Place, closeAll func()) {
	env := *r.env
	env.Stderr = discardWriter{}
	var all []*open.Place
	seen := map[string]bool{first.Config().ID: true}
	for _, name := range r.settings.Repositories {
		url, err := core.RepositoryURL(name)
		if err != nil {
			list = append(list, agent.Place{URL: core.Mask(name), Err: err})
			continue
		}
		s := r.settings.At(url)
		q := open.PlaceOf(ctx, &env, s, seen)
		if q == nil {
			continue
		}
		all = append(all, q)
		p := agent.Place{URL: q.URL, Err: q.Err}
		if q.Err == nil {
			p.Repo = q.Repo
		}
		list = append(list, p)
	}
	return list, func() {
		for _, q := range all {
			q.Close()
		}
	}
}

// rooms asks the storages of the repositories, those that can say it, how much room is left.
func (r *agentRepositories) rooms(ctx context.Context) (list []job.Room) {
	env := *r.env
	env.Stderr = discardWriter{}
	for i, name := range slices.Concat([]string{r.settings.Repository}, r.settings.Repositories) {
		url, err := core.RepositoryURL(name)
		if name == "" || err != nil || !strings.HasPrefix(url, "file:") && !strings.HasPrefix(url, "sftp:") {
			continue
		}
		store, err := open.Bare(ctx, &env, r.settings.At(url), url, false)
		if err != nil {
			r.log.DebugContext(ctx, "the room of a repository is not known", "repository", core.Mask(url), "err", err)
			continue
		}
		if s, ok := store.(storage.Roomer); ok {
			free, total, err := s.Room(ctx)
			if err == nil && total > 0 {
				list = append(list, job.Room{URL: core.Mask(url), Copy: i > 0, FreeBytes: free, TotalBytes: total})
			} else {
				r.log.DebugContext(ctx, "the room of a repository is not known", "repository", core.Mask(url), "err", err)
			}
		}
		_ = store.Close()
	}
	return list
}

// sameLogIn reports whether the log-in for one repository goes to the same host for another
// one: of a URL that others name, nothing but bucket and path may differ from that of the
// settings, so that nobody has the agent log in where he listens.
func sameLogIn(own, asked string) bool {
	if !strings.Contains(own, "://") {
		own = "file://" + own // a path
	}
	a, err := url.Parse(own)
	if err != nil {
		return false
	}
	b, err := url.Parse(asked)
	if err != nil || a.Scheme != b.Scheme {
		return false
	}
	// A query that isn't well formed could be read otherwise elsewhere.
	ours, err := url.ParseQuery(a.RawQuery)
	theirs, terr := url.ParseQuery(b.RawQuery)
	if a.RawQuery != b.RawQuery && (err != nil || terr != nil || ours.Encode() != theirs.Encode()) {
		return false
	}
	return a.Scheme != "sftp" || a.Host == b.Host && a.User.Username() == b.User.Username()
}

type discardWriter struct{}

func (discardWriter) Write(b []byte) (int, error) { return len(b), nil }

// readyRepository makes the repository of the configuration if there is none: what is
// made at a start can be seen there, with who reads it. Storage that can't be reached is
// left to the first backup.
func readyRepository(ctx context.Context, env *core.Env, s *core.Settings, log *slog.Logger, to readers) error {
	useServiceKey(s)
	var c *repo.Config // nil if it isn't known
	if s.Repository != "" {
		var err error
		if c, err = findRepository(ctx, env, s, log, to); err != nil {
			return err
		}
	}
	tellReading(ctx, s, c, log)
	return nil
}

func findRepository(
	ctx context.Context, env *core.Env, s *core.Settings, log *slog.Logger, to readers,
) (*repo.Config, error) {
	known := knownRepository(s)
	store, err := open.Store(ctx, env, s, known == "" && to.some(s))
	if err == nil {
		defer func() { _ = store.Close() }()
		var r *repo.Repo
		if r, err = repo.Open(ctx, store, repo.Options{}); err == nil {
			c := r.Config()
			return &c, rememberRepository(s, c.ID)
		}
	}
	none := errors.Is(err, repo.ErrNoRepository) || errors.Is(err, fs.ErrNotExist)
	place, _ := core.RepositoryURL(s.Repository)
	switch {
	case known == "" && !to.some(s) && errors.Is(err, storage.ErrUnavailable) && strings.HasPrefix(place, "file://"):
		_, err := to.list(ctx, env, s, log) // no folder, and none may be made
		return nil, err
	case errors.Is(err, storage.ErrUnavailable):
		log.WarnContext(ctx, "the repository can't be reached now", "err", err)
		return nil, nil
	case errors.Is(err, storage.ErrDenied): // which may pass, as that of a clock that isn't set yet
		log.ErrorContext(ctx, "no backup can be made until the repository lets this node in", "err", err)
		return nil, nil
	case known != "" && none:
		log.ErrorContext(ctx, "no backup can be made until the repository is there", "err", repositoryGone(s, known, err))
		return nil, nil
	case !none || store == nil && to.some(s):
		return nil, err
	}
	recipients, err := to.list(ctx, env, s, log)
	if err != nil {
		return nil, err
	}
	c, err := repo.Init(ctx, store, repo.InitOptions{Recipients: recipients})
	if errors.Is(err, repo.ErrExists) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	log.InfoContext(ctx, "made the repository", "repository", core.Mask(store.URL()), "id", c.ID,
		"recipients", c.Recipients)
	return &c, rememberRepository(s, c.ID)
}

// ownAddress is the address of this machine by which it reaches its server; nothing is
// sent to find it.
func ownAddress(ctx context.Context, s *core.Settings) string {
	_, hostport, _ := strings.Cut(s.ServerURL, "://")
	hostport, _, _ = strings.Cut(hostport, "/")
	if _, _, err := net.SplitHostPort(hostport); err != nil {
		hostport = net.JoinHostPort(hostport, "443")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", hostport)
	if err != nil {
		return ""
	}
	defer func() { _ = c.Close() }()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		return ""
	}
	return host
}

// locateOwn finds the CouchDB of this machine.
func locateOwn(ctx context.Context, env *core.Env, s *core.Settings) (*node.Node, error) {
	return node.Locate(ctx, node.Options{DataDir: s.DataDir, ConfigDir: s.ConfigDir, URL: s.CouchURL, NodeName: s.NodeName,
		User:     s.CouchUser,
		Password: s.CouchPassword.Reveal(), Getenv: env.Getenv})
}

// canWork says in an error why an agent with these settings could do nothing: there is
// neither a CouchDB whose files it may read nor the program to make one, or its repository
// doesn't let it in. What may pass, as a storage that is away, is no reason.
func canWork(ctx context.Context, env *core.Env, s *core.Settings) error {
	n, err := locateOwn(ctx, env, s)
	switch {
	case s.AcceptRestores && (err != nil || errors.Is(readable(n.DataDir), node.ErrNoData)):
		// It may get all that it will have by a restore.
		if _, terr := node.Target(ctx, node.Options{DataDir: s.DataDir, ConfigDir: s.ConfigDir, NodeName: s.NodeName, Getenv: env.Getenv}); terr != nil {
			return fmt.Errorf("nothing could be restored onto this node: %w", terr)
		}
	case err == nil:
		if err = readable(n.DataDir); errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("this agent could back up nothing: %w: run it as root or as CouchDB's user", err)
		} else if err != nil {
			return fmt.Errorf("this agent could back up nothing: %w", err)
		}
	case !errors.Is(err, node.ErrNotFound) || s.DataDir != "" || restore.CouchDBBinary(s.CouchDBBin) == "":
		return fmt.Errorf("this agent could back up nothing: %w", err)
	}
	if s.Repository == "" {
		return nil // the server knows whether one is needed
	}
	quiet := *env
	quiet.Stderr = discardWriter{}
	store, err := open.Store(ctx, &quiet, s, false)
	if err == nil {
		_, err = repo.Open(ctx, store, repo.Options{})
		_ = store.Close()
	}
	if errors.Is(err, storage.ErrDenied) || errors.Is(err, core.ErrUsage) || errors.Is(err, repo.ErrFormat) || errors.Is(err, repo.ErrCorrupt) {
		return fmt.Errorf("this agent could store nothing: %w", err)
	}
	return nil
}

// readable says in an error why a data directory can't be read, as far as that is seen at its
// top.
func readable(dataDir string) error {
	if _, err := os.ReadDir(dataDir); err != nil {
		return err
	}
	_, err := os.ReadDir(filepath.Join(dataDir, "shards"))
	f, ferr := os.Open(filepath.Join(dataDir, "_dbs.couch"))
	if ferr == nil {
		_ = f.Close()
	}
	if errors.Is(err, fs.ErrNotExist) && errors.Is(ferr, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s holds neither shards nor _dbs.couch", node.ErrNoData, dataDir)
	}
	for _, err := range []error{err, ferr} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// joinServer spends a one-time token and keeps what the server gives for it.
func joinServer(ctx context.Context, s *core.Settings, o *agentOptions) (*membership, error) {
	if !manifest.ValidInstance(s.Instance) {
		return nil, core.Usage("%q can't name this node: set instance", s.Instance)
	}
	recipient, err := agent.Recipient(s.StateDir)
	if err != nil {
		return nil, err
	}
	seed, public, err := bus.NewKey()
	if err != nil {
		return nil, err
	}
	client, err := newServiceClient(s, o.fingerprint)
	if err != nil {
		return nil, err
	}
	m := &membership{Server: s.ServerURL, Seed: seed}
	hello := job.Hello{Version: "slipcover " + core.ToolVersion(), Host: s.Instance, Address: ownAddress(ctx, s),
		NoRepository: s.Repository == ""}
	if err := client.join(ctx, joinRequest{o.join, public, recipient, hello}, m); err != nil {
		return nil, err
	}
	return m, m.write(s)
}
