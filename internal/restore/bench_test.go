package restore_test

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/file"
)

// BenchmarkFiles restores an encrypted repository's backups: one large file, and
// the many small ones of a database for each user.
func BenchmarkFiles(b *testing.B) {
	for _, bm := range []struct {
		name string
		o    couchgen.DirOptions
	}{
		{"large", couchgen.OneShard(256 << 20)},
		{"small", couchgen.PerUser(10_000)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			dir := b.TempDir()
			if _, err := couchgen.DataDir(filepath.Join(dir, "data"), bm.o); err != nil {
				b.Fatal(err)
			}
			store, err := file.Create(filepath.Join(dir, "repo"))
			if err != nil {
				b.Fatal(err)
			}
			r := encryptedRepo(b, store)
			rec := take(b, r, filepath.Join(dir, "data"), filepath.Join(dir, "state"))
			b.SetBytes(rec.SizeBytes)
			for i := 0; b.Loop(); i++ {
				files(b, restore.Options{Repo: r, Record: rec, To: filepath.Join(dir, "to"+strconv.Itoa(i))})
			}
		})
		b.Run(bm.name+"-verify", func(b *testing.B) {
			dir := b.TempDir()
			if _, err := couchgen.DataDir(filepath.Join(dir, "data"), bm.o); err != nil {
				b.Fatal(err)
			}
			store, err := file.Create(filepath.Join(dir, "repo"))
			if err != nil {
				b.Fatal(err)
			}
			r := encryptedRepo(b, store)
			rec := take(b, r, filepath.Join(dir, "data"), filepath.Join(dir, "state"))
			b.SetBytes(rec.SizeBytes)
			for b.Loop() {
				if _, err := restore.Verify(b.Context(), restore.VerifyOptions{Repo: r, Record: rec}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
