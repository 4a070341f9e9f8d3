package repo_test

import (
	"bytes"
	"errors"
	"testing"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

// All readers of a backup have one secret of it, whatever became of the recipients; another backup has another, and who
// can't read it has none.
func TestSecret(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	second, recipient := newIdentity(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
	other := mustBackup(t, f.open(t, f.store), f.writer, m, text(2, 1000))
	secret := func(id manifest.BackupID, ids ...age.Identity) ([]byte, error) {
		t.Helper()
		r := as(t, f.store, ids...)
		rec, err := r.Find(t.Context(), instance, string(id))
		if err != nil {
			t.Fatal(err)
		}
		return r.Secret(t.Context(), rec)
	}
	first, err := secret(m.ID, f.identity)
	if err != nil || len(first) < 16 {
		t.Fatalf("%x, %v", first, err)
	}
	if _, err := secret(m.ID, second); !errors.Is(err, repo.ErrWrongKey) {
		t.Errorf("who can't read it: %v", err)
	}
	if _, err := f.open(t, f.store).AddRecipients(t.Context(), recipient); err != nil {
		t.Fatal(err)
	}
	if got, err := secret(m.ID, second); err != nil || !bytes.Equal(got, first) {
		t.Errorf("another reader has %x, %v; want %x", got, err, first)
	}
	if got, err := secret(other.ID, f.identity); err != nil || bytes.Equal(got, first) {
		t.Errorf("another backup has %x, %v", got, err)
	}
}
