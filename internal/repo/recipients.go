package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/storage"
)

// KeyChange is what a change of recipients did.
type KeyChange struct {
	Recipients []string `json:"recipients"` // of the repository from now on
	Wrapped    int      `json:"wrapped"`    // keys of instances that were wrapped anew
	Retired    int      `json:"retired"`    // keys of instances that were retired
	// Direct are instances with objects that are encrypted to recipients directly,
	// as the first versions did: nothing has changed for those objects.
	Direct []string `json:"direct"`
	// Strangers are recipients that slipcover.json names and that not all keys were
	// wrapped for: an earlier change didn't end, or someone added them there.
	Strangers []string `json:"strangers"`
}

// AddRecipients makes recipients of add read everything in the repository, also
// what was stored before, and returns what it did. It needs a key that reads.
// After an error it can be repeated.
//
// A key is wrapped for who could open it before and for add, whatever
// slipcover.json says: who can write to the storage gains nothing.
func (r *Repo) AddRecipients(ctx context.Context, add ...string) (*KeyChange, error) {
	if err := validRecipients(add); err != nil {
		return nil, err
	}
	c, ids, err := r.changeable(ctx, add...)
	if err != nil {
		return nil, err
	}
	res := &KeyChange{Recipients: with(c.Recipients, add)}
	grow := func(old []string) []string { return with(old, add) }
	if err := r.rewrap(ctx, ids, grow, res); err != nil {
		return nil, err
	}
	if err := r.putRecipients(ctx, c, res.Recipients); err != nil {
		return nil, err
	}
	// A node that made a key meanwhile has read the old slipcover.json.
	if err := r.rewrap(ctx, ids, grow, res); err != nil {
		return nil, err
	}
	return res, r.lookAround(ctx, ids, res)
}

// AddPassphrase makes a key that the repository keeps under the passphrase, and
// adds its recipient.
func (r *Repo) AddPassphrase(ctx context.Context, passphrase string) (*KeyChange, error) {
	if _, _, err := r.changeable(ctx); err != nil { // before an identity is stored for nothing
		return nil, err
	}
	recipient, err := storeIdentity(ctx, r.store, passphrase)
	if err != nil {
		return nil, err
	}
	return r.AddRecipients(ctx, recipient)
}

// RemoveRecipients takes the right to read from recipients: they open no key that
// is stored from now on. retire makes nodes take new keys, too; without it they
// can read what nodes will write if they have looked at the keys before. It needs a
// key that reads, of a recipient who stays. After an error it can be repeated.
func (r *Repo) RemoveRecipients(ctx context.Context, retire bool, remove ...string) (*KeyChange, error) {
	c, ids, err := r.changeable(ctx)
	if err != nil {
		return nil, err
	}
	res := &KeyChange{Recipients: without(c.Recipients, remove)}
	shrink := func(old []string) []string { return without(old, remove) }
	if len(res.Recipients) == 0 {
		return nil, fmt.Errorf("%w: it would leave the repository without a recipient, so nobody could read it", ErrLastRecipient)
	}
	if !opensAny(ids, res.Recipients) {
		return nil, fmt.Errorf("%w: removing needs an identity, or the passphrase, of a recipient who stays", ErrWrongKey)
	}
	todo, err := r.planRewrap(ctx, ids, shrink)
	if err != nil {
		return nil, err
	}
	if len(todo) == 0 && len(without(remove, c.Recipients)) == len(remove) && !r.keepsAny(ctx, remove) {
		return nil, fmt.Errorf("%w: %s; `slipcover key list` shows them", ErrNotRecipient, strings.Join(remove, ", "))
	}
	if err := r.putRecipients(ctx, c, res.Recipients); err != nil {
		return nil, err
	}
	if retire {
		n, err := r.Retire(ctx, "")
		if err != nil {
			return nil, err
		}
		res.Retired = n
	}
	if err := r.rewrap(ctx, ids, shrink, res); err != nil {
		return nil, err
	}
	for _, recipient := range remove {
		if err := r.dropIdentity(ctx, recipient); err != nil {
			return nil, err
		}
	}
	return res, r.lookAround(ctx, ids, res)
}

// changeable returns slipcover.json as it is and the identities to change keys
// with, one of which must be that of a recipient, or of one of more.
func (r *Repo) changeable(ctx context.Context, more ...string) (Config, []age.Identity, error) {
	if !r.config.Encrypted() {
		return Config{}, nil, ErrNotEncrypted
	}
	c, err := r.rereadConfig(ctx)
	if err != nil {
		return c, nil, err
	}
	ids, err := r.identities(ctx)
	if err == nil && !opensAny(ids, with(c.Recipients, more)) {
		err = ErrWrongKey
	}
	return c, ids, err
}

