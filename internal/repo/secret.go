package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
)

// Secret returns what only readers of a backup have, and all of them alike, whichever key they read with: the key of
// the object of its manifest, that the storage doesn't show. It never changes, and copies of the backup have the same.
// In a repository without encryption, whose readers are all who may see the storage, it is a hash of that object.
//
// Source: age-encryption.org/v1, file key.
func (r *Repo) Secret(ctx context.Context, rec *manifest.Record) ([]byte, error) {
	b, err := r.sealedManifest(ctx, rec)
	if err != nil {
		return nil, err
	}
	if !r.config.Encrypted() {
		sum := sha256.Sum256(b)
		return sum[:], nil
	}
	var key []byte
	err = r.withIdentities(ctx, rec.Instance, func(ids ...age.Identity) error {
		seen := make([]age.Identity, len(ids))
		for i, id := range ids {
			seen[i] = &keyWatch{id, &key}
		}
		_, err := age.Decrypt(bytes.NewReader(b), seen...)
		return err
	})
	return key, err
}

// keyWatch is an identity that notes the file key that it finds.
type keyWatch struct {
	age.Identity
	key *[]byte
}

func (w *keyWatch) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	key, err := w.Identity.Unwrap(stanzas)
	if err == nil {
		*w.key = slices.Clone(key)
	}
	return key, err
}
