package restore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// beginsWith holds each restored file against the backup: shards begin with its bytes, and
// what comes behind is a header with another uuid; others are as they were. It returns the
// uuids by path.
func beginsWith(t *testing.T, r *repo.Repo, rec *manifest.Record, dir string) map[string]string {
	t.Helper()
	uuids := map[string]string{}
	for _, want := range manifestOf(t, r, rec).Files {
		if want.Root == manifest.EtcRoot {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(want.Path)))
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(b)) < want.Size || sumOf(b[:want.Size]) != want.SHA256 {
			t.Errorf("%s does not begin with the bytes of the backup", want.Path)
			continue
		}
		if want.Kind != manifest.Shard {
			if int64(len(b)) != want.Size {
				t.Errorf("%s has %d bytes, want %d", want.Path, len(b), want.Size)
			}
			continue
		}
		rep, err := couchfile.Verify(t.Context(), bytes.NewReader(b), int64(len(b)), couchfile.VerifyOptions{})
		if err != nil || len(rep.Findings) > 0 {
			t.Errorf("%s: %v, %v", want.Path, err, rep.Findings)
			continue
		}
		db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		h := db.Header()
		if len(h.UUID) != 32 || h.UUID == want.Header.UUID || h.UpdateSeq != want.Header.UpdateSeq || h.End != int64(len(b)) {
			t.Errorf("%s: uuid %q (was %s), update_seq %d, ends at %d of %d", want.Path, h.UUID, want.Header.UUID, h.UpdateSeq, h.End, len(b))
		}
		uuids[want.Path] = h.UUID
	}
	all := map[string]bool{}
	for path, u := range uuids {
		if all[u] {
			t.Errorf("%s has the uuid of another shard", path)
		}
		all[u] = true
	}
	return uuids
}

func TestNewHistory(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	dir := filepath.Join(t.TempDir(), "data")
	o := restore.Options{Repo: r, Record: rec, To: dir, History: restore.HistoryNew}
	res := files(t, o)
	uuids := beginsWith(t, r, rec, dir)
	if h := res.History; !res.OK() || h == nil || !h.New || h.Shards != len(uuids) || res.Bytes != rec.SizeBytes {
		t.Fatalf("%d shards, result %+v, history %+v", len(uuids), res, h)
	}

	// Again: what begins with the backup's bytes is not read from the repository, and not
	// changed in place.
	var linked string
	for path := range uuids {
		linked = filepath.Join(dir, filepath.FromSlash(path))
		break
	}
	before, err := os.ReadFile(linked)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.Link(linked, other); err != nil {
		t.Fatal(err)
	}
	o.Delta = true
	res = files(t, o)
	if res.KeptFiles != res.Files || !res.OK() {
		t.Errorf("kept %d of %d files: %q", res.KeptFiles, res.Files, res.Problems)
	}
	for path, u := range beginsWith(t, r, rec, dir) {
		if uuids[path] == u {
			t.Errorf("%s has the uuid of the restore before", path)
		}
	}
	if after, err := os.ReadFile(other); err != nil || !bytes.Equal(before, after) {
		t.Errorf("another name of a file that was there has other bytes now (%v)", err)
	}
	o.History = restore.HistoryKept
	files(t, o)
	sameFiles(t, hashes(t, dir), wanted(t, r, rec))
}

// A run that goes on gives each shard the uuid that the run before gave it.
func TestNewHistoryGoesOn(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	dir := filepath.Join(t.TempDir(), "data")
	o := restore.Options{Repo: r, Record: rec, To: dir, History: restore.HistoryNew, Parallel: 1}
	var err error
	for range 20 { // it may be done before who cancels has had a turn
		ctx, cancel := context.WithCancel(t.Context())
		o.Progress = &restore.Progress{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for o.Progress.FilesDone.Load() < 40 { // more than there are indexes and system databases
				runtime.Gosched()
			}
			cancel()
		}()
		_, err = restore.Files(ctx, o)
		<-done
		if err != nil {
			break
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want a cancel", err)
	}
	was := map[string][]byte{}
	for path := range hashes(t, filepath.Join(dir, "shards")) {
		b, err := os.ReadFile(filepath.Join(dir, "shards", path))
		if err == nil {
			was["shards/"+filepath.ToSlash(path)] = b
		}
	}
	if len(was) == 0 {
		t.Fatal("no shard was there")
	}

	o.Progress, o.History = nil, restore.HistoryKept
	if _, err := restore.Files(t.Context(), o); !errors.Is(err, restore.ErrUnfinished) {
		t.Errorf("with another history: %v", err)
	}
	o.History = restore.HistoryByMoment // the newest: but it was begun otherwise
	res := files(t, o)
	beginsWith(t, r, rec, dir)
	if !res.Continued || !res.History.New {
		t.Errorf("result %+v, history %+v", res, res.History)
	}
	for path, b := range was {
		if now, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path))); err != nil || !bytes.Equal(b, now) {
			t.Errorf("%s was whole and is another file now (%v)", path, err)
		}
	}
}

