package bus

import (
	"context"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// Conn is the connection of a server, which has all rights.
func (b *Bus) Conn() *nats.Conn { return b.nc }

// Conn is the connection of an agent.
func (l *Link) Conn() *nats.Conn { return l.nc }

// Hurry has the loss of a member seen so many times sooner.
func (o *Options) Hurry(times int) { o.hurry = times }

// Hurry is that of an agent.
func (o *LinkOptions) Hurry(times int) { o.hurry = times }

// Connect connects to the bus as one with all its rights, who waits before he says who he is, the first time.
func (b *Bus) Connect(ctx context.Context, wait time.Duration) (*nats.Conn, error) {
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	public, err := user.PublicKey()
	if err != nil {
		return nil, err
	}
	token, err := jwt.NewUserClaims(public).Encode(b.issuer)
	if err != nil {
		return nil, err
	}
	asked := 0
	opts := []nats.Option{nats.UserJWT(func() (string, error) {
		if asked++; asked == 2 { // the first is nats.UserJWT itself
			time.Sleep(wait)
		}
		return token, nil
	}, user.Sign)}
	if b.ClientURL() == "" {
		opts = append(opts, nats.InProcessServer(b.embed.server))
	}
	return connect(ctx, b.ClientURL(), b.log, opts...)
}

// Check asks NATS whether it does its work.
func (b *Bus) Check(ctx context.Context) error { return b.health.check(ctx) }

// AccountSeedOf returns the seed of the embedded server's account.
func (b *Bus) AccountSeedOf() ([]byte, error) { return b.embed.account.Seed() }

// MaxStoreOf returns the most bytes that the embedded server stores.
func (b *Bus) MaxStoreOf() int64 { return b.embed.server.JetStreamConfig().MaxStore }

var (
	AckOf           = ackOf
	ValidName       = validName
	OperatorOptions = operatorOptions
	AccountClaims   = accountClaims
)
