package restore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

const pouchVersion = "9.0.0"

// clients are a restored server and those that know it from before: a server that it
// replicates with, a follower of _changes, and PouchDB.
type clients struct {
	t      *testing.T
	c      *testenv.Couch // the restored one; its database is db
	other  *testenv.Couch
	pulls  string // a database of other that is replicated from db
	pushes string // one that is replicated to db
	since  string // up to where the follower got

	node, modules, pouch string // PouchDB is skipped if node is empty
}

const db = "orders"

// An older state is restored under clients that know a newer one. What they miss with the
// history kept is a fault of that history that is known; with a new one they miss nothing.
func TestHistoryAndClients(t *testing.T) {
	needCouchDB(t)
	t.Parallel()
	other := testenv.CouchDB(t, testenv.Options{NodeName: "other@127.0.0.1"})
	for name, h := range map[string]restore.History{"kept": restore.HistoryKept, "new": restore.HistoryNew} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			historyAndClients(t, other, h)
		})
	}
}

func historyAndClients(t *testing.T, other *testenv.Couch, history restore.History) {
	k := newClients(t, other)
	t.Run("PouchDB", func(t *testing.T) { k.node, k.modules = testenv.NodeModule(t, "pouchdb", pouchVersion) })
	k.put(k.c, db, "before", 10)
	k.put(other, k.pushes, "pushed-before", 1)
	running := k.push(true)
	k.wait("the push's checkpoint", func() bool { return k.has(k.c, db, "pushed-before-0") && k.checkpoints() > 0 })
	k.replicate(db, k.pulls)
	k.sync("pouched-before")
	view := k.view()

	r := openRepo(t, mem.New())
	rec := take(t, r, k.c.DataDir, t.TempDir())

	k.put(k.c, db, "lost", 20)
	k.put(other, k.pushes, "pushed-after", 1)
	k.wait("the push", func() bool { return k.has(k.c, db, "pushed-after-0") })
	k.replicate(db, k.pulls)
	k.sync("pouched-after")
	k.since = k.follow("0").last
	k.stop(running)

	k.c.Stop()
	if err := os.Rename(k.c.DataDir, k.c.DataDir+".old"); err != nil {
		t.Fatal(err)
	}
	res := files(t, restore.Options{Repo: r, Record: rec, To: k.c.DataDir, History: history})
	k.c.Start()
	if got := k.view(); got != view {
		t.Errorf("an index has other bytes after it was asked:\n%s\nwas\n%s", got, view)
	}
	k.put(k.c, db, "after", 2)
	k.put(other, k.pushes, "pushed-last", 1)
	k.push(false)
	k.replicate(db, k.pulls)
	followed := k.follow(k.since).ids

	began := history == restore.HistoryNew
	if res.History.New != began || began && res.History.Checkpoints == 0 {
		t.Errorf("history %+v", res.History)
	}
	// By itself a replication goes back to what both ends know, so it misses nothing here.
	// But where the session is the one of the backup, the pushing end's checkpoint counts.
	k.holds(k.other, k.pulls, true, "after-0", "after-1")
	k.holds(k.c, db, true, "pushed-last-0")
	k.holds(k.c, db, began, "pushed-after-0")
	if saw := slices.Contains(followed, "after-0") && slices.Contains(followed, "after-1"); saw != began {
		t.Errorf("a follower saw %q: with a new history (%v) it sees what comes, without one nothing", followed, began)
	}
	k.pouched(began)
}

func newClients(t *testing.T, other *testenv.Couch) *clients {
	name := filepath.Base(t.Name())
	k := &clients{t: t, other: other, pulls: "pulls-" + name, pushes: "pushes-" + name, pouch: t.TempDir()}
	k.c = testenv.CouchDB(t, testenv.Options{NodeName: nodeName, Config: map[string]map[string]string{"query_server_config": {"commit_freq": "0"}}})
	k.must(k.c.Put("/"+db+"?q=2", nil, nil))
	k.must(k.other.Put("/"+k.pulls, nil, nil))
	k.must(k.other.Put("/"+k.pushes, nil, nil))
	return k
}

func (k *clients) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *clients) wait(what string, done func() bool) {
	k.t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			k.t.Fatalf("%s did not come", what)
		}
	}
}

