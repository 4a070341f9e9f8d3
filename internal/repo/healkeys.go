package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/storage"
)

// wrapping is what is stored of one key object, as far as it shows without opening
// it.
type wrapping struct {
	key    storage.Key // of the object
	main   []byte      // its bytes; nil if it isn't there
	copies [][]byte    // second copies that are what their names say, the newest first
	bad    []string    // hashes in the names of those that are not
}

// readWrapping reads a key's object and its second copies.
func (r *Repo) readWrapping(ctx context.Context, k *instanceKey) (*wrapping, error) {
	return r.readCopied(ctx, wrappedKey(k.instance, k.recipient), k.instance, k.recipient, k.copies)
}

// readCopied reads a key object and its second copies, which are below kept/ under
// that name for the instance and that recipient.
func (r *Repo) readCopied(ctx context.Context, key storage.Key, instance, recipient string, copies []secondCopy) (*wrapping, error) {
	w := &wrapping{key: key}
	var err error
	if w.main, err = r.readKeyObject(ctx, key); err != nil {
		return nil, err
	}
	for _, c := range copies {
		b, err := r.readKeyObject(ctx, secondKey(instance, recipient, c.sum))
		if err != nil {
			return nil, err
		}
		switch {
		case b == nil: // dropped since it was listed
		case keptName(b) == c.sum && stanzas(b) > 0:
			w.copies = append(w.copies, b)
		default:
			w.bad = append(w.bad, c.sum)
		}
	}
	return w, nil
}

// readKeyObject returns the bytes of a key object; nil if it isn't there. One that is
// too large is cut off, which is no age file.
func (r *Repo) readKeyObject(ctx context.Context, key storage.Key) ([]byte, error) {
	b, err := readObject(ctx, r.store, key, maxKeyObject)
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return nil, nil
	case errors.Is(err, ErrCorrupt):
		return []byte{}, nil
	case err == nil && b == nil:
		return []byte{}, nil
	}
	return b, err
}

// known reports whether a second copy has just these bytes.
func (w *wrapping) known(b []byte) bool {
	return slices.ContainsFunc(w.copies, func(c []byte) bool { return bytes.Equal(b, c) })
}

// sound reports whether the object is there and as it was stored last.
func (w *wrapping) sound() bool {
	return stanzas(w.main) > 0 && (len(w.copies) == 0 || w.known(w.main))
}

// best returns the bytes that count: nil if none do.
func (w *wrapping) best() []byte {
	switch {
	case w.sound():
		return w.main
	case len(w.copies) > 0:
		return w.copies[0]
	}
	return nil
}

// all returns everything that may open, what counts first.
func (w *wrapping) all() [][]byte {
	var out [][]byte
	if w.main != nil {
		out = append(out, w.main)
	}
	for _, c := range w.copies {
		if !bytes.Equal(c, w.main) {
			out = append(out, c)
		}
	}
	return out
}

// fault says what is wrong, "" if nothing is.
func (w *wrapping) fault() string {
	switch {
	case w.main == nil && len(w.copies) == 0 && len(w.bad) == 0:
		return "is gone"
	case w.main == nil:
		return "is gone, and a second copy of it is there"
	case stanzas(w.main) == 0:
		return "is not an age file any more"
	case !w.sound():
		return "has changed: it is not what its second copy is"
	case len(w.bad) > 0:
		return "is as it was, but a second copy of it has changed"
	}
	return ""
}

// rewritten reports whether b is not src with damage, but what somebody wrapped for
// another number of recipients: an earlier version, which makes no second copies, does
// that when it adds or removes one.
func rewritten(b, src []byte) bool {
	if n := stanzas(b); n == 0 || n == stanzas(src) {
		return false
	}
	// Each wrapping has other random bytes, from its first line on.
	lines := strings.Fields(string(src))
	return !slices.ContainsFunc(strings.Fields(string(b)), func(line string) bool { return len(line) == 64 && slices.Contains(lines, line) })
}

