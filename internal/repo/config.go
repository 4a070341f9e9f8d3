package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/slipcover/slipcover/internal/storage"
)

// configCopyKey is the second copy of slipcover.json, which is written after it. No
// instance has such a name.
const configCopyKey storage.Key = keptPrefix + "_repository.json"

// storedConfig is slipcover.json as it is stored, or its second copy.
type storedConfig struct {
	bytes  []byte // nil if it isn't there
	config Config
	err    error // why it can't be used
}

func readConfig(ctx context.Context, store storage.Store, key storage.Key) (storedConfig, error) {
	b, err := readObject(ctx, store, key, maxConfig)
	if errors.Is(err, storage.ErrNotExist) {
		return storedConfig{err: err}, nil
	}
	if err != nil {
		return storedConfig{}, err
	}
	s := storedConfig{bytes: b}
	s.config, s.err = parseConfig(b)
	return s, nil
}

// openConfig returns the configuration of the repository in store: of the second copy,
// if slipcover.json is gone or damaged.
func openConfig(ctx context.Context, store storage.Store) (Config, error) {
	main, err := readConfig(ctx, store, configKey)
	if err != nil {
		return Config{}, fmt.Errorf("open repository: %w", err)
	}
	if main.err == nil || errors.Is(main.err, ErrFormat) {
		return main.config, main.err
	}
	second, err := readConfig(ctx, store, configCopyKey)
	switch {
	case err != nil:
		return Config{}, fmt.Errorf("open repository: %w", err)
	case second.err == nil:
		return second.config, nil
	case main.bytes == nil:
		return Config{}, fmt.Errorf("%w; `slipcover init` makes one", ErrNoRepository)
	}
	return Config{}, main.err
}

// configFault says what is wrong with slipcover.json or its second copy; "" if nothing.
// That there is no second copy, or that it has other recipients, is what earlier versions
// and changes that were stopped leave.
func configFault(main, second storedConfig) string {
	switch {
	case main.bytes == nil:
		return fmt.Sprintf("%s is gone, and a second copy of it is there", configKey)
	case main.err != nil:
		return main.err.Error()
	case second.bytes != nil && second.err != nil:
		return fmt.Sprintf("%s is as it was, but its second copy %s has changed", configKey, configCopyKey)
	case second.bytes != nil && (second.config.ID != main.config.ID || second.config.Encryption != main.config.Encryption):
		return fmt.Sprintf("%s is of repository %s, and its second copy %s of %s: put back which is right, the state directory of each node has the id", configKey, main.config.ID, configCopyKey, second.config.ID)
	}
	return ""
}

// readConfigs reads slipcover.json and its second copy.
func (r *Repo) readConfigs(ctx context.Context) (main, second storedConfig, err error) {
	if main, err = readConfig(ctx, r.store, configKey); err != nil {
		return main, second, err
	}
	second, err = readConfig(ctx, r.store, configCopyKey)
	return main, second, err
}

// healConfig puts slipcover.json or its second copy back, whichever is wrong, and
// returns what was.
func (r *Repo) healConfig(ctx context.Context) (problem string, err error) {
	main, second, err := r.readConfigs(ctx)
	if err != nil {
		return "", err
	}
	fault := configFault(main, second)
	switch {
	case main.err == nil && second.err == nil && second.config.ID != main.config.ID:
		return fault, nil
	case main.err == nil && !bytes.Equal(main.bytes, second.bytes):
		err = r.store.Put(ctx, configCopyKey, bytes.NewReader(main.bytes), storage.PutOptions{})
		if fault != "" {
			fault += ": there is a new one"
		}
	case main.err != nil && second.err == nil && !errors.Is(main.err, ErrFormat):
		err = r.store.Put(ctx, configKey, bytes.NewReader(second.bytes), storage.PutOptions{})
		fault += ": it was put back from its second copy"
	}
	if err != nil {
		return "", fmt.Errorf("heal %s: %w", configKey, err)
	}
	return fault, nil
}
