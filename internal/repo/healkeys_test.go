package repo_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
)

// singles are the objects of which each is the only one of its kind: without them
// nobody reads any backup.
func singles(t *testing.T, s storage.Store) map[storage.Key][]byte {
	t.Helper()
	out := all(t, s)
	maps.DeleteFunc(out, func(k storage.Key, _ []byte) bool {
		return k != "slipcover.json" && !strings.HasPrefix(string(k), "keys/") && !strings.HasPrefix(string(k), "kept/")
	})
	return out
}

// Each single object is changed or removed: everybody reads as before, the next backup
// tells, puts it back and builds on what was there; the one after finds nothing.
func TestNoObjectIsTheOnlyWay(t *testing.T) {
	f := newFixture(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
	res, err := f.open(t, f.store).AddPassphrase(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	mustPin(t, f).Recipients = res.Recipients
	pin := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: mustPin(t, f)}, nil).Pin
	before := singles(t, f.store)
	if len(before) != 6 {
		t.Fatalf("%v", slices.Sorted(maps.Keys(before)))
	}
	for key, whole := range before {
		edits := f.forgeries(t, append(bytes.Repeat([]byte("x"), max(0, 200-len(whole))), whole...))
		edits["removed"] = nil
		for name, b := range edits {
			if put(t, f.store, key, b); name == "removed" {
				if err := f.store.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
			if err := reads(t, f.store, m.ID, f.identity); err != nil {
				t.Errorf("%s: %s: %v", key, name, err)
			}
			// Each try of a passphrase takes a second.
			if err := readsWith(t, f.store, "correct horse", name == "cut" && strings.Contains(string(key), res.Recipients[1])); err != nil {
				t.Errorf("%s: %s: with the passphrase: %v", key, name, err)
			}
			k := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: pin}, nil)
			// A second copy that vanishes leaves no trace, and is made anew.
			silent := name == "removed" && strings.HasPrefix(string(key), "kept/")
			if k.New || k.Full != "" || (len(k.Problems) == 0) != silent {
				t.Errorf("%s: %s: new %v, full %q, problems %q", key, name, k.New, k.Full, k.Problems)
			}
			if after := singles(t, f.store); !maps.EqualFunc(before, after, bytes.Equal) {
				t.Errorf("%s: %s: it was not put back", key, name)
			}
			if k := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: k.Pin}, nil); len(k.Problems)+len(k.Notes) > 0 {
				t.Errorf("%s: %s: then: %q %q", key, name, k.Problems, k.Notes)
			}
		}
	}
}

func mustPin(t *testing.T, f *fixture) *repo.KeyPin {
	t.Helper()
	pin, _ := pins.Load(f.open(t, f.store).Config().ID)
	return pin.(*repo.KeyPin)
}

// The wrapped key and its second copy are gone: the node has it too. What an earlier
// version's node pinned hasn't: it makes a new key.
func TestNodeHasItsWrappedKey(t *testing.T) {
	f := newFixture(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
	before := singles(t, f.store)
	lose := func() {
		for _, k := range append(list(t, f.store, "keys/"), list(t, f.store, "kept/"+instance+"/")...) {
			if err := f.store.Delete(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
	}
	lose()
	if k := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: mustPin(t, f)}, nil); k.New || k.Full != "" || len(k.Problems) != 1 {
		t.Errorf("new %v, full %q, problems %q", k.New, k.Full, k.Problems)
	}
	if err := reads(t, f.store, m.ID, f.identity); err != nil {
		t.Error(err)
	}
	if !maps.EqualFunc(before, singles(t, f.store), bytes.Equal) {
		t.Error("other objects than before")
	}
	lose()
	old := *mustPin(t, f)
	old.Wrapped = ""
	if k := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: &old}, nil); !k.New || k.Full == "" {
		t.Errorf("new %v, full %q", k.New, k.Full)
	}
}

// What earlier versions stored has no second copies. The next backup makes them, and
// finds nothing wrong; nor with a key that such a version wrapped for one more.
func TestSecondCopiesForEarlierVersions(t *testing.T) {
	f := newFixture(t)
	friend, recipient := newIdentity(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
	before := singles(t, f.store)
	old := *mustPin(t, f)
	old.Wrapped = ""
	for _, k := range list(t, f.store, "kept/") {
		if err := f.store.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	k := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: &old}, nil)
	if k.New || len(k.Problems)+len(k.Notes) > 0 || k.Pin.Wrapped == "" || !maps.EqualFunc(before, singles(t, f.store), bytes.Equal) {
		t.Errorf("new %v, problems %q, notes %q", k.New, k.Problems, k.Notes)
	}
	// An earlier version adds a recipient: it knows of no copies, and keeps those there are.
	kept := list(t, f.store, "kept/"+instance+"/")[0]
	second := get(t, f.store, kept)
	if _, err := f.open(t, f.store).AddRecipients(t.Context(), recipient); err != nil {
		t.Fatal(err)
	}
	for _, k := range list(t, f.store, "kept/"+instance+"/") {
		if err := f.store.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	put(t, f.store, kept, second)
	k = tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: k.Pin}, nil)
	if k.New || len(k.Problems) != 1 {
		t.Errorf("new %v, problems %q", k.New, k.Problems)
	}
	if err := reads(t, f.store, m.ID, friend); err != nil {
		t.Errorf("who was added: %v", err)
	}
	if _, err := f.open(t, f.store).AddRecipients(t.Context(), recipient); err != nil {
		t.Fatal(err)
	}
	if k := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: k.Pin}, nil); len(k.Problems) > 0 {
		t.Errorf("after the repetition: %q", k.Problems)
	}
}

// A change of recipients that stops at any of its writes never looks like damage to
// the node, and once it was repeated who was removed opens nothing that is stored.
func TestRewrapIsNoDamage(t *testing.T) {
	second, recipient := newIdentity(t)
	for _, action := range []faulty.Action{faulty.Fail(faulty.Err), faulty.FailAfter(faulty.Err)} {
		for n := 1; ; n++ {
			f := newFixture(t)
			m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
			if _, err := f.open(t, f.store).AddRecipients(t.Context(), recipient); err != nil {
				t.Fatal(err)
			}
			pin := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: mustPin(t, f)}, nil).Pin
			s := faulty.New(f.store, faulty.At(n, action))
			mine := f.identity.Recipient().String()
			_, err := as(t, s, second).RemoveRecipients(t.Context(), false, mine)
			if !s.Reached() {
				if err != nil || n < 4 {
					t.Errorf("%d writes, %v", n, err)
				}
				break
			}
			if k := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: pin}, nil); k.New || len(k.Problems) > 0 {
				t.Errorf("write %d: new %v, problems %q", n, k.New, k.Problems)
			}
			if _, err := as(t, f.store, second).RemoveRecipients(t.Context(), false, mine); err != nil && n < 100 {
				t.Logf("write %d: again: %v", n, err)
			}
			if err := reads(t, f.store, m.ID, second); err != nil {
				t.Errorf("write %d: who stays: %v", n, err)
			}
			if err := reads(t, f.store, m.ID, f.identity); err == nil {
				t.Errorf("write %d: who was removed still reads", n)
			}
		}
	}
}

func readsWith(t *testing.T, s storage.Store, passphrase string, try bool) error {
	t.Helper()
	if !try {
		return nil
	}
	r, err := repo.Open(t.Context(), s, repo.Options{Passphrase: func() ([]string, error) { return []string{passphrase}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	recs, _, err := r.List(t.Context(), instance)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Manifest(t.Context(), recs[0])
	return err
}
