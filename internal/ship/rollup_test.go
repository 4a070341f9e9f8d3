package ship_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// counting counts what is asked of a storage.
type counting struct {
	storage.Store
	puts, gets, lists, deletes, stats atomic.Int64
}

func (c *counting) Put(ctx context.Context, key storage.Key, body storage.Body, o storage.PutOptions) error {
	c.puts.Add(1)
	return c.Store.Put(ctx, key, body, o)
}

func (c *counting) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	c.gets.Add(1)
	return c.Store.Get(ctx, key, off, n, fn)
}

func (c *counting) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	c.lists.Add(1)
	return c.Store.List(ctx, prefix, fn)
}

func (c *counting) Delete(ctx context.Context, key storage.Key) error {
	c.deletes.Add(1)
	return c.Store.Delete(ctx, key)
}

func (c *counting) Stat(ctx context.Context, key storage.Key) (storage.Info, error) {
	c.stats.Add(1)
	return c.Store.Stat(ctx, key)
}

func (c *counting) all() int64 {
	return c.puts.Load() + c.gets.Load() + c.lists.Load() + c.deletes.Load() + c.stats.Load()
}

// Ticks are rolled up out of the files, nothing of them is read from the storage, and every moment is
// still there, byte for byte.
func TestRollUps(t *testing.T) {
	t.Parallel()
	live := testenv.CouchDB(t, testenv.Options{})
	rnd := rand.New(rand.NewPCG(12, 2))
	must(t, live.Put("/a?q=1", nil, nil))
	must(t, live.Put("/b?q=2", nil, nil))
	e := newEnv(t, live.DataDir)
	store := &counting{Store: e.store}
	e.store = store
	for i := range 200 {
		must(t, live.Put(fmt.Sprintf("/a/first%d", i), map[string]any{"text": strings.Repeat("y", 300)}, nil))
	}
	e.backup(func(o *backup.Options) { o.Tails = backup.Whole })
	s := e.ship()
	type state struct {
		at    time.Time
		files map[string][]byte
	}
	var states []state
	docs := 0
	most := 0
	for i := range 90 {
		for range 1 + rnd.IntN(3) {
			docs++
			db := "ab"[rnd.IntN(2)]
			if i > 50 && i <= 60 { // when b isn't there
				db = 'a'
			}
			must(t, live.Put(fmt.Sprintf("/%c/doc%d", db, docs), map[string]any{"n": docs}, nil))
		}
		switch i {
		case 30:
			must(t, live.Compact("a"))
		case 40, 80:
			must(t, s.Close())
			s = e.ship()
		case 50:
			must(t, live.Delete("/b"))
		case 60:
			must(t, live.Put("/b?q=2", nil, nil))
		}
		e.clock = e.clock.Add(time.Minute)
		s.Settle(t.Context(), t)
		if i%3 == 0 {
			states = append(states, state{e.now(), e.files()})
		}
		n := 0
		must(t, store.List(t.Context(), "ship/", func(storage.Info) error { n++; return nil }))
		most = max(most, n)
	}
	if got := store.gets.Load(); got > 200 {
		t.Errorf("%d reads of the storage while shipping", got)
	}
	if most > 40 {
		t.Errorf("%d objects at a time, for 90 minutes", most)
	}
	merged := 0
	for i, st := range states {
		got, m := e.moment(st.at)
		what := fmt.Sprintf("moment %d, tick %d", i, m.Tick)
		e.compare(what, got, st.files)
		merged += e.holdDocuments(what, st.at, st.files)
	}
	if merged < 20 {
		t.Errorf("%d databases were merged", merged)
	}
	t.Logf("%d objects at most, %d puts, %d deletes, %d gets, %d lists", most, store.puts.Load(), store.deletes.Load(), store.gets.Load(), store.lists.Load())
}

// text returns text that compresses little.
func text(rnd *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(rnd.IntN(26))
	}
	return string(b)
}

// A compaction is shipped as what happened, also where the backup remembered nothing of the database.
func TestCompactionIsReplayed(t *testing.T) {
	t.Parallel()
	live := testenv.CouchDB(t, testenv.Options{})
	rnd := rand.New(rand.NewPCG(12, 3))
	must(t, live.Put("/a?q=1", nil, nil))
	fill := func(from int) {
		var docs []map[string]any
		for i := range 500 {
			docs = append(docs, map[string]any{"_id": fmt.Sprintf("doc%05d", from+i), "text": text(rnd, 1200)})
		}
		must(t, live.Post("/a/_bulk_docs", map[string]any{"docs": docs}, nil))
	}
	fill(0)
	e := newEnv(t, live.DataDir)
	e.backup(func(o *backup.Options) { o.Compaction = backup.Whole })
	s := e.ship()
	s.Settle(t.Context(), t)
	for i := range 3 {
		fill(1000 * (i + 1))
		s.Settle(t.Context(), t)
		before := s.Status().Bytes
		must(t, live.Compact("a"))
		s.Settle(t.Context(), t)
		files := e.files()
		size := 0
		for p, b := range files {
			if strings.Contains(p, "/a.") {
				size = len(b)
			}
		}
		if got := s.Status().Bytes - before; got > int64(size/20) {
			t.Errorf("compaction %d of %d bytes stored %d", i, size, got)
		}
		at := e.now()
		got, _ := e.moment(at)
		e.compare(fmt.Sprintf("after compaction %d", i), got, files)
	}
}

