package service

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/admin"
	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/localhost"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/sdnotify"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/trove"
	"github.com/slipcover/slipcover/internal/web"
)

type serverOptions struct {
	open.Options
	withAgent bool
	project   string
}

func newServer(env *core.Env, g *core.Global) *cobra.Command {
	o := &serverOptions{}
	c := &cobra.Command{
		Use:   "server",
		Short: "Serve OpenStack Trove's API and direct the agents of CouchDB nodes",
		Long: `Serve OpenStack Trove's REST API (port 8779) and Slipcover's own, keep the catalog of instances and backups, and
direct the agents on the nodes. All state is in state_dir, or in the NATS cluster of nats_url.

With --with-agent this process is also the agent of this machine's CouchDB, and nothing else is needed:

  slipcover server --with-agent --repo /backups

The first start makes what is missing: the repository, the key that reads it (identity.txt in state_dir, on the machine
that it protects: keep a copy elsewhere), and an administrator's token (admin-token in state_dir).

Agents that join without the setting recipients encrypt to the server's, or if it has none, to the key that it made.

It runs in the foreground until SIGTERM or SIGINT.`,
		Args: core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
			return runServer(ctx, env, s, o)
		}),
	}
	f := c.Flags()
	f.BoolVar(&o.withAgent, "with-agent", false, "be the agent of this machine's CouchDB too")
	f.StringVar(&o.project, "agent-project", "", "with --with-agent: `ID` of the project that this machine's CouchDB belongs to (default: \"default\", without Keystone)")
	f.String("listen", "", "`HOST:PORT` of the APIs (default: 127.0.0.1:8779)")
	f.String("auth", "", "whose tokens count: token, keystone or none")
	o.Options.Flags(f, "with --with-agent: which this machine's is (default: its name)")
	core.NodeFlags(f)
	agentFlags(f)
	c.AddCommand(newRebuild(env, g))
	return c
}

// defaultProject is the project of those who name none, without Keystone.
const defaultProject = "default"

// spareMemory is what a server may have, in bytes, beside its living memory and a
// quarter of that.
const spareMemory = 12 << 20

// service is a server with all that belongs to it, in the order in which it is made.
type service struct {
	env      *core.Env
	settings *core.Settings
	log      *slog.Logger
	registry *prometheus.Registry

	ca     *httpd.CA // nil if there is none of our own
	cert   string    // files; empty without TLS
	key    string
	bus    *bus.Bus
	tokens *access.Tokens
	server *server.Server
	opened *opened.Set
	web    *web.Site
	http   *httpd.Server
	audit  *httpd.Audit
}

func runServer(ctx context.Context, env *core.Env, s *core.Settings, o *serverOptions) error {
	v := &service{env: env, settings: s, log: newLog(env, s), registry: prometheus.NewRegistry()}
	if err := v.check(o); err != nil {
		return err
	}
	if err := durable.MkdirAll(s.StateDir, 0o700); err != nil {
		return err
	}
	if err := v.certificates(); err != nil {
		return err
	}
	if err := v.openBus(ctx); err != nil {
		return err
	}
	defer func() { _ = v.bus.Close() }()
	if err := v.build(ctx); err != nil {
		return err
	}
	defer func() { _ = v.audit.Close() }()
	return v.run(ctx, o)
}

