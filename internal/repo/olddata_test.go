package repo_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"testing"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage/file"
)

// A repository that an earlier version wrote must read as it did then: one of each form.
func TestOldRepository(t *testing.T) {
	t.Run("1", func(t *testing.T) { readOld(t, "../../testdata/repository-1", 2, 28) })
	t.Run("2 with replays", func(t *testing.T) { readOld(t, "../../testdata/repository-2", 5, 5) })
}

// readOld reads all that a repository holds, backups with so many files each.
func readOld(t *testing.T, dir string, backups, files int) {
	t.Helper()
	key, err := os.Open(dir + "/identity.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	ids, err := age.ParseIdentities(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := file.Open(dir + "/repository")
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), s, repo.Options{Identities: ids})
	if err != nil {
		t.Fatal(err)
	}
	recs, bad, err := r.List(t.Context(), "")
	if err != nil || len(bad) > 0 || len(recs) != backups {
		t.Fatalf("%d backups, %v, %v", len(recs), bad, err)
	}
	for _, rec := range recs {
		m, err := r.Manifest(t.Context(), rec)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Files) != files {
			t.Errorf("%s has %d files, had %d", rec.Name, len(m.Files), files)
		}
		rd := r.NewReader(m, m.Files)
		for _, f := range m.Files {
			h := sha256.New()
			if err := rd.Stream(t.Context(), f, func(b []byte) error { h.Write(b); return nil }); err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
				t.Errorf("%s: %s reads differently", rec.Name, f.Path)
			}
		}
	}
}
