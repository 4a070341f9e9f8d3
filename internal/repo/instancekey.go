package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// keysPrefix begins the keys of all key objects. An identity under a passphrase is
// keys/<recipient>.age, what belongs to an instance is in keys/<instance>/. They
// can't meet: a recipient with its ending is longer than an instance's name.
const keysPrefix = "keys/"

const (
	wrappedEnding   = ".age"
	retiredEnding   = ".retired"
	destroyedEnding = ".destroyed"
)

// maxKeyObject bounds a key object, in bytes.
const maxKeyObject = 1 << 20

func wrappedKey(instance, recipient string) storage.Key {
	return storage.Key(keysPrefix + instance + "/" + recipient + wrappedEnding)
}

func retiredKey(instance, recipient string) storage.Key {
	return storage.Key(keysPrefix + instance + "/" + recipient + retiredEnding)
}

func destroyedKey(instance, recipient string) storage.Key {
	return storage.Key(keysPrefix + instance + "/" + recipient + destroyedEnding)
}

// instanceKey is a stored key of an instance: what its objects' names tell.
type instanceKey struct {
	instance  string
	recipient string
	wrapped   bool         // its identity is there: as the object of its name, or a second copy
	copies    []secondCopy // of the wrapped identity, the newest first
	retired   bool
	destroyed bool      // so no copy counts: none brings the key back
	modified  time.Time // of the wrapped identity
}

// instanceKeys lists the keys of an instance, or of all for "", by instance, the
// newest first.
func (r *Repo) instanceKeys(ctx context.Context, instance string) ([]*instanceKey, error) {
	prefix := ""
	if instance != "" {
		prefix = instance + "/"
	}
	var out []*instanceKey
	byName := map[string]*instanceKey{}
	key := func(instance, recipient string) *instanceKey {
		k := byName[instance+"/"+recipient]
		if k == nil {
			k = &instanceKey{instance: instance, recipient: recipient}
			byName[instance+"/"+recipient] = k
			out = append(out, k)
		}
		return k
	}
	if err := r.listKeys(ctx, prefix, key); err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	err := r.listCopies(ctx, prefix, func(instance, recipient string, c secondCopy) {
		if k := key(instance, recipient); !k.destroyed {
			k.copies = append(k.copies, c)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list second copies of keys: %w", err)
	}
	for _, k := range out {
		newestFirst(k.copies)
		if !k.wrapped && len(k.copies) > 0 {
			k.wrapped, k.modified = true, k.copies[0].modified
		}
	}
	slices.SortFunc(out, func(a, b *instanceKey) int {
		return cmp.Or(cmp.Compare(a.instance, b.instance), b.modified.Compare(a.modified), cmp.Compare(a.recipient, b.recipient))
	})
	return out, nil
}

// listKeys tells of the key objects below prefix of keys/: key returns what is to be
// filled in.
func (r *Repo) listKeys(ctx context.Context, prefix string, key func(instance, recipient string) *instanceKey) error {
	return r.store.List(ctx, keysPrefix+prefix, func(i storage.Info) error {
		p := strings.Split(string(i.Key), "/")
		if len(p) != 3 || !manifest.ValidInstance(p[1]) {
			return nil
		}
		name, ending := cutEnding(p[2])
		if _, err := age.ParseX25519Recipient(name); err != nil {
			return nil //nolint:nilerr // an object that isn't ours
		}
		switch k := key(p[1], name); ending {
		case wrappedEnding:
			k.wrapped, k.modified = true, i.Modified
		case retiredEnding:
			k.retired = true
		case destroyedEnding:
			k.destroyed = true
		}
		return nil
	})
}

// cutEnding parts the name of a key object into recipient and ending; "" if it has
// none that is known.
func cutEnding(name string) (recipient, ending string) {
	for _, ending := range []string{wrappedEnding, retiredEnding, destroyedEnding} {
		if recipient, ok := strings.CutSuffix(name, ending); ok {
			return recipient, ending
		}
	}
	return "", ""
}

// secret is the content of a wrapped key: the identity, whose it is, and for whom
// it was wrapped. Only who knows the identity can have written that, so the list
// tells, other than slipcover.json, who was meant to read.
type secret struct {
	instance   string
	identity   *age.X25519Identity
	recipients []string
	anew       bool // it should be wrapped anew, though its recipients stay: see readSecret
}

const (
	instanceLine  = "# instance: "
	recipientLine = "# recipient: "
)

// wrap returns the object that holds s, for its recipients.
func (s *secret) wrap() ([]byte, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "# Key of an instance's backups in a Slipcover repository.\n%s%s\n", instanceLine, s.instance)
	for _, r := range s.recipients {
		fmt.Fprintf(&text, "%s%s\n", recipientLine, r)
	}
	fmt.Fprintln(&text, s.identity)
	to, err := parseRecipients(s.recipients)
	if err != nil {
		return nil, err
	}
	b, err := encryptText(text.String(), to...)
	if err != nil {
		return nil, fmt.Errorf("wrap the key of instance %s: %w", s.instance, err)
	}
	return b, nil
}

// encryptText returns text as an armored age file.
func encryptText(text string, to ...age.Recipient) ([]byte, error) {
	var b bytes.Buffer
	a := armor.NewWriter(&b)
	w, err := age.Encrypt(a, to...)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(w, text); err != nil {
		return nil, err
	}
	err = errors.Join(w.Close(), a.Close())
	return b.Bytes(), err
}

// readSecret reads and opens a wrapped key, from a second copy if its object isn't
// what it should be. It returns ErrWrongKey if ids don't open it, ErrCorrupt, or the
// storage's error.
func (r *Repo) readSecret(ctx context.Context, k *instanceKey, ids []age.Identity) (*secret, error) {
	w, err := r.readWrapping(ctx, k)
	if err != nil {
		return nil, err
	}
	first := fmt.Errorf("%s: %w", w.key, storage.ErrNotExist)
	for i, b := range w.all() {
		s, err := unwrap(b, ids)
		if err == nil && (s.instance != k.instance || s.identity.Recipient().String() != k.recipient) {
			err = fmt.Errorf("%w: it holds another key than its name says", ErrCorrupt)
		}
		if err == nil {
			// An object that was changed, or a copy of how it was wrapped before.
			s.anew = !w.sound() || len(w.copies) > 1
			return s, nil
		}
		if i == 0 || errors.Is(first, ErrCorrupt) {
			first = fmt.Errorf("%s: %w", w.key, err)
		}
	}
	return nil, first
}

func unwrap(b []byte, ids []age.Identity) (*secret, error) {
	rd, err := age.Decrypt(armor.NewReader(bytes.NewReader(b)), ids...)
	if isNoMatch(err) {
		return nil, ErrWrongKey
	}
	if err != nil {
		return nil, errors.Join(ErrCorrupt, err)
	}
	text, err := io.ReadAll(rd)
	if err != nil {
		return nil, errors.Join(ErrCorrupt, err)
	}
	s := &secret{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if name, ok := strings.CutPrefix(line, instanceLine); ok {
			s.instance = name
		} else if to, ok := strings.CutPrefix(line, recipientLine); ok {
			s.recipients = append(s.recipients, to)
		} else if !strings.HasPrefix(line, "#") {
			if s.identity, err = age.ParseX25519Identity(line); err != nil {
				return nil, fmt.Errorf("%w: it holds no identity", ErrCorrupt) // age's text could quote the line
			}
		}
	}
	if s.identity == nil || len(s.recipients) == 0 {
		return nil, fmt.Errorf("%w: it holds no identity, or doesn't say for whom", ErrCorrupt)
	}
	return s, nil
}

func isNoMatch(err error) bool {
	var no *age.NoIdentityMatchError
	return errors.As(err, &no)
}

// stanzas returns for how many recipients a key object is wrapped, which needs no
// key; 0 if it isn't an age file.
func stanzas(b []byte) int {
	var c counter
	_, _ = age.Decrypt(armor.NewReader(bytes.NewReader(b)), &c) // it only looks at the header
	return c.n
}

// counter is an age.Identity that opens nothing and counts recipients.
type counter struct{ n int }

func (c *counter) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	c.n = len(stanzas)
	return nil, age.ErrIncorrectIdentity
}

