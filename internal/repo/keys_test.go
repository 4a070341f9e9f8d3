package repo_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

func newIdentity(t *testing.T) (id *age.X25519Identity, recipient string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id, id.Recipient().String()
}

// as opens the repository as the holder of ids.
func as(t *testing.T, s storage.Store, ids ...age.Identity) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), s, repo.Options{Identities: ids})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reads returns why the holder of ids can't read a backup whole.
func reads(t *testing.T, s storage.Store, id manifest.BackupID, ids ...age.Identity) error {
	t.Helper()
	r := as(t, s, ids...)
	rec, err := r.Find(t.Context(), instance, string(id))
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Manifest(t.Context(), rec)
	if err != nil {
		return err
	}
	return r.NewReader(m, m.Files).Stream(t.Context(), m.Files[0], func([]byte) error { return nil })
}

// tryKey asks for a key to write with, and expects an error, or none.
func tryKey(t *testing.T, r *repo.Repo, o repo.KeyOptions, want error) *repo.WriteKey {
	t.Helper()
	k, err := r.WriteKey(t.Context(), instance, o)
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	return k
}

func TestRecipientsComeAndGo(t *testing.T) {
	f := newFixture(t)
	second, recipient := newIdentity(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
	before := objects(t, f.store)
	if err := reads(t, f.store, m.ID, second); !errors.Is(err, repo.ErrWrongKey) {
		t.Errorf("before it was added: %v", err)
	}
	res, err := f.open(t, f.store).AddRecipients(t.Context(), recipient)
	if err != nil || res.Wrapped != 1 || len(res.Recipients) != 2 || len(res.Direct)+len(res.Strangers) > 0 {
		t.Fatalf("%v %+v", err, res)
	}
	if err := errors.Join(reads(t, f.store, m.ID, second), reads(t, f.store, m.ID, f.identity)); err != nil {
		t.Error(err)
	}
	for key, sum := range objects(t, f.store) {
		if before[key] != sum && key != "slipcover.json" && !strings.HasPrefix(string(key), "kept/") {
			t.Errorf("%s was written anew", key)
		}
	}
	old := f.identity.Recipient().String()
	if _, err := f.open(t, f.store).RemoveRecipients(t.Context(), true, old); !errors.Is(err, repo.ErrWrongKey) {
		t.Errorf("removal with the key that goes: %v", err)
	}
	res, err = as(t, f.store, second).RemoveRecipients(t.Context(), true, old)
	if err != nil || res.Wrapped != 1 || res.Retired != 1 || !slices.Equal(res.Recipients, []string{recipient}) {
		t.Fatalf("%v %+v", err, res)
	}
	// The node doesn't take what it hasn't accepted; then it makes a new key.
	r := as(t, f.store, second)
	if _, err := backup(t.Context(), r, f.writer, m, text(2, 1000)); !errors.Is(err, repo.ErrRecipients) {
		t.Errorf("a backup before the change was accepted: %v", err)
	}
	pin, _ := pins.Load(r.Config().ID)
	pin.(*repo.KeyPin).Recipients = res.Recipients
	next := mustBackup(t, r, f.writer, m, text(3, 1000))
	if err := reads(t, f.store, next.ID, f.identity); !errors.Is(err, repo.ErrWrongKey) {
		t.Errorf("the removed one reads a later backup: %v", err)
	}
	for _, id := range []manifest.BackupID{m.ID, next.ID} { // the second is built on the first
		if err := reads(t, f.store, id, second); err != nil {
			t.Errorf("the one who stays: %v", err)
		}
	}
	if _, err := as(t, f.store, second).RemoveRecipients(t.Context(), true, recipient); !errors.Is(err, repo.ErrLastRecipient) {
		t.Errorf("removal of the last: %v", err)
	}
	if _, err := as(t, f.store, second).RemoveRecipients(t.Context(), true, old); !errors.Is(err, repo.ErrNotRecipient) {
		t.Errorf("removal of who is gone: %v", err)
	}
}

// setRecipients is what someone who can write to the storage does.
func setRecipients(t *testing.T, s storage.Store, from, to string) {
	t.Helper()
	b := get(t, s, "slipcover.json")
	changed := bytes.Replace(b, []byte(from), []byte(to), 1)
	if bytes.Equal(b, changed) {
		t.Fatal("nothing to change")
	}
	put(t, s, "slipcover.json", changed)
}

// Whoever can write to the storage gets nothing out of a node, nor out of an
// operator who changes recipients.
func TestTamperedRecipients(t *testing.T) {
	f := newFixture(t)
	attacker, evil := newIdentity(t)
	_, friend := newIdentity(t)
	mine := f.identity.Recipient().String()
	first := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
	setRecipients(t, f.store, `"`+mine+`"`, `"`+mine+`", "`+evil+`"`)

	r := f.open(t, f.store)
	next := mustBackup(t, r, f.writer, first, text(2, 1000))
	pinned, _ := pins.Load(r.Config().ID)
	pin := pinned.(*repo.KeyPin)
	if k := tryKey(t, r, repo.KeyOptions{Pin: pin}, nil); k.New || !strings.Contains(strings.Join(k.Notes, "\n"), evil) {
		t.Errorf("new %v, notes %q", k.New, k.Notes)
	}
	res, err := r.AddRecipients(t.Context(), friend)
	if err != nil || !slices.Equal(res.Strangers, []string{evil}) {
		t.Fatalf("%v %+v", err, res)
	}
	for _, id := range []manifest.BackupID{first.ID, next.ID} {
		if err := reads(t, f.store, id, attacker); !errors.Is(err, repo.ErrWrongKey) {
			t.Errorf("the attacker reads: %v", err)
		}
	}
	if _, err := r.Retire(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	tryKey(t, r, repo.KeyOptions{Pin: pin}, repo.ErrRecipients)
	tryKey(t, r, repo.KeyOptions{Recipients: []string{mine}}, repo.ErrRecipients)
	tryKey(t, r, repo.KeyOptions{Pin: pin, Recipients: []string{mine, friend}}, repo.ErrRecipients)
	// The operator's remedy.
	if _, err := r.RemoveRecipients(t.Context(), true, evil); err != nil {
		t.Fatal(err)
	}
	k := tryKey(t, r, repo.KeyOptions{Pin: pin, Recipients: []string{friend, mine}}, nil)
	if !k.New || !slices.Equal(k.Pin.Earlier, []string{pin.InstanceRecipient}) {
		t.Errorf("new %v, pin %+v", k.New, k.Pin)
	}
}

// A repository that says it isn't encrypted any more gets nothing from a node that
// knows better.
func TestEncryptionSwitchedOff(t *testing.T) {
	f := newFixture(t)
	mine := f.identity.Recipient().String()
	pin := tryKey(t, f.open(t, f.store), repo.KeyOptions{}, nil).Pin
	setRecipients(t, f.store, `"`+mine+`"`, "")
	setRecipients(t, f.store, `"age"`, `"none"`)
	tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: pin}, repo.ErrRecipients)
	tryKey(t, f.open(t, f.store), repo.KeyOptions{Recipients: []string{mine}}, repo.ErrRecipients)
}