func (k *clients) put(c *testenv.Couch, db, prefix string, n int) {
	k.t.Helper()
	for i := range n {
		err := c.Put(fmt.Sprintf("/%s/%s-%d", db, prefix, i), map[string]any{"n": i}, nil)
		if testenv.Status(err) != http.StatusConflict {
			k.must(err)
		}
	}
}

func (k *clients) has(c *testenv.Couch, db, id string) bool {
	err := c.Get("/"+db+"/"+id, nil)
	if err != nil && testenv.Status(err) != http.StatusNotFound {
		k.t.Fatal(err)
	}
	return err == nil
}

func (k *clients) holds(c *testenv.Couch, db string, want bool, ids ...string) {
	k.t.Helper()
	for _, id := range ids {
		if k.has(c, db, id) != want {
			k.t.Errorf("%s holds %s: %v, want %v", db, id, !want, want)
		}
	}
}

// checkpoints counts those of replications in the database of the server to be restored.
func (k *clients) checkpoints() (n int) {
	var all rows
	k.must(k.c.Get("/"+db+"/_local_docs?include_docs=true", &all))
	for _, r := range all.Rows {
		if bytes.Contains(r.Doc, []byte(`"source_last_seq"`)) {
			n++
		}
	}
	return n
}

func remote(c *testenv.Couch, db string) string {
	return strings.Replace(c.URL, "://", "://"+c.Admin+":"+c.Password+"@", 1) + "/" + db
}

// push replicates from the other server, which runs it; one that goes on has an id.
func (k *clients) push(goesOn bool) (id string) {
	return k.run(map[string]any{"source": remote(k.other, k.pushes), "target": remote(k.c, db), "continuous": goesOn, "checkpoint_interval": 100})
}

func (k *clients) replicate(from, to string) {
	k.run(map[string]any{"source": remote(k.c, from), "target": remote(k.other, to)})
}

func (k *clients) run(body map[string]any) (id string) {
	k.t.Helper()
	var answer struct {
		OK bool   `json:"ok"`
		ID string `json:"_local_id"`
	}
	if err := k.other.Post("/_replicate", body, &answer); err != nil || !answer.OK {
		k.t.Fatal(answer, err)
	}
	return answer.ID
}

func (k *clients) stop(id string) { k.run(map[string]any{"replication_id": id, "cancel": true}) }

type followed struct {
	ids  []string
	last string
}

// follow reads the continuous feed until nothing comes for a second.
func (k *clients) follow(since string) (f followed) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	var b []byte
	k.must(k.c.Do(ctx, http.MethodGet, "/"+db+"/_changes?feed=continuous&timeout=1000&since="+since, nil, &b))
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		var line struct {
			ID   string
			Last string `json:"last_seq"`
		}
		if len(s.Bytes()) == 0 {
			continue
		}
		k.must(json.Unmarshal(s.Bytes(), &line))
		if line.ID != "" {
			f.ids = append(f.ids, line.ID)
		}
		f.last = line.Last
	}
	return f
}

// view asks for a view, waits until its indexes are on the disk, and returns what they are.
func (k *clients) view() string {
	k.t.Helper()
	ddoc := map[string]any{"views": map[string]any{"all": map[string]any{"map": "function(doc) { emit(doc._id) }"}}}
	if err := k.c.Put("/"+db+"/_design/v", ddoc, nil); testenv.Status(err) != http.StatusConflict {
		k.must(err)
	}
	var all rows
	k.must(k.c.Get("/"+db+"/_design/v/_view/all", &all))
	var out string
	k.wait("the indexes' commit", func() bool {
		out = fmt.Sprintf("%d rows\n", len(all.Rows))
		shards, err := filepath.Glob(filepath.Join(k.c.DataDir, "shards", "*", db+".*.couch"))
		k.must(err)
		for _, path := range shards {
			rel, _ := filepath.Rel(k.c.DataDir, strings.TrimSuffix(path, ".couch"))
			views, err := filepath.Glob(filepath.Join(k.c.DataDir, "."+rel+"_design", "mrview", "*.view"))
			k.must(err)
			if len(views) != 1 || k.seqOf(views[0]) != k.seqOf(path) {
				return false
			}
			b, err := os.ReadFile(views[0])
			k.must(err)
			out += rel + " " + sumOf(b) + "\n"
		}
		return len(shards) == 2
	})
	return out
}