// putSecret stores a wrapped key and its second copy, and returns the object's
// bytes. Copies of how it was wrapped before are dropped once it is stored: whoever
// was removed must not open them.
func (r *Repo) putSecret(ctx context.Context, s *secret, opts storage.PutOptions) ([]byte, error) {
	b, err := s.wrap()
	if err != nil {
		return nil, err
	}
	if err := r.putWrapped(ctx, s.instance, s.identity.Recipient().String(), b, opts); err != nil {
		return nil, err
	}
	return b, nil
}

// putWrapped stores the bytes of a wrapped key, and its second copy.
func (r *Repo) putWrapped(ctx context.Context, instance, recipient string, b []byte, opts storage.PutOptions) error {
	second := func() error { return r.putCopy(ctx, instance, recipient, b) }
	first := func() error {
		return r.store.Put(ctx, wrappedKey(instance, recipient), bytes.NewReader(b), opts)
	}
	// Stopped between the two, a new key has no copy yet, and one that is wrapped anew is
	// what one of its copies is: neither looks like damage.
	steps := []func() error{second, first}
	if opts.IfAbsent {
		steps = []func() error{first, second}
	}
	err := steps[0]()
	if err == nil {
		err = steps[1]()
	}
	if err == nil {
		err = r.dropCopies(ctx, instance, recipient, hashOf(b))
	}
	if err != nil {
		return fmt.Errorf("store the key of instance %s: %w", instance, err)
	}
	return nil
}