// Which restore keeps the history by itself.
func TestHistoryByMoment(t *testing.T) {
	t.Parallel()
	r, data, state := openRepo(t, mem.New()), copyFixture(t), t.TempDir()
	first := take(t, r, data, state)
	last := take(t, r, data, state)
	for _, c := range []struct {
		name string
		rec  *manifest.Record
		dbs  []string
		ask  restore.History
		want bool
	}{
		{"the newest", last, nil, restore.HistoryByMoment, false},
		{"an older one", first, nil, restore.HistoryByMoment, true},
		{"an older one, kept", first, nil, restore.HistoryKept, false},
		{"a database", last, []string{"viewed"}, restore.HistoryByMoment, true},
		{"a database, kept", last, []string{"viewed"}, restore.HistoryKept, false},
		{"the newest, new", last, nil, restore.HistoryNew, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := files(t, restore.Options{Repo: r, Record: c.rec, To: filepath.Join(t.TempDir(), "data"), Databases: c.dbs, History: c.ask})
			h := res.History
			if h == nil || h.New != c.want || (h.Shards > 0) != c.want || h.Reason == "" {
				t.Fatalf("history %+v, want new %v", h, c.want)
			}
			if n := strings.Count(h.Means, ".") - strings.Count(h.Means, "._"); n != 2 {
				t.Errorf("%d sentences: %s", n, h.Means)
			}
		})
	}
}

