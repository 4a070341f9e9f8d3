package restore_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// history is a CouchDB that is shipped while much happens to it, by a clock that goes faster than time.
type history struct {
	t     *testing.T
	couch *testenv.Couch
	repo  *repo.Repo
	node  *node.Node
	state string
	rnd   *rand.Rand
	ship  *ship.Shipper

	mu    sync.Mutex
	clock time.Time // guarded by mu
}

// answers are what a server says of its databases: the winner of each document, with a "-" in front of deleted ones.
type answers map[string]map[string]string

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, couch: testenv.CouchDB(t, testenv.Options{}), state: t.TempDir(), rnd: rand.New(rand.NewPCG(seed, 1)), clock: time.Now()}
	id, err := age.GenerateX25519Identity()
	h.must(err)
	store := mem.New()
	_, err = repo.Init(t.Context(), store, repo.InitOptions{Recipients: []string{id.Recipient().String()}})
	h.must(err)
	h.repo, err = repo.Open(t.Context(), store, repo.Options{Identities: []age.Identity{id}, Now: h.now})
	h.must(err)
	h.node, err = node.Locate(t.Context(), node.Options{DataDir: h.couch.DataDir})
	h.must(err)
	return h
}

func (h *history) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock = h.clock.Add(3 * time.Millisecond)
	return h.clock
}

func (h *history) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock = h.clock.Add(d)
}

func (h *history) backup() {
	h.t.Helper()
	_, err := backup.Run(h.t.Context(), backup.Options{Repo: h.repo, Node: h.node, Instance: "db1", StateDir: h.state, Name: "test", Tool: "test", Indexes: true,
		Compaction: backup.Replay, Tails: backup.Replay, Now: h.now})
	h.must(err)
}

func (h *history) open() {
	h.t.Helper()
	var err error
	h.ship, err = ship.Open(h.t.Context(), ship.Options{Repo: h.repo, Node: h.node, Instance: "db1", StateDir: h.state, Tool: "test", Now: h.now})
	h.must(err)
}

// reopen ships with a new shipper, which looks at all files.
func (h *history) reopen() {
	h.t.Helper()
	h.must(h.ship.Close())
	h.open()
	h.must(h.ship.Tick(h.t.Context()))
	h.must(h.ship.Tick(h.t.Context())) // a file is gone once it was not there twice
}

func (h *history) dbs() (out []string) {
	h.t.Helper()
	var all []string
	h.must(h.couch.Get("/_all_dbs", &all))
	for _, db := range all {
		if db[0] != '_' {
			out = append(out, db)
		}
	}
	return out
}

// write changes some documents, and deletes some.
func (h *history) write(db string, n int) {
	docs := make([]any, n)
	var rows struct {
		Rows []struct{ Value struct{ Rev string } }
	}
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("doc%d", h.rnd.IntN(80))
	}
	h.must(h.couch.Post(testenv.DBPath(db, "_all_docs"), map[string]any{"keys": ids}, &rows))
	for i, id := range ids {
		doc := map[string]any{"_id": id, "n": h.rnd.IntN(1e6), "text": strings.Repeat("x", h.rnd.IntN(1500))}
		if rev := rows.Rows[i].Value.Rev; rev != "" {
			doc["_rev"] = rev
			if h.rnd.IntN(6) == 0 {
				doc = map[string]any{"_id": id, "_rev": rev, "_deleted": true}
			}
		}
		docs[i] = doc
	}
	h.must(h.couch.Post(testenv.DBPath(db, "_bulk_docs"), map[string]any{"docs": docs}, nil))
}

// something happens, while the shipper ticks.
func (h *history) something(i int) {
	h.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1 + h.rnd.IntN(3) {
			dbs := h.dbs()
			if len(dbs) == 0 {
				h.must(h.couch.Put("/db0?q=2", nil, nil))
				continue
			}
			db := dbs[h.rnd.IntN(len(dbs))]
			switch k := h.rnd.IntN(20); {
			case k < 13:
				h.write(db, 1+h.rnd.IntN(15))
			case k < 15:
				h.must(h.couch.Compact(db))
			case k < 16 && len(dbs) > 1:
				h.must(h.couch.Delete(testenv.DBPath(db)))
			default:
				err := h.couch.Put(fmt.Sprintf("/db%d?q=%d", h.rnd.IntN(4), 1+h.rnd.IntN(2)), nil, nil)
				if err != nil && testenv.Status(err) != 412 {
					h.must(err)
				}
			}
		}
	}()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		h.must(h.ship.Tick(h.t.Context()))
	}
	if i%9 == 8 {
		h.backup()
	}
}

func (h *history) answers() answers {
	h.t.Helper()
	out := answers{}
	for _, db := range h.dbs() {
		out[db] = changesOf(h.t, &h.couch.Client, db)
	}
	return out
}

func changesOf(t *testing.T, c *testenv.Client, db string) map[string]string {
	t.Helper()
	var got struct {
		Results []struct {
			ID      string
			Deleted bool
			Changes []struct{ Rev string }
		}
	}
	if err := c.Get(testenv.DBPath(db, "_changes"), &got); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range got.Results {
		out[r.ID] = r.Changes[0].Rev
		if r.Deleted {
			out[r.ID] = "-" + r.Changes[0].Rev
		}
	}
	return out
}