// check looks at what single settings can't say for themselves.
func (v *service) check(o *serverOptions) error {
	s := v.settings
	switch {
	case s.Auth == "keystone" && s.KeystoneURL == "":
		return core.Usage("auth is keystone: keystone_url must say where it is")
	case s.Auth == "none" && !localhost.Only(s.Listen):
		return core.Usage("auth is none, so whoever reaches %s could do everything: listen on 127.0.0.1, or set auth", s.Listen)
	case (s.TLSCert == "") != (s.TLSKey == ""):
		return core.Usage("tls_cert and tls_key go together")
	case s.TLSCert != "" && badPair(s) != nil:
		return core.Usage("tls_cert and tls_key can't be used: %s", badPair(s))
	case s.NATSURL != "" && s.NATSListen != "":
		return core.Usage("nats_url and nats_listen are both given: the NATS in this server is not used with a cluster")
	case s.Auth == "keystone" && s.OwnSwift && s.NATSURL != "" && len(s.Recipients) == 0:
		return core.Usage("with nats_url several servers may be one service, and each would make a key of its own: give all of them the same recipients, as docs/service.md says, or own_swift: false")
	case o.withAgent && s.Auth == "keystone" && o.project == "":
		return core.Usage("--with-agent needs --agent-project, the id of the Keystone project that this CouchDB belongs to")
	case o.withAgent && s.Repository == "" && (s.Auth != "keystone" || !s.OwnSwift):
		return core.Usage("no repository given: pass --repo, where the backups of this machine's CouchDB go")
	case o.project != "" && !access.ValidProject(o.project):
		return core.Usage("%q can't be a project's id", o.project)
	}
	for _, f := range []struct{ key, file string }{{"nats_creds", s.NATSCreds}, {"nats_account_seed", s.NATSAccountSeed}} {
		if s.NATSURL == "" || f.file == "" {
			continue
		}
		if _, err := os.ReadFile(f.file); err != nil {
			return core.Usage("%s: %s", f.key, err)
		}
	}
	return nil
}

func badPair(s *core.Settings) error {
	_, err := tls.LoadX509KeyPair(s.TLSCert, s.TLSKey)
	return err
}

// certificates finds the certificate of the APIs and of the port for agents, or makes
// one where it is needed.
func (v *service) certificates() error {
	s := v.settings
	v.cert, v.key = s.TLSCert, s.TLSKey
	if v.cert != "" || (localhost.Only(s.Listen) || s.InsecureHTTP) && s.NATSListen == "" {
		return nil
	}
	var err error
	if v.ca, err = httpd.OpenCA(filepath.Join(s.StateDir, "ca")); err != nil {
		return err
	}
	names := []string{"localhost", "127.0.0.1", "::1"}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	if u, err := url.Parse(s.PublicURL); err == nil && u.Hostname() != "" {
		names = append(names, u.Hostname())
	}
	for _, at := range []string{s.Listen, s.NATSListen} {
		if host, _, err := net.SplitHostPort(at); err == nil && host != "" && !net.ParseIP(host).IsUnspecified() {
			names = append(names, host)
		}
	}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
				names = append(names, n.IP.String())
			}
		}
	}
	if v.cert, err = v.ca.Certificate(names...); err != nil {
		return err
	}
	v.key = v.cert
	return durable.WriteFile(filepath.Join(s.StateDir, "ca.crt"), 0o644,
		func(w *os.File) error { _, err := w.Write(v.ca.PEM()); return err })
}

func (v *service) openBus(ctx context.Context) (err error) {
	s := v.settings
	o := bus.Options{URL: s.NATSURL, Creds: s.NATSCreds, AccountSeed: s.NATSAccountSeed,
		Dir:    filepath.Join(s.StateDir, "nats"),
		Listen: s.NATSListen, Replicas: s.NATSReplicas, Log: v.log}
	if s.NATSListen != "" {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(v.cert, v.key)
			return &c, err
		}}
	}
	if s.NATSURL != "" {
		if o.CA, err = readCAs(s.CAFile); err != nil {
			return err
		}
	}
	v.bus, err = bus.Open(ctx, o)
	if errors.Is(err, bus.ErrInUse) {
		return core.Say(core.ErrTarget, "another server runs with the state_dir %s: stop it, or give this one another", s.StateDir)
	}
	return err
}

// readCAs reads certificates of authorities; nil without a file is the system's.
func readCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	return pool, addCAs(pool, file)
}

// addCAs adds the certificates of a file, if one is named.
func addCAs(pool *x509.CertPool, file string) error {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return core.Usage("ca_file: %s", err)
	}
	if !pool.AppendCertsFromPEM(b) {
		return core.Usage("ca_file: %s holds no certificate in PEM", file)
	}
	return nil
}