// dropIdentity deletes the identity of a recipient that is kept under a passphrase,
// if it is, and its second copies.
func (r *Repo) dropIdentity(ctx context.Context, recipient string) error {
	if err := r.dropCopies(ctx, keptRecipients, recipient, ""); err != nil {
		return err
	}
	return r.store.Delete(ctx, identityKey(recipient))
}

func validRecipients(list []string) error {
	for _, s := range list {
		if _, err := age.ParseX25519Recipient(s); err != nil {
			return fmt.Errorf("age recipient %q: %w", s, err)
		}
	}
	return nil
}

// keepsAny reports whether an identity of a recipient is kept under a passphrase.
func (r *Repo) keepsAny(ctx context.Context, recipients []string) bool {
	return slices.ContainsFunc(recipients, func(s string) bool {
		_, err := r.store.Stat(ctx, identityKey(s))
		return err == nil
	})
}

// planRewrap opens all keys whose recipients shall change, and changes them in
// memory.
func (r *Repo) planRewrap(ctx context.Context, ids []age.Identity, change func([]string) []string) ([]*secret, error) {
	keys, err := r.instanceKeys(ctx, "")
	if err != nil {
		return nil, err
	}
	var out []*secret
	for _, k := range keys {
		if !k.wrapped {
			continue
		}
		s, err := r.readSecret(ctx, k, ids)
		if errors.Is(err, storage.ErrNotExist) {
			continue // destroyed meanwhile
		}
		if err != nil {
			return nil, err
		}
		to := change(s.recipients)
		if len(to) == 0 {
			return nil, fmt.Errorf("%w: it would leave the key of instance %s with nobody who opens it; add a recipient who stays first, even if slipcover.json names it", ErrLastRecipient, k.instance)
		}
		if recipientsDiffer(to, s.recipients) != "" || s.anew {
			s.recipients = to
			out = append(out, s)
		}
	}
	return out, nil
}

func (r *Repo) rewrap(ctx context.Context, ids []age.Identity, change func([]string) []string, res *KeyChange) error {
	todo, err := r.planRewrap(ctx, ids, change)
	if err != nil {
		return err
	}
	for _, s := range todo {
		if _, err := r.putSecret(ctx, s, storage.PutOptions{}); err != nil {
			return err
		}
		res.Wrapped++
	}
	return nil
}

// putRecipients replaces slipcover.json, if it is still as it was read.
func (r *Repo) putRecipients(ctx context.Context, c Config, recipients []string) error {
	now, err := r.rereadConfig(ctx)
	if err != nil {
		return err
	}
	if !slices.Equal(now.Recipients, c.Recipients) {
		return errors.New("the recipients were changed by someone else at the same time; run it again")
	}
	keys := []storage.Key{configKey, configCopyKey}
	if slices.Equal(recipients, c.Recipients) {
		keys = keys[1:]
	}
	c.Recipients = recipients
	b, err := encodeConfig(c)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := r.store.Put(ctx, key, bytes.NewReader(b), storage.PutOptions{}); err != nil {
			return fmt.Errorf("store %s: %w", key, err)
		}
	}
	return nil
}

func encodeConfig(c Config) ([]byte, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	if err == nil && len(b) >= maxConfig {
		err = fmt.Errorf("%s: %d recipients are more than it can hold: %d bytes, at most %d", configKey, len(c.Recipients), len(b), maxConfig)
	}
	return append(b, '\n'), err
}

// lookAround fills in what the operator should know beside the change.
func (r *Repo) lookAround(ctx context.Context, ids []age.Identity, res *KeyChange) error {
	res.Direct, res.Strangers = []string{}, []string{}
	keys, err := r.instanceKeys(ctx, "")
	if err != nil {
		return err
	}
	for _, k := range keys {
		if !k.wrapped {
			continue
		}
		s, err := r.readSecret(ctx, k, ids)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		res.Strangers = append(res.Strangers, without(without(res.Recipients, s.recipients), res.Strangers)...)
	}
	res.Direct, err = r.directInstances(ctx, ids)
	return err
}

