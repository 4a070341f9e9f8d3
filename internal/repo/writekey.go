package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/storage"
)

// KeyPin is what a node keeps, away from the storage, of the key that it writes
// with. What the storage says can't make it encrypt to anybody else. It holds no
// secret.
type KeyPin struct {
	URL        string   `json:"url"`        // of the repository
	Recipients []string `json:"recipients"` // of the repository, as this node accepted them
	// InstanceRecipient is what objects are encrypted to; empty before the first backup.
	InstanceRecipient string `json:"instance_recipient"`
	WrappedSHA256     string `json:"wrapped_sha256"` // of the object that holds its identity, hex
	// Wrapped is that object, from which the node puts it back if it is lost or changed
	// in the storage. It opens only for the recipients.
	Wrapped string `json:"wrapped,omitempty"`
	// Earlier are instance recipients that this one replaced since the last full
	// backup: what an incremental builds on may be encrypted to them.
	Earlier []string `json:"earlier,omitempty"`
}

// WriteKey is what an instance's objects are encrypted to. It fits any repository
// that holds its identity (see AddKey); that of a repository without encryption
// encrypts nothing.
type WriteKey struct {
	// Pin is to be kept by the node. If New, before anything is encrypted.
	Pin *KeyPin
	// New says that the key was made by this call: nothing is encrypted to it yet.
	New bool
	// Full says why nothing may be built on earlier backups of this node, in which
	// case it isn't empty: a key that they need is gone.
	Full string
	// Notes are sentences for the operator.
	Notes []string
	// Problems are sentences on what was wrong with stored keys, also if it was put right.
	Problems []string

	recipient *age.X25519Recipient // nil encrypts nothing
	identity  *age.X25519Identity  // while a new key's secret is at hand
}

// Forget drops the secret of a new key; from then on only who reads the
// repository has it.
func (k *WriteKey) Forget() { k.identity = nil }

// encrypt returns a writer to w; the bytes are whole once it is closed.
func (r *Repo) encrypt(w io.Writer, key *WriteKey) (io.WriteCloser, error) {
	switch {
	case !r.config.Encrypted():
		return plainWriter{w}, nil
	case key.recipient == nil:
		return nil, errNoWriteKey
	}
	return age.Encrypt(w, key.recipient)
}

// errNoWriteKey says that the key is of a repository without encryption.
var errNoWriteKey = errors.New("the repository is encrypted, and the key given to write with encrypts nothing")

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// KeyOptions say what a node knows about the repository's recipients.
type KeyOptions struct {
	Pin *KeyPin // of this instance in this repository; nil if there is none
	// Recipients, if any, are those that the repository must have: they count
	// more than those of the pin.
	Recipients []string
}

// WriteKey returns the key that a node encrypts an instance's objects to: the
// pinned one, or a new one if there is none, if it was retired or if its identity
// is gone from the repository. A new one is made only for recipients that the node
// has accepted (ErrRecipients). No key that reads is needed. The caller holds the
// instance's lock.
func (r *Repo) WriteKey(ctx context.Context, instance string, o KeyOptions) (*WriteKey, error) {
	known := o.Pin != nil && o.Pin.InstanceRecipient != ""
	problem, err := r.healConfig(ctx)
	if err != nil {
		return nil, err
	}
	k := &WriteKey{}
	if problem != "" {
		k.Problems = append(k.Problems, problem)
	}
	if !r.config.Encrypted() {
		if known || len(o.Recipients) > 0 || o.Pin != nil && len(o.Pin.Recipients) > 0 {
			return nil, fmt.Errorf("%w: slipcover.json says that nothing is encrypted, and this node expects recipients; if that is wrong, someone changed it", ErrRecipients)
		}
		return k, nil
	}
	wrapped, problems, err := r.healKeys(ctx, instance, o.Pin)
	if err != nil {
		return nil, err
	}
	problems, usable := append(k.Problems, problems...), false
	if known {
		if k, usable, err = r.pinnedKey(ctx, instance, o, wrapped); err != nil {
			return nil, err
		}
	}
	if k.Problems = problems; usable {
		return k, nil
	}
	return r.newKey(ctx, instance, o, k)
}

