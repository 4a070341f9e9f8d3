package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/slipcover/slipcover/internal/userfile"
)

const (
	// MaxPayload is the most bytes of a value, a request or an answer, together
	// with some 100 bytes for headers.
	MaxPayload = 1 << 20

	defaultAckWait = 30 * time.Second
	// requestTimeout bounds what is asked for without a deadline, and each call of
	// a function given to Serve or Answer.
	requestTimeout = time.Minute
	// handlers is how many requests Serve and Answer each work on at a time; more
	// wait.
	handlers = 64
	// handlersOfOne is how many of those Serve has for one agent; more are refused. An
	// agent that works has less than a dozen requests under way.
	handlersOfOne = 16
)

// Options say which NATS is used. The zero value with Dir set embeds a server
// that only this process can reach.
type Options struct {
	// URL of an existing cluster, "nats://a:4222,nats://b:4222". Empty embeds a server.
	URL string
	// Creds is the credentials file of the service's user on an existing cluster.
	// Empty where the URL has a user and a password, or with AccountSeed, the
	// account's own key: then the service signs a user for itself.
	Creds string
	// AccountSeed is a file with the seed of the account's key on an existing
	// cluster, or of a signing key of it, without a scope. Then Creds is needed too,
	// which names the account. With it Issue works.
	AccountSeed string
	// Dir has the keys and the state of the embedded server. It is made if missing.
	Dir string
	// Listen is the host:port of the embedded server that agents connect to. Empty:
	// it listens nowhere, and only Links of this process reach it.
	Listen string
	// TLS of Listen. Nil leaves connections in the clear; credentials are not sent
	// in clear even then, but what jobs and requests say is.
	TLS *tls.Config
	// CA has the certificates that sign an existing cluster's. Nil: the system's.
	CA *x509.CertPool
	// Replicas of the streams that are made on an existing cluster; 0 is 1. What
	// exists keeps the number it has.
	Replicas int
	// AckWait is how long a job is an agent's that shows no sign of life; 0 is 30 s.
	// AddAgent sets it.
	AckWait time.Duration
	Log     *slog.Logger // nil: nothing is logged

	hurry int // how many times sooner than usual a loss is seen; 0 is 1
}

// Bus is a server's side. Its methods may be called at the same time.
type Bus struct {
	opts   Options
	log    *slog.Logger
	nc     *nats.Conn
	js     jetstream.JetStream
	issuer nkeys.KeyPair // signs users; nil if there is no key
	// account is the public key of the account if issuer is a signing key of it.
	account string
	embed   *embedded // nil on an existing cluster
	issued  *Table    // "<agent>.<public key>" of each user that was signed
	dial    []nats.Option
	health  *health
	stop    func() // ends health; nil before it has begun

	mu    sync.Mutex
	again map[*func()]bool // guarded by mu; called at each reconnection
}

// Open starts the embedded server or connects to the cluster, and makes what is
// missing there. It waits until NATS answers or ctx ends; credentials that are
// refused end it with ErrRefused, a folder in use with ErrInUse.
func Open(ctx context.Context, o Options) (*Bus, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.AckWait == 0 {
		o.AckWait = defaultAckWait
	}
	o.Replicas = max(o.Replicas, 1)
	b := &Bus{opts: o, log: o.Log, again: map[*func()]bool{}}
	if err := b.open(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Bus) open(ctx context.Context) error {
	var err error
	if b.opts.URL == "" {
		if b.embed, err = startEmbedded(ctx, b.opts); err != nil {
			return err
		}
		b.opts.Replicas = 1
		b.issuer = b.embed.account
	} else if err := b.readAccount(); err != nil {
		return err
	}
	if b.dial, err = b.dialOptions(); err != nil {
		return err
	}
	pace := paceOf(b.opts.hurry)
	again := nats.ReconnectHandler(func(*nats.Conn) {
		b.log.InfoContext(ctx, "connected to NATS again")
		b.mu.Lock()
		defer b.mu.Unlock()
		for f := range b.again {
			(*f)()
		}
	})
	if b.nc, err = connect(ctx, b.opts.URL, b.log, append(b.dial, again, nats.PingInterval(pace.ping), nats.Name("slipcover server"))...); err != nil {
		return err
	}
	if b.js, err = jetstream.New(b.nc); err != nil {
		return err
	}
	if err := b.openQueue(ctx); err != nil {
		return err
	}
	if b.issued, err = b.Table(ctx, "issued"); err != nil {
		return err
	}
	b.health = &health{nc: b.nc, log: b.log, embed: b.embed, pace: pace, every: pace.check, well: time.Now(), ask: func(ctx context.Context) (*nats.Msg, error) {
		// For a message that isn't there, as tables are read. STREAM.INFO is answered
		// without a leader too.
		return b.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+jobsStream, []byte(`{"last_by_subj":"`+jobsSubject+`none"}`))
	}}
	b.stop = b.health.start(ctx)
	return nil
}