// What happens to a key in the storage, and what the node does at its next backup.
func TestPinnedKey(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(t *testing.T, f *fixture, key storage.Key)
		isNew,
		full bool
		note string
	}{
		"nothing": {func(*testing.T, *fixture, storage.Key) {}, false, false, ""},
		"destroyed": {func(t *testing.T, f *fixture, _ storage.Key) {
			r := f.open(t, f.store)
			lock, err := r.Lock(t.Context(), instance, "test", "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.DestroyKeys(t.Context(), lock)
			if err := errors.Join(err, lock.Release(t.Context())); err != nil {
				t.Fatal(err)
			}
		}, true, true, ""},
		"wrapped anew": {func(t *testing.T, f *fixture, _ storage.Key) {
			_, other := newIdentity(t)
			if _, err := f.open(t, f.store).AddRecipients(t.Context(), other); err != nil {
				t.Fatal(err)
			}
		}, false, false, "wrapped anew"},
		"retired": {func(t *testing.T, f *fixture, _ storage.Key) {
			if n, err := f.open(t, f.store).Retire(t.Context(), instance); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}, true, false, "retired"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			pin := tryKey(t, f.open(t, f.store), repo.KeyOptions{}, nil).Pin
			test.edit(t, f, storage.Key("keys/"+instance+"/"+pin.InstanceRecipient+".age"))
			k := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: pin}, nil)
			if k.New != test.isNew || (k.Full != "") != test.full || !strings.Contains(strings.Join(k.Notes, "\n"), test.note) || test.note == "" && len(k.Notes) > 0 {
				t.Errorf("new %v, full %q, notes %q", k.New, k.Full, k.Notes)
			}
			// A run that is interrupted now must not forget why it had to be full.
			if again := tryKey(t, f.open(t, f.store), repo.KeyOptions{Pin: k.Pin}, nil); again.New || (again.Full != "") != test.full {
				t.Errorf("then: new %v, full %q", again.New, again.Full)
			}
		})
	}
}

