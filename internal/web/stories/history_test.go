//go:build unix

package stories_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage/drivers"
	"github.com/slipcover/slipcover/internal/testenv"
)

// history is what all stories begin with: a CouchDB with a shop, and a repository with three days of it, written by the
// engines with a clock of their own. Each story has copies of what its server and agent write to, and the CouchDB is
// shared: a story that writes to it takes a database of its own, or no other one looks at what it changes.
//
//	shop     a backup each night at 03:04, shipped in between; its CouchDB runs
//	clinic   one backup, of a node with a damaged document; it has no agent
type history struct {
	t        testing.TB
	couch    *testenv.Couch // nil: no CouchDB runs
	data     string         // data directory of shop
	identity string         // path of the key that reads the repository
	public   string         // the key's public half
	repo     string         // folder
	state    string         // what the node of shop keeps
	day      time.Time      // when today began

	mu    sync.Mutex
	clock time.Time // guarded by mu
}

// Fixtures are a data directory, and files of it that are damaged.
const fixtures = "../../../testdata/couchdb-3.5.0"

// Times of the history, from the beginning of the day that they are on.
const (
	nightly = 3*time.Hour + 4*time.Minute
	morning = 9*time.Hour + 41*time.Minute
	loss    = 14*time.Hour + 30*time.Minute
)

// Lost are documents of orders that were deleted yesterday at the time of the loss, one for each browser.
var lost = []string{"order-1007", "order-1008"}

// hostile is a name that is a script wherever it is put into a page as it is.
const hostile = `"><img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`

// zone is that of all stories and their history: one in which it is about noon. So "yesterday" is the same day when the history is made and
// when it is looked at, and a night is always as long ago. Pictures have the machine's own.
var zone = sync.OnceValue(func() *time.Location {
	if *pictures {
		return time.Local
	}
	name := fmt.Sprintf("Etc/GMT%+d", time.Now().UTC().Hour()-12) // its signs are the other way round
	z, err := time.LoadLocation(name)
	if err != nil {
		panic(err)
	}
	return z
})

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newHistory makes it.
func newHistory(t testing.TB) *history {
	t.Helper()
	h, r := begin(t, t.TempDir())
	h.couch = testenv.CouchDB(t, testenv.Options{})
	h.data = h.couch.DataDir
	h.clinic(r)
	h.shop(r)
	return h
}

// newFiles makes one of files alone, in a folder: its shop is the fixture, or so many databases if that isn't 0, backed up in two nights and
// not shipped. No CouchDB runs.
func newFiles(t testing.TB, dir string, databases int) *history {
	t.Helper()
	h, r := begin(t, dir)
	h.clinic(r)
	h.data = filepath.Join(dir, "data")
	if databases == 0 {
		must(t, os.CopyFS(h.data, os.DirFS(filepath.Join(fixtures, "data"))))
	} else {
		_, err := couchgen.DataDir(h.data, couchgen.DirOptions{Databases: databases, Q: 1, DocsPerDB: 1, DocBytes: 100, Name: func(n int) string { return fmt.Sprintf("userdb-%05x", n) }})
		must(t, err)
	}
	h.at(-1, nightly)
	h.backup(r, "shop", h.data, h.state, "nightly")
	h.today(r)
	return h
}

// begin makes an empty repository, with a key of its own, in a folder.
func begin(t testing.TB, dir string) (*history, *repo.Repo) {
	t.Helper()
	h := &history{t: t, repo: filepath.Join(dir, "repo"), state: filepath.Join(dir, "state"), identity: filepath.Join(dir, "identity.txt")}
	must(t, os.MkdirAll(dir, 0o700))
	key, err := age.GenerateX25519Identity()
	must(t, err)
	h.public = key.Recipient().String()
	must(t, os.WriteFile(h.identity, []byte(key.String()+"\n"), 0o600))
	must(t, os.Mkdir(h.repo, 0o700))
	store, err := drivers.Open(t.Context(), h.repo, drivers.Options{})
	must(t, err)
	_, err = repo.Init(t.Context(), store, repo.InitOptions{Recipients: []string{h.public}})
	must(t, err)
	r, err := repo.Open(t.Context(), store, repo.Options{Identities: []age.Identity{key}})
	must(t, err)
	now := time.Now().In(zone())
	h.day = time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	return h, r
}

// now is a clock that never stands still.
func (h *history) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock = h.clock.Add(3 * time.Millisecond)
	return h.clock
}

// at sets the clock to so long after the beginning of a day, counted from today.
func (h *history) at(day int, since time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock = h.day.AddDate(0, 0, day).Add(since)
}

func (h *history) backup(r *repo.Repo, instance, data, state, name string) {
	h.t.Helper()
	n, err := node.Locate(h.t.Context(), node.Options{DataDir: data})
	must(h.t, err)
	_, err = backup.Run(h.t.Context(), backup.Options{Repo: r, Node: n, Instance: instance, StateDir: state, Name: name, Tool: "test", Indexes: true,
		Compaction: backup.Replay, Tails: backup.Replay, Now: h.now})
	must(h.t, err)
}

// clinic backs up a node of which a document can't be read.
func (h *history) clinic(r *repo.Repo) {
	h.t.Helper()
	data := filepath.Join(h.t.TempDir(), "clinic")
	must(h.t, os.CopyFS(data, os.DirFS(filepath.Join(fixtures, "data"))))
	b, err := os.ReadFile(filepath.Join(fixtures, "damaged", "bitflip-doc-body.couch"))
	must(h.t, err)
	must(h.t, os.WriteFile(filepath.Join(data, "shards", "00000000-7fffffff", "deletions.1795334388.couch"), b, 0o600))
	h.at(-2, nightly)
	h.backup(r, "clinic", data, filepath.Join(h.t.TempDir(), "clinic-state"), "nightly")
}