// build makes the server, its APIs and its listener.
func (v *service) build(ctx context.Context) error {
	s := v.settings
	checker, err := v.checker(ctx)
	if err != nil {
		return err
	}
	v.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	if v.cert != "" {
		v.registry.MustRegister(certificateExpiry(v.cert))
	}
	cfg := server.Config{Bus: v.bus, Log: v.log,
		Quota:    job.Quota{Instances: s.QuotaInstances, Backups: s.QuotaBackups, Volumes: s.QuotaVolumes},
		OwnSwift: s.OwnSwift && s.Auth == "keystone", Container: s.SwiftContainer, Recipients: s.Recipients, Datastores: s.Datastores, Metrics: v.registry,
		Census: censusFile(s), LocalHeartbeats: s.Auth == "none"} // whose callers run this machine
	if k, ok := checker.(*access.Keystone); ok && s.OwnSwift && s.KeystoneUser != "" {
		cfg.Keystone = k
	}
	if cfg.OwnSwift && len(cfg.Recipients) == 0 {
		recipient, err := serviceKey(ctx, v.env, s, v.log)
		if err != nil {
			return err
		}
		cfg.Recipients = []string{recipient}
	}
	if v.server, err = server.New(ctx, cfg); err != nil {
		return err
	}
	if v.audit, err = httpd.OpenAudit(cmp.Or(s.AuditFile, filepath.Join(s.StateDir, "audit.jsonl")), v.log, v.registry); err != nil {
		return err
	}
	if v.opened, err = v.openedSet(checker); err != nil {
		return err
	}
	handler, err := v.handler(ctx, checker)
	if err != nil {
		return err
	}
	cert, key := v.cert, v.key
	if v.ca != nil && (localhost.Only(s.Listen) || s.InsecureHTTP) { // it was made for the agents
		cert, key = "", ""
	}
	v.http, err = httpd.Listen(ctx, httpd.Options{Address: s.Listen, CertFile: cert, KeyFile: key,
		AllowPlain: s.InsecureHTTP, Handler: handler, Log: v.log})
	return err
}

// checker knows the callers' tokens.
func (v *service) checker(ctx context.Context) (access.Checker, error) {
	s := v.settings
	table, err := v.bus.Table(ctx, "tokens")
	if err != nil {
		return nil, err
	}
	v.tokens = access.NewTokens(table)
	switch s.Auth {
	case "none":
		return access.None{}, nil
	case "keystone":
		return access.NewKeystone(access.KeystoneOptions{URL: s.KeystoneURL, Region: s.Region, CacheFor: s.TokenCache,
			SwiftRoles: s.SwiftRoles, ContentsRoles: s.ContentsRoles,
			Service: access.ServiceUser{User: s.KeystoneUser, Password: s.KeystonePassword, Project: s.KeystoneProject, UserDomain: s.KeystoneDomain, ProjectDomain: s.KeystoneDomain}})
	}
	return v.tokens, bus.AtStart(ctx, func() error { return v.firstToken(ctx) })
}

// censusFile is where it is noted how much the catalog has; "" if that is a cluster's.
func censusFile(s *core.Settings) string {
	if s.NATSURL != "" {
		return ""
	}
	return filepath.Join(s.StateDir, "nats", "census.json")
}

func adminTokenFile(s *core.Settings) string { return filepath.Join(s.StateDir, "admin-token") }

// firstStart is who made the first token.
const firstStart = "the first start"

// firstToken makes an administrator's token if there is no token at all, or none but of
// first starts and never used: one that was cut short has not written its text down, and
// nobody could get in.
func (v *service) firstToken(ctx context.Context) error {
	file := adminTokenFile(v.settings)
	list, err := v.tokens.List(ctx, "")
	if err != nil {
		return err
	}
	if _, err := os.Stat(file); len(list) > 0 && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, k := range list {
		if k.CreatedBy != firstStart || !k.LastUsed.IsZero() {
			return nil
		}
	}
	_, secret, err := v.tokens.Create(ctx, access.Token{Name: "admin", Role: access.Admin, Project: defaultProject,
		CreatedBy: firstStart})
	if err != nil {
		return err
	}
	if err := durable.WriteFile(file, 0o600, func(w *os.File) error { _, err := fmt.Fprintln(w, secret.Reveal()); return err }); err != nil {
		return err
	}
	v.log.InfoContext(ctx, "made an administrator's token", "file", file)
	return nil
}