func TestDestroyKeys(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	m := mustBackup(t, r, f.writer, nil, text(1, 1000))
	other, err := r.WriteKey(t.Context(), "node2", repo.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	lock, err := r.Lock(t.Context(), instance, "test", "")
	if err != nil {
		t.Fatal(err)
	}
	n, err := r.DestroyKeys(t.Context(), lock)
	if err := errors.Join(err, lock.Release(t.Context())); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if err := reads(t, f.store, m.ID, f.identity); !errors.Is(err, repo.ErrKeyGone) {
		t.Errorf("got %v", err)
	}
	if _, err := r.ExportKeys(t.Context(), instance); !errors.Is(err, repo.ErrKeyGone) {
		t.Errorf("export: %v", err)
	}
	if ids, err := r.ExportKeys(t.Context(), "node2"); err != nil || ids[0].Recipient().String() != other.Pin.InstanceRecipient {
		t.Errorf("the other instance's key: %v", err)
	}
	// The node goes on with a new key.
	if err := reads(t, f.store, mustBackup(t, r, f.writer, nil, text(2, 10)).ID, f.identity); err != nil {
		t.Error(err)
	}
}

// Nothing is committed to a key whose identity is gone.
func TestCommitWithoutTheKey(t *testing.T) {
	f := newFixture(t)
	s := faulty.New(f.store, func(op faulty.Op) faulty.Action {
		if op.Kind != faulty.Put || !strings.HasPrefix(string(op.Key), "segments/") {
			return faulty.Action{}
		}
		return faulty.Action{After: func() error {
			for _, k := range append(list(t, f.store, "keys/"), list(t, f.store, "kept/"+instance+"/")...) {
				if err := f.store.Delete(t.Context(), k); err != nil {
					return err
				}
			}
			return nil
		}}
	})
	if _, err := backup(t.Context(), f.open(t, s), f.writer, nil, text(1, 10)); !errors.Is(err, repo.ErrKeyGone) {
		t.Errorf("got %v", err)
	}
	if recs, _, err := f.open(t, f.store).List(t.Context(), ""); err != nil || len(recs) > 0 {
		t.Errorf("%d backups, %v", len(recs), err)
	}
}

func list(t *testing.T, s storage.Store, prefix string) (keys []storage.Key) {
	t.Helper()
	err := s.List(t.Context(), prefix, func(i storage.Info) error {
		keys = append(keys, i.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestPassphraseComesAndGoes(t *testing.T) {
	f := newFixture(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
	res, err := f.open(t, f.store).AddPassphrase(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	try := func(pass string) error {
		r, err := repo.Open(t.Context(), f.store, repo.Options{Passphrase: func() ([]string, error) { return []string{pass}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		rec, err := r.Find(t.Context(), instance, string(m.ID))
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Manifest(t.Context(), rec)
		return err
	}
	if err := try("correct horse"); err != nil {
		t.Error(err)
	}
	if err := try("wrong"); !errors.Is(err, repo.ErrWrongKey) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := f.open(t, f.store).RemoveRecipients(t.Context(), true, res.Recipients[1]); err != nil {
		t.Fatal(err)
	}
	if err := try("correct horse"); !errors.Is(err, repo.ErrNoKey) {
		t.Errorf("after its removal: %v", err)
	}
	if err := reads(t, f.store, m.ID, f.identity); err != nil {
		t.Error(err)
	}
}

// Each write of a change fails once before and once after taking effect. Then who
// could read and shall still reads, and a repetition completes.
func TestEveryWriteOfAKeyChangeFails(t *testing.T) {
	second, recipient := newIdentity(t)
	for name, change := range map[string]func(*fixture, *repo.Repo) error{
		"add": func(_ *fixture, r *repo.Repo) error {
			_, err := r.AddRecipients(t.Context(), recipient)
			return err
		},
		"remove": func(f *fixture, r *repo.Repo) error {
			_, err := r.RemoveRecipients(t.Context(), true, f.identity.Recipient().String())
			return err
		},
		"rotate": func(_ *fixture, r *repo.Repo) error {
			_, err := r.Retire(t.Context(), "")
			return err
		},
		"new key": func(_ *fixture, r *repo.Repo) error {
			k, err := r.WriteKey(t.Context(), "node3", repo.KeyOptions{})
			if err == nil {
				k.Forget()
			}
			return err
		},
	} {
		for when, action := range map[string]faulty.Action{"before": faulty.Fail(faulty.Err), "after": faulty.FailAfter(faulty.Err)} {
			t.Run(name+" "+when, func(t *testing.T) {
				for n := 1; ; n++ {
					f := newFixture(t)
					m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
					if _, err := f.open(t, f.store).WriteKey(t.Context(), "node2", repo.KeyOptions{}); err != nil {
						t.Fatal(err)
					}
					if name == "remove" {
						if _, err := f.open(t, f.store).AddRecipients(t.Context(), recipient); err != nil {
							t.Fatal(err)
						}
					}
					ids := []age.Identity{f.identity}
					if name == "remove" {
						ids = []age.Identity{second}
					}
					s := faulty.New(f.store, faulty.At(n, action))
					err := change(f, as(t, s, ids...))
					if !s.Reached() {
						if err != nil || n < 2 {
							t.Errorf("without a fault, after %d writes: %v", n-1, err)
						}
						return
					}
					if !errors.Is(err, faulty.Err) {
						t.Errorf("write %d: %v", n, err)
					}
					if err := reads(t, f.store, m.ID, ids...); err != nil {
						t.Errorf("write %d: who reads and stays: %v", n, err)
					}
					if err := change(f, as(t, f.store, ids...)); err != nil && !errors.Is(err, repo.ErrNotRecipient) {
						t.Errorf("write %d: again: %v", n, err)
					}
					f.changed(t, name, recipient, ids[0])
				}
			})
		}
	}
}

// changed checks what a change that ended has led to.
func (f *fixture) changed(t *testing.T, name, recipient string, reader age.Identity) {
	t.Helper()
	r := as(t, f.store, reader)
	keys, err := r.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{f.identity.Recipient().String()}
	switch name {
	case "add":
		want = append(want, recipient)
	case "remove":
		want = []string{recipient}
	}
	if !slices.Equal(r.Config().Recipients, want) {
		t.Errorf("recipients %v, want %v", r.Config().Recipients, want)
	}
	for _, k := range keys.Instances {
		if !slices.Equal(k.Recipients, want) || k.WrapCount != len(want) || k.Retired != (name == "remove" || name == "rotate") {
			t.Errorf("%+v, want it wrapped for %v", k, want)
		}
	}
}

// A node that makes a key while recipients change isn't missed, whichever write of
// the change it falls behind.
func TestKeyMadeDuringAChange(t *testing.T) {
	second, recipient := newIdentity(t)
	for n := 1; ; n++ {
		f := newFixture(t)
		m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
		made := false
		s := faulty.New(f.store, faulty.At(n, faulty.Action{After: func() error {
			made = true
			_, err := f.open(t, f.store).WriteKey(t.Context(), "node2", repo.KeyOptions{})
			return err
		}}))
		if _, err := f.open(t, s).AddRecipients(t.Context(), recipient); err != nil {
			t.Fatal(err)
		}
		if !made {
			if n < 3 {
				t.Errorf("only %d writes", n-1)
			}
			return
		}
		if _, err := as(t, f.store, second).ExportKeys(t.Context(), "node2"); err != nil {
			t.Errorf("behind write %d: %v", n, err)
		}
		if err := reads(t, f.store, m.ID, second); err != nil {
			t.Error(err)
		}
	}
}

// The other way about: recipients change between the writes of a node's new key.
func TestRecipientsChangeWhileAKeyIsMade(t *testing.T) {
	f := newFixture(t)
	second, recipient := newIdentity(t)
	s := faulty.New(f.store, faulty.At(1, faulty.Action{Before: func() error {
		_, err := f.open(t, f.store).AddRecipients(t.Context(), recipient)
		return err
	}}))
	k := tryKey(t, f.open(t, s), repo.KeyOptions{}, nil)
	if !s.Reached() || !slices.Contains(k.Pin.Recipients, recipient) {
		t.Errorf("pinned %v", k.Pin.Recipients)
	}
	if _, err := as(t, f.store, second).ExportKeys(t.Context(), instance); err != nil {
		t.Error(err)
	}
}

func TestKeyInTwoRepositories(t *testing.T) {
	f := newFixture(t)
	k := tryKey(t, f.open(t, f.store), repo.KeyOptions{}, nil)
	second, recipient := newIdentity(t)
	other := mem.New()
	if _, err := repo.Init(t.Context(), other, repo.InitOptions{Recipients: []string{recipient}}); err != nil {
		t.Fatal(err)
	}
	to := as(t, other, second)
	if _, err := to.AddKey(t.Context(), instance, k, repo.KeyOptions{Recipients: []string{"age1x"}}); !errors.Is(err, repo.ErrRecipients) {
		t.Errorf("for recipients that aren't accepted: %v", err)
	}
	pin, err := to.AddKey(t.Context(), instance, k, repo.KeyOptions{Recipients: []string{recipient}})
	if err != nil || pin.InstanceRecipient != k.Pin.InstanceRecipient {
		t.Fatalf("%v %+v", err, pin)
	}
	if _, err := to.ExportKeys(t.Context(), instance); err != nil {
		t.Error(err)
	}
	k.Forget()
	if _, err := to.AddKey(t.Context(), "node9", k, repo.KeyOptions{}); err == nil {
		t.Error("a secret that was forgotten was stored")
	}
}

func TestCopyKeys(t *testing.T) {
	f := newFixture(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
	second, recipient := newIdentity(t)
	mine := f.identity.Recipient().String()
	for name, test := range map[string]struct {
		recipients []string
		from       []age.Identity
		readers    []string
		want       error
		reader     age.Identity
	}{
		"same recipients":           {[]string{mine}, nil, nil, nil, f.identity},
		"others, without the key":   {[]string{recipient}, nil, []string{recipient}, repo.ErrNoKey, nil},
		"others who weren't named":  {[]string{recipient}, []age.Identity{f.identity}, nil, repo.ErrRecipients, nil},
		"others, named, with a key": {[]string{recipient}, []age.Identity{f.identity}, []string{recipient}, nil, second},
	} {
		t.Run(name, func(t *testing.T) {
			other := mem.New()
			if _, err := repo.Init(t.Context(), other, repo.InitOptions{Recipients: test.recipients}); err != nil {
				t.Fatal(err)
			}
			to := as(t, other)
			for range 2 { // the second time there is nothing to do
				if err := to.CopyKeys(t.Context(), as(t, f.store, test.from...), instance, test.readers); !errors.Is(err, test.want) {
					t.Fatalf("got %v, want %v", err, test.want)
				}
			}
			if test.want != nil {
				return
			}
			err := f.store.List(t.Context(), "", func(i storage.Info) error {
				if k := string(i.Key); strings.HasPrefix(k, "segments/") || strings.HasPrefix(k, "backups/") {
					put(t, other, i.Key, get(t, f.store, i.Key))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := reads(t, other, m.ID, test.reader); err != nil {
				t.Error(err)
			}
		})
	}
}
