package repo_test

import (
	"errors"
	"testing"

	"github.com/slipcover/slipcover/internal/repo"
)

// A part of several ids names none of them, though they have one name: what is deleted
// must not be a guess. Their name is that of the newest.
func TestFindAmbiguous(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	a := mustBackup(t, r, f.writer, nil, text(1, 1000))
	b := mustBackup(t, r, f.writer, nil, text(2, 1000))
	n := 0
	for n < len(a.ID) && a.ID[n] == b.ID[n] {
		n++
	}
	if n < 4 {
		t.Skipf("ids made at once begin with %q", a.ID[:n]) // their beginning is the time
	}
	if rec, err := r.Find(t.Context(), instance, string(a.ID[:n])); !errors.Is(err, repo.ErrAmbiguous) {
		t.Errorf("a common beginning finds %v, %v", rec, err)
	}
	for _, ref := range []string{string(b.ID), string(b.ID[:n+1]), b.Name, repo.Latest} {
		if rec, err := r.Find(t.Context(), instance, ref); err != nil || rec.ID != b.ID {
			t.Errorf("%q finds %v, %v", ref, rec, err)
		}
	}
}
