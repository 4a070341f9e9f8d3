package look

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/localhost"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/storage/meter"
)

type serveOptions struct {
	open.Chosen
	databases []string
	listen    string
	auth      string
	cert, key string
	utils     string
	idle      time.Duration
	stats     bool
}

func newServe(env *core.Env, g *core.Global) *cobra.Command {
	o := &serveOptions{}
	c := &cobra.Command{
		Use:   "serve [ID]",
		Short: "Open a backup or moment as a CouchDB that can be read",
		Long: `Answer CouchDB's HTTP API over a backup (its ID, name, or "latest") or over a moment (--at, --at-seq, --before-change; without
any the newest one), in any storage, until it is stopped: databases, documents, attachments, lists, feeds, views whose index
was backed up, and Mango. Nothing is restored, no CouchDB runs, and no room is needed: what is asked for is read in place.
Replicators, PouchDB and other clients can pull out of it. What would write is refused; checkpoints of replications are kept
in memory.

Who asks must log in as the user slipcover, with a password that is made at the start and shown. With --auth backup the
administrators and users of the backup log in with their own passwords, and see what its security objects let them see.`,
		Args: core.Arguments(0, 1, "at most one ID"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			if len(args) > 0 {
				o.Backup = args[0]
			}
			s.FromCache = true // every frame is held against its hash
			return runServe(ctx, env, s, o)
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "of which backups or moments (default: the only one)")
	o.When.Flags(f)
	o.ClusterFlag(f)
	f.StringArrayVar(&o.databases, "db", nil, "show databases whose name fits this `GLOB` (* is any text); may be repeated")
	f.StringVar(&o.listen, "listen", "127.0.0.1:5985", "`ADDRESS` to listen on; other machines reach it only with --cert and --key")
	f.StringVar(&o.auth, "auth", "slipcover", "who may read: \"slipcover\", a user with a password that is shown; \"backup\", the users of the backup; \"none\", everybody on this machine")
	f.StringVar(&o.cert, "cert", "", "PEM `FILE` with the certificate of the listener")
	f.StringVar(&o.key, "key", "", "PEM `FILE` with its key")
	f.StringVar(&o.utils, "utils", "", "show the files of CouchDB's web interface (Fauxton), which are in this `FOLDER`, at /_utils/")
	f.DurationVar(&o.idle, "idle", 0, "end when nobody has asked for this `TIME`, such as 1h")
	core.OwnFlags(f, "listen", "auth")
	f.BoolVar(&o.stats, "stats", false, "tell at the end what the storage was asked for")
	return c
}

// serveJSON is what is printed when it listens.
type serveJSON struct {
	URL       string `json:"url"`
	State     string `json:"state"`
	Node      string `json:"node"`
	Databases int    `json:"databases"`
	User      string `json:"user,omitempty"`
	Password  string `json:"password,omitempty"`
}

func (o *serveOptions) check() error {
	switch {
	case o.auth != "slipcover" && o.auth != "backup" && o.auth != "none":
		return core.Usage("--auth is slipcover, backup or none, and not %q", o.auth)
	case (o.cert == "") != (o.key == ""):
		return core.Usage("--cert and --key go together")
	case o.auth == "none" && !localhost.Only(o.listen):
		return core.Usage("--auth none lets whoever reaches %s read everything: listen on 127.0.0.1, or leave --auth out", o.listen)
	case !localhost.Only(o.listen) && o.cert == "":
		return core.Usage("other machines reach %s, and passwords and documents would be readable on the way: pass --cert and --key, or listen on 127.0.0.1", o.listen)
	}
	return nil
}

func runServe(ctx context.Context, env *core.Env, s *core.Settings, o *serveOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	var shown func(string) bool
	if len(o.databases) > 0 {
		var err error
		if shown, err = restore.Globs(o.databases); err != nil {
			return err
		}
	}
	node, done, err := o.Node(ctx, env, s)
	if err != nil {
		return err
	}
	defer done()
	auth, user, err := o.authOf(ctx, node)
	if err != nil {
		return err
	}
	if shown != nil {
		node.Only(shown)
	}
	log := slog.New(slog.NewTextHandler(env.Stderr, nil))
	serving, end := context.WithCancel(ctx)
	defer end()
	watch := newIdle(o.idle, end)
	defer watch.stop()
	var handler http.Handler = chttpd.New(ctx, node, chttpd.Options{Auth: auth, Vendor: core.BuildVersion().Version, Utils: o.utils, Log: log, Done: serving.Done(),
		Metrics: []prometheus.Collector{meter.Collector(env.Traffic, "slipcover_serve_storage_")}})
	if o.auth == "none" {
		handler = httpd.OwnHost(handler)
	}
	server, err := httpd.Listen(ctx, httpd.Options{Address: o.listen, CertFile: o.cert, KeyFile: o.key, Handler: watch.around(handler), Log: log, DrainTimeout: 5 * time.Second})
	if err != nil {
		return err
	}
	told := serveJSON{URL: server.URL() + "/", State: o.Taken.UTC().Format(time.RFC3339), Node: node.Manifest.NodeName, Databases: len(node.Databases()), User: user.Name, Password: user.Password}
	if err := o.tell(env, told); err != nil {
		return err
	}
	err = server.Serve(serving)
	if o.stats && !env.JSON {
		fmt.Fprintln(env.Stdout, env.TrafficLine())
	}
	return err
}

// authOf says who may ask. The user has a name if one is made.
func (o *serveOptions) authOf(ctx context.Context, n *serve.Node) (chttpd.Auth, chttpd.OneUser, error) {
	switch o.auth {
	case "none":
		return chttpd.Everybody{}, chttpd.OneUser{}, nil
	case "backup":
		a, err := chttpd.BackupAuth(ctx, n)
		return a, chttpd.OneUser{}, err
	}
	u := chttpd.OneUser{Name: "slipcover", Password: rand.Text()}
	return u, u, nil
}

func (o *serveOptions) tell(env *core.Env, t serveJSON) error {
	if env.JSON {
		return core.PrintJSON(env.Stdout, t)
	}
	fmt.Fprintf(env.Stdout, "%s of %s as it was at %s\n", core.Count(t.Databases, "database"), core.Clean(t.Node), t.State)
	fmt.Fprintf(env.Stdout, "%s", t.URL)
	switch {
	case t.User != "":
		fmt.Fprintf(env.Stdout, "  user %s, password %s", t.User, t.Password)
	case o.auth == "backup":
		fmt.Fprint(env.Stdout, "  log in as at the server that was backed up")
	}
	fmt.Fprintln(env.Stdout, "\nIt can only be read. Ctrl-C ends it.")
	return nil
}

// idle ends what nobody uses.
type idle struct {
	after time.Duration
	timer *time.Timer

	mu    sync.Mutex
	under int // requests under way; guarded by mu
}

func newIdle(after time.Duration, end func()) *idle {
	i := &idle{after: after}
	if after > 0 {
		i.timer = time.AfterFunc(after, end)
	}
	return i
}

// around notes requests. While one is under way, it isn't idle.
func (i *idle) around(next http.Handler) http.Handler {
	if i.timer == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.note(1)
		defer i.note(-1)
		next.ServeHTTP(w, r)
	})
}

// note notes that so many requests more are under way.
func (i *idle) note(more int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.under += more; i.under > 0 {
		i.timer.Stop()
	} else {
		i.timer.Reset(i.after)
	}
}

func (i *idle) stop() {
	if i.timer != nil {
		i.timer.Stop()
	}
}
