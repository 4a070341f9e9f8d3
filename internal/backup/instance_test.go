package backup_test

import (
	"errors"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/state"
)

// TestDefaultInstance holds that a CouchDB keeps its instance's name whatever the host is
// called: by its state, without that by the repository, and in a container from the start.
func TestDefaultInstance(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	n := e.options(e.store).Node
	id, _ := state.Identify(n)
	want := func(what, name, state, host string) {
		t.Helper()
		got, _, err := backup.DefaultInstance(t.Context(), e.repo(e.store), state, n, host)
		if err != nil || got != name {
			t.Errorf("%s: got %q, %v, want %q", what, got, err, name)
		}
	}
	as := func(instance string) func(*backup.Options) {
		return func(o *backup.Options) { o.Instance = instance }
	}
	want("a first backup", "db1", e.state, "db1")
	want("in a container", "couchdb-"+id.MapUUID[:8], e.state, "3f2a9c1b77de")
	n.NodeName = "couchdb@db7.example.org"
	want("in a container, with a name of the node", "db7", e.state, "3f2a9c1b77de")
	n.NodeName = "couchdb@10.0.0.7"
	want("in a container, with an address", "couchdb-"+id.MapUUID[:8], e.state, "3f2a9c1b77de")
	n.NodeName = ""

	e.run(as("db1"))
	want("another host name", "db1", e.state, "renamed")
	want("a container's", "db1", e.state, "3f2a9c1b77de")
	want("another host name, without the state", "db1", t.TempDir(), "renamed")

	e.run(as("db2"))
	want("two names, one the host's", "db2", e.state, "db2")
	if _, _, err := backup.DefaultInstance(t.Context(), e.repo(e.store), e.state, n, "renamed"); !errors.Is(err, backup.ErrOptions) {
		t.Errorf("two names: got %v", err)
	}

	e.data = e.another()
	n = e.options(e.store).Node
	want("another node", "db9", e.state, "db9")
}