// readAccount reads the key that signs users on an existing cluster.
func (b *Bus) readAccount() error {
	if b.opts.AccountSeed == "" {
		return nil
	}
	seed, err := userfile.ReadText(b.opts.AccountSeed)
	if err != nil {
		return fmt.Errorf("read the account's seed: %w", err)
	}
	b.issuer, err = nkeys.FromSeed([]byte(strings.TrimSpace(seed)))
	public := ""
	if err == nil {
		public, err = b.issuer.PublicKey()
	}
	if err != nil || !nkeys.IsValidPublicAccountKey(public) {
		return fmt.Errorf("%s holds no seed of an account: it is one line that begins with SA", b.opts.AccountSeed)
	}
	if b.opts.Creds == "" {
		return nil
	}
	creds, err := os.ReadFile(b.opts.Creds)
	if err != nil {
		return fmt.Errorf("read the credentials for NATS: %w", err)
	}
	token, err := nkeys.ParseDecoratedJWT(creds)
	clear(creds)
	if err != nil {
		return fmt.Errorf("%s is not a credentials file of NATS", b.opts.Creds)
	}
	user, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return fmt.Errorf("%s holds no user of NATS: %w", b.opts.Creds, err)
	}
	account := user.IssuerAccount
	if account == "" {
		account = user.Issuer
	}
	if account != public {
		b.account = account
	}
	return nil
}

// dialOptions are those of a connection with all rights of the service.
func (b *Bus) dialOptions() ([]nats.Option, error) {
	var o []nats.Option
	if b.embed != nil {
		o = append(o, nats.InProcessServer(b.embed.server))
	}
	if b.opts.CA != nil {
		o = append(o, nats.Secure(&tls.Config{RootCAs: b.opts.CA, MinVersion: tls.VersionTLS12}))
	}
	switch {
	case b.opts.Creds != "" && b.embed == nil:
		o = append(o, nats.UserCredentials(b.opts.Creds))
	case b.issuer != nil:
		user, err := nkeys.CreateUser()
		if err != nil {
			return nil, err
		}
		public, err := user.PublicKey()
		if err != nil {
			return nil, err
		}
		claims := jwt.NewUserClaims(public)
		claims.Name = "slipcover server"
		token, err := claims.Encode(b.issuer)
		if err != nil {
			return nil, err
		}
		o = append(o, nats.UserJWT(func() (string, error) { return token, nil }, user.Sign))
	}
	return o, nil
}

// warnEvery is how often is told that NATS can't be reached yet.
const warnEvery = time.Minute

// connect connects, trying until ctx ends unless the credentials are refused. That it
// can't is told at once, and then once a minute. The connection comes back by itself, for
// ever; while it is down nothing is buffered, and what is sent fails.
func connect(ctx context.Context, url string, log *slog.Logger, opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(5 * time.Second),
		nats.CustomReconnectDelay(func(attempts int) time.Duration {
			d := min(100*time.Millisecond<<min(attempts, 10), 10*time.Second)
			return d/2 + rand.N(d/2+1)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.WarnContext(ctx, "lost the connection to NATS", "err", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.DebugContext(ctx, "NATS", "err", err)
		}),
	}, opts...)
	var warned time.Time
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		nc, err := nats.Connect(url, opts...)
		if err == nil {
			return nc, nil
		}
		if refuses(err) {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if untrusted(err) {
			return nil, fmt.Errorf("connect to NATS: %w: %w", ErrCertificate, err)
		}
		if !temporary(err) {
			return nil, fmt.Errorf("connect to NATS: %w", err)
		}
		if time.Since(warned) >= warnEvery {
			log.WarnContext(ctx, "NATS can't be reached; it is tried again", "err", err)
			warned = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to NATS: %w", errors.Join(err, ctx.Err()))
		case <-time.After(wait):
		}
	}
}

// refuses says that an error is NATS's refusal of credentials.
func refuses(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired)
}

// untrusted says that an error is of a certificate that isn't trusted.
func untrusted(err error) bool {
	var bad *tls.CertificateVerificationError
	return errors.As(err, &bad)
}

// errSlow is what NATS says to who doesn't say within 2 s of the connection who he is, as on a machine that stood still. Which
// of it is read, or that there is nobody any more, is chance.
var errSlow = errors.New("nats: authentication timeout")

// temporary says that a server may let itself be reached later.
func temporary(err error) bool {
	var n net.Error
	return errors.As(err, &n) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, errSlow) || errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrStaleConnection)
}

// Close ends the connection and the embedded server, whose state is then all on
// disk. What Serve and Watch do must be ended before, by their contexts.
func (b *Bus) Close() error {
	if b.stop != nil {
		b.stop()
	}
	if b.nc != nil {
		b.nc.Close()
	}
	if b.embed != nil {
		return b.embed.stop()
	}
	return nil
}

// Connected returns why the bus can't be used now; nil if it can. When NATS stops to
// answer over a connection that stands, that is seen within some 20 seconds.
func (b *Bus) Connected() error { return b.health.connected() }

// ClientURL is where agents reach the embedded server, nats:// or tls:// and the
// address it listens on; of an existing cluster it is Options.URL, and empty if
// nothing listens.
func (b *Bus) ClientURL() string {
	if b.embed == nil {
		return b.opts.URL
	}
	if b.opts.Listen == "" {
		return ""
	}
	return b.embed.server.ClientURL()
}

// onReconnect has f called whenever the connection was lost and is there again, until
// stop is called. f must not wait.
func (b *Bus) onReconnect(f func()) (stop func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.again[&f] = true
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.again, &f)
	}
}