// read reads what restored files say of databases.
func read(t *testing.T, dir string) answers {
	t.Helper()
	out := answers{}
	list, err := filepath.Glob(filepath.Join(dir, "shards", "*", "*.couch"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range list {
		rel, _ := filepath.Rel(dir, path)
		n, err := shard.ParsePath(filepath.ToSlash(rel))
		if err != nil {
			t.Fatal(err)
		}
		if n.DB[0] == '_' {
			continue
		}
		if out[n.DB] == nil {
			out[n.DB] = map[string]string{}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for doc, err := range open(t, path).Docs(couchfile.DocsOptions{Deleted: true}) {
			if err != nil {
				t.Fatalf("%s (%d bytes): %v", path, len(b), err)
			}
			rev := doc.Winner().Rev.String()
			if doc.Deleted {
				rev = "-" + rev
			}
			out[n.DB][doc.ID] = rev
		}
	}
	return out
}

// told is what the server answered at a time.
type told struct {
	at, until time.Time
	answers   answers
}

// TestMomentsAnswerAsServer brings random moments of a random history back, and holds them against what the server
// answered then. SLIPCOVER_ROUNDS makes it longer.
func TestMomentsAnswerAsServer(t *testing.T) {
	t.Parallel()
	h := newHistory(t, testenv.Seed(t))
	for i := range 3 {
		h.must(h.couch.Put(fmt.Sprintf("/db%d?q=2", i), nil, nil))
		h.write(fmt.Sprintf("db%d", i), 20)
	}
	h.backup()
	h.open()
	defer func() {
		if h.ship != nil {
			_ = h.ship.Close()
		}
	}()
	var list []told
	for i := range testenv.Computed(40, 12) {
		h.something(i)
		h.reopen()
		k := told{at: h.now(), answers: h.answers()}
		h.pass(time.Duration(h.rnd.IntN(100)) * time.Second)
		k.until = h.now()
		list = append(list, k)
	}
	started := 0
	for _, i := range h.rnd.Perm(len(list)) {
		k := list[i]
		at := k.at.Add(time.Duration(h.rnd.Int64N(int64(k.until.Sub(k.at)))))
		m, moment, err := h.repo.At(t.Context(), "db1", at)
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		to := t.TempDir()
		res := files(t, restore.Options{Repo: h.repo, Record: moment.Base, Moment: m, To: to, History: restore.HistoryKept})
		if !res.OK() {
			t.Errorf("round %d: %v %v", i, res.Problems, res.Damaged)
		}
		got := read(t, to)
		maps.DeleteFunc(got, func(db string, _ map[string]string) bool { return !slices.Contains(res.Databases, db) }) // files go after the map's entry
		h.compare(fmt.Sprintf("round %d, tick %d", i, moment.Tick), got, k.answers)
		if started < 2 && len(k.answers) > 0 {
			started++
			h.serve(i, m, moment, k.answers)
		}
		h.undelete(list, i)
		if t.Failed() {
			return
		}
	}
}

func (h *history) compare(what string, got, want answers) {
	h.t.Helper()
	if g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(g, w) {
		h.t.Errorf("%s: the databases are %v, want %v", what, g, w)
		return
	}
	for db := range want {
		if !maps.Equal(got[db], want[db]) {
			h.t.Errorf("%s: %s is %v, want %v", what, db, got[db], want[db])
		}
	}
}

// serve has a real CouchDB answer out of a moment.
func (h *history) serve(i int, m *manifest.Manifest, moment *repo.Moment, want answers) {
	h.t.Helper()
	made, err := restore.Create(h.t.Context(), restore.CreateOptions{Repo: h.repo, Record: moment.Base, Moment: m, Name: "copy",
		Dir: filepath.Join(h.t.TempDir(), "copy"), Start: true, Timeout: patience, History: restore.HistoryKept})
	h.must(err)
	defer func() { h.must(removeNow(made.Dir)) }()
	c := &testenv.Client{URL: made.URL, Admin: made.User, Password: made.Password}
	for db, docs := range want {
		if got := changesOf(h.t, c, db); !maps.Equal(got, docs) {
			h.t.Errorf("round %d: a server says of %s %v, want %v", i, db, got, docs)
		}
	}
}

// undelete brings a database back that was dropped right after a round.
func (h *history) undelete(list []told, i int) {
	h.t.Helper()
	for db, docs := range list[i].answers {
		if i+1 == len(list) || list[i+1].answers[db] != nil {
			continue
		}
		m, moment, err := h.repo.At(h.t.Context(), "db1", list[i].until)
		h.must(err)
		to := h.t.TempDir()
		files(h.t, restore.Options{Repo: h.repo, Record: moment.Base, Moment: m, To: to, Databases: []string{db}, History: restore.HistoryByMoment})
		if got := read(h.t, to)[db]; !maps.Equal(got, docs) {
			h.t.Errorf("round %d: undeleted, %s is %v, want %v", i, db, got, docs)
		}
		p, err := h.repo.Points(h.t.Context(), "db1", func(name string) bool { return name == db })
		h.must(err)
		if len(p.Databases) != 1 || !slices.ContainsFunc(p.Databases[0].Events, func(e repo.DatabaseEvent) bool { return e.What == repo.Dropped }) {
			h.t.Errorf("round %d: nothing tells that %s was dropped: %+v", i, db, p.Databases)
		}
	}
}
