package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/slipcover/slipcover/internal/storage"
)

// keyring holds the identities that open the repository.
type keyring struct {
	mu         sync.Mutex
	asked      bool           // guarded by mu, like what follows
	identities []age.Identity // all that were given or unlocked
	err        error
	instances  map[string][]age.Identity // those that identities open
}

// passphraseWork is what it costs to try a passphrase, as a power of two: a second and
// 256 MiB. It is age's own choice, too; tests have less.
var passphraseWork = 18

// storeIdentity makes an X25519 identity, stores it encrypted with passphrase
// and returns its recipient. What a passphrase opens is encrypted to the
// recipient: a passphrase costs a second to check, and with this a writer doesn't
// need it.
func storeIdentity(ctx context.Context, store storage.Store, passphrase string) (string, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", err
	}
	lock, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return "", err
	}
	lock.SetWorkFactor(passphraseWork)
	b, err := encryptText(id.String()+"\n", lock)
	if err != nil {
		return "", err
	}
	recipient := id.Recipient().String()
	for _, key := range []storage.Key{identityKey(recipient), secondKey(keptRecipients, recipient, keptName(b))} {
		if err := store.Put(ctx, key, bytes.NewReader(b), storage.PutOptions{IfAbsent: true}); err != nil {
			return "", err
		}
	}
	return recipient, nil
}

func identityKey(recipient string) storage.Key {
	return storage.Key(keysPrefix + recipient + wrappedEnding)
}

// Unlock makes sure that there is a key to read with, asking for the passphrase
// if that is how. It returns ErrNoKey or ErrWrongKey. Reading unlocks by itself.
func (r *Repo) Unlock(ctx context.Context) error {
	_, err := r.identities(ctx)
	return err
}

// CanRead reports whether a way to the key was given; it doesn't try it.
func (r *Repo) CanRead() bool {
	return !r.config.Encrypted() || len(r.opts.Identities) > 0 || r.opts.Passphrase != nil
}

func (r *Repo) identities(ctx context.Context) ([]age.Identity, error) {
	k := &r.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	return r.identitiesLocked(ctx)
}

// identitiesLocked is identities for who holds keys.mu.
func (r *Repo) identitiesLocked(ctx context.Context) ([]age.Identity, error) {
	if !r.config.Encrypted() {
		return nil, nil
	}
	k := &r.keys
	if !k.asked {
		k.identities, k.err = r.unlock(ctx)
		k.asked = ctx.Err() == nil
	}
	return k.identities, k.err
}

func (r *Repo) unlock(ctx context.Context) ([]age.Identity, error) {
	if len(r.opts.Identities) > 0 {
		return r.opts.Identities, nil
	}
	if r.opts.Passphrase == nil {
		return nil, fmt.Errorf("%w; pass --identity FILE or a passphrase", ErrNoKey)
	}
	copies, err := r.identityCopies(ctx)
	if err != nil {
		return nil, err
	}
	var spellings []string
	asked := false
	for _, recipient := range r.config.Recipients {
		w, err := r.readIdentity(ctx, recipient, copies)
		if err != nil {
			return nil, err
		}
		for _, b := range w.all() {
			if !asked {
				if spellings, err = r.opts.Passphrase(); err != nil {
					return nil, err
				}
				asked = true
			}
			for _, passphrase := range spellings {
				ids, err := openIdentity(b, passphrase)
				if !errors.Is(err, ErrWrongKey) {
					return ids, err
				}
			}
		}
	}
	if asked {
		return nil, fmt.Errorf("%w: this passphrase opens no identity in the repository", ErrWrongKey)
	}
	return nil, fmt.Errorf("%w: the repository has no passphrase; pass --identity FILE", ErrNoKey)
}

func openIdentity(b []byte, passphrase string) ([]age.Identity, error) {
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	rd, err := age.Decrypt(armor.NewReader(bytes.NewReader(b)), id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWrongKey, err)
	}
	text, err := io.ReadAll(rd)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWrongKey, err)
	}
	return age.ParseIdentities(strings.NewReader(string(text)))
}

