// Package agenttest is what tests that run agents have in common.
package agenttest

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/drivers"
)

// Opener opens repositories for jobs as the command line does: that of the job, or where
// it names none the agent's own, "" if it has none. reader reads them.
func Opener(own string, reader *age.X25519Identity) func(context.Context, agent.Open) (*repo.Repo, func(), error) {
	return func(ctx context.Context, o agent.Open) (*repo.Repo, func(), error) {
		url, recipients := cmp.Or(o.Repository.URL, own), o.Repository.Recipients
		if o.Repository.Storage == "" {
			recipients = []string{reader.Recipient().String()}
		}
		if url == "" {
			return nil, nil, repo.ErrNoRepository
		}
		store, err := drivers.Open(ctx, url, drivers.Options{Create: o.Make, Getenv: o.Getenv})
		if errors.Is(err, storage.ErrNotExist) {
			err = fmt.Errorf("%w: %w", repo.ErrNoRepository, err)
		}
		if err != nil {
			return nil, nil, err
		}
		opts := repo.Options{Identities: []age.Identity{reader}}
		r, err := repo.Open(ctx, store, opts)
		if errors.Is(err, repo.ErrNoRepository) && o.Make {
			if _, err = repo.Init(ctx, store, repo.InitOptions{Recipients: recipients}); err == nil || errors.Is(err, repo.ErrExists) {
				r, err = repo.Open(ctx, store, opts)
			}
		}
		if err != nil {
			return nil, nil, errors.Join(err, store.Close())
		}
		return r, func() { _ = store.Close() }, nil
	}
}
