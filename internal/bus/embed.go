package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/slipcover/slipcover/internal/durable"
)

// The folder of an embedded server:
//
//	keys.json     0600, written once: seeds of operator, account and system account
//	revoked.json  public keys of users that are refused, each with the time in seconds since 1970
//	jetstream/    state, by the account's public key; NATS's own format
//	lock          locked by the process that uses the folder
//	census.json   how much the catalog had; package server's own
const (
	keysFile    = "keys.json"
	revokedFile = "revoked.json"
	lockName    = "lock"
	stateDir    = "jetstream"
)

// maxStore bounds nothing but what the disk does. Without it NATS takes three quarters of
// what is free when it starts, which is next to nothing after a full disk.
const maxStore = 1 << 60

// keys are the seeds of an embedded server.
type keys struct {
	Operator string `json:"operator"`
	Account  string `json:"account"`
	System   string `json:"system"`
}

// embedded is a NATS server of this process.
type embedded struct {
	server   *server.Server
	dir      string
	lock     *os.File
	operator nkeys.KeyPair
	account  nkeys.KeyPair
	resolver *server.MemAccResolver

	mu      sync.Mutex
	revoked map[string]int64 // guarded by mu, as are the changes of the account
}

func startEmbedded(ctx context.Context, o Options) (_ *embedded, err error) {
	if o.Dir == "" {
		return nil, errors.New("the embedded NATS server needs a folder for its state")
	}
	e := &embedded{dir: o.Dir, resolver: &server.MemAccResolver{}, revoked: map[string]int64{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start NATS in %s: %w", o.Dir, err), e.stop())
		}
	}()
	if err := durable.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if e.lock, err = durable.Open(filepath.Join(o.Dir, lockName), os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if durable.TryLock(e.lock) {
		return nil, ErrInUse
	}
	opts, err := e.options(o)
	if err != nil {
		return nil, err
	}
	if e.server, err = server.NewServer(opts); err != nil {
		return nil, err
	}
	log := &natsLog{log: o.Log}
	e.server.SetLoggerV2(log, o.Log.Enabled(ctx, slog.LevelDebug), false, false)
	e.server.Start()
	for !e.server.ReadyForConnections(100 * time.Millisecond) {
		if err := log.failed(); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return e, log.failed()
}

// options reads or makes the keys and says how the server runs.
func (e *embedded) options(o Options) (*server.Options, error) {
	k, err := readKeys(o.Dir)
	if err != nil {
		return nil, err
	}
	if e.operator, err = nkeys.FromSeed([]byte(k.Operator)); err != nil {
		return nil, fmt.Errorf("%s: operator: %w", keysFile, err)
	}
	if e.account, err = nkeys.FromSeed([]byte(k.Account)); err != nil {
		return nil, fmt.Errorf("%s: account: %w", keysFile, err)
	}
	system, err := nkeys.FromSeed([]byte(k.System))
	if err != nil {
		return nil, fmt.Errorf("%s: system: %w", keysFile, err)
	}
	b, err := os.ReadFile(filepath.Join(o.Dir, revokedFile))
	if err == nil {
		err = json.Unmarshal(b, &e.revoked)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", revokedFile, err)
	}
	opts, err := operatorOptions(e.operator, system, e.resolver)
	if err != nil {
		return nil, err
	}
	if _, err := e.storeAccount(); err != nil {
		return nil, err
	}
	opts.ServerName = "slipcover"
	opts.StoreDir = o.Dir // the server adds "jetstream"
	opts.TLSConfig = o.TLS
	opts.DontListen = o.Listen == ""
	if o.Listen != "" {
		host, port, err := net.SplitHostPort(o.Listen)
		if err != nil {
			return nil, fmt.Errorf("address to listen on: %w", err)
		}
		opts.Host = host
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("address to listen on: port %q is not a number", port)
		}
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	return opts, nil
}

// operatorOptions are those of a server that takes its users from the operator's
// accounts. The account that state is in must be stored in the resolver.
func operatorOptions(operator, system nkeys.KeyPair, resolver *server.MemAccResolver) (*server.Options, error) {
	public, err := operator.PublicKey()
	if err != nil {
		return nil, err
	}
	claims := jwt.NewOperatorClaims(public)
	claims.Name = "slipcover"
	if claims.SystemAccount, err = system.PublicKey(); err != nil {
		return nil, err
	}
	account := jwt.NewAccountClaims(claims.SystemAccount)
	account.Name = "system"
	token, err := account.Encode(operator)
	if err != nil {
		return nil, err
	}
	if err := resolver.Store(claims.SystemAccount, token); err != nil {
		return nil, err
	}
	// The server wants claims that were signed.
	if token, err = claims.Encode(operator); err != nil {
		return nil, err
	}
	if claims, err = jwt.DecodeOperatorClaims(token); err != nil {
		return nil, err
	}
	return &server.Options{
		TrustedOperators:       []*jwt.OperatorClaims{claims},
		SystemAccount:          claims.SystemAccount,
		AccountResolver:        resolver,
		JetStream:              true,
		JetStreamMaxStore:      maxStore,
		SyncAlways:             true,
		MaxPayload:             MaxPayload + 4096, // headers
		PingInterval:           20 * time.Second,  // an agent whose host is gone is found out in a minute
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	}, nil
}

// accountClaims are those of the account that state is in, with the revocations.
func accountClaims(account nkeys.KeyPair, revoked map[string]int64) (*jwt.AccountClaims, error) {
	public, err := account.PublicKey()
	if err != nil {
		return nil, err
	}
	claims := jwt.NewAccountClaims(public)
	claims.Name = "slipcover"
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit, MaxAckPending: jwt.NoLimit,
	}
	// NATS refuses users that were signed before a time. Ours are refused whenever they
	// were: by the clock of the removal that can be after it.
	for user := range revoked {
		claims.RevokeAt(user, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
	}
	return claims, nil
}

// storeAccount signs the account as it now is and stores it in the resolver.
func (e *embedded) storeAccount() (*jwt.AccountClaims, error) {
	claims, err := accountClaims(e.account, e.revoked)
	if err != nil {
		return nil, err
	}
	token, err := claims.Encode(e.operator)
	if err != nil {
		return nil, err
	}
	return claims, e.resolver.Store(claims.Subject, token)
}

// revoke refuses the users from now on, and closes their connections. When it
// returns, that is on disk.
func (e *embedded) revoke(users []string) error {
	if len(users) == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, u := range users {
		e.revoked[u] = time.Now().Unix()
	}
	err := durable.WriteFile(filepath.Join(e.dir, revokedFile), 0o600, func(f *os.File) error {
		return json.NewEncoder(f).Encode(e.revoked)
	})
	if err != nil {
		return err
	}
	claims, err := e.storeAccount()
	if err != nil {
		return err
	}
	account, err := e.server.LookupAccount(claims.Subject)
	if err != nil {
		return fmt.Errorf("look up the account: %w", err)
	}
	e.server.UpdateAccountClaims(account, claims)
	return nil
}

// syncStream makes the names of a new stream's folders durable. NATS syncs what is in
// its files, and leaves the name of a new one to the file system: ext4, XFS and Btrfs
// keep it with the file's first sync.
func (e *embedded) syncStream(name string) error {
	account, err := e.account.PublicKey()
	if err != nil {
		return err
	}
	path := e.dir
	for _, next := range []string{stateDir, account, "streams", name, "msgs"} {
		if err := durable.SyncDir(path); err != nil {
			return err
		}
		path = filepath.Join(path, next)
	}
	return durable.SyncDir(path)
}

// healthy says why the server can't write; nil if it can. After one write that failed,
// as on a full disk, NATS refuses all others to that stream, whatever room there is.
func (e *embedded) healthy() error {
	for _, fault := range e.server.Healthz(&server.HealthzOptions{Details: true}).Errors {
		// Not of a stream that can't be read: that stays so, and may be one of no use.
		if fault.Type != server.HealthzErrorStream || strings.Contains(fault.Error, "write error") {
			return errors.New(fault.Error)
		}
	}
	return nil
}

// renew starts JetStream anew from what is on disk. Connections stay.
func (e *embedded) renew() error {
	if err := e.server.ShutdownJetStream(); err != nil {
		return err
	}
	return e.server.EnableJetStream(&server.JetStreamConfig{StoreDir: e.dir, MaxStore: maxStore, SyncAlways: true, Strict: true})
}

func (e *embedded) stop() error {
	if e.server != nil {
		e.server.Shutdown()
		e.server.WaitForShutdown()
	}
	if e.lock != nil {
		return e.lock.Close()
	}
	return nil
}

// readKeys returns the keys in a folder; new ones if it is empty of state.
func readKeys(dir string) (keys, error) {
	var k keys
	path := filepath.Join(dir, keysFile)
	b, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(b, &k); err != nil {
			return k, fmt.Errorf("read %s: %w", keysFile, err)
		}
		return k, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	// With new keys there would be a new account, and its state empty.
	if _, err := os.Stat(filepath.Join(dir, stateDir)); !errors.Is(err, fs.ErrNotExist) {
		return k, fmt.Errorf("there is state but no %s: bring that file back from the backup of this folder", keysFile)
	}
	for seed, create := range map[*string]func() (nkeys.KeyPair, error){&k.Operator: nkeys.CreateOperator, &k.Account: nkeys.CreateAccount, &k.System: nkeys.CreateAccount} {
		pair, err := create()
		if err != nil {
			return k, err
		}
		b, err := pair.Seed()
		if err != nil {
			return k, err
		}
		*seed = string(b)
	}
	return k, durable.WriteNewFile(path, 0o600, func(f *os.File) error { return json.NewEncoder(f).Encode(k) })
}

// natsLog hands the lines of the server on: errors as warnings, since the server
// goes on, all else for debugging. The server redacts credentials.
type natsLog struct {
	log *slog.Logger

	mu    sync.Mutex
	fatal error // guarded by mu; what ended the server's start
}

func (l *natsLog) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *natsLog) debug(format string, v ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("NATS server", "text", fmt.Sprintf(format, v...))
	}
}

func (l *natsLog) Noticef(format string, v ...any) { l.debug(format, v...) }
func (l *natsLog) Warnf(format string, v ...any)   { l.debug(format, v...) }
func (l *natsLog) Debugf(format string, v ...any)  { l.debug(format, v...) }
func (l *natsLog) Tracef(string, ...any)           {}

func (l *natsLog) Errorf(format string, v ...any) {
	l.log.Warn("NATS server", "text", fmt.Sprintf(format, v...))
}

func (l *natsLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == nil {
		l.fatal = fmt.Errorf(format, v...)
	}
}
