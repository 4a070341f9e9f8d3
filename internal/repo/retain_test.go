package repo_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// A storage that protects objects keeps backups readable though a thief deletes
// all that it lets go, and lets a deletion have them when their time is over.
func TestProtectedBackups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const month = 30 * 24 * time.Hour
		f := newFixture(t)
		s := mem.NewRetaining()
		for key, b := range all(t, f.store) {
			put(t, s, key, b)
		}
		open := func() *repo.Repo {
			r, err := repo.Open(t.Context(), s, repo.Options{Identities: []age.Identity{f.identity}, RetainUntil: time.Now().Add(month)})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		first := mustBackup(t, open(), f.writer, nil, text(1, 1000))
		time.Sleep(20 * 24 * time.Hour) // so that the first one's time is more than half over
		second := mustBackup(t, open(), f.writer, first, text(2, 1000))
		both := append(text(1, 1000), text(2, 1000)...)

		// The thief.
		refused := 0
		for key := range all(t, s) {
			if key == "slipcover.json" {
				continue // has no secret; below it is as it was
			}
			err := s.Delete(t.Context(), key)
			if errors.Is(err, storage.ErrRetained) {
				refused++
				err = s.Put(t.Context(), key, bytes.NewReader([]byte("garbage")), storage.PutOptions{})
			}
			if err != nil && !errors.Is(err, storage.ErrRetained) {
				t.Fatal(err)
			}
		}
		if refused != 2+2+2+1 { // segments, manifests, records, the copy of the key
			t.Errorf("the storage refused %d removals", refused)
		}
		time.Sleep(25 * 24 * time.Hour) // the first one's time is over, the second's is not
		if got, err := readBack(t.Context(), open(), second.ID); err != nil || !bytes.Equal(got, both) {
			t.Errorf("the second backup, after the theft: %v", err)
		}

		prune := func(id manifest.BackupID) error {
			r := open()
			lock, err := r.Lock(t.Context(), instance, "prune", "")
			if err != nil {
				t.Fatal(err)
			}
			freed, err := r.Prune(t.Context(), lock, repo.PruneOptions{Remove: []manifest.BackupID{id}, Now: time.Now()})
			if freed.Protected > 0 {
				t.Errorf("%d objects are left behind", freed.Protected)
			}
			return errors.Join(err, lock.Release(t.Context()))
		}
		if err := prune(second.ID); !errors.Is(err, storage.ErrRetained) {
			t.Errorf("a deletion before its time: %v", err)
		}
		if err := prune(first.ID); err != nil {
			t.Errorf("a deletion when its time is over: %v", err)
		}
		if got, err := readBack(t.Context(), open(), second.ID); err != nil || !bytes.Equal(got, both) {
			t.Errorf("the second backup, after the first one's deletion: %v", err)
		}
		time.Sleep(10 * 24 * time.Hour)
		if err := prune(second.ID); err != nil {
			t.Errorf("the second one's deletion: %v", err)
		}
		for key := range all(t, s) {
			if bytes.HasPrefix([]byte(key), []byte("segments/")) {
				t.Errorf("left: %s", key)
			}
		}
	})
}
