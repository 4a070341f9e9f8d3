package bus

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// NewKey makes the key of an agent's user. The seed stays where it was made; the
// public key goes to Issue.
func NewKey() (seed, publicKey string, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", "", err
	}
	defer pair.Wipe()
	b, err := pair.Seed()
	if err != nil {
		return "", "", err
	}
	publicKey, err = pair.PublicKey()
	return string(b), publicKey, err
}

// Issue signs a user of NATS who has the rights of that agent alone. It is of no use
// without the seed of the public key, and valid until RemoveAgent. A key that was
// removed once stays refused: make a new one. Without the account's key the error is
// ErrNoIssuer.
func (b *Bus) Issue(ctx context.Context, agent, publicKey string) (string, error) {
	if err := checkName("agent", agent); err != nil {
		return "", err
	}
	if !nkeys.IsValidPublicUserKey(publicKey) {
		return "", fmt.Errorf("%.70q is not the public key of a user of NATS", publicKey)
	}
	if b.issuer == nil {
		return "", ErrNoIssuer
	}
	// First it is written down whom RemoveAgent must revoke.
	if _, err := b.issued.Put(ctx, agent+"."+publicKey, nil); err != nil {
		return "", err
	}
	c := jwt.NewUserClaims(publicKey)
	c.Name = agent
	c.IssuerAccount = b.account
	c.Pub.Allow.Add("slipcover.from." + agent + ".>")
	c.Sub.Allow.Add("slipcover.to." + agent + ".>")
	c.Limits.Subs = 100
	token, err := c.Encode(b.issuer)
	if err != nil {
		return "", fmt.Errorf("sign the user of agent %s: %w", agent, err)
	}
	return token, nil
}

// revoke refuses all users that were issued to an agent.
func (b *Bus) revoke(ctx context.Context, agent string) error {
	var users []string
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	ready := false
	err := b.issued.Watch(short, func(c Change) {
		if user, ok := strings.CutPrefix(c.Key, agent+"."); ok && !ready {
			users = append(users, user)
		}
		if c.Ready {
			ready = true
			cancel()
		}
	})
	if !ready {
		return fmt.Errorf("list its users: %w", err)
	}
	if b.embed != nil {
		if err := b.embed.revoke(users); err != nil {
			return fmt.Errorf("revoke its users: %w", err)
		}
	} else if len(users) > 0 {
		b.log.WarnContext(ctx, "removed an agent whose users NATS still accepts: revoke them", "agent", agent, "users", users)
	}
	for _, u := range users {
		if err := b.issued.Delete(ctx, agent+"."+u, 0); err != nil {
			return err
		}
	}
	return nil
}
