package serve_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// grown is a repository with a backup of each step of the database timeline, an hour apart.
func grown(t *testing.T, list []*point) (r *repo.Repo, ids []manifest.BackupID) {
	t.Helper()
	data, stateDir := t.TempDir(), t.TempDir()
	must(t, os.CopyFS(data, os.DirFS(fixtures+"/data")))
	r = servetest.Init(t, mem.New())()
	start := time.Now().Add(-100 * time.Hour)
	for i, p := range list {
		for name, s := range p.Shards {
			whole, err := os.ReadFile(filepath.Join(fixtures, "data", filepath.FromSlash(name)+".couch"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(data, filepath.FromSlash(name)+".couch"), whole[:s.Sizes.File], 0o600))
		}
		n, err := node.Locate(t.Context(), node.Options{DataDir: data})
		must(t, err)
		tick := time.Duration(0)
		res, err := backup.Run(t.Context(), backup.Options{Repo: r, Node: n, Instance: "node1", StateDir: stateDir, Name: fmt.Sprint(i), Tool: "test",
			Now: func() time.Time { tick += time.Millisecond; return start.Add(time.Duration(i)*time.Hour + tick) }})
		must(t, err)
		ids = append(ids, res.Record.ID)
	}
	return r, ids
}

// Of each document the history is what the server answered step by step.
func TestHistoryAsServer(t *testing.T) {
	t.Parallel()
	list := points(t)
	r, ids := grown(t, list)
	docs := map[string]bool{}
	for _, p := range list {
		for id := range p.state() {
			docs[id] = true
		}
	}
	states := 0
	for id := range docs {
		type step struct {
			rev         string
			first, last int
		}
		var want []step
		for i, p := range list {
			rev := p.state()[id]
			if n := len(want); n > 0 && want[n-1].rev == rev {
				want[n-1].last = i
			} else if n > 0 || rev != "" {
				want = append(want, step{rev, i, i})
			}
		}
		history, err := serve.History(t.Context(), r, "node1", "timeline", id)
		must(t, err)
		got := history.States
		if len(got) != len(want) {
			t.Errorf("%s: %+v, want %+v", id, got, want)
			continue
		}
		was := ""
		for i, w := range want {
			g := got[i]
			if g.Rev != strings.TrimSuffix(w.rev, " deleted") || g.Kind != kindOf(was, w.rev) || !slices.Contains(ids[w.first:w.last+1], g.From) ||
				g.First.After(g.Last) || w.first == w.last && !g.First.Equal(g.Last) {
				t.Errorf("%s, state %d: %+v, want %+v, %s", id, i, g, w, kindOf(was, w.rev))
			}
			was = w.rev
			states++
		}
	}
	if states < 40 {
		t.Errorf("%d states were compared", states)
	}
	if _, err := serve.History(t.Context(), r, "node1", "timeline", "no such document"); !errors.Is(err, couchfile.ErrNotFound) {
		t.Errorf("a document that never was: %v", err)
	}
	if _, err := serve.History(t.Context(), r, "node1", "nosuch", "x"); !errors.Is(err, serve.ErrNoDatabase) {
		t.Errorf("a database that never was: %v", err)
	}
}

// A node has a file of its own beside some clustered databases, which has none of their documents.
func TestHistoryOfUser(t *testing.T) {
	t.Parallel()
	r, m := servetest.Backup(t, fixtures+"/data")
	for range 20 { // in the order of a map
		h, err := serve.History(t.Context(), r, m.Instance, "_users", "org.couchdb.user:ada")
		must(t, err)
		if len(h.States) != 1 || h.States[0].Kind != serve.DocAdded || len(h.Revisions) != 1 {
			t.Fatalf("its history is %+v", h)
		}
	}
}