// directInstances lists the instances with objects that direct reports.
func (r *Repo) directInstances(ctx context.Context, ids []age.Identity) ([]string, error) {
	var names []string
	err := r.store.List(ctx, "segments/", func(i storage.Info) error {
		name, _, _ := strings.Cut(strings.TrimPrefix(string(i.Key), "segments/"), "/")
		if n := len(names); n == 0 || names[n-1] != name {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := []string{}
	for _, name := range names {
		yes, err := r.direct(ctx, name, ids)
		if err != nil {
			return nil, err
		}
		if yes {
			out = append(out, name)
		}
	}
	return out, nil
}

// Retire marks the keys of an instance, or of all for "": nodes make new ones at
// their next backup. It returns how many it marked.
func (r *Repo) Retire(ctx context.Context, instance string) (int, error) {
	keys, err := r.instanceKeys(ctx, instance)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, k := range keys {
		if k.retired || !k.wrapped {
			continue
		}
		if err := r.retire(ctx, k); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (r *Repo) retire(ctx context.Context, k *instanceKey) error {
	err := r.store.Put(ctx, retiredKey(k.instance, k.recipient), bytes.NewReader(nil), storage.PutOptions{IfAbsent: true})
	if err != nil && !errors.Is(err, storage.ErrExist) {
		return fmt.Errorf("retire the key of instance %s: %w", k.instance, err)
	}
	return nil
}

// DestroyKeys deletes all keys of the instance that lock is of: nobody can read
// its backups any more, unless objects of it are encrypted to recipients directly.
// It returns how many keys there were. After an error it can be repeated; with
// ErrRetained the storage protects copies of them until a date.
func (r *Repo) DestroyKeys(ctx context.Context, lock *Lock) (int, error) {
	if err := lock.Check(ctx); err != nil {
		return 0, err
	}
	keys, err := r.instanceKeys(ctx, lock.instance)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, k := range keys {
		if !k.wrapped {
			continue
		}
		// First of all, so that no node and no check puts it back from a copy.
		err := r.store.Put(ctx, destroyedKey(k.instance, k.recipient), bytes.NewReader(nil), storage.PutOptions{})
		if err == nil {
			err = r.store.Delete(ctx, wrappedKey(k.instance, k.recipient))
		}
		if err != nil {
			return n, fmt.Errorf("destroy the key of instance %s: %w", k.instance, err)
		}
		n++
	}
	for _, k := range keys { // last, so that a key that is left shows as retired
		if k.retired {
			if err := r.store.Delete(ctx, retiredKey(k.instance, k.recipient)); err != nil {
				return n, fmt.Errorf("destroy the key of instance %s: %w", k.instance, err)
			}
		}
	}
	return n, r.destroyKept(ctx, lock.instance)
}

// ExportKeys returns the identities of an instance, which read its backups and
// no others.
func (r *Repo) ExportKeys(ctx context.Context, instance string) ([]*age.X25519Identity, error) {
	if !r.config.Encrypted() {
		return nil, ErrNotEncrypted
	}
	ids, err := r.identities(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := r.instanceKeys(ctx, instance)
	if err != nil {
		return nil, err
	}
	var out []*age.X25519Identity
	for _, k := range keys {
		if !k.wrapped {
			continue
		}
		s, err := r.readSecret(ctx, k, ids)
		if err != nil {
			return nil, err
		}
		out = append(out, s.identity)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("instance %s: %w", instance, ErrKeyGone)
	}
	return out, nil
}

// Keys is who can read the repository, and what the instances' keys are.
type Keys struct {
	Recipients []RecipientInfo   `json:"recipients"`
	Instances  []InstanceKeyInfo `json:"instances"` // by instance, the newest key first
}

// RecipientInfo is one recipient of the repository.
type RecipientInfo struct {
	Recipient  string `json:"recipient"`
	Passphrase bool   `json:"passphrase"` // its identity is kept in the repository under a passphrase
}

// InstanceKeyInfo is one key of an instance.
type InstanceKeyInfo struct {
	Instance  string    `json:"instance"`
	Recipient string    `json:"recipient"`
	Retired   bool      `json:"retired"`
	Wrapped   time.Time `json:"wrapped"`    // when its identity was stored
	WrapCount int       `json:"wrap_count"` // for how many recipients
	Opened    bool      `json:"opened"`
	// Recipients are those whom the key, once opened, says it was wrapped for.
	Recipients []string `json:"recipients"`
}

// Keys lists keys. With a key that reads it tells for whom each is wrapped, else
// for how many.
func (r *Repo) Keys(ctx context.Context) (*Keys, error) {
	out := &Keys{Recipients: []RecipientInfo{}, Instances: []InstanceKeyInfo{}}
	for _, recipient := range r.config.Recipients {
		_, err := r.store.Stat(ctx, identityKey(recipient))
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			return nil, err
		}
		out.Recipients = append(out.Recipients, RecipientInfo{recipient, err == nil})
	}
	keys, err := r.instanceKeys(ctx, "")
	if err != nil {
		return nil, err
	}
	var ids []age.Identity
	if r.CanRead() {
		if ids, err = r.identities(ctx); err != nil {
			return nil, err
		}
	}
	for _, k := range keys {
		if !k.wrapped {
			continue
		}
		w, err := r.readWrapping(ctx, k)
		if err != nil {
			return nil, err
		}
		b := w.best()
		if b == nil {
			b = w.main
		}
		info := InstanceKeyInfo{Instance: k.instance, Recipient: k.recipient, Retired: k.retired, Recipients: []string{}, Wrapped: k.modified.UTC().Truncate(time.Second), WrapCount: stanzas(b)}
		if s, err := r.readSecret(ctx, k, ids); err == nil {
			info.Opened, info.Recipients = true, s.recipients
		}
		out.Instances = append(out.Instances, info)
	}
	return out, nil
}