// opensAny reports whether ids hold the identity of one of the recipients.
// Identities that aren't of X25519 are believed to.
func opensAny(ids []age.Identity, recipients []string) bool {
	return slices.ContainsFunc(ids, func(id age.Identity) bool {
		x, ok := id.(*age.X25519Identity)
		return !ok || slices.Contains(recipients, x.Recipient().String())
	})
}

// instanceIdentities returns the identities that may open objects of the
// instance: its own, then those that were given, for the objects of old that are
// encrypted to the recipients themselves. again reads the instance's anew; loaded
// says that they were read by this call.
func (r *Repo) instanceIdentities(ctx context.Context, instance string, again bool) (ids []age.Identity, loaded bool, err error) {
	k := &r.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	given, err := r.identitiesLocked(ctx)
	if err != nil {
		return nil, false, err
	}
	own, known := k.instances[instance]
	if !known || again {
		if own, err = r.openInstance(ctx, instance, given); err != nil {
			return nil, false, err
		}
		if k.instances == nil {
			k.instances = map[string][]age.Identity{}
		}
		k.instances[instance], loaded = own, true
	}
	return slices.Concat(own, given), loaded, nil
}

// openInstance opens the keys of an instance that given opens, and copies of those
// that are gone.
func (r *Repo) openInstance(ctx context.Context, instance string, given []age.Identity) ([]age.Identity, error) {
	keys, err := r.instanceKeys(ctx, instance)
	if err != nil {
		return nil, err
	}
	var out []age.Identity
	for _, k := range keys {
		if !k.wrapped {
			continue
		}
		s, err := r.readSecret(ctx, k, given)
		switch {
		case err == nil:
			out = append(out, s.identity)
		case !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, storage.ErrNotExist):
			return nil, err
		}
	}
	return r.openKept(ctx, instance, given, out)
}

// withIdentities calls open with the identities that may open an object of the
// instance. If none fits it reads the instance's keys anew, as one may have been
// made since, and tries again.
func (r *Repo) withIdentities(ctx context.Context, instance string, open func(...age.Identity) error) error {
	ids, loaded, err := r.instanceIdentities(ctx, instance, false)
	if err != nil {
		return err
	}
	err = open(ids...)
	if isNoMatch(err) && !loaded {
		if ids, _, err = r.instanceIdentities(ctx, instance, true); err != nil {
			return err
		}
		err = open(ids...)
	}
	switch {
	case err == nil:
		return nil
	case !isNoMatch(err):
		return errors.Join(ErrCorrupt, err)
	}
	return r.noMatch(ctx, instance)
}

// noMatch says why no identity opens an object of the instance: the one given is
// not the repository's, or it is and the instance's key is gone.
func (r *Repo) noMatch(ctx context.Context, instance string) error {
	given, err := r.identities(ctx)
	if err != nil {
		return err
	}
	keys, err := r.instanceKeys(ctx, instance)
	if err != nil {
		return err
	}
	left := slices.ContainsFunc(keys, func(k *instanceKey) bool { return k.wrapped })
	r.keys.mu.Lock()
	opened := len(r.keys.instances[instance]) > 0
	r.keys.mu.Unlock()
	if opened || !left && opensAny(given, r.config.Recipients) {
		return fmt.Errorf("instance %s: %w", instance, ErrKeyGone)
	}
	return ErrWrongKey
}

// decrypt opens b, an object of the instance.
func (r *Repo) decrypt(ctx context.Context, instance string, b []byte) (io.Reader, error) {
	var rd io.Reader
	err := r.withIdentities(ctx, instance, func(ids ...age.Identity) (err error) {
		rd, err = age.Decrypt(bytes.NewReader(b), ids...)
		return err
	})
	return rd, err
}

// decryptInPlace is decrypt into the memory of b, for a segment of many MiB: age has read
// a chunk, and its header before, when it gives what is in it, which is shorter.
func (r *Repo) decryptInPlace(ctx context.Context, instance string, b []byte) ([]byte, error) {
	rd, err := r.decrypt(ctx, instance, b)
	for n := 0; err == nil; {
		var more int
		more, err = rd.Read(b[n:])
		if n += more; errors.Is(err, io.EOF) {
			return b[:n], nil
		}
		if err != nil {
			err = errors.Join(ErrCorrupt, err)
		}
	}
	return nil, err
}
