//go:build linux

package restore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

func trial(t *testing.T, o restore.TrialOptions) *restore.TrialReport {
	t.Helper()
	o.Timeout = patience
	if o.Parent == "" {
		o.Parent = t.TempDir()
	}
	rep, err := restore.Trial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(o.Parent); err != nil || len(left) > 0 {
		t.Errorf("left in the scratch directory: %v, %v", left, err)
	}
	return rep
}

// The fixture has conflicts, deletions, attachments, partitions and odd names.
func TestTrial(t *testing.T) {
	t.Parallel()
	needInstances(t)
	r, rec := fixtureBackup(t)
	rep := trial(t, restore.TrialOptions{Repo: r, Record: rec})
	t.Logf("%d databases, %d documents, %d deleted, in %v", rep.Databases, rep.Docs, rep.Deleted, rep.Took)
	if !rep.OK() || !rep.Server || rep.Version == "" || rep.Databases < 20 || rep.Deleted == 0 || rep.Verify != nil || len(rep.Differences) > 0 || len(rep.Partial) > 0 {
		t.Errorf("%+v", rep)
	}
}

// What a running server was given is found again, more of it than a page of the feed.
func TestTrialOfALiveServer(t *testing.T) {
	t.Parallel()
	needInstances(t)
	c := testenv.CouchDB(t, testenv.Options{NodeName: nodeName})
	if err := c.Put("/many?q=4", nil, nil); err != nil {
		t.Fatal(err)
	}
	c.Load(testenv.LoadOptions{Databases: []string{"many"}, MaxWrites: 400, Deletes: 20, Duration: patience, Seed: 7}).Wait()
	var docs []any
	for i := range 4500 {
		docs = append(docs, map[string]any{"_id": fmt.Sprintf("doc%d", i), "_rev": "1-ab"})
	}
	// Conflicts, one of them with a deleted branch.
	for _, rev := range []string{"1-aa", "1-bb", "1-cc"} {
		docs = append(docs, map[string]any{"_id": "torn", "_rev": rev, "_deleted": rev == "1-bb",
			"_attachments": map[string]any{"a": map[string]any{"data": "aGVsbG8=", "content_type": "text/plain"}}})
	}
	if err := c.Post("/many/_bulk_docs", map[string]any{"new_edits": false, "docs": docs}, nil); err != nil {
		t.Fatal(err)
	}
	r := openRepo(t, mem.New())
	rep := trial(t, restore.TrialOptions{Repo: r, Record: take(t, r, c.DataDir, t.TempDir())})
	t.Logf("%+v", rep)
	if !rep.OK() || len(rep.Differences) > 0 || rep.Docs+rep.Deleted < 4500 {
		t.Errorf("%+v", rep)
	}
}

// A restored file that is altered is found, whenever that happens.
func TestTrialFindsDifferences(t *testing.T) {
	needInstances(t)
	r, rec := fixtureBackup(t)
	for _, tt := range []struct {
		name, step string
		sameCounts bool // the older state has as many documents
	}{
		{"restored to an older state", "restored", false},
		{"served in an older state", "read", false},
		{"served with an older revision", "read", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var path string
			defer restore.SetTrialAltered(func(step, data string) {
				if step == tt.step {
					path = cutShard(t, data, tt.sameCounts)
				}
			})()
			rep := trial(t, restore.TrialOptions{Repo: r, Record: rec})
			t.Logf("%s: %+v", path, rep.Differences)
			if rep.OK() || len(rep.Differences) == 0 {
				t.Fatalf("%s was cut, and nothing was found", path)
			}
			for _, d := range rep.Differences {
				if d.Known || !strings.Contains(path, "/"+d.Database+".") {
					t.Errorf("%+v", d)
				}
			}
		})
	}
}