// handler is all that is served over HTTP.
func (v *service) handler(ctx context.Context, checker access.Checker) (http.Handler, error) {
	s := v.settings
	metrics, err := httpd.NewMetrics(v.registry)
	if err != nil {
		return nil, err
	}
	keystone := ""
	if s.Auth == "keystone" {
		keystone = s.KeystoneURL
	}
	proxies, err := s.Proxies()
	if err != nil {
		return nil, err
	}
	callers, door := httpd.NewLimiter(s.RateLimit), access.NewDoor(checker)
	api := httpd.API{Name: "trove", Log: v.log, Metrics: metrics, Audit: v.audit,
		Addresses: httpd.NewLimiter(10 * s.RateLimit), Known: door.Knows, Proxies: proxies,
		Broken: trove.Broken, TooMany: trove.TooMany}
	troves := api.Handler(trove.New(trove.Options{Server: v.server, Checker: door, Log: v.log, Keystone: keystone,
		URL: s.PublicURL, Region: s.Region, Callers: callers}))
	o := admin.Options{Server: v.server, Checker: door, Tokens: v.tokens, Log: v.log, Callers: callers,
		URL: s.PublicURL, NATSURL: v.natsURL(), CA: v.natsCA(), Auth: s.Auth, Serves: v.opened, Audit: v.audit,
		Recipients: func() []string { return handedOut(s) }}
	if v.ca != nil {
		o.Fingerprint = v.ca.Fingerprint()
	}
	api.Name, api.Broken, api.TooMany = "admin", admin.Broken, admin.TooMany
	admins := api.Handler(admin.New(o))
	serves := httpd.API{Name: "serve", Log: v.log, Metrics: metrics, Proxies: proxies, MostBody: 16 << 20, // as CouchDB's own API; who asks without the
		Broken: admin.Broken, TooMany: admin.TooMany}.Handler(v.opened) // password is bounded there, and what is read is no line of the audit log
	if v.web, err = v.dashboard(ctx, checker, &o); err != nil {
		return nil, err
	}
	api.Name, api.Broken, api.TooMany = "web", v.web.Broken, v.web.TooMany
	api.Known = v.web.Known
	pages := api.Handler(v.web)
	probes := map[string]http.Handler{
		"/healthz": httpd.Healthz(),
		"/readyz": httpd.Readyz(v.log, s.MetricsToken.Reveal(),
			httpd.Check{Name: "catalog", Run: func(context.Context) error { return v.server.Ready() }}),
		"/metrics": httpd.MetricsHandler(v.registry, s.MetricsToken.Reveal(), true),
	}
	// No ServeMux: it would answer for the APIs what is not in its shortest form.
	all := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		probe := probes[r.URL.Path]
		switch {
		case probe != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead):
			probe.ServeHTTP(w, r)
		case opened.Owns(r.URL.EscapedPath()):
			serves.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, "/slipcover/"):
			admins.ServeHTTP(w, r)
		case v.web.Owns(r):
			pages.ServeHTTP(w, r)
		default:
			troves.ServeHTTP(w, r)
		}
	}))
	if s.Auth == "none" {
		var names []string
		if u, err := url.Parse(s.PublicURL); err == nil && u.Hostname() != "" {
			names = append(names, strings.ToLower(u.Hostname()))
		}
		return httpd.OwnHost(all, names...), nil
	}
	return all, nil
}

// dashboard is what browsers are shown, over the same as our own API.
func (v *service) dashboard(ctx context.Context, checker access.Checker, o *admin.Options) (*web.Site, error) {
	sessions, err := v.bus.Table(ctx, "sessions")
	if err != nil {
		return nil, err
	}
	keystone, _ := checker.(*access.Keystone)
	return web.New(web.Options{Keystone: keystone, Server: v.server, Checker: o.Checker, Tokens: v.tokens, Sessions: sessions, Log: v.log, Auth: o.Auth, URL: o.URL,
		NATSURL: o.NATSURL, Fingerprint: o.Fingerprint, Serves: v.opened, Callers: o.Callers, Audit: o.Audit, Version: core.ToolVersion()})
}

