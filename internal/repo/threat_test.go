package repo_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
)

// These are the attacks of docs/threat-model.md by somebody who can do with the
// storage as he likes, and knows all that isn't secret.

// readBack reads the file of a backup, whole and by range. Both must give the same,
// or an error; reading by range may pass over what it doesn't read.
//
// truth are the contents that were backed up.
func readBack(ctx context.Context, r *repo.Repo, id manifest.BackupID, truth ...[]byte) ([]byte, error) {
	rec, err := r.Find(ctx, instance, string(id))
	if err != nil {
		return nil, err
	}
	m, err := r.Manifest(ctx, rec)
	if err != nil {
		return nil, err
	}
	var whole []byte
	serr := r.NewReader(m, m.Files).Stream(ctx, m.Files[0], func(b []byte) error {
		whole = append(whole, b...)
		return nil
	})
	ranged, rerr := io.ReadAll(io.NewSectionReader(r.NewReader(m, nil).ReaderAt(ctx, m.Files[0]), 0, m.Files[0].Size))
	switch {
	case serr == nil && rerr != nil:
		return nil, fmt.Errorf("READING whole notices nothing: %w", rerr)
	case serr == nil && !bytes.Equal(whole, ranged):
		return nil, errors.New("READING by range gives something else")
	case serr != nil && rerr == nil && !slices.ContainsFunc(truth, func(b []byte) bool { return bytes.Equal(b, ranged) }):
		return nil, fmt.Errorf("READING by range gives what was never written, and whole: %w", serr)
	}
	return whole, serr
}

// mustNotice fails the test unless reading ends with an error, or with what was backed up.
func mustNotice(t *testing.T, r *repo.Repo, id manifest.BackupID, attack string, truth ...[]byte) {
	t.Helper()
	got, err := readBack(t.Context(), r, id, truth...)
	if right := func(b []byte) bool { return bytes.Equal(b, got) }; err == nil && slices.ContainsFunc(truth, right) {
		return // bytes behind those that were written do no harm
	}
	if err == nil {
		t.Errorf("%s: was not noticed", attack)
	} else if strings.Contains(err.Error(), "READING") {
		t.Errorf("%s: %v", attack, err)
	}
}

// Each object of a backup is changed, cut, prolonged, emptied, removed, and
// replaced by its like of another backup.
func TestTampering(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	m := mustBackup(t, r, f.writer, nil, text(1, 3000), text(2, 3000))
	second := mustBackup(t, r, f.writer, m, text(3, 3000))
	if got, err := readBack(t.Context(), r, m.ID); err != nil || !bytes.Equal(got, append(text(1, 3000), text(2, 3000)...)) {
		t.Fatalf("as it is: %v", err)
	}
	mine := 0
	for key := range objects(t, f.store) {
		if !strings.Contains(string(key), string(m.ID)) {
			continue
		}
		mine++
		whole := get(t, f.store, key)
		rnd := rand.New(rand.NewPCG(3, 4))
		edits := map[string][]byte{"emptied": {}, "cut": whole[:len(whole)-1], "halved": whole[:len(whole)/2], "longer": append(bytes.Clone(whole), 0)}
		for range 50 {
			b := bytes.Clone(whole)
			i := rnd.IntN(len(b))
			b[i] ^= 1 << rnd.IntN(8)
			edits[fmt.Sprintf("a bit of byte %d flipped", i)] = b
		}
		other := strings.Replace(string(key), string(m.ID), string(second.ID), 1)
		if _, err := f.store.Stat(t.Context(), storage.Key(other)); err == nil {
			edits["replaced by that of another backup"] = get(t, f.store, storage.Key(other))
		}
		for name, b := range edits {
			put(t, f.store, key, b)
			mustNotice(t, r, m.ID, fmt.Sprintf("%s: %s", key, name), append(text(1, 3000), text(2, 3000)...))
		}
		if err := f.store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		mustNotice(t, r, m.ID, string(key)+": removed")
		put(t, f.store, key, whole)
	}
	if mine != 4 {
		t.Errorf("tampered with %d objects, want record, manifest and 2 segments", mine)
	}
}

