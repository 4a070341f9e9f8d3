package restore_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

const (
	fixture  = "../../testdata/couchdb-3.5.0"
	nodeName = "couchdbfix@127.0.0.1"
)

// copyFixture returns a copy of the fixture's data directory.
func copyFixture(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(fixture+"/data")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openRepo(t testing.TB, store storage.Store) *repo.Repo {
	t.Helper()
	if _, err := repo.Init(t.Context(), store, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), store, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func encryptedRepo(t testing.TB, store storage.Store) *repo.Repo {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Init(t.Context(), store, repo.InitOptions{Recipients: []string{id.Recipient().String()}}); err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), store, repo.Options{Identities: []age.Identity{id}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// take makes a backup of a data directory.
func take(t testing.TB, r *repo.Repo, data, state string) *manifest.Record {
	t.Helper()
	n, err := node.Locate(t.Context(), node.Options{DataDir: data})
	if err != nil {
		t.Fatal(err)
	}
	return takeNode(t, r, n, state)
}

func takeNode(t testing.TB, r *repo.Repo, n *node.Node, state string) *manifest.Record {
	t.Helper()
	res, err := backup.Run(t.Context(), backup.Options{Repo: r, Node: n, Instance: "db1", StateDir: state, Name: "test", Indexes: true, Parallel: 2})
	if err != nil {
		t.Fatal(err)
	}
	return res.Record
}

// patience is for how long tests wait for what comes: a machine may be slow, or busy.
const patience = 5 * time.Minute

// fixtureBackup returns a backup of the fixture, in memory, that tests share: none
// may change the repository.
func fixtureBackup(t testing.TB) (*repo.Repo, *manifest.Record) {
	t.Helper()
	shared.Do(func() {
		shared.repo = openRepo(t, mem.New())
		shared.rec = take(t, shared.repo, fixture+"/data", t.TempDir())
	})
	if shared.rec == nil {
		t.Fatal("the backup failed in another test")
	}
	return shared.repo, shared.rec
}

var shared struct {
	sync.Once
	repo *repo.Repo
	rec  *manifest.Record
}

func files(t testing.TB, o restore.Options) *restore.Result {
	t.Helper()
	res, err := restore.Files(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// hashes returns the SHA-256 of each file below dir, and "dir" for empty folders.
func hashes(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if d.IsDir() {
			if entries, err := os.ReadDir(p); err != nil || len(entries) == 0 {
				out[rel] = "dir"
			}
			return nil
		}
		b, err := os.ReadFile(p)
		out[rel] = sumOf(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// wanted returns what hashes must say of a whole restore.
func wanted(t testing.TB, r *repo.Repo, rec *manifest.Record) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, f := range manifestOf(t, r, rec).Files {
		if f.Root != manifest.EtcRoot {
			out[f.Path] = f.SHA256
		}
	}
	return out
}

func manifestOf(t testing.TB, r *repo.Repo, rec *manifest.Record) *manifest.Manifest {
	t.Helper()
	m, err := r.Manifest(context.Background(), rec)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func sameFiles(t testing.TB, got, want map[string]string) {
	t.Helper()
	for p, h := range want {
		if got[p] != h {
			t.Errorf("%s: got %q, want %q", p, got[p], h)
		}
	}
	for p := range got {
		if want[p] == "" {
			t.Errorf("%s should not be there", p)
		}
	}
}

func contains(t testing.TB, list []string, part string) {
	t.Helper()
	if !strings.Contains(strings.Join(list, "\n"), part) {
		t.Errorf("%q is not in:\n%s", part, strings.Join(list, "\n"))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
