package service

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/repo"
)

// readers are whom a repository is encrypted to that an agent makes. The setting
// recipients of its machine counts before them.
type readers struct {
	recipients []string // what its server said when it joined
	// ownKey lets it make a key if nobody is named: of the one machine that is server and
	// node, which needs no second one to begin. Elsewhere each node would be the only place
	// of the key to its own backups.
	ownKey bool
}

// some reports whether there are any.
func (r readers) some(s *core.Settings) bool {
	return r.ownKey || len(r.recipients) > 0 || len(s.Recipients) > 0
}

// list returns them; there is at least one.
func (r readers) list(ctx context.Context, env *core.Env, s *core.Settings, log *slog.Logger) ([]string, error) {
	switch {
	case len(s.Recipients) > 0:
		return s.Recipients, nil
	case len(r.recipients) > 0:
		return r.recipients, nil
	case r.ownKey:
		recipient, err := serviceKey(ctx, env, s, log)
		return []string{recipient}, err
	}
	return nil, core.Usage("there is no repository in %s, and no recipients are set for a new one; a key made here would be on the machine that it protects. "+
		"Make one on another machine (age-keygen -o slipcover-key.txt) and set recipients here to its public key (age1…), "+
		"or set it on the server and join again with a new token; nothing was made", core.Mask(s.Repository))
}

func serviceKeyFile(s *core.Settings) string { return filepath.Join(s.StateDir, "identity.txt") }

var serviceKeyMu sync.Mutex // held while the key is looked for and made

// serviceKey returns the recipient of the key that this machine reads with: the one of
// identity_file, else one of its own, which it makes.
func serviceKey(ctx context.Context, env *core.Env, s *core.Settings, log *slog.Logger) (string, error) {
	serviceKeyMu.Lock()
	defer serviceKeyMu.Unlock()
	useServiceKey(s)
	if len(s.Identities) == 0 {
		if err := durable.MkdirAll(s.StateDir, 0o700); err != nil {
			return "", err
		}
		if _, err := open.NewIdentity(env, serviceKeyFile(s), "of this service"); err != nil {
			return "", err
		}
		useServiceKey(s)
		log.WarnContext(ctx, "made the key that reads backups: keep a copy away from this machine, without it nobody can read them", "file", serviceKeyFile(s))
	}
	list, err := open.RecipientsOf(s.Identities)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", core.Usage("%s holds no X25519 identity: set recipients too", s.Identities[0])
	}
	return list[0], nil
}

// useServiceKey reads with the key that the service made here, if no other is named.
func useServiceKey(s *core.Settings) {
	if _, err := os.Stat(serviceKeyFile(s)); err == nil && len(s.Identities) == 0 && s.Passphrase == "" {
		s.Identities = []string{serviceKeyFile(s)}
	}
}

// tellReading says whether this node reads its backups, and if the key for that lies only
// where it helps least. c is its repository's; nil if that isn't known.
func tellReading(ctx context.Context, s *core.Settings, c *repo.Config, log *slog.Logger) {
	files := strings.Join(s.Identities, ", ")
	list, err := open.RecipientsOf(s.Identities)
	strange := c != nil && !slices.ContainsFunc(list, func(r string) bool { return slices.Contains(c.Recipients, r) })
	switch {
	case c != nil && !c.Encrypted():
		log.WarnContext(ctx, "this node can read the backups, as can whoever reads the repository: it is not encrypted",
			"repository", core.Mask(s.Repository))
	case err != nil:
		log.ErrorContext(ctx, "this node can't read its backups: the identity can't be used", "identity", files, "err", err)
	case len(s.Identities) > 0 && strange:
		log.WarnContext(ctx, "this node can read at most the backups of single instances: its identity is none that the repository is encrypted to", "identity", files)
	case len(s.Identities) > 0:
		log.InfoContext(ctx, "this node can read the backups with its identity", "identity", files)
	case s.Passphrase != "":
		log.InfoContext(ctx, "this node can read the backups with the passphrase")
	default:
		log.InfoContext(ctx, "this node can't read its backups: restores and restore tests here need an identity (--identity, or the setting identity_file)")
	}
	if slices.Contains(s.Identities, serviceKeyFile(s)) {
		log.WarnContext(ctx, "the key that reads the backups lies on the machine that it protects: keep a copy in another place too, without it nobody can read them", "file", serviceKeyFile(s))
	}
}

// handedOut returns whom agents that join a server shall encrypt to: the setting
// recipients, else the key that the server made, whose secret stays there. A key that
// can't be read is none.
func handedOut(s *core.Settings) []string {
	if len(s.Recipients) > 0 {
		return s.Recipients
	}
	list, err := open.RecipientsOf([]string{serviceKeyFile(s)})
	if err != nil || len(list) == 0 {
		return nil
	}
	return list[:1]
}