// Checkpoints of replications and of a cluster's copies go with the old history; other
// local documents stay.
func TestNewHistoryDropsCheckpoints(t *testing.T) {
	t.Parallel()
	data := copyFixture(t)
	paths, err := filepath.Glob(filepath.Join(data, "shards", "*", "viewed.*.couch"))
	if err != nil || len(paths) == 0 {
		t.Fatal(err, paths)
	}
	var stay []string
	f, err := os.OpenFile(paths[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	g, err := couchgen.Reopen(f, couchgen.Options{NodeName: nodeName})
	if err != nil {
		t.Fatal(err)
	}
	for id, body := range map[string]string{
		"_local/couchdb": `{"session_id":"a","source_last_seq":"3-x","replication_id_version":4,"history":[{"session_id":"a","recorded_seq":"3-x"}]}`,
		"_local/pouchdb": `{"session_id":"b","last_seq":"3-x","replicator":"pouchdb","version":1,"history":[{"session_id":"b","last_seq":"3-x"}]}`,
		"_local/shard-sync-aaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbbbbb":                     `{"seq":3,"history":{}}`,
		"_local/purge-mem3-0123456789abcdef0123456789abcdef-0123456789abcdef0123456789abcdee": `{"purge_seq":3,"type":"internal_replication"}`,
		"_local/purge-mrview-0123456789abcdef0123456789abcdef":                                `{"purge_seq":3,"type":"mrview"}`,
		"_local/mine":                            `{"last_seq":"3-x","history":[]}`,
		"_local/zz" + strings.Repeat("long", 50): `{"n":1}`,
	} {
		if err := g.PutLocal(id, json.RawMessage(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(g.Commit(), f.Close()); err != nil {
		t.Fatal(err)
	}
	before := locals(t, paths[0])
	r := openRepo(t, mem.New())
	rec := take(t, r, data, t.TempDir())
	dir := filepath.Join(t.TempDir(), "data")
	res := files(t, restore.Options{Repo: r, Record: rec, To: dir, History: restore.HistoryNew})
	rel, _ := filepath.Rel(data, paths[0])
	after := locals(t, filepath.Join(dir, rel))
	for id := range before {
		switch {
		case id == "_local/couchdb", id == "_local/pouchdb", strings.HasPrefix(id, "_local/shard-sync-"), strings.HasPrefix(id, "_local/purge-mem3-"):
			if after[id] != "" {
				t.Errorf("%s is still there", id)
			}
		default:
			stay = append(stay, id)
			if after[id] != before[id] {
				t.Errorf("%s: got %q, want %q", id, after[id], before[id])
			}
		}
	}
	if len(stay) < 3 || len(after) != len(stay) || res.History.Checkpoints < 4 {
		t.Errorf("%d stay, %d are there, %d checkpoints went", len(stay), len(after), res.History.Checkpoints)
	}
}

func locals(t *testing.T, path string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for d, err := range db.LocalDocs("") {
		if err != nil {
			t.Fatal(err)
		}
		doc, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		out[d.ID] = string(doc)
	}
	return out
}

// What was purged after a backup comes back with it, and is named before anything is
// written.
func TestPurgedComesBack(t *testing.T) {
	t.Parallel()
	data, state, store := copyFixture(t), t.TempDir(), mem.New()
	paths, err := filepath.Glob(filepath.Join(data, "shards", "*", "viewed.*.couch"))
	if err != nil || len(paths) == 0 {
		t.Fatal(err, paths)
	}
	change := func(do func(g *couchgen.Generator) error) {
		t.Helper()
		f, err := os.OpenFile(paths[0], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		g, err := couchgen.Reopen(f, couchgen.Options{NodeName: nodeName})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(do(g), g.Commit(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	put := func(g *couchgen.Generator, id string) error {
		_, err := g.Put(couchgen.Doc{ID: id, Body: json.RawMessage("{}")})
		return err
	}
	r := openRepo(t, store)
	change(func(g *couchgen.Generator) error {
		return errors.Join(put(g, "purged"), put(g, "deleted"), put(g, "again"), put(g, "stays"))
	})
	first := take(t, r, data, state)
	change(func(g *couchgen.Generator) error {
		_, err := g.Delete("deleted")
		return errors.Join(err, put(g, "later"), g.Commit(), g.Purge("purged"), g.Purge("deleted"), g.Purge("again"), g.Purge("later"),
			g.Commit(), put(g, "again"))
	})
	second := take(t, r, data, state)

	o := restore.Options{Repo: r, Record: first, To: filepath.Join(t.TempDir(), "data")}
	told := 0
	o.Tell = func(c *restore.ComesBack) {
		told = c.Count
		if _, err := os.Stat(filepath.Join(o.To, "shards")); err == nil {
			t.Error("told after something was written")
		}
	}
	res := files(t, o)
	want := []restore.PurgedDoc{{Database: "viewed", ID: "again"}, {Database: "viewed", ID: "deleted"}, {Database: "viewed", ID: "purged"}}
	c := res.ComesBack
	if c == nil || told != 3 || c.Count != 3 || c.AtLeast || c.Backup != second.ID || !slices.Equal(c.Docs, want) {
		t.Errorf("told %d, comes back %+v, want %v", told, c, want)
	}
	text := "3 documents come back that were purged since, as the later backup " + string(second.ID) +
		" knows: viewed/again, viewed/deleted, viewed/purged; purge again what must not be seen"
	if len(res.Warnings) > 0 || c.String() != text {
		t.Errorf("warnings %q, text %q", res.Warnings, c)
	}
	if res := files(t, restore.Options{Repo: r, Record: second, To: filepath.Join(t.TempDir(), "data")}); res.ComesBack != nil {
		t.Errorf("with the newest: %+v", res.ComesBack)
	}
	if res := files(t, restore.Options{Repo: r, Record: first, To: t.TempDir(), Databases: []string{"empty"}}); res.ComesBack != nil {
		t.Errorf("another database: %+v", res.ComesBack)
	}

	// The later backup can't be read: a warning, and the restore is whole.
	key := storage.Key("")
	err = store.List(t.Context(), "", func(info storage.Info) error {
		if strings.Contains(string(info.Key), string(second.ID)) && strings.Contains(string(info.Key), "manifest") {
			key = info.Key
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), key); err != nil {
		t.Fatal(key, err)
	}
	o.To, o.Tell = filepath.Join(t.TempDir(), "data"), nil
	res = files(t, o)
	contains(t, res.Warnings, "later backup "+string(second.ID)+" can't be read")
	sameFiles(t, hashes(t, o.To), wanted(t, r, first))
}