// cutShard cuts a shard below data back to an older header, in which the documents are
// others, or as many in other revisions.
func cutShard(t *testing.T, data string, sameCounts bool) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(data, "shards/*/*.couch"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		points, err := couchfile.Points(strings.NewReader(string(b)), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(filepath.Base(p), "_") {
			continue // the server may add to its own
		}
		now := docsAt(t, b)
		for _, pt := range points {
			cut := b[:pt.End]
			then := docsAt(t, cut)
			if len(cut) == len(b) || slices.Equal(now, then) || sameCounts != (len(now) == len(then)) || sameCounts && deletions(now) != deletions(then) {
				continue
			}
			if err := os.Truncate(p, pt.End); err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	t.Fatal("no shard has such a history")
	return ""
}

func docsAt(t *testing.T, b []byte) (list []string) {
	t.Helper()
	db, err := couchfile.Open(strings.NewReader(string(b)), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for doc, err := range db.Docs(couchfile.DocsOptions{Deleted: true}) {
		if err != nil {
			return nil
		}
		s := doc.ID + " " + doc.Winner().String()
		if doc.Deleted {
			s += " deleted"
		}
		list = append(list, s)
	}
	return list
}

func deletions(docs []string) (n int) {
	for _, s := range docs {
		if strings.HasSuffix(s, " deleted") {
			n++
		}
	}
	return n
}

func TestTrialOfADamagedBackup(t *testing.T) {
	t.Parallel()
	needInstances(t)
	data := copyFixture(t)
	shards, err := filepath.Glob(filepath.Join(data, "shards/*/conflicted.*.couch"))
	if err != nil || len(shards) < 2 {
		t.Fatal(shards, err)
	}
	if err := os.Remove(shards[0]); err != nil {
		t.Fatal(err)
	}
	r := openRepo(t, mem.New())
	rep := trial(t, restore.TrialOptions{Repo: r, Record: take(t, r, data, t.TempDir())})
	t.Logf("%+v", rep.Differences)
	if !rep.OK() || len(rep.Differences) == 0 || rep.Differences[0].Database != "conflicted" || !rep.Differences[0].Known {
		t.Errorf("%+v", rep)
	}
}

func TestTrialWithoutCouchDB(t *testing.T) {
	r, rec := fixtureBackup(t)
	t.Setenv("COUCHDB_BIN", filepath.Join(t.TempDir(), "none"))
	defer restore.SetUsualCouchDB()()
	rep := trial(t, restore.TrialOptions{Repo: r, Record: rec})
	if !rep.OK() || rep.Server || rep.Verify == nil || rep.Verify.Files == 0 {
		t.Errorf("%+v", rep)
	}
}

// A trial that is killed is cleaned up by the next one, and one that is cancelled by
// itself.
func TestKilledTrial(t *testing.T) {
	needInstances(t)
	store, err := file.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	r := openRepo(t, store)
	rec := take(t, r, copyFixture(t), t.TempDir())
	parent := t.TempDir()
	for _, after := range []time.Duration{100, 1000, 2500} {
		killedChild(t, childSpec{Repo: store.URL()[len("file://"):], ID: string(rec.ID), To: parent, Do: "trial"}, after*time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	undo := restore.SetTrialAltered(func(step, _ string) {
		if step == "read" {
			cancel()
		}
	})
	_, err = restore.Trial(ctx, restore.TrialOptions{Repo: r, Record: rec, Parent: parent})
	undo()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if got := servers(t, parent); len(got) > 0 {
		t.Errorf("servers: %q", got)
	}
	if rep := trial(t, restore.TrialOptions{Repo: r, Record: rec, Parent: parent}); !rep.OK() {
		t.Errorf("%+v", rep)
	}
}

// shareFrame says whether bytes of two files are in one frame of a segment.
func shareFrame(m *manifest.Manifest, a, b string) bool {
	const frame = 524_288
	in := map[[2]int64]string{}
	for _, f := range m.Files {
		if f.Path != a && f.Path != b {
			continue
		}
		for _, e := range f.Extents {
			for n := e.At / frame; n <= (e.At+e.N-1)/frame; n++ {
				at := [2]int64{int64(e.Seg), n}
				if other := in[at]; other != "" && other != f.Path {
					return true
				}
				in[at] = f.Path
			}
		}
	}
	return false
}

// A server on what a damaged repository gave serves all that is whole, as it was, and
// answers for the rest with errors and not with empty databases.
func TestTrialOfADamagedRepository(t *testing.T) {
	t.Parallel()
	needInstances(t)
	const shard = "shards/00000000-7fffffff/conflicted.1795334388.couch"
	var store *mem.Store
	var r *repo.Repo
	var rec *manifest.Record
	for range 50 { // whoever reads a file first stores it first
		store = mem.New()
		r = openRepo(t, store)
		rec = take(t, r, fixture+"/data", t.TempDir())
		if !shareFrame(manifestOf(t, r, rec), shard, "_dbs.couch") {
			break // else the shard map would be damaged too
		}
	}
	spoil(t, store, r, manifestOf(t, r, rec), shard)
	rep := trial(t, restore.TrialOptions{Repo: r, Record: rec})
	if rep.OK() || !rep.Server || rep.Databases != 25 || rep.Lost == 0 || len(rep.Problems) == 0 {
		t.Errorf("%+v", rep)
	}
	lost, answers := map[string]bool{}, map[string]string{}
	for _, d := range rep.Differences {
		if strings.Contains(d.What, "can't be read back") {
			lost[d.Database] = true
		} else {
			answers[d.Database] += d.What
		}
	}
	if len(lost) == 0 || len(lost) > 20 || !lost["conflicted"] {
		t.Errorf("lost: %v", lost)
	}
	for db := range lost {
		if !strings.Contains(answers[db], "the server answers 5") {
			t.Errorf("of %s, which lost a shard, the server says %q", db, answers[db])
		}
		t.Logf("%s: %.100s", db, answers[db])
	}
	for db := range answers {
		if !lost[db] {
			t.Errorf("%s is whole, and: %s", db, answers[db])
		}
	}
}
