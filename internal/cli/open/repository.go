// Package open opens the storages and repositories that the settings name, with the keys that read them.
package open

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/drivers"
)

// Options say which repository, and how to read it.
type Options struct {
	Repo           string
	Identities     []string
	PassphraseFile string
	Instance       string // "" is all, or the only one; jobs on a node take the setting
}

// Flags adds the flags; what tells what the instance is for.
func (o *Options) Flags(f *pflag.FlagSet, what string) {
	o.Place(f)
	f.StringVar(&o.Instance, "instance", "", "`NAME` of the CouchDB node "+what)
	f.StringArrayVar(&o.Identities, "identity", nil,
		"`FILE` with the age identity that reads the repository; may be repeated")
	f.StringVar(&o.PassphraseFile, "passphrase-file", "", "`FILE` with the passphrase that reads the repository")
}

// Place adds the flag of the repository alone, and the limits.
func (o *Options) Place(f *pflag.FlagSet) {
	f.StringVar(&o.Repo, "repo", "", "the repository, `URL` or folder: "+strings.Join(drivers.Forms(), ", "))
	core.TrafficFlags(f)
}

// Store opens the storage of the repository.
func Store(ctx context.Context, env *core.Env, s *core.Settings, create bool) (storage.Store, error) {
	if s.Repository == "" {
		return nil, core.Usage("no repository given: pass --repo, set SLIPCOVER_REPOSITORY, or write it into the configuration file")
	}
	return openPlace(ctx, env, s, s.Repository, create)
}

// Repository is an open repository with its storage.
type Repository struct {
	*repo.Repo
	store storage.Store
}

// Close closes its storage.
func (o *Repository) Close() { _ = o.store.Close() }

// Repo opens the repository. ask allows to ask for a passphrase at the
// terminal if reading turns out to need one; a job that only writes doesn't.
func Repo(ctx context.Context, env *core.Env, s *core.Settings, ask bool) (*Repository, error) {
	store, err := Store(ctx, env, s, false)
	if err != nil {
		return nil, err
	}
	r, err := In(ctx, env, s, store, ask)
	if err != nil {
		_ = store.Close()
		return nil, err
	}
	return &Repository{r, store}, nil
}

// In opens the repository in a storage, see Repo.
func In(ctx context.Context, env *core.Env, s *core.Settings, store storage.Store, ask bool) (*repo.Repo, error) {
	opts := repo.Options{TrustedWriters: s.TrustedWriters, Level: level(s)}
	opts.Notify = func(text string) { fmt.Fprintf(env.Stderr, "slipcover: %s\n", text) }
	if !s.ImmutableFor.IsZero() {
		opts.RetainUntil = s.ImmutableFor.After(env.Now())
	}
	var err error
	if opts.Identities, err = readIdentities(s.Identities); err != nil {
		return nil, err
	}
	if s.Passphrase != "" {
		opts.Passphrase = func() ([]string, error) { return s.Passphrases(), nil }
	}
	if opts.Passphrase == nil && ask && env.StdinTerminal && len(opts.Identities) == 0 {
		kept, err := keepsIdentity(ctx, store)
		if err != nil {
			return nil, err
		}
		if kept {
			opts.Passphrase = func() ([]string, error) {
				p, err := env.ReadPassword("Passphrase of the repository: ")
				return []string{p}, err
			}
		}
	}
	opts.Cached = s.CacheSize > 0 && !isLocal(store)
	opts.CacheSize = max(1, int64(s.CacheSize)) // 0 is as little as it needs
	return repo.Open(ctx, store, opts)
}

// keepsIdentity reports whether the repository keeps its key under a passphrase.
func keepsIdentity(ctx context.Context, store storage.Store) (bool, error) {
	found := errors.New("found")
	err := store.List(ctx, "keys/", func(i storage.Info) error {
		if strings.Count(string(i.Key), "/") > 1 { // the key of an instance
			return nil
		}
		return found
	})
	if errors.Is(err, found) {
		return true, nil
	}
	return false, err
}

// level is the compression of what is written.
func level(s *core.Settings) repo.Level {
	switch s.Compression {
	case "fastest":
		return repo.Fastest
	case "better":
		return repo.Better
	}
	return repo.Default
}

// Backup opens the repository for reading and finds a backup. The key is
// tried before anything else, so that a wrong one costs nothing.
func Backup(
	ctx context.Context, env *core.Env, s *core.Settings, instance, ref string,
) (*Repository, *manifest.Record, error) {
	r, err := Repo(ctx, env, s, true)
	if err != nil {
		return nil, nil, err
	}
	rec, err := r.Find(ctx, instance, ref)
	if err == nil {
		err = r.Unlock(ctx)
	}
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, rec, nil
}
