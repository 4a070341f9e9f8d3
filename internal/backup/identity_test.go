package backup_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/state"
	"github.com/slipcover/slipcover/internal/testenv"
)

// What CouchDB made of an empty data directory, and the shard map of another node, which
// knows the database viewed.
const (
	freshMap = "testdata/fresh/_dbs.couch"
	otherMap = "testdata/othernode/_dbs.couch"
)

func (e *env) try(edit ...func(*backup.Options)) (*backup.Result, error) {
	e.t.Helper()
	opts := e.options(e.store)
	for _, f := range edit {
		f(&opts)
	}
	return backup.Run(context.Background(), opts)
}

// refused wants the error of a node that is another one, with the text.
func (e *env) refused(text string, edit ...func(*backup.Options)) {
	e.t.Helper()
	if _, err := e.try(edit...); !errors.Is(err, backup.ErrOtherNode) || !strings.Contains(err.Error(), text) {
		e.t.Errorf("got %v, want it refused: %q", err, text)
	}
}

func (e *env) copyIn(from, to string) {
	e.t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		e.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		e.t.Fatal(err)
	}
}

// another makes the data directory of another node, with one database of the fixtures.
func (e *env) another() string {
	dir := e.t.TempDir()
	e.copyIn(otherMap, filepath.Join(dir, "_dbs.couch"))
	for _, path := range e.couchFiles() {
		if strings.Contains(path, "/viewed.") {
			e.copyIn(filepath.Join(e.data, path), filepath.Join(dir, path))
		}
	}
	return dir
}

func takeOver(o *backup.Options) { o.TakeOver = true }

func hasNote(res *backup.Result, text string) bool {
	return slices.ContainsFunc(res.Notes, func(n string) bool { return strings.Contains(n, text) })
}

// TestFreshFilesInAnUnmountedDirectory holds that files that have nothing in common with
// the backup before are no incremental of it.
func TestFreshFilesInAnUnmountedDirectory(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.run()
	if id := first.Record.Identity; len(id.MapUUID) != 32 || id.ServerUUID != "" {
		t.Errorf("the record says that it is of %+v", id)
	}
	e.data = t.TempDir()
	e.copyIn(freshMap, filepath.Join(e.data, "_dbs.couch"))
	e.copyIn(freshMap, filepath.Join(e.data, "_nodes.couch"))
	e.refused("0 of 55 shards in common with backup " + first.Record.ID.Short())
	e.refused("mount it", func(o *backup.Options) { o.Full = true })
	res := e.run(takeOver)
	if res.Record.Type != manifest.Full || !hasNote(res, "taken over") {
		t.Errorf("taken over: got a %s backup with the notes %q", res.Record.Type, res.Notes)
	}
	if res = e.run(); res.Record.Type != manifest.Incremental {
		t.Errorf("after it was taken over: got a %s backup with the notes %q", res.Record.Type, res.Notes)
	}
}

// TestTwoNodesUnderOneName holds that two nodes don't mix: with a state directory each,
// and with one for both.
func TestTwoNodesUnderOneName(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.run()
	data, state, other := e.data, e.state, e.another()
	e.data = other
	e.refused("2 of 55 shards in common")
	e.state = t.TempDir()
	e.refused("with the setting instance")

	// The same node goes on with another state directory, as after it was lost; then the
	// one before must not.
	e.data = data
	if res := e.run(); !hasNote(res, "another state directory") {
		t.Errorf("another state directory of the same node: the notes are %q", res.Notes)
	}
	e.state = state
	e.refused("since then from elsewhere")
	if res := e.run(takeOver); res.Record.Type != manifest.Full {
		t.Errorf("taken back: got a %s backup", res.Record.Type)
	}
	e.run()

	// A node of another name is another one, also with a copy of the files.
	e.state = t.TempDir()
	e.refused("with the setting instance", func(o *backup.Options) { o.Node.NodeName = "couchdb@elsewhere" })
}

// TestNoShardMap holds that shards without a map that names them are damage, whether
// there was a backup before or not.
func TestNoShardMap(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, want string
		make       func(e *env, path string)
	}{
		{"missing", "it is missing", func(*env, string) {}},
		{"dangling", "where nothing is", func(e *env, path string) {
			if err := os.Symlink("/nonexistent/_dbs.couch", path); err != nil {
				e.t.Fatal(err)
			}
		}},
		{"fresh", "it names 0 databases, and 25 more are here", func(e *env, path string) { e.copyIn(freshMap, path) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			for _, instance := range []string{"before", "first"} {
				as := func(o *backup.Options) { o.Instance = instance }
				if instance == "before" {
					e.run(as)
					path := filepath.Join(e.data, "_dbs.couch")
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
					tt.make(e, path)
				}
				for range 2 { // and it stays damage
					res := e.run(as)
					if i := slices.IndexFunc(res.Damage, func(d manifest.Damage) bool {
						return d.Path == "_dbs.couch" && strings.Contains(d.Error, tt.want)
					}); i < 0 || res.Record.Status != manifest.CompletedDamaged {
						t.Errorf("%s: %s, with the damage %+v", instance, res.Record.Status, res.Damage)
					}
				}
				if _, err := e.try(as, func(o *backup.Options) { o.Strict = true }); !errors.Is(err, backup.ErrDamaged) {
					t.Errorf("%s, strict: got %v", instance, err)
				}
			}
		})
	}
}

