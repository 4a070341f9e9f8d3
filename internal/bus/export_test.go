package bus

import "github.com/nats-io/nats.go"

// Conn is the connection of a server, which has all rights.
func (b *Bus) Conn() *nats.Conn { return b.nc }

// Conn is the connection of an agent.
func (l *Link) Conn() *nats.Conn { return l.nc }

// AccountSeedOf returns the seed of the embedded server's account.
func (b *Bus) AccountSeedOf() ([]byte, error) { return b.embed.account.Seed() }

var (
	AckOf           = ackOf
	ValidName       = validName
	OperatorOptions = operatorOptions
	AccountClaims   = accountClaims
)
