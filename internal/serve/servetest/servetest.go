// Package servetest gives the tests of what is read in place something to read.
package servetest

import (
	"context"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// Init makes a new repository in a storage. It returns what opens it, each time as a program does that has just begun.
func Init(t testenv.TB, store storage.Store) (open func() *repo.Repo) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	must(t, err)
	_, err = repo.Init(context.Background(), store, repo.InitOptions{Recipients: []string{id.Recipient().String()}})
	must(t, err)
	return func() *repo.Repo {
		t.Helper()
		r, err := repo.Open(context.Background(), store, repo.Options{Identities: []age.Identity{id}})
		must(t, err)
		return r
	}
}

func must(t testenv.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// Backup backs up a data directory into a new repository in memory.
func Backup(t testenv.TB, data string) (*repo.Repo, *manifest.Manifest) {
	t.Helper()
	return BackupTo(t, mem.New(), data)
}

// BackupTo is Backup into a storage.
func BackupTo(t testenv.TB, store storage.Store, data string) (*repo.Repo, *manifest.Manifest) {
	t.Helper()
	return BackupOf(t, store, node.Options{DataDir: data})
}

// BackupOf is BackupTo of a node that is found by options, as with its ini files.
func BackupOf(t testenv.TB, store storage.Store, o node.Options) (*repo.Repo, *manifest.Manifest) {
	t.Helper()
	r := Init(t, store)()
	n, err := node.Locate(context.Background(), o)
	must(t, err)
	res, err := backup.Run(context.Background(), backup.Options{Repo: r, Node: n, Instance: "node1", StateDir: t.TempDir(), Name: "test", Tool: "test", Indexes: true})
	must(t, err)
	m, err := r.Manifest(context.Background(), res.Record)
	must(t, err)
	return r, m
}

// Node opens a backup of a data directory.
func Node(t testenv.TB, data string) *serve.Node {
	t.Helper()
	r, m := Backup(t, data)
	return Open(t, r, m)
}

// Open opens a backup until the test ends.
func Open(t testenv.TB, r *repo.Repo, m *manifest.Manifest) *serve.Node {
	t.Helper()
	n, err := serve.OpenNode(context.Background(), r, m)
	must(t, err)
	t.Cleanup(n.Close)
	return n
}
