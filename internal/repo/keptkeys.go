package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/storage"
)

// Where the storage protects objects until a date, each wrapped key has copies
// kept/<instance>/<start of its SHA-256>.age that are protected as long as the
// backups which need it: the key itself can't be, as a change of recipients
// replaces it, and without it the protected backups would be worth nothing.

const keptPrefix = "kept/"

func keptKey(instance, name string) storage.Key {
	return storage.Key(keptPrefix + instance + "/" + name + wrappedEnding)
}

// keptName names a copy by its content.
func keptName(b []byte) string { return hashOf(b)[:32] }

// keepKeys makes sure that a copy of each wrapped key of the instance is protected
// until then.
func (r *Repo) keepKeys(ctx context.Context, instance string, retainer storage.Retainer, until time.Time) error {
	keys, err := r.instanceKeys(ctx, instance)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if !k.wrapped {
			continue
		}
		b, err := readObject(ctx, r.store, wrappedKey(instance, k.recipient), maxKeyObject)
		if err != nil {
			return err
		}
		key := keptKey(instance, keptName(b))
		err = r.store.Put(ctx, key, bytes.NewReader(b), storage.PutOptions{IfAbsent: true, RetainUntil: until})
		if errors.Is(err, storage.ErrExist) {
			err = retainer.Retain(ctx, key, until)
		}
		if err != nil {
			return fmt.Errorf("protect the key of instance %s: %w", instance, err)
		}
	}
	return nil
}

// keptKeys lists the names of the copies.
func (r *Repo) keptKeys(ctx context.Context, instance string) ([]string, error) {
	var names []string
	prefix := keptPrefix + instance + "/"
	err := r.store.List(ctx, prefix, func(i storage.Info) error {
		if name, ok := strings.CutSuffix(strings.TrimPrefix(string(i.Key), prefix), wrappedEnding); ok {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list kept keys: %w", err)
	}
	return names, nil
}

// openKept adds to ids what the copies hold beyond them. A copy that doesn't open,
// or isn't what its name says, is passed over.
func (r *Repo) openKept(ctx context.Context, instance string, given, ids []age.Identity) ([]age.Identity, error) {
	names, err := r.keptKeys(ctx, instance)
	if err != nil {
		return nil, err
	}
	known := func(id *age.X25519Identity) bool {
		return slices.ContainsFunc(ids, func(i age.Identity) bool {
			x, ok := i.(*age.X25519Identity)
			return ok && x.String() == id.String()
		})
	}
	for _, name := range names {
		b, err := readObject(ctx, r.store, keptKey(instance, name), maxKeyObject)
		if errors.Is(err, storage.ErrNotExist) || errors.Is(err, ErrCorrupt) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if s, err := unwrap(b, given); err == nil && keptName(b) == name && s.instance == instance && !known(s.identity) {
			ids = append(ids, s.identity)
		}
	}
	return ids, nil
}

// destroyKept deletes the copies. Those that the storage protects stay: ErrRetained.
func (r *Repo) destroyKept(ctx context.Context, instance string) error {
	names, err := r.keptKeys(ctx, instance)
	if err != nil {
		return err
	}
	var keys []storage.Key
	for _, name := range names {
		keys = append(keys, keptKey(instance, name))
	}
	n, err := r.deleteAll(ctx, keys)
	if err == nil && n > 0 {
		err = fmt.Errorf("the keys of instance %s are deleted, but not %d protected copies, with which its backups can be read: %w; repeat it then", instance, n, storage.ErrRetained)
	}
	return err
}