// Two segments of one size are swapped: each is as it was written, in the other's
// place.
func TestSwappedSegments(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	// Of content that doesn't compress, so that they have one size.
	m := mustBackup(t, r, f.writer, nil, noise(1, 3000), noise(2, 3000))
	a, b := segmentKey(m, 0), segmentKey(m, 1)
	one, two := get(t, f.store, a), get(t, f.store, b)
	if len(one) != len(two) {
		t.Fatalf("%d and %d bytes", len(one), len(two))
	}
	put(t, f.store, a, two)
	put(t, f.store, b, one)
	mustNotice(t, r, m.ID, "swapped")
}

// Somebody who has no key encrypts content of his own to the instance, as every
// writer can, in the size of what he replaces.
func TestForgedSegment(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	m := mustBackup(t, r, f.writer, nil, noise(1, 3000))
	key, err := writeKey(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var forged repo.Sealed
	if err := r.Seal(&forged, key, m.ID, 0, noise(9, 3000)); err != nil {
		t.Fatal(err)
	}
	if err := f.store.Delete(t.Context(), segmentKey(m, 0)); err != nil {
		t.Fatal(err)
	}
	if err := r.PutSegment(t.Context(), instance, &forged); err != nil {
		t.Fatal(err)
	}
	if got := len(get(t, f.store, segmentKey(m, 0))); int64(got) != m.Segments[0].Size {
		t.Fatalf("the forged one has %d bytes, not %d", got, m.Segments[0].Size)
	}
	mustNotice(t, r, m.ID, "forged")
}

func segmentKey(m *manifest.Manifest, n int) storage.Key {
	return storage.Key(fmt.Sprintf("segments/%s/%s/%06d.zst.age", instance, m.ID, n))
}

// noise makes n bytes that don't compress.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// A whole backup is forged, signed with a key of the forger's own. Only who says
// whom he trusts is safe from it.
func TestTrustedWriters(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	mine := mustBackup(t, r, f.writer, nil, text(1, 10))
	forger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
	forged := mustBackup(t, r, forger, nil, text(2, 10))
	name := base64.StdEncoding.EncodeToString(f.writer.Public().(ed25519.PublicKey))
	careful, err := repo.Open(t.Context(), f.store, repo.Options{Identities: []age.Identity{f.identity}, TrustedWriters: []string{name}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readBack(t.Context(), careful, mine.ID); err != nil {
		t.Errorf("the node's own backup: %v", err)
	}
	if _, err := careful.Find(t.Context(), instance, string(forged.ID)); !errors.Is(err, repo.ErrSignature) {
		t.Errorf("the forged one: got %v, want ErrSignature", err)
	}
	if rec, err := careful.Find(t.Context(), instance, repo.Latest); err != nil || rec.ID != mine.ID {
		t.Errorf("the newest is %v, %v", rec, err)
	}
}

// The newest backup and all that is its own vanish: the storage shows an earlier
// state of itself. The node that made it knows better, and who watches the age sees
// it; what is left reads whole.
func TestRollback(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	first := mustBackup(t, r, f.writer, nil, text(1, 1000))
	before := all(t, f.store)
	second := mustBackup(t, r, f.writer, first, text(2, 1000))
	for key := range all(t, f.store) {
		if _, ok := before[key]; !ok {
			if err := f.store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	for key, b := range before {
		put(t, f.store, key, b)
	}
	if _, err := r.Record(t.Context(), instance, second.ID); !errors.Is(err, repo.ErrNoBackup) {
		t.Errorf("the node that asks for its last backup: got %v, want ErrNoBackup", err)
	}
	if got, err := readBack(t.Context(), r, first.ID); err != nil || !bytes.Equal(got, text(1, 1000)) {
		t.Errorf("what is left: %v", err)
	}
}

// A backup that was deleted is played back. It is what it was, at the time that it
// was, so it isn't the newest; with a segment less it is noticed.
func TestReplayedBackup(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	first := mustBackup(t, r, f.writer, nil, text(1, 1000), text(2, 1000))
	before := all(t, f.store)
	second := mustBackup(t, r, f.writer, nil, text(3, 1000))
	lock, err := r.Lock(t.Context(), instance, "prune", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Prune(t.Context(), lock, repo.PruneOptions{Remove: []manifest.BackupID{first.ID}, Now: time.Now()})
	if err := errors.Join(err, lock.Release(t.Context())); err != nil {
		t.Fatal(err)
	}
	for key, b := range before {
		if strings.Contains(string(key), string(first.ID)) {
			put(t, f.store, key, b)
		}
	}
	if rec, err := r.Find(t.Context(), instance, repo.Latest); err != nil || rec.ID != second.ID {
		t.Errorf("the newest is %v, %v", rec, err)
	}
	if got, err := readBack(t.Context(), r, first.ID); err != nil || !bytes.Equal(got, append(text(1, 1000), text(2, 1000)...)) {
		t.Errorf("the replayed one: %v", err)
	}
	// Under the id of the newest it isn't taken.
	name := func(id manifest.BackupID) storage.Key {
		return storage.Key(fmt.Sprintf("backups/%s/%s/record.jsonl", instance, id))
	}
	put(t, f.store, name(second.ID), get(t, f.store, name(first.ID)))
	mustNotice(t, r, second.ID, "an older record in place of the newest")
}

// The key objects are changed, exchanged and removed. With one of them or its second
// copy reading goes on; with both it ends with an error. None of this lets anybody read.
func TestTamperedKeys(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	m := mustBackup(t, r, f.writer, nil, text(1, 1000))
	keys := append(list(t, f.store, "keys/"+instance+"/"), list(t, f.store, "kept/"+instance+"/")...)
	if len(keys) != 2 {
		t.Fatalf("key objects: %v", keys)
	}
	whole := get(t, f.store, keys[0])
	for name, b := range f.forgeries(t, whole) {
		for _, key := range keys {
			put(t, f.store, key, b)
			if got, err := readBack(t.Context(), f.open(t, f.store), m.ID); err != nil || !bytes.Equal(got, text(1, 1000)) {
				t.Errorf("%s: %s: %v", key, name, err)
			}
			put(t, f.store, key, whole)
		}
		for _, key := range keys {
			put(t, f.store, key, b)
		}
		mustNotice(t, f.open(t, f.store), m.ID, "both: "+name)
		for _, key := range keys {
			put(t, f.store, key, whole)
		}
	}
	if _, err := readBack(t.Context(), f.open(t, f.store), m.ID); err != nil {
		t.Errorf("as it was: %v", err)
	}
}

// forgeries are what may stand in the place of a wrapped key.
func (f *fixture) forgeries(t *testing.T, whole []byte) map[string][]byte {
	t.Helper()
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var forged bytes.Buffer
	w, err := age.Encrypt(&forged, f.identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, stranger.String()+"\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	flip := func(at int) []byte {
		b := bytes.Clone(whole)
		if b[at] == 'A' {
			b[at] = 'B'
		} else {
			b[at] = 'A'
		}
		return b
	}
	return map[string][]byte{"flipped in the header": flip(90), "flipped in the end": flip(len(whole) - 120), "not armor": flip(3),
		"cut": whole[:len(whole)/2], "emptied": nil, "a key of the attacker's": forged.Bytes()}
}

// all returns every object.
func all(t *testing.T, s storage.Store) map[storage.Key][]byte {
	t.Helper()
	out := map[storage.Key][]byte{}
	err := s.List(t.Context(), "", func(i storage.Info) error {
		out[i.Key] = nil
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for key := range out {
		out[key] = get(t, s, key)
	}
	return out
}