// What was not rolled up of a database that is compacted is taken once more, out of the old file, with its
// last commits: no roll-up needs the ticks any more.
func TestCompactionClosesGeneration(t *testing.T) {
	t.Parallel()
	live := testenv.CouchDB(t, testenv.Options{})
	rnd := rand.New(rand.NewPCG(12, 4))
	must(t, live.Put("/a?q=1", nil, nil))
	for i := range 300 {
		must(t, live.Put(fmt.Sprintf("/a/first%d", i), map[string]any{"text": text(rnd, 1000)}, nil))
	}
	e := newEnv(t, live.DataDir)
	e.backup()
	s := e.ship()
	s.Settle(t.Context(), t)
	for i := range 20 {
		must(t, live.Put(fmt.Sprintf("/a/doc%d", i), map[string]any{"text": text(rnd, 1000)}, nil))
		e.clock = e.clock.Add(time.Second)
		s.Settle(t.Context(), t)
	}
	// On a busy machine the system may tell of a compaction when it is over. So one is announced before.
	shard := ""
	for p := range e.files() {
		if strings.Contains(p, "/a.") {
			shard = p
		}
	}
	announced := filepath.Join(e.data, shard+".compact.data")
	must(t, os.WriteFile(announced, nil, 0o600))
	for end := time.Now().Add(time.Minute); !s.Holds(shard); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s is not held open", shard)
		}
		must(t, s.Tick(t.Context()))
	}
	must(t, os.Remove(announced))
	must(t, live.Put("/a/last", map[string]any{"text": "not ticked before the compaction"}, nil))
	must(t, live.Compact("a"))
	s.Settle(t.Context(), t)
	at, files := e.now(), e.files()
	e.clock = e.clock.Add(6 * time.Minute)
	s.Settle(t.Context(), t)
	var left []string
	must(t, e.store.List(t.Context(), "ship/", func(i storage.Info) error { left = append(left, string(i.Key)); return nil }))
	if len(left) > 4 {
		t.Errorf("%d objects are left: %s", len(left), strings.Join(left, "\n"))
	}
	got, _ := e.moment(at)
	e.compare("after the compaction", got, files)
}

// retaining protects objects, unless it is broken.
type retaining struct {
	*mem.Retaining
	broken atomic.Bool
}

func (r *retaining) Retain(ctx context.Context, key storage.Key, until time.Time) error {
	if r.broken.Load() {
		return errGone
	}
	return r.Retaining.Retain(ctx, key, until)
}

// Roll-ups of an hour, and what they refer to, are protected by a storage that can do that; what a later one deletes isn't.
func TestProtection(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	_, err := couchgen.DataDir(data, couchgen.DirOptions{Databases: 1, Q: 1, DocsPerDB: 100, DocBytes: 30_000, Seed: 40})
	must(t, err)
	e := newEnv(t, data)
	store := &retaining{Retaining: mem.NewRetaining()}
	e.store = store
	_, err = repo.Init(t.Context(), e.store, repo.InitOptions{Recipients: []string{e.identity.(*age.X25519Identity).Recipient().String()}})
	must(t, err)
	e.backup()
	o := e.options()
	o.Protect = 100 * 24 * time.Hour
	s, err := ship.Open(t.Context(), o)
	must(t, err)
	for i := range 16 {
		store.broken.Store(i < 8) // the first roll-up of an hour isn't protected at once
		e.growLarge(uint64(i), 0.2)
		e.clock = e.clock.Add(10 * time.Minute)
		s.Settle(t.Context(), t)
	}
	must(t, s.Close())
	h, err := e.repo().History(t.Context(), "node1", time.Time{})
	must(t, err)
	want := map[storage.Key]bool{}
	long := 0
	for _, l := range h.Chains[0].Links {
		if !l.Tick.Long {
			continue
		}
		long++
		want[storage.Key("ship/node1/"+l.String()+".zst.age")] = true
		index, _, err := e.repo().ReadTick(t.Context(), "node1", l.Shipped)
		must(t, err)
		for _, p := range index.Parts {
			want[storage.Key("ship/node1/"+p.Key+".zst.age")] = true
		}
	}
	if long < 2 || len(want) <= long {
		t.Fatalf("%d roll-ups of an hour, %d objects", long, len(want))
	}
	var keys []storage.Key
	must(t, store.List(t.Context(), "ship/", func(i storage.Info) error { keys = append(keys, i.Key); return nil }))
	for _, key := range keys {
		if err := store.Delete(t.Context(), key); errors.Is(err, storage.ErrRetained) != want[key] {
			t.Errorf("%s, which is to be protected: %v, deleted: %v", key, want[key], err)
		}
	}
}