// PinnedKey returns the key that is pinned, for what is stored between two backups: nothing
// is made, put right or accepted. Where it can't be used any more it is ErrKeyGone: the next
// backup makes a new one.
func (r *Repo) PinnedKey(ctx context.Context, instance string, pin *KeyPin) (*WriteKey, error) {
	known := pin != nil && pin.InstanceRecipient != ""
	switch {
	case !r.config.Encrypted() && known:
		return nil, fmt.Errorf("%w: slipcover.json says that nothing is encrypted, and this node expects recipients; if that is wrong, someone changed it", ErrRecipients)
	case !r.config.Encrypted():
		return &WriteKey{}, nil
	case !known:
		return nil, fmt.Errorf("%w: no key is pinned on this node; the next backup makes one", ErrKeyGone)
	}
	keys, err := r.instanceKeys(ctx, instance)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.recipient == pin.InstanceRecipient && k.wrapped && !k.retired && !k.destroyed {
			recipient, err := age.ParseX25519Recipient(pin.InstanceRecipient)
			if err != nil {
				return nil, fmt.Errorf("the pinned key %q is not an age recipient: %w", pin.InstanceRecipient, err)
			}
			mine := *pin
			return &WriteKey{Pin: &mine, recipient: recipient}, nil
		}
	}
	return nil, fmt.Errorf("%w, or was retired: the next backup makes a new one", ErrKeyGone)
}

