package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/state"
)

func writePin(dir string, pin *repo.KeyPin) error {
	if err := durable.WriteJSON(state.PinPath(dir), 0o600, pin); err != nil {
		return fmt.Errorf("store the pinned key: %w", err)
	}
	return nil
}

// writeKey returns the key to encrypt to. A new one is pinned, and its secret is
// forgotten, before anything is encrypted to it; what an interrupted run stored
// under another key is left to prune, since that key may be gone.
func writeKey(ctx context.Context, opts *Options, dir string) (*repo.WriteKey, error) {
	pin, err := acceptedPin(opts.StateDir, opts.Repo, opts.Instance, opts.Recipients)
	if err != nil {
		return nil, err
	}
	key, err := opts.Repo.WriteKey(ctx, opts.Instance, repo.KeyOptions{Pin: pin, Recipients: opts.Recipients})
	if err != nil || !key.New {
		return key, err
	}
	defer key.Forget()
	if err := (&journal{dir: dir}).remove(); err != nil {
		return nil, err
	}
	if err := writePin(dir, key.Pin); err != nil {
		return nil, err
	}
	shareKey(ctx, opts, key)
	return key, nil
}

// acceptedPin returns the pin of a repository, nil if there is none. Then its
// place must be new to this node, or recipients must say whom it may encrypt to.
func acceptedPin(dir string, r *repo.Repo, instance string, recipients []string) (*repo.KeyPin, error) {
	pin, err := state.ReadPin(state.Dir(dir, r.Config().ID, instance))
	if err != nil || pin != nil || len(recipients) > 0 {
		return pin, err
	}
	other, err := otherPin(dir, r, instance)
	if err == nil && other != nil {
		err = fmt.Errorf("%w: %s has another id than the repository that this node backed up to there; if it was made anew, `slipcover key accept` on this node takes its recipients over", repo.ErrRecipients, r.URL())
	}
	return nil, err
}

// otherPin returns the pin of a repository of another id at the same place: the id
// stands in the storage, and someone who changes it must not get rid of the pin.
func otherPin(stateDir string, r *repo.Repo, instance string) (*repo.KeyPin, error) {
	dirs, err := os.ReadDir(stateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for pinned keys: %w", err)
	}
	for _, d := range dirs {
		if !d.IsDir() || d.Name() == r.Config().ID {
			continue
		}
		pin, err := state.ReadPin(filepath.Join(stateDir, d.Name(), instance))
		if err != nil {
			return nil, err
		}
		if pin != nil && pin.URL == r.URL() {
			return pin, nil
		}
	}
	return nil, nil
}

// settlePin keeps what a run learned of the key. A full backup needs no earlier
// one.
func settlePin(dir string, key *repo.WriteKey, rec *manifest.Record) error {
	if key.Pin == nil {
		return nil
	}
	if rec.Type == manifest.Full {
		key.Pin.Earlier = nil
	}
	if old, sealed, err := state.LoadPin(dir); err == nil && sealed && reflect.DeepEqual(old, key.Pin) {
		return nil
	}
	return writePin(dir, key.Pin)
}

// knowsKey reports whether what is encrypted to a key can be built on.
func knowsKey(pin *repo.KeyPin, recipient string) bool {
	return recipient == "" || pin != nil && (pin.InstanceRecipient == recipient || slices.Contains(pin.Earlier, recipient))
}

// Accepted is what AcceptRecipients took over.
type Accepted struct {
	Recipients []string // that this node accepts from now on
	Before     []string // that it accepted until now; none if it had no pin
}

// AcceptRecipients makes this node accept the recipients that the repository has
// now, for the next key that it makes.
func AcceptRecipients(stateDir string, r *repo.Repo, instance string) (*Accepted, error) {
	dir := filepath.Join(stateDir, r.Config().ID, instance)
	pin, err := state.ReadPin(dir)
	if err != nil && !errors.Is(err, repo.ErrRecipients) {
		return nil, err
	}
	if pin != nil && len(pin.Recipients) > 0 && !r.Config().Encrypted() {
		return nil, fmt.Errorf("%w: slipcover.json says that nothing is encrypted, but this repository was: somebody has changed it", repo.ErrRecipients)
	}
	before := pin
	if pin == nil {
		pin = &repo.KeyPin{URL: r.URL()}
		if before, err = otherPin(stateDir, r, instance); err != nil {
			return nil, err
		}
	}
	res := &Accepted{Recipients: r.Config().Recipients}
	if before != nil {
		res.Before = before.Recipients
	}
	pin.Recipients = res.Recipients
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	return res, writePin(dir, pin)
}