// A node's own file of a clustered database's name is no shard of it: not in what can be had back, not when a commit is looked
// for, and not where no shard map tells what the shards are.
func TestOwnFileBesideDatabase(t *testing.T) {
	t.Parallel()
	data, state, r := t.TempDir(), t.TempDir(), servetest.Init(t, mem.New())()
	must(t, os.CopyFS(data, os.DirFS(fixtures+"/data")))
	if _, err := os.Stat(filepath.Join(data, "_users.couch")); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(data, "shards", "*", "_users.*.couch"))
	must(t, err)
	if len(found) != 2 {
		t.Fatalf("the shards of _users are %q", found)
	}
	away := func(path string) string {
		return filepath.Join(state, filepath.Base(filepath.Dir(path))+filepath.Base(path))
	}
	start := time.Now().Add(-100 * time.Hour)
	backUp := func(hour int) *manifest.Record {
		t.Helper()
		n, err := node.Locate(t.Context(), node.Options{DataDir: data})
		must(t, err)
		tick := time.Duration(0)
		res, err := backup.Run(t.Context(), backup.Options{Repo: r, Node: n, Instance: "node1", StateDir: state, Name: fmt.Sprint(hour), Tool: "test",
			Now: func() time.Time { tick += time.Millisecond; return start.Add(time.Duration(hour)*time.Hour + tick) }})
		must(t, err)
		return res.Record
	}
	users := func() *repo.PointsDB {
		t.Helper()
		p, err := r.Points(t.Context(), "node1", func(db string) bool { return db == "_users" || db == "_nodes" })
		must(t, err)
		if n := len(p.Databases); n == 0 || p.Databases[0].DB != "_nodes" || !p.Databases[0].There || n > 2 {
			t.Fatalf("the databases are %+v", p.Databases)
		}
		return p.Databases[len(p.Databases)-1]
	}
	for _, f := range found {
		must(t, os.Rename(f, away(f)))
	}
	backUp(0) // nobody has made the database yet
	for _, f := range found {
		must(t, os.Rename(away(f), f))
	}
	made := backUp(1)
	if db := users(); db.DB != "_users" || !db.There || db.First.Before(made.Started) || len(db.Events) != 1 || db.Events[0].What != repo.Made || db.Events[0].Shards != 2 {
		t.Errorf("of the two shards that were made it is told: %+v", db)
	}

	_, _, err = r.AtCommit(t.Context(), "node1", time.Time{}, repo.Commit{DB: "_users", Seqs: map[shard.Range]uint64{{}: 1}})
	if !errors.Is(err, repo.ErrNoCommit) || !strings.Contains(err.Error(), "_users has 2 shards here") || strings.Contains(err.Error(), shard.Full.String()) {
		t.Errorf("a number for one shard of two: %v", err)
	}
	_, _, err = r.AtCommit(t.Context(), "node1", time.Time{}, repo.Commit{DB: "_users", Seqs: map[shard.Range]uint64{shard.Full: 1}})
	if !errors.Is(err, repo.ErrNoCommit) || !strings.Contains(err.Error(), "has no shard "+shard.Full.String()) {
		t.Errorf("a number for a shard that there is not: %v", err)
	}
	m, _, err := r.AtCommit(t.Context(), "node1", time.Time{}, repo.Commit{DB: "_users", Doc: "org.couchdb.user:ada"})
	must(t, err)
	before := servetest.Open(t, r, m)
	if d, err := before.Database("_users"); err != nil || len(d.Shards) != 2 {
		t.Errorf("before its user was made _users is %+v, %v", d, err)
	}
	if tl, err := r.Timeline(t.Context(), "node1", "_users"); err != nil || len(tl.States) != 2 || len(tl.States[0].Shards) != 0 || len(tl.States[1].Shards) != 2 {
		t.Errorf("its time line is %+v, %v", tl, err)
	}

	for _, f := range found {
		must(t, os.Rename(f, away(f)))
	}
	backUp(2)
	if db := users(); db.There || len(db.Events) != 2 || db.Events[1].What != repo.Dropped || db.Events[1].Shards != 2 {
		t.Errorf("of the two shards that are gone it is told: %+v", db)
	}

	for _, f := range found {
		must(t, os.Rename(away(f), f))
	}
	must(t, os.Remove(filepath.Join(data, "_dbs.couch")))
	noMap, err := r.Manifest(t.Context(), backUp(3))
	must(t, err)
	if d, err := servetest.Open(t, r, noMap).Database("_users"); err != nil || len(d.Shards) != 2 {
		t.Errorf("without a shard map _users is %+v, %v", d, err)
	}
	for _, f := range found {
		must(t, os.Remove(f))
	}
	own, err := r.Manifest(t.Context(), backUp(4))
	must(t, err)
	if d, err := servetest.Open(t, r, own).Database("_users"); err != nil || len(d.Shards) != 1 {
		t.Errorf("without shards the node's own _users is %+v, %v", d, err)
	}
}

// A database of a CouchDB 1.x of which a later version made shards has the past of its one file.
func TestHistoryOfUpgradedDatabase(t *testing.T) {
	t.Parallel()
	data, state, r := t.TempDir(), t.TempDir(), servetest.Init(t, mem.New())()
	must(t, os.CopyFS(data, os.DirFS(fixtures+"/data")))
	found, err := filepath.Glob(filepath.Join(data, "shards", "*", "_users.*.couch"))
	must(t, err)
	start := time.Now().Add(-100 * time.Hour)
	var made []*manifest.Record
	backUp := func() {
		t.Helper()
		n, err := node.Locate(t.Context(), node.Options{DataDir: data})
		must(t, err)
		tick, hour := time.Duration(0), time.Duration(len(made))*time.Hour
		res, err := backup.Run(t.Context(), backup.Options{Repo: r, Node: n, Instance: "node1", StateDir: state, Name: fmt.Sprint(hour), Tool: "test",
			Now: func() time.Time { tick += time.Millisecond; return start.Add(hour + tick) }})
		must(t, err)
		made = append(made, res.Record)
	}
	var halves [2][]byte // the second has the user
	for n, f := range found {
		halves[n], err = os.ReadFile(f)
		must(t, err)
	}
	must(t, os.WriteFile(filepath.Join(data, "sales.couch"), halves[1], 0o600))
	backUp()
	for n, f := range found {
		must(t, os.WriteFile(filepath.Join(filepath.Dir(f), "sales.1700000000.couch"), halves[n], 0o600))
	}
	backUp()
	for range 20 { // in the order of a map
		h, err := serve.History(t.Context(), r, "node1", "sales", "org.couchdb.user:ada")
		must(t, err)
		if len(h.States) != 1 || h.States[0].From != made[0].ID {
			t.Fatalf("its history is %+v, and it was there in the first backup, %s", h, made[0].ID)
		}
	}
	p, err := r.Points(t.Context(), "node1", func(db string) bool { return db == "sales" })
	must(t, err)
	if len(p.Databases) != 1 || p.Databases[0].First.After(made[0].Finished) {
		t.Errorf("it can be had back from %+v on", p.Databases)
	}
}