// natsURL is where agents of other machines reach the bus, without the service's own
// user and password; "" if they can't.
func (v *service) natsURL() string {
	var urls []string
	for part := range strings.SplitSeq(cmp.Or(v.settings.NATSURL, v.bus.ClientURL()), ",") {
		if u, err := url.Parse(strings.TrimSpace(part)); err == nil && u.Host != "" {
			u.User = nil
			urls = append(urls, u.String())
		}
	}
	return strings.Join(urls, ",")
}

// natsCA is what agents check the certificate of natsURL with, in PEM; "" is what their
// systems know, or that NATS speaks no TLS. The authority of our own is none of a cluster's.
func (v *service) natsCA() string {
	switch {
	case v.settings.NATSURL != "":
		return chainOf(v.settings.CAFile)
	case v.ca != nil:
		return string(v.ca.PEM())
	}
	return chainOf(v.cert)
}

// chainOf is the certificates of a file, without keys; "" if it can't be read.
func chainOf(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	var out strings.Builder
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			_ = pem.Encode(&out, block) // into memory
		}
	}
	return out.String()
}

// run runs the service until ctx ends, or something in it fails: then the agent's jobs are
// left to its next start, requests under way are answered, and last the bus is closed.
func (v *service) run(ctx context.Context, o *serverOptions) error {
	defer context.AfterFunc(ctx, func() { _ = sdnotify.Notify(sdnotify.Stopping) })()
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, inner := errgroup.WithContext(inner)
	g.Go(func() error { return v.server.Run(inner) })
	front, outer := errgroup.WithContext(ctx)
	front.Go(func() error { return v.http.Serve(outer) })
	front.Go(func() error { return v.ready(outer, o) })
	front.Go(func() error { // what fails inside ends all
		select {
		case <-inner.Done():
			return errors.New("the catalog can't be followed any more")
		case <-outer.Done():
			return nil
		}
	})
	front.Go(func() error { v.reopenAudit(outer); return nil })
	front.Go(func() error { return v.opened.Run(outer) })
	front.Go(func() error { return v.web.Run(outer) })
	err := front.Wait()
	v.log.InfoContext(inner, "ending")
	stop()
	if ierr := g.Wait(); ierr != nil && !errors.Is(ierr, context.Canceled) {
		err = ierr
	}
	return ended(ctx, err)
}

// reopenAudit opens the audit log anew at SIGHUP, for those who rotate it.
func (v *service) reopenAudit(ctx context.Context) {
	hup := hangUps()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			if err := v.audit.Reopen(); err != nil {
				v.log.ErrorContext(ctx, "the audit log can't be opened anew; the one before stays in use", "err", err)
			}
		}
	}
}

// keepSmall keeps the memory of this process near to what it needs, which is the
// catalog: bursts, such as reading it or a thousand agents that connect at once, leave
// room behind that is given back, and the limit follows what lives.
//
// Backups that are open to be read have their own room beside it.
func keepSmall(ctx context.Context, open *opened.Set) {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		live := int64(m.HeapAlloc)
		debug.SetMemoryLimit(live + live/4 + int64(m.StackInuse) + spareMemory + int64(open.Len()+open.Looks().Len())*opened.Memory)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-open.Changed():
		}
	}
}

