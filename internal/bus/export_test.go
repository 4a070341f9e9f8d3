package bus

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// Conn is the connection of a server, which has all rights.
func (b *Bus) Conn() *nats.Conn { return b.nc }

// Conn is the connection of an agent.
func (l *Link) Conn() *nats.Conn { return l.nc }

// Hurry has the loss of a member seen so many times sooner.
func (o *Options) Hurry(times int) { o.hurry = times }

// Hurry is that of an agent.
func (o *LinkOptions) Hurry(times int) { o.hurry = times }

// Connect connects to the bus as one with all its rights, over TCP if it listens, who waits before he says who he is, the first time.
func (b *Bus) Connect(ctx context.Context, wait time.Duration) (*nats.Conn, error) {
	opts, err := b.dialOptions()
	if err != nil {
		return nil, err
	}
	waited := false
	return connect(ctx, b.ClientURL(), b.log, append(opts, func(o *nats.Options) error {
		say := o.UserJWT
		o.UserJWT = func() (string, error) {
			if !waited {
				waited = true
				time.Sleep(wait)
			}
			return say()
		}
		if b.ClientURL() != "" {
			o.InProcessServer = nil
		}
		return nil
	})...)
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