// heal puts right what is wrong with a key object, from its second copies or from
// own, which is what the caller knows of it, if anything. It returns what was wrong,
// and what was done. An object that has no second copy gets one.
func (r *Repo) heal(ctx context.Context, w *wrapping, instance, recipient string, own []byte) (problem string, err error) {
	fault := w.fault()
	from := "its second copy"
	if len(w.copies) == 0 && stanzas(own) > 0 {
		w.copies, from = [][]byte{own}, "what this node keeps of it"
		fault = w.fault()
	}
	src := w.best()
	switch {
	case src == nil:
		if w.main != nil {
			return fmt.Sprintf("%s %s, and nothing has a copy of it", w.key, fault), nil
		}
		return "", nil
	case fault != "" && w.main != nil && !w.sound() && rewritten(w.main, src):
		return fmt.Sprintf("%s %s; it was wrapped for %d recipients instead of %d, which is left as it is: `slipcover key add` of one who shall read, with an earlier version or this one, repairs it", w.key, fault, stanzas(w.main), stanzas(src)), r.putCopy(ctx, instance, recipient, src)
	}
	if err := r.dropBad(ctx, w, instance, recipient); err != nil {
		return "", err
	}
	if err := r.putCopy(ctx, instance, recipient, src); err != nil {
		return "", err
	}
	if !w.sound() {
		if err := r.store.Put(ctx, w.key, bytes.NewReader(src), storage.PutOptions{}); err != nil {
			return "", err
		}
		w.main = src
		return fmt.Sprintf("%s %s: it was put back from %s", w.key, fault, from), nil
	}
	if fault != "" {
		return fmt.Sprintf("%s %s: there is a new one", w.key, fault), nil
	}
	return "", nil
}

// dropBad deletes the second copies that are not what their names say.
func (r *Repo) dropBad(ctx context.Context, w *wrapping, instance, recipient string) error {
	var keys []storage.Key
	for _, sum := range w.bad {
		keys = append(keys, secondKey(instance, recipient, sum))
	}
	_, err := r.deleteAll(ctx, keys)
	return err
}

// healKeys heals the keys of an instance, and the identities under a passphrase. It
// returns the bytes of each wrapped key that counts, by recipient, and what was wrong.
func (r *Repo) healKeys(ctx context.Context, instance string, pin *KeyPin) (wrapped map[string][]byte, problems []string, err error) {
	keys, err := r.instanceKeys(ctx, instance)
	if err != nil {
		return nil, nil, err
	}
	if pin != nil && pin.InstanceRecipient != "" && !slices.ContainsFunc(keys, func(k *instanceKey) bool { return k.recipient == pin.InstanceRecipient }) {
		keys = append(keys, &instanceKey{instance: instance, recipient: pin.InstanceRecipient})
	}
	wrapped = map[string][]byte{}
	for _, k := range keys {
		if k.destroyed {
			continue
		}
		w, err := r.readWrapping(ctx, k)
		if err != nil {
			return nil, nil, err
		}
		var own []byte
		if pin != nil && k.recipient == pin.InstanceRecipient && hashOf([]byte(pin.Wrapped)) == pin.WrappedSHA256 {
			own = []byte(pin.Wrapped)
		}
		problem, err := r.heal(ctx, w, instance, k.recipient, own)
		if err != nil {
			return nil, nil, fmt.Errorf("heal the key of instance %s: %w", instance, err)
		}
		if problem != "" {
			problems = append(problems, problem)
		}
		if b := w.best(); b != nil {
			wrapped[k.recipient] = b
		}
	}
	more, err := r.healIdentities(ctx)
	return wrapped, append(problems, more...), err
}

// identityCopies returns the second copies of the identities under a passphrase, by
// recipient.
func (r *Repo) identityCopies(ctx context.Context) (map[string][]secondCopy, error) {
	copies := map[string][]secondCopy{}
	err := r.listCopies(ctx, keptRecipients+"/", func(_, recipient string, c secondCopy) {
		copies[recipient] = append(copies[recipient], c)
	})
	if err != nil {
		return nil, fmt.Errorf("list second copies of keys: %w", err)
	}
	for _, list := range copies {
		newestFirst(list)
	}
	return copies, nil
}

// readIdentity reads the identity of a recipient that is kept under a passphrase; its
// wrapping has nothing if there is none.
func (r *Repo) readIdentity(ctx context.Context, recipient string, copies map[string][]secondCopy) (*wrapping, error) {
	return r.readCopied(ctx, identityKey(recipient), keptRecipients, recipient, copies[recipient])
}

// healIdentities heals the identities under a passphrase.
func (r *Repo) healIdentities(ctx context.Context) (problems []string, err error) {
	copies, err := r.identityCopies(ctx)
	if err != nil {
		return nil, err
	}
	for _, recipient := range r.config.Recipients {
		w, err := r.readIdentity(ctx, recipient, copies)
		if err != nil {
			return nil, err
		}
		problem, err := r.heal(ctx, w, keptRecipients, recipient, nil)
		if err != nil {
			return nil, fmt.Errorf("heal the identity of %s: %w", recipient, err)
		}
		if problem != "" {
			problems = append(problems, problem)
		}
	}
	return problems, nil
}