// TestDatabasesGoneWithTheMap holds that databases that go away together with their map
// are damage, and said once.
func TestDatabasesGoneWithTheMap(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.run()
	e.copyIn(freshMap, filepath.Join(e.data, "_dbs.couch"))
	for _, path := range e.couchFiles() {
		if strings.Contains(path, "/viewed.") {
			if err := os.Remove(filepath.Join(e.data, path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := func(d manifest.Damage) bool { return d.What == "databases" && strings.Contains(d.Error, "viewed") }
	if res := e.run(); !slices.ContainsFunc(res.Damage, gone) {
		t.Errorf("got the damage %+v", res.Damage)
	}
	if res := e.run(); slices.ContainsFunc(res.Damage, gone) {
		t.Errorf("it is told again: %+v", res.Damage)
	}
}

// TestIndexesGone holds that it is told when all indexes are gone.
func TestIndexesGone(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if res := e.run(); hasNote(res, "view index") {
		t.Errorf("with the indexes in place the notes are %q", res.Notes)
	}
	hidden, err := filepath.Glob(filepath.Join(e.data, ".*_design"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(hidden, filepath.Join(e.data, ".shards")) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if res := e.run(); !hasNote(res, "no view index is in") || len(res.Damage) > 0 {
		t.Errorf("without them the notes are %q, and the damage %+v", res.Notes, res.Damage)
	}
	if res := e.run(); hasNote(res, "no view index is in") {
		t.Errorf("it is told again: %q", res.Notes)
	}
}

// TestServerServesOtherFiles holds what a server said against the files.
func TestServerServesOtherFiles(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	id, _ := state.Identify(e.options(e.store).Node)
	serve := func(s node.Served) func(*backup.Options) {
		return func(o *backup.Options) { s.URL = "http://127.0.0.1:5984"; o.Node.Served = &s }
	}
	for _, s := range []node.Served{{MapUUID: strings.Repeat("0", 32)}, {Databases: []string{"_replicator", "_users", "orders"}}, {Databases: []string{"_users"}}} {
		e.refused("not those that the server at http://127.0.0.1:5984 serves", serve(s))
	}
	for _, s := range []node.Served{{MapUUID: id.MapUUID}, {Databases: []string{"_users", "orders", "viewed"}}} {
		if _, err := e.try(serve(s)); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// TestServerTellsItsMap asks a real server for the uuid of its shard map, which is that of
// the file, and backs it up before and after a database was deleted.
func TestServerTellsItsMap(t *testing.T) {
	t.Parallel()
	live := testenv.CouchDB(t, testenv.Options{})
	for _, db := range []string{"stays", "goes"} {
		must(t, live.Put(testenv.DBPath(db)+"?q=2", nil, nil))
	}
	n, err := node.Locate(t.Context(), node.Options{URL: live.URL, User: live.Admin, Password: live.Password, HTTP: &http.Client{}})
	must(t, err)
	id, name := state.Identify(n)
	if n.Served == nil || id.MapUUID == "" || n.Served.MapUUID != id.MapUUID || id.ServerUUID == "" || name == "" {
		t.Errorf("the server tells %+v, and the files are of %+v, node %q", n.Served, id, name)
	}
	e := newLiveEnv(t, live.DataDir)
	asked := func(o *backup.Options) { o.Node = n }
	if res := e.run(asked); res.Record.Identity != id {
		t.Errorf("the record says that it is of %+v, not of %+v", res.Record.Identity, id)
	}
	must(t, live.Delete(testenv.DBPath("goes")))
	for left := []string{""}; len(left) > 0; time.Sleep(10 * time.Millisecond) { // it removes the files after it has answered
		left, err = filepath.Glob(filepath.Join(live.DataDir, "shards", "*", "goes.*"))
		must(t, err)
	}
	if res := e.run(asked); !hasNote(res, "deleted since the backup before: goes.") || len(res.Damage) > 0 {
		t.Errorf("after a database was deleted the notes are %q, and the damage %+v", res.Notes, res.Damage)
	}
}

// Where CouchDB doesn't find a shard's file it makes an empty one at its place. That is
// damage until a full backup says that it is right, and if it is so of all shards, none
// is backed up: their disk isn't mounted.
func TestShardsMadeAnew(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.run()
	var shards []string
	for _, path := range e.couchFiles() {
		if strings.HasPrefix(path, "shards/") {
			shards = append(shards, path)
		}
	}
	const other = "shards/00000000-7fffffff/attach.1795334389.couch"
	swap := func(from, path string) {
		e.copyIn(filepath.Join(fixtures, "data", from), filepath.Join(e.data, path))
	}
	i := slices.IndexFunc(shards, func(path string) bool { return strings.Contains(path, "/viewed.") })
	swap(other, shards[i])
	anew := func(d manifest.Damage) bool { return d.What == "shard made anew" && d.Path == shards[i] }
	for n := range 2 {
		if res := e.run(); !slices.ContainsFunc(res.Damage, anew) || res.Record.Status != manifest.CompletedDamaged {
			t.Errorf("backup %d: %s, damage %+v", n, res.Record.Status, res.Damage)
		}
	}
	strict := e.options(e.store)
	strict.Strict = true
	if _, err := backup.Run(t.Context(), strict); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("with Strict: %v", err)
	}
	if res := e.run(func(o *backup.Options) { o.Full = true }); slices.ContainsFunc(res.Damage, anew) {
		t.Errorf("a full backup tells it: %+v", res.Damage)
	}
	if res := e.run(); slices.ContainsFunc(res.Damage, anew) {
		t.Errorf("after a full backup it is told: %+v", res.Damage)
	}
	for _, path := range shards {
		if path != batches {
			swap(batches, path)
		}
	}
	if err := os.Remove(filepath.Join(e.data, batches)); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Run(t.Context(), e.options(e.store)); !errors.Is(err, backup.ErrOtherNode) {
		t.Errorf("all shards made anew: %v", err)
	}
}
