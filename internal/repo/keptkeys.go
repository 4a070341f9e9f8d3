package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/storage"
)

// No single object is the only way to the backups of an instance: of each key object
// there is a second copy, which is named by its content; when a key is wrapped anew it is stored first. That of
// keys/<instance>/<recipient>.age is
//
//	kept/<instance>/<recipient>.<start of its SHA-256>.age
//
// and that of keys/<recipient>.age, an identity under a passphrase, is
//
//	kept/_recipients/<recipient>.<start of its SHA-256>.age
//
// A key object whose hash no copy has isn't what was stored last, which shows without
// a key. Where the storage protects objects until a date the copies are protected as
// long as the backups which need them: the key itself can't be, as a change of
// recipients replaces it. The first versions made copies only there, without the
// recipient in their name.

const (
	keptPrefix = "kept/"
	// keptRecipients is in the place of an instance's name, which can't begin so.
	keptRecipients = "_recipients"
)

// secondCopy is a stored copy of a key object, by its name.
type secondCopy struct {
	sum      string // start of its SHA-256
	modified time.Time
}

func newestFirst(list []secondCopy) {
	slices.SortFunc(list, func(a, b secondCopy) int { return cmp.Or(b.modified.Compare(a.modified), cmp.Compare(a.sum, b.sum)) })
}

func keptKey(instance, name string) storage.Key {
	return storage.Key(keptPrefix + instance + "/" + name + wrappedEnding)
}

func secondKey(instance, recipient, sum string) storage.Key {
	return keptKey(instance, recipient+"."+sum)
}

// keptName names a copy by its content.
func keptName(b []byte) string { return hashOf(b)[:32] }

// listCopies calls fn for each second copy below prefix of kept/.
func (r *Repo) listCopies(ctx context.Context, prefix string, fn func(instance, recipient string, c secondCopy)) error {
	return r.store.List(ctx, keptPrefix+prefix, func(i storage.Info) error {
		p := strings.Split(string(i.Key), "/")
		if len(p) != 3 || p[1] == keptRecipients && prefix == "" {
			return nil
		}
		recipient, rest, _ := strings.Cut(p[2], ".")
		sum, ok := strings.CutSuffix(rest, wrappedEnding)
		if _, err := age.ParseX25519Recipient(recipient); err != nil || !ok || len(sum) != 32 {
			return nil //nolint:nilerr // an object that isn't ours, or of the first versions
		}
		fn(p[1], recipient, secondCopy{sum, i.Modified})
		return nil
	})
}

// putCopy stores the second copy of a key object; one that is there is the same.
func (r *Repo) putCopy(ctx context.Context, instance, recipient string, b []byte) error {
	err := r.store.Put(ctx, secondKey(instance, recipient, keptName(b)), bytes.NewReader(b), storage.PutOptions{IfAbsent: true})
	if errors.Is(err, storage.ErrExist) {
		return nil
	}
	return err
}

// dropCopies deletes the second copies of a key but the one of that hash. Those that
// the storage protects stay.
func (r *Repo) dropCopies(ctx context.Context, instance, recipient, sum string) error {
	var keys []storage.Key
	err := r.listCopies(ctx, instance+"/", func(_, name string, c secondCopy) {
		if name == recipient && !strings.HasPrefix(sum, c.sum) {
			keys = append(keys, secondKey(instance, recipient, c.sum))
		}
	})
	if err == nil {
		_, err = r.deleteAll(ctx, keys)
	}
	return err
}

// keepKeys makes sure that the second copy of each wrapped key of the instance is
// protected until then.
func (r *Repo) keepKeys(ctx context.Context, instance string, retainer storage.Retainer, until time.Time) error {
	keys, err := r.instanceKeys(ctx, instance)
	if err != nil {
		return err
	}
	for _, k := range keys {
		w, err := r.readWrapping(ctx, k)
		if err != nil {
			return err
		}
		b := w.best()
		if b == nil {
			continue
		}
		key := secondKey(instance, k.recipient, keptName(b))
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

// keptKeys lists the names of all copies of an instance's keys.
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
	known := func(id string) bool {
		return slices.ContainsFunc(ids, func(i age.Identity) bool {
			x, ok := i.(*age.X25519Identity)
			return ok && (x.String() == id || x.Recipient().String() == id)
		})
	}
	for _, name := range names {
		recipient, sum, ok := strings.Cut(name, ".")
		if !ok {
			sum = name
		}
		if known(recipient) {
			continue
		}
		b, err := readObject(ctx, r.store, keptKey(instance, name), maxKeyObject)
		if errors.Is(err, storage.ErrNotExist) || errors.Is(err, ErrCorrupt) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if s, err := unwrap(b, given); err == nil && keptName(b) == sum && s.instance == instance && !known(s.identity.String()) {
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
		err = fmt.Errorf("the keys of instance %s are deleted, but not %d protected copies, which still read its backups: %w; run the command again after that date", instance, n, storage.ErrRetained)
	}
	return err
}