func (k *clients) seqOf(path string) uint64 {
	b, err := os.ReadFile(path)
	k.must(err)
	raw, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
	k.must(err)
	if strings.HasSuffix(path, ".couch") {
		h, err := couchfile.ParseHeader(raw)
		k.must(err)
		return h.UpdateSeq
	}
	h, err := couchfile.ParseViewHeader(raw)
	k.must(err)
	return h.UpdateSeq
}

// pouchScript replicates both ways, and once more only to here, as one does that may not
// write to the server: its checkpoints are here alone.
const pouchScript = `
const PouchDB = require('pouchdb');
const [dir, url, id] = process.argv.slice(1);
(async () => {
  const both = new PouchDB(dir + '/both'), reads = new PouchDB(dir + '/reads');
  await both.put({_id: id}).catch(e => { if (e.status !== 409) throw e; });
  await both.sync(url);
  await reads.replicate.from(url, {checkpoint: 'target'});
  const ids = async d => (await d.allDocs()).rows.map(r => r.id);
  process.stdout.write(JSON.stringify({both: await ids(both), reads: await ids(reads)}), () => process.exit());
})().catch(e => { console.error(e); process.exit(1); });
`

func (k *clients) sync(id string) (has struct{ Both, Reads []string }) {
	k.t.Helper()
	if k.node == "" {
		return has
	}
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.node, "-e", pouchScript, k.pouch, remote(k.c, db), id)
	cmd.Env = append(os.Environ(), "NODE_PATH="+k.modules)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		k.t.Fatalf("PouchDB: %v\n%s", err, said.Bytes())
	}
	k.must(json.Unmarshal(out, &has))
	return has
}

func (k *clients) pouched(began bool) {
	k.t.Helper()
	if k.node == "" {
		return
	}
	has := k.sync("pouched-last")
	k.holds(k.c, db, true, "pouched-before", "pouched-after", "pouched-last")
	for _, id := range []string{"before-0", "lost-0", "after-0", "after-1"} {
		if !slices.Contains(has.Both, id) {
			k.t.Errorf("a PouchDB that writes checkpoints at both ends has no %s", id)
		}
		if got := slices.Contains(has.Reads, id); got != (began || !strings.HasPrefix(id, "after")) {
			k.t.Errorf("a PouchDB that may not write to the server has %s: %v, with a new history: %v", id, got, began)
		}
	}
}

// A CouchDB that remembers few purges: there are at least as many as it tells of.
func TestPurgedComesBackLive(t *testing.T) {
	needCouchDB(t)
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{NodeName: nodeName})
	k := &clients{t: t, c: c}
	k.must(c.Put("/"+db+"?q=1", nil, nil))
	k.put(c, db, "doc", 6)
	r, state := openRepo(t, mem.New()), t.TempDir()
	first := take(t, r, c.DataDir, state)
	purge := func(ids ...string) {
		for _, id := range ids {
			var doc struct {
				Rev string `json:"_rev"`
			}
			k.must(c.Get("/"+db+"/"+id, &doc))
			k.must(c.Post("/"+db+"/_purge", map[string][]string{id: {doc.Rev}}, nil))
		}
	}
	purge("doc-0", "doc-1", "doc-2")
	second := take(t, r, c.DataDir, state)
	comesBack := func(least bool, by manifest.BackupID, ids ...string) {
		t.Helper()
		res := files(t, restore.Options{Repo: r, Record: first, To: filepath.Join(t.TempDir(), "data")})
		var got []string
		b := res.ComesBack
		for _, d := range b.Docs {
			got = append(got, d.ID)
		}
		if b.AtLeast != least || b.Backup != by || !slices.Equal(got, ids) || b.Count != len(ids) {
			t.Errorf("%+v, want at least: %v, by %s: %q", b, least, by, ids)
		}
	}
	comesBack(false, second.ID, "doc-0", "doc-1", "doc-2")
	k.must(c.Put("/"+db+"/_purged_infos_limit", json.RawMessage("2"), nil))
	purge("doc-3")
	k.must(c.Compact(db))
	third := take(t, r, c.DataDir, state)
	comesBack(true, third.ID, "doc-2", "doc-3")
}
