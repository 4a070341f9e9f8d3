package bus

import (
	"context"

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
