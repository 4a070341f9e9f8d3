package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/drivers"
)

// repoOptions say which repository, and how to read it.
type repoOptions struct {
	repo           string
	identities     []string
	passphraseFile string
	instance       string // "" is all, or the only one; jobs on a node take the setting
}

// flags adds the flags; what tells what the instance is for.
func (o *repoOptions) flags(f *pflag.FlagSet, what string) {
	o.place(f)
	f.StringVar(&o.instance, "instance", "", "`NAME` of the CouchDB node "+what)
	f.StringArrayVar(&o.identities, "identity", nil, "`FILE` with the age identity that reads the repository; may be repeated")
	f.StringVar(&o.passphraseFile, "passphrase-file", "", "`FILE` with the passphrase that reads the repository")
}

func (o *repoOptions) place(f *pflag.FlagSet) {
	f.StringVar(&o.repo, "repo", "", "the repository, `URL` or folder: "+strings.Join(drivers.Forms(), ", "))
	trafficFlags(f)
}

// openStore opens the storage of the repository.
func openStore(ctx context.Context, env *Env, s *settings, create bool) (storage.Store, error) {
	if s.Repository == "" {
		return nil, usage("no repository given: pass --repo, set SLIPCOVER_REPOSITORY, or write it into the configuration file")
	}
	return openPlace(ctx, env, s, s.Repository, create)
}

// opened is an open repository with its storage.
type opened struct {
	*repo.Repo
	store storage.Store
}

func (o *opened) close() { _ = o.store.Close() }

// openRepo opens the repository. ask allows to ask for a passphrase at the
// terminal if reading turns out to need one; a job that only writes doesn't.
func openRepo(ctx context.Context, env *Env, s *settings, ask bool) (*opened, error) {
	store, err := openStore(ctx, env, s, false)
	if err != nil {
		return nil, err
	}
	r, err := openIn(ctx, env, s, store, ask)
	if err != nil {
		_ = store.Close()
		return nil, err
	}
	return &opened{r, store}, nil
}

func openIn(ctx context.Context, env *Env, s *settings, store storage.Store, ask bool) (*repo.Repo, error) {
	opts := repo.Options{TrustedWriters: s.TrustedWriters, Level: level(s)}
	opts.Notify = func(text string) { fmt.Fprintf(env.Stderr, "slipcover: %s\n", text) }
	if !s.ImmutableFor.IsZero() {
		opts.RetainUntil = s.ImmutableFor.After(env.Now())
	}
	var err error
	if opts.Identities, err = readIdentities(s.identities); err != nil {
		return nil, err
	}
	if s.Passphrase != "" {
		opts.Passphrase = func() (string, error) { return s.Passphrase.Reveal(), nil }
	}
	if opts.Passphrase == nil && ask && env.StdinTerminal && len(opts.Identities) == 0 {
		kept, err := keepsIdentity(ctx, store)
		if err != nil {
			return nil, err
		}
		if kept {
			opts.Passphrase = func() (string, error) { return env.ReadPassword("Passphrase of the repository: ") }
		}
	}
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
func level(s *settings) repo.Level {
	switch s.Compression {
	case "fastest":
		return repo.Fastest
	case "better":
		return repo.Better
	}
	return repo.Default
}

// openBackup opens the repository for reading and finds a backup. The key is
// tried before anything else, so that a wrong one costs nothing.
func openBackup(ctx context.Context, env *Env, s *settings, instance, ref string) (*opened, *manifest.Record, error) {
	r, err := openRepo(ctx, env, s, true)
	if err != nil {
		return nil, nil, err
	}
	rec, err := r.Find(ctx, instance, ref)
	if err == nil {
		err = r.Unlock(ctx)
	}
	if err != nil {
		r.close()
		return nil, nil, err
	}
	return r, rec, nil
}