// shop writes three days of a shop.
func (h *history) shop(r *repo.Repo) {
	h.t.Helper()
	t := h.t
	backup := func(name string) { h.backup(r, "shop", h.data, h.state, name) }
	for _, db := range []string{"orders", "products", "customers", "messages"} {
		must(t, h.couch.Put("/"+db+"?q=2", nil, nil))
	}
	for i := range 12 {
		must(t, h.couch.Put(fmt.Sprintf("/userdb-%04x?q=1", 0xa001+i), nil, nil))
	}
	h.write("orders", 40, func(i int) any {
		return map[string]any{"_id": fmt.Sprintf("order-%04d", 1001+i), "total": 10 + 7*i, "currency": "EUR", "status": "new", "lines": []any{map[string]any{"sku": fmt.Sprintf("sku-%03d", i%20), "count": 1 + i%3}}}
	})
	h.write("products", 20, func(i int) any {
		return map[string]any{"_id": fmt.Sprintf("sku-%03d", i), "name": fmt.Sprintf("Product %d", i), "price": 5 + i}
	})
	h.write("customers", 15, func(i int) any {
		return map[string]any{"_id": fmt.Sprintf("customer-%02d", i), "name": fmt.Sprintf("Customer %d", i)}
	})
	h.write("messages", 5, func(i int) any {
		return map[string]any{"_id": fmt.Sprintf("message-%d", i), "text": "Hello"}
	})
	must(t, h.couch.Put(testenv.DBPath("messages", "page"), map[string]any{"text": hostile, hostile: hostile, "_attachments": map[string]any{
		"page.html":   map[string]any{"content_type": "text/html", "data": "PHNjcmlwdD5kb2N1bWVudC50aXRsZT0nb3duZWQnO2FsZXJ0KDEpPC9zY3JpcHQ+"}, // a script
		hostile:       map[string]any{"content_type": "text/plain", "data": "aGVsbG8="},
		"picture.svg": map[string]any{"content_type": "image/svg+xml", "data": "PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIG9ubG9hZD0iYWxlcnQoMSkiLz4="}, // with a script
		"type.bin":    map[string]any{"content_type": `text/html"><script>document.title='owned'</script>`, "data": "aGVsbG8="},
	}}, nil))
	must(t, h.couch.Put(testenv.DBPath("messages", hostile), map[string]any{"text": hostile}, nil))

	h.at(-3, nightly)
	backup("nightly")
	h.at(-3, morning)
	n, err := node.Locate(t.Context(), node.Options{DataDir: h.data})
	must(t, err)
	s, err := ship.Open(t.Context(), ship.Options{Repo: r, Node: n, Instance: "shop", StateDir: h.state, Tool: "test", Now: h.now})
	must(t, err)
	tick := func(day int, since time.Duration) {
		t.Helper()
		h.at(day, since)
		s.Look(t.Context())
		must(t, s.Tick(t.Context()))
	}
	h.edit("orders", "order-1003", map[string]any{"status": "paid"})
	tick(-3, morning)
	h.edit("orders", "order-1007", map[string]any{"status": "paid"})
	tick(-2, morning-7*time.Hour-time.Hour)
	h.at(-2, nightly)
	backup("nightly")
	h.edit("orders", "order-1003", map[string]any{"status": "sent", "carrier": "DHL"})
	h.edit("products", "sku-004", map[string]any{"price": 11})
	tick(-2, morning)
	h.at(-1, nightly)
	backup(hostile)
	for _, id := range lost {
		h.edit("orders", id, map[string]any{"status": "sent", "total": 59})
	}
	tick(-1, morning)
	for _, id := range lost {
		h.remove("orders", id)
	}
	tick(-1, loss)
	for i := range 5 {
		h.remove("orders", fmt.Sprintf("order-%04d", 1020+i))
	}
	h.edit("orders", "order-1001", map[string]any{"status": "paid"})
	tick(-1, loss+90*time.Minute)
	must(t, s.Close())
	h.today(r)
}

// today makes the backup of today's night, or of just before, if that is still to come.
func (h *history) today(r *repo.Repo) {
	h.t.Helper()
	h.at(0, min(nightly, max(time.Since(h.day)-10*time.Minute, 0)))
	h.backup(r, "shop", h.data, h.state, "nightly")
}

// write writes documents into a database.
func (h *history) write(db string, n int, doc func(i int) any) {
	h.t.Helper()
	docs := make([]any, n)
	for i := range docs {
		docs[i] = doc(i)
	}
	must(h.t, h.couch.Post("/"+db+"/_bulk_docs", map[string]any{"docs": docs}, nil))
}

// edit changes fields of a document.
func (h *history) edit(db, id string, fields map[string]any) {
	h.t.Helper()
	doc := map[string]any{}
	must(h.t, h.couch.Get(testenv.DBPath(db, id), &doc))
	for k, v := range fields {
		doc[k] = v
	}
	must(h.t, h.couch.Put(testenv.DBPath(db, id), doc, nil))
}

// remove deletes a document.
func (h *history) remove(db, id string) {
	h.t.Helper()
	var doc struct {
		Rev string `json:"_rev"`
	}
	must(h.t, h.couch.Get(testenv.DBPath(db, id), &doc))
	must(h.t, h.couch.Delete(testenv.DBPath(db, id)+"?rev="+doc.Rev))
}