// ready waits until the catalog is read, tells so, and then is the agent of this machine
// if it shall be.
func (v *service) ready(ctx context.Context, o *serverOptions) error {
	if err := v.server.WaitReady(ctx); err != nil {
		return err
	}
	if v.env.Getenv("GOMEMLIMIT") == "" {
		go keepSmall(ctx, v.opened)
	}
	v.log.InfoContext(ctx, "serving", "url", v.http.URL(), "auth", v.settings.Auth, "agents", v.natsURL())
	if v.settings.Auth == "token" {
		where := []any{"url", v.http.URL()}
		if _, err := os.Stat(adminTokenFile(v.settings)); err == nil {
			where = append(where, "token_file", adminTokenFile(v.settings))
		}
		v.log.InfoContext(ctx, "the dashboard is there too, for browsers: sign in with a token", where...)
	}
	var opts agent.Options
	if o.withAgent {
		var err error
		if opts, err = v.ownAgent(ctx, o); err != nil {
			return err
		}
	}
	v.tellReaders(ctx)
	tellReady(ctx, v.log)
	if o.withAgent {
		err := agent.Run(ctx, opts)
		if !errors.Is(err, agent.ErrRemoved) {
			return err
		}
		v.log.ErrorContext(ctx, "this machine's agent was removed: the server goes on without it, and its next start lets it join again")
	}
	<-ctx.Done()
	return nil
}

// tellReaders says whom agents of other machines will encrypt to.
func (v *service) tellReaders(ctx context.Context) {
	list := handedOut(v.settings)
	switch {
	case v.natsURL() == "":
	case len(list) == 0:
		v.log.InfoContext(ctx, "agents that join need the setting recipients of their own: this server has none to give them")
	case len(v.settings.Recipients) == 0:
		v.log.WarnContext(ctx, "agents that join encrypt to the key of this server: keep a copy of it in another place",
			"file", serviceKeyFile(v.settings), "recipients", list)
	default:
		v.log.InfoContext(ctx, "agents that join encrypt to the setting recipients, if they have none of their own",
			"recipients", list)
	}
}

// ownAgent makes this process the agent of this machine: it joins at the first start,
// or when the server knows it no more.
func (v *service) ownAgent(ctx context.Context, o *serverOptions) (agent.Options, error) {
	s := v.settings
	opts, err := agentSetup(ctx, v.env, s, v.log, readers{ownKey: true})
	if err != nil {
		return opts, err
	}
	m, err := readMembership(s)
	if err != nil {
		return opts, err
	}
	project := cmp.Or(o.project, defaultProject)
	if m != nil && s.Origin("instance") == "host name" { // which may change, as in a container
		s.Instance = m.Name
	}
	if m == nil || !v.knows(m, s.Instance, project) {
		seed, public, err := bus.NewKey()
		if err != nil {
			return opts, err
		}
		j, err := v.server.Join(ctx, server.Joining{Name: s.Instance, Project: project, PublicKey: public, Admin: true,
			Hello: job.Hello{Version: opts.Version, Host: opts.Host, Address: opts.Address}})
		if err != nil {
			return opts, err
		}
		m = &membership{AgentID: j.AgentID, Instance: j.Instance, Name: s.Instance, Project: project,
			Server: "this process", Seed: seed, JWT: j.JWT}
		if err := m.write(s); err != nil {
			return opts, err
		}
	}
	opts.Dial = dial(bus.LinkOptions{Agent: m.AgentID, InProcess: v.bus, Log: v.log})
	v.log.InfoContext(ctx, "this machine's agent", "name", m.Name, "project", m.Project, "instance", m.Instance)
	return opts, nil
}

// knows reports whether the server has this agent, by the same name and project.
func (v *service) knows(m *membership, name, project string) bool {
	for _, a := range v.server.Agents() {
		if a.ID == m.AgentID {
			return a.Name == name && a.Project == project
		}
	}
	return false
}

func buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slipcover_build_info",
		Help:        "Always 1; the label is the version.",
		ConstLabels: prometheus.Labels{"version": core.ToolVersion()}}, func() float64 { return 1 })
}

// certificateExpiry is when the certificate of a file ends, read at each scrape; 0 if it
// can't be read.
func certificateExpiry(file string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slipcover_certificate_expiry_timestamp_seconds",
		Help: "When the certificate of the APIs and of the port for agents ends; missing without TLS."}, func() float64 {
		block, _ := pem.Decode([]byte(chainOf(file)))
		if block == nil {
			return 0
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return 0
		}
		return float64(c.NotAfter.Round(time.Second).Unix())
	})
}
