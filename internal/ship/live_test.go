package ship_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// env is a node with a repository.
type env struct {
	t        testing.TB
	data     string
	state    string
	store    storage.Store
	identity age.Identity

	ticking sync.Mutex // of the clock: what reads databases to remember them looks at it too
	clock   time.Time
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newEnv(t testing.TB, data string) *env {
	t.Helper()
	return newEnvIn(t, data, mem.New())
}

func newEnvIn(t testing.TB, data string, store storage.Store) *env {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	must(t, err)
	e := &env{t: t, data: data, state: t.TempDir(), store: store, identity: id, clock: time.Now().Add(-30 * 24 * time.Hour)}
	_, err = repo.Init(t.Context(), e.store, repo.InitOptions{Recipients: []string{id.Recipient().String()}})
	must(t, err)
	return e
}

// now is a clock that never stands still.
func (e *env) now() time.Time {
	e.ticking.Lock()
	defer e.ticking.Unlock()
	e.clock = e.clock.Add(7 * time.Millisecond)
	return e.clock
}

func (e *env) repo() *repo.Repo {
	e.t.Helper()
	r, err := repo.Open(context.Background(), e.store, repo.Options{Identities: []age.Identity{e.identity}})
	must(e.t, err)
	return r
}

func (e *env) node() *node.Node {
	e.t.Helper()
	n, err := node.Locate(context.Background(), node.Options{DataDir: e.data})
	must(e.t, err)
	return n
}

func (e *env) backup(edit ...func(*backup.Options)) *manifest.Record {
	e.t.Helper()
	o := backup.Options{Repo: e.repo(), Node: e.node(), Instance: "node1", StateDir: e.state, Name: "test", Tool: "test", Indexes: true, Compaction: backup.Replay, Tails: backup.Replay, Now: e.now}
	for _, f := range edit {
		f(&o)
	}
	res, err := backup.Run(e.t.Context(), o)
	must(e.t, err)
	return res.Record
}

func (e *env) options() ship.Options {
	return ship.Options{Repo: e.repo(), Node: e.node(), Instance: "node1", StateDir: e.state, Tool: "test", Now: e.now}
}

func (e *env) ship() *ship.Shipper {
	e.t.Helper()
	s, err := ship.Open(e.t.Context(), e.options())
	must(e.t, err)
	e.t.Cleanup(func() { _ = s.Close() })
	return s
}

// files are the databases as they are, each up to its newest header.
func (e *env) files() map[string][]byte {
	e.t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(e.data, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(e.data, p)
		if err != nil || d.IsDir() || filepath.Ext(p) != ".couch" || strings.HasPrefix(rel, ".") {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return nil
		}
		if h, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b))); err == nil {
			out[filepath.ToSlash(rel)] = b[:h.End]
		}
		return nil
	})
	must(e.t, err)
	return out
}

// moment reads all databases of the moment at a time.
func (e *env) moment(at time.Time) (map[string][]byte, *repo.Moment) {
	e.t.Helper()
	r := e.repo()
	m, moment, err := r.At(e.t.Context(), "node1", at)
	if err != nil {
		e.t.Fatalf("at %s: %v", at, err)
	}
	return e.read(r, m), moment
}

// read reads all databases of a backup or moment.
func (e *env) read(r *repo.Repo, m *manifest.Manifest) map[string][]byte {
	e.t.Helper()
	rd := r.NewReader(m, m.Files)
	defer rd.Close()
	out := map[string][]byte{}
	for _, f := range m.Files {
		if f.Root != manifest.DataRoot || f.Kind == manifest.View {
			continue
		}
		var b bytes.Buffer
		if err := rd.Stream(e.t.Context(), f, func(p []byte) error { b.Write(p); return nil }); err != nil {
			e.t.Fatalf("%s of %s: %v", f.Path, m.Started, err)
		}
		out[f.Path] = b.Bytes()
	}
	return out
}

func (e *env) compare(what string, got, want map[string][]byte) {
	e.t.Helper()
	for p, b := range want {
		if !bytes.Equal(got[p], b) {
			e.t.Errorf("%s: %s has %d bytes, and had %d", what, p, len(got[p]), len(b))
		}
	}
	for p := range got {
		if want[p] == nil {
			e.t.Errorf("%s: %s is there, and was not", what, p)
		}
	}
}

// split splits a shard of a database, and waits for it.
func split(t *testing.T, live *testenv.Couch, db string) {
	t.Helper()
	var jobs []struct {
		ID string `json:"id"`
	}
	must(t, live.Post("/_reshard/jobs", map[string]any{"type": "split", "db": db, "range": "00000000-7fffffff"}, &jobs))
	for range 300 {
		var job struct {
			State string `json:"job_state"`
			Info  any    `json:"state_info"`
		}
		must(t, live.Get("/_reshard/jobs/"+jobs[0].ID, &job))
		switch job.State {
		case "completed":
			return
		case "failed":
			t.Fatalf("splitting a shard: %v", job.Info)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("splitting a shard takes too long")
}

// Each moment that was shipped is, byte for byte, what the files were.
func TestMoments(t *testing.T) {
	t.Parallel()
	live := testenv.CouchDB(t, testenv.Options{})
	rnd := rand.New(rand.NewPCG(12, 1))
	db := func(i int) string { return fmt.Sprintf("db%d", i) }
	for i := range 3 {
		must(t, live.Put(testenv.DBPath(db(i))+"?q=2", nil, nil))
	}
	e := newEnv(t, live.DataDir)
	write := func(n int) {
		for range n {
			id := fmt.Sprintf("doc%d", rnd.IntN(300))
			path := testenv.DBPath(db(rnd.IntN(3)), id)
			var old struct {
				Rev string `json:"_rev"`
			}
			_ = live.Get(path, &old)
			doc := map[string]any{"n": rnd.IntN(1e6), "text": strings.Repeat("x", rnd.IntN(2000))}
			if old.Rev != "" {
				doc["_rev"] = old.Rev
			}
			if err := live.Put(path, doc, nil); err != nil && testenv.Status(err) != 404 {
				t.Fatal(err)
			}
		}
	}
	write(50)
	e.backup()
	s := e.ship()
	type state struct {
		at    time.Time
		files map[string][]byte
	}
	var states []state
	for i := range 40 {
		write(rnd.IntN(12))
		switch i {
		case 10, 30:
			must(t, live.Compact("db1"))
		case 15:
			must(t, live.Delete("/db2"))
		case 18:
			must(t, live.Put("/db2?q=2", nil, nil))
		case 22:
			split(t, live, "db0")
		case 20:
			must(t, s.Close())
			s = e.ship()
		case 25:
			e.backup()
		}
		s.Settle(t.Context(), t)
		states = append(states, state{e.now(), e.files()})
	}
	merged := 0
	for i, st := range states {
		got, m := e.moment(st.at)
		what := fmt.Sprintf("moment %d, tick %d on %s", i, m.Tick, m.Base.ID.Short())
		e.compare(what, got, st.files)
		merged += e.holdDocuments(what, st.at, st.files)
	}
	if merged < 20 {
		t.Errorf("%d databases were merged", merged)
	}
	t.Logf("%+v", s.Status())
}
