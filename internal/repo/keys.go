package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
}

// storeIdentity makes an X25519 identity, stores it encrypted with passphrase
// and returns its recipient. Objects are then encrypted to the recipient: a
// passphrase costs a second to check, too much for each object, and with this a
// writer doesn't need it.
func storeIdentity(ctx context.Context, store storage.Store, passphrase string) (string, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", err
	}
	lock, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	a := armor.NewWriter(&b)
	w, err := age.Encrypt(a, lock)
	if err != nil {
		return "", err
	}
	if _, err := io.WriteString(w, id.String()+"\n"); err != nil {
		return "", err
	}
	if err := errors.Join(w.Close(), a.Close()); err != nil {
		return "", err
	}
	recipient := id.Recipient().String()
	err = store.Put(ctx, identityKey(recipient), bytes.NewReader(b.Bytes()), storage.PutOptions{IfAbsent: true})
	return recipient, err
}

func identityKey(recipient string) storage.Key { return storage.Key("keys/" + recipient + ".age") }

// Unlock makes sure that the repository can be read, asking for the passphrase
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
	if !r.config.Encrypted() {
		return nil, nil
	}
	k := &r.keys
	k.mu.Lock()
	defer k.mu.Unlock()
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
	for _, recipient := range r.config.Recipients {
		b, err := readSmall(ctx, r.store, identityKey(recipient))
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		passphrase, err := r.opts.Passphrase()
		if err != nil {
			return nil, err
		}
		return openIdentity(b, passphrase)
	}
	return nil, fmt.Errorf("%w: no identity is kept under a passphrase here; pass --identity FILE", ErrNoKey)
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

// keyErr gives age's "no identity matched" our name.
func keyErr(err error) error {
	var no *age.NoIdentityMatchError
	if errors.As(err, &no) {
		return ErrWrongKey
	}
	return errors.Join(ErrCorrupt, err)
}