// pinnedKey looks whether the pinned key can still be used. If not, the key it
// returns has only the notes.
//
// wrapped are the wrapped keys that are stored, by recipient.
func (r *Repo) pinnedKey(ctx context.Context, instance string, o KeyOptions, wrapped map[string][]byte) (k *WriteKey, usable bool, err error) {
	pin := *o.Pin
	k = &WriteKey{Pin: &pin}
	if k.recipient, err = age.ParseX25519Recipient(pin.InstanceRecipient); err != nil {
		return nil, false, fmt.Errorf("the pinned key %q is not an age recipient: %w", pin.InstanceRecipient, err)
	}
	for _, recipient := range pin.Earlier {
		if wrapped[recipient] == nil {
			k.Full = "an earlier key of this instance is gone from the repository, so nobody can read what it encrypted"
		}
	}
	b := wrapped[pin.InstanceRecipient]
	if b == nil {
		k.Full = "the key of this instance is gone from the repository, so nobody can read what it encrypted"
		return k, false, nil
	}
	if sum := hashOf(b); sum != pin.WrappedSHA256 {
		pin.WrappedSHA256 = sum
		k.Notes = append(k.Notes, "the key of this instance was wrapped anew in the repository; adding and removing recipients does that, and if nobody did, someone else can write there")
	}
	pin.Wrapped = string(b)
	if _, err := r.store.Stat(ctx, retiredKey(instance, pin.InstanceRecipient)); err == nil {
		k.Notes = append(k.Notes, "the key of this instance was retired, so there is a new one from this backup on")
		return k, false, nil
	} else if !errors.Is(err, storage.ErrNotExist) {
		return nil, false, err
	}
	if d := recipientsDiffer(r.config.Recipients, o.accepted()); d != "" {
		k.Notes = append(k.Notes, "slipcover.json has other recipients than this node accepted ("+d+"); its key is the same as before, and `slipcover key accept` takes them over for the next one")
	}
	return k, true, nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// newKey makes a key and stores its identity for the repository's recipients.
func (r *Repo) newKey(ctx context.Context, instance string, o KeyOptions, k *WriteKey) (*WriteKey, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	earlier, err := r.replaced(ctx, instance, o.Pin)
	if err != nil {
		return nil, err
	}
	k.New, k.identity, k.recipient = true, identity, identity.Recipient()
	if k.Pin, err = r.storeKey(ctx, instance, identity, o); err != nil {
		return nil, err
	}
	k.Pin.Earlier = earlier
	return k, nil
}

// replaced returns the keys that earlier backups may be encrypted to.
func (r *Repo) replaced(ctx context.Context, instance string, pin *KeyPin) ([]string, error) {
	if pin != nil && pin.InstanceRecipient != "" {
		return append(slices.Clone(pin.Earlier), pin.InstanceRecipient), nil
	}
	keys, err := r.instanceKeys(ctx, instance)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, k := range keys {
		if k.wrapped {
			out = append(out, k.recipient)
		}
	}
	return out, nil
}

// AddKey stores the identity of k, which must be new and not forgotten, in this
// repository too, so that k can encrypt what is written here. It returns the pin to
// keep for this repository.
func (r *Repo) AddKey(ctx context.Context, instance string, k *WriteKey, o KeyOptions) (*KeyPin, error) {
	if k.identity == nil {
		return nil, fmt.Errorf("the secret of instance %s's key is not at hand: only a new key can be stored in another repository", instance)
	}
	return r.storeKey(ctx, instance, k.identity, o)
}

// storeKey stores an identity for the recipients that slipcover.json has when it
// is done. They may change meanwhile: whoever changes them wraps the keys that are
// stored, before and after slipcover.json is replaced, so one of the two sees the
// other's write.
func (r *Repo) storeKey(ctx context.Context, instance string, identity *age.X25519Identity, o KeyOptions) (*KeyPin, error) {
	c, err := r.rereadConfig(ctx)
	if err != nil {
		return nil, err
	}
	s := &secret{instance: instance, identity: identity}
	opts := storage.PutOptions{IfAbsent: true}
	for {
		if err := checkRecipients(c.Recipients, o); err != nil {
			return nil, err
		}
		s.recipients = c.Recipients
		b, err := r.putSecret(ctx, s, opts)
		if err != nil {
			return nil, err
		}
		if c, err = r.rereadConfig(ctx); err != nil {
			return nil, err
		}
		if recipientsDiffer(c.Recipients, s.recipients) == "" {
			return &KeyPin{URL: r.URL(), Recipients: s.recipients, InstanceRecipient: identity.Recipient().String(), WrappedSHA256: hashOf(b), Wrapped: string(b)}, nil
		}
		opts.IfAbsent = false
	}
}

// accepted returns the recipients that a node takes; none if it takes any.
func (o KeyOptions) accepted() []string {
	if len(o.Recipients) > 0 || o.Pin == nil {
		return o.Recipients
	}
	return o.Pin.Recipients
}

// checkRecipients returns ErrRecipients if a node must not encrypt to recipients.
func checkRecipients(recipients []string, o KeyOptions) error {
	want := o.accepted()
	d := recipientsDiffer(recipients, want)
	switch {
	case len(want) == 0 || d == "":
		return nil
	case len(o.Recipients) > 0:
		return fmt.Errorf("%w: slipcover.json and the setting recipients differ (%s); correct the one that is wrong", ErrRecipients, d)
	}
	return fmt.Errorf("%w: slipcover.json has changed since this node accepted it (%s); if that is right, `slipcover key accept` on this node takes them over", ErrRecipients, d)
}

// recipientsDiffer says how got differs from want, in any order; "" if not.
func recipientsDiffer(got, want []string) string {
	var parts []string
	if added := without(got, want); len(added) > 0 {
		parts = append(parts, "added "+strings.Join(added, ", "))
	}
	if removed := without(want, got); len(removed) > 0 {
		parts = append(parts, "missing "+strings.Join(removed, ", "))
	}
	return strings.Join(parts, "; ")
}

// without returns what is in a and not in b.
func without(a, b []string) []string {
	var out []string
	for _, s := range a {
		if !slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}

// with returns what is in a, and then what is in b alone.
func with(a, b []string) []string { return slices.Concat(a, without(b, a)) }

// rereadConfig reads slipcover.json as it is now.
func (r *Repo) rereadConfig(ctx context.Context) (Config, error) {
	b, err := readObject(ctx, r.store, configKey, maxConfig)
	if err != nil {
		return Config{}, err
	}
	c, err := parseConfig(b)
	if err == nil && (c.ID != r.config.ID || c.Encryption != r.config.Encryption) {
		err = fmt.Errorf("%s: %w: another repository was made here meanwhile", configKey, ErrCorrupt)
	}
	return c, err
}

// checkWrapped returns ErrKeyGone unless the identity of key is stored: what is
// encrypted to it could not be read by anybody.
func (r *Repo) checkWrapped(ctx context.Context, instance string, key *WriteKey) error {
	if !r.config.Encrypted() {
		return nil
	}
	if key.recipient == nil {
		return errNoWriteKey
	}
	recipient := key.recipient.String()
	_, err := r.store.Stat(ctx, wrappedKey(instance, recipient))
	if !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	keys, err := r.instanceKeys(ctx, instance)
	if err == nil && !slices.ContainsFunc(keys, func(k *instanceKey) bool { return k.recipient == recipient && k.wrapped }) {
		err = fmt.Errorf("instance %s: %w", instance, ErrKeyGone)
	}
	return err
}

// CopyKeys copies the keys of an instance that are in from and not here: as they
// are where both have the same recipients, else wrapped for those of this one,
// which needs from's key that reads. Recipients of this one who couldn't read
// there must be named in readers (ErrRecipients): slipcover.json alone doesn't
// prove who may read.
func (r *Repo) CopyKeys(ctx context.Context, from *Repo, instance string, readers []string) error {
	if r.config.Encrypted() != from.config.Encrypted() {
		return errors.New("copy keys: one of the two repositories is encrypted and the other is not")
	}
	c, err := r.rereadConfig(ctx)
	if err != nil {
		return err
	}
	keys, err := from.instanceKeys(ctx, instance)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.wrapped {
			if err := r.copyKey(ctx, from, k, c.Recipients, readers); err != nil {
				return err
			}
		}
		if k.retired {
			if err := r.retire(ctx, k); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Repo) copyKey(ctx context.Context, from *Repo, k *instanceKey, recipients, readers []string) error {
	key := wrappedKey(k.instance, k.recipient)
	_, err := r.store.Stat(ctx, key)
	if !errors.Is(err, storage.ErrNotExist) {
		return err // it is there, or nobody knows
	}
	w, err := from.readWrapping(ctx, k)
	if err != nil {
		return err
	}
	b := w.best()
	if b == nil {
		return fmt.Errorf("%s of %s %s: %w", key, from.URL(), w.fault(), ErrCorrupt)
	}
	if recipientsDiffer(recipients, from.config.Recipients) != "" {
		ids, err := from.identities(ctx)
		if err != nil {
			return fmt.Errorf("the repositories have different recipients: %w", err)
		}
		s, err := from.readSecret(ctx, k, ids)
		if err != nil {
			return err
		}
		if more := without(recipients, with(s.recipients, readers)); len(more) > 0 {
			return fmt.Errorf("%w: the other repository has some who can't read this one (%s); name them if they may read it", ErrRecipients, strings.Join(more, ", "))
		}
		s.recipients = recipients
		if b, err = s.wrap(); err != nil {
			return err
		}
	}
	err = r.putWrapped(ctx, k.instance, k.recipient, b, storage.PutOptions{IfAbsent: true})
	if errors.Is(err, storage.ErrExist) {
		err = nil
	}
	return err
}

// Direct reports whether objects of the instance are encrypted to the recipients
// themselves, as the first versions did: keys of instances have no part in those.
// It needs a key that reads.
func (r *Repo) Direct(ctx context.Context, instance string) (bool, error) {
	ids, err := r.identities(ctx)
	if err != nil {
		return false, err
	}
	return r.direct(ctx, instance, ids)
}

// direct reports whether objects of the instance are encrypted to the recipients
// themselves, as the first versions did: adding, removing and destroying keys
// doesn't touch them. It needs a key that reads, and looks at the oldest segment.
func (r *Repo) direct(ctx context.Context, instance string, ids []age.Identity) (bool, error) {
	var oldest storage.Key
	found := errors.New("found")
	err := r.store.List(ctx, "segments/"+instance+"/", func(i storage.Info) error {
		oldest = i.Key
		return found
	})
	if !errors.Is(err, found) {
		return false, err
	}
	opens := false
	err = r.store.Get(ctx, oldest, 0, 4096, func(rd io.Reader) error {
		_, err := age.Decrypt(rd, ids...)
		opens = err == nil
		return nil
	})
	if errors.Is(err, storage.ErrNotExist) {
		err = nil
	}
	return opens, err
}
