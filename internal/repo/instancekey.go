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
	wrappedEnding = ".age"
	retiredEnding = ".retired"
)

// maxKeyObject bounds a key object, in bytes.
const maxKeyObject = 1 << 20

func wrappedKey(instance, recipient string) storage.Key {
	return storage.Key(keysPrefix + instance + "/" + recipient + wrappedEnding)
}

func retiredKey(instance, recipient string) storage.Key {
	return storage.Key(keysPrefix + instance + "/" + recipient + retiredEnding)
}

// instanceKey is a stored key of an instance: what its objects' names tell.
type instanceKey struct {
	instance  string
	recipient string
	wrapped   bool // its identity is there
	retired   bool
	modified  time.Time // of the wrapped identity
}

// instanceKeys lists the keys of an instance, or of all for "", by instance, the
// newest first.
func (r *Repo) instanceKeys(ctx context.Context, instance string) ([]*instanceKey, error) {
	prefix := keysPrefix
	if instance != "" {
		prefix += instance + "/"
	}
	var out []*instanceKey
	byName := map[string]*instanceKey{}
	err := r.store.List(ctx, prefix, func(i storage.Info) error {
		p := strings.Split(string(i.Key), "/")
		if len(p) != 3 || !manifest.ValidInstance(p[1]) {
			return nil
		}
		name, wrapped := strings.CutSuffix(p[2], wrappedEnding)
		if !wrapped {
			var retired bool
			if name, retired = strings.CutSuffix(p[2], retiredEnding); !retired {
				return nil
			}
		}
		if _, err := age.ParseX25519Recipient(name); err != nil {
			return nil //nolint:nilerr // an object that isn't ours
		}
		k := byName[p[1]+"/"+name]
		if k == nil {
			k = &instanceKey{instance: p[1], recipient: name}
			byName[p[1]+"/"+name] = k
			out = append(out, k)
		}
		if wrapped {
			k.wrapped, k.modified = true, i.Modified
		} else {
			k.retired = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	slices.SortFunc(out, func(a, b *instanceKey) int {
		return cmp.Or(cmp.Compare(a.instance, b.instance), b.modified.Compare(a.modified), cmp.Compare(a.recipient, b.recipient))
	})
	return out, nil
}

// secret is the content of a wrapped key: the identity, whose it is, and for whom
// it was wrapped. Only who knows the identity can have written that, so the list
// tells, other than slipcover.json, who was meant to read.
type secret struct {
	instance   string
	identity   *age.X25519Identity
	recipients []string
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

// readSecret reads and opens a wrapped key. It returns ErrWrongKey if ids don't
// open it, ErrCorrupt, or the storage's error.
func (r *Repo) readSecret(ctx context.Context, instance, recipient string, ids []age.Identity) (*secret, error) {
	key := wrappedKey(instance, recipient)
	b, err := readObject(ctx, r.store, key, maxKeyObject)
	if err != nil {
		return nil, err
	}
	s, err := unwrap(b, ids)
	if err == nil && (s.instance != instance || s.identity.Recipient().String() != recipient) {
		err = fmt.Errorf("%w: it holds another key than its name says", ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return s, nil
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

// putSecret stores a wrapped key and returns the object's bytes.
func (r *Repo) putSecret(ctx context.Context, s *secret, opts storage.PutOptions) ([]byte, error) {
	b, err := s.wrap()
	if err != nil {
		return nil, err
	}
	key := wrappedKey(s.instance, s.identity.Recipient().String())
	if err := r.store.Put(ctx, key, bytes.NewReader(b), opts); err != nil {
		return nil, fmt.Errorf("store the key of instance %s: %w", s.instance, err)
	}
	return b, nil
}
