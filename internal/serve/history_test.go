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
