package backup_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// second returns the same node with another repository of the recipients.
func (e *env) second(recipients ...string) *env {
	e.t.Helper()
	o := *e
	store, err := file.Create(e.t.TempDir()) // other than mem, each has a URL of its own
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = store.Close() })
	o.store = store
	if len(recipients) == 0 {
		recipients = []string{e.identity.Recipient().String()}
	}
	if _, err := repo.Init(e.t.Context(), o.store, repo.InitOptions{Recipients: recipients}); err != nil {
		e.t.Fatal(err)
	}
	return &o
}

// open opens a repository as a node does, which can't read.
func open(t *testing.T, store storage.Store) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), store, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// onNode makes the run one of a node that can't read, with copies.
func onNode(t *testing.T, store storage.Store, copies ...storage.Store) func(*backup.Options) {
	return func(o *backup.Options) {
		o.Repo = open(t, store)
		for _, c := range copies {
			o.Copies = append(o.Copies, open(t, c))
		}
	}
}

// handOver copies a backup and its state.
func handOver(t *testing.T, from, to *env, rec *manifest.Record) {
	t.Helper()
	src, dst := open(t, from.store), open(t, to.store)
	if _, err := repo.Copy(t.Context(), dst, src, rec, repo.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := backup.Adopt(t.Context(), backup.AdoptOptions{StateDir: from.state, From: src, To: dst, Record: rec}); err != nil {
		t.Fatal(err)
	}
}

// A node that can't read goes on in the repository that its backup was copied to,
// reading and storing nothing again.
func TestGoOnInTheCopy(t *testing.T) {
	t.Parallel()
	a := newEnv(t)
	b := a.second()
	full := a.run(onNode(t, a.store, b.store))
	handOver(t, a, b, full.Record)
	second := b.run(onNode(t, b.store))
	if second.Record.Parent != full.Record.ID || second.Record.ReadBytes != 0 || len(second.Notes) > 0 {
		t.Errorf("in the copy: parent %q, read %d, %v", second.Record.Parent, second.Record.ReadBytes, second.Notes)
	}
	b.check(second.Record)
	handOver(t, b, a, second.Record)
	third := a.run(onNode(t, a.store))
	if third.Record.Parent != second.Record.ID || third.Record.ReadBytes != 0 || len(third.Notes) > 0 {
		t.Errorf("back in the first: parent %q, read %d, %v", third.Record.Parent, third.Record.ReadBytes, third.Notes)
	}
	a.check(third.Record)
}

// Of several repositories with different recipients each holds the key of the
// instance for its own, when that was made.
func TestNewKeyIsShared(t *testing.T) {
	t.Parallel()
	a := newEnv(t)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b := a.second(id.Recipient().String())
	full := a.run(onNode(t, a.store, b.store))
	if len(full.Notes) > 0 {
		t.Errorf("notes %v", full.Notes)
	}
	handOver(t, a, b, full.Record)
	b.identity = id
	b.check(full.Record)
	if next := b.run(onNode(t, b.store)); next.Record.Parent != full.Record.ID || len(next.Notes) > 0 {
		t.Errorf("in the copy: parent %q, %v", next.Record.Parent, next.Notes)
	}
	// A storage that fails doesn't stop the backup.
	c := a.second()
	broken := faulty.New(c.store, func(op faulty.Op) faulty.Action {
		if op.Kind == faulty.Put {
			return faulty.Fail(storage.ErrUnavailable)
		}
		return faulty.Action{}
	})
	if err := os.RemoveAll(a.state); err != nil {
		t.Fatal(err)
	}
	again := a.run(onNode(t, a.store, broken))
	if len(again.Notes) == 0 || !strings.Contains(strings.Join(again.Notes, "\n"), "could not be stored in file://") {
		t.Errorf("notes %v", again.Notes)
	}
	handOver(t, a, c, again.Record) // which has the same recipients
	c.check(again.Record)
}

// The state is handed over just where it is of the backup, and not over a later one.
func TestAdoptKeepsLaterState(t *testing.T) {
	t.Parallel()
	a := newEnv(t)
	b := a.second()
	first := a.run(onNode(t, a.store, b.store))
	handOver(t, a, b, first.Record)
	later := b.run(onNode(t, b.store))
	handOver(t, a, b, first.Record)
	if third := b.run(onNode(t, b.store)); third.Record.Parent != later.Record.ID {
		t.Errorf("built on %q", third.Record.Parent)
	}
	// Of the node's last backup but one there is no state.
	a.run(onNode(t, a.store))
	c := a.second()
	handOver(t, a, c, first.Record)
	if _, err := os.Stat(filepath.Join(a.state, open(t, c.store).Config().ID)); err == nil {
		t.Error("a state was made of another backup's")
	}
}

// A place whose repository was made anew is not taken for the old one.
func TestAdoptRefusesANewIDAtTheSamePlace(t *testing.T) {
	t.Parallel()
	a := newEnv(t)
	b := a.second()
	b.store = mem.New()
	if _, err := repo.Init(t.Context(), b.store, repo.InitOptions{Recipients: []string{a.identity.Recipient().String()}}); err != nil {
		t.Fatal(err)
	}
	full := a.run(onNode(t, a.store)) // pins mem://, where b is too
	src, dst := open(t, a.store), open(t, b.store)
	if _, err := repo.Copy(t.Context(), dst, src, full.Record, repo.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	err := backup.Adopt(context.Background(), backup.AdoptOptions{StateDir: a.state, From: src, To: dst, Record: full.Record})
	if err == nil || !strings.Contains(err.Error(), "key accept") {
		t.Errorf("got %v", err)
	}
}
