package couchfile_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/testenv"
)

// A real server and the reader answer with the same bytes: for the fixtures'
// documents with all options, and for random documents written just now.
func TestAgainstServer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server")
	}
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(data, os.DirFS(filepath.Join(fixtures, "data"))); err != nil {
		t.Fatal(err)
	}
	c := testenv.CouchDB(t, testenv.Options{DataDir: data, NodeName: "couchdbfix@127.0.0.1"})
	for _, name := range []string{"polyglot", "conflicted", "attach", "revlimit", "deletions"} {
		t.Run(name, func(t *testing.T) { compareDocs(t, c, name) })
	}
	t.Run("random", func(t *testing.T) { compareRandom(t, c) })
	t.Run("purged", func(t *testing.T) { comparePurged(t, c) })
}

// comparePurged purges the last revision of a document that is not deleted: the server
// leaves the document's flag as it was, which is no damage.
func comparePurged(t *testing.T, c *testenv.Couch) {
	if err := c.Put("/flag?q=1", nil, nil); err != nil {
		t.Fatal(err)
	}
	lives, deleted := strings.Repeat("1a", 16), strings.Repeat("2b", 16)
	var docs []map[string]any
	for _, id := range []string{"a", "b", "c"} {
		for rev, gone := range map[string]bool{lives: false, deleted: true} {
			docs = append(docs, map[string]any{"_id": id, "_deleted": gone, "_revisions": map[string]any{"start": 1, "ids": []string{rev}}})
		}
	}
	if err := c.Post("/flag/_bulk_docs", map[string]any{"docs": docs, "new_edits": false}, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Post("/flag/_purge", map[string]any{"b": []string{"1-" + lives}}, nil); err != nil {
		t.Fatal(err)
	}
	db, path := openLive(t, c, "flag")
	var rows struct{ Rows []struct{ ID string } }
	if err := c.Get("/flag/_all_docs", &rows); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, r := range rows.Rows {
		want = append(want, r.ID)
	}
	for info, err := range db.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.ID)
	}
	_, err := db.Doc("b", couchfile.DocOptions{})
	if wantErr := c.Get("/flag/b", nil); !slices.Equal(got, want) || !errors.Is(err, couchfile.ErrDeleted) || testenv.Status(wantErr) != 404 {
		t.Errorf("got %v and %v, want %v and %v", got, err, want, wantErr)
	}
	r, size := load(t, path)
	rep, err := couchfile.Verify(t.Context(), r, size, couchfile.VerifyOptions{AllHeaders: true})
	if err != nil || !rep.OK() {
		t.Errorf("Verify: got %v, %v", rep, err)
	}
}

// compareDocs compares every document of a database of the fixtures.
func compareDocs(t *testing.T, c *testenv.Couch, name string) {
	opts := couchfile.DocOptions{
		Revs: true, RevsInfo: true, Conflicts: true, DeletedConflicts: true, AttEncodingInfo: true, Attachments: true,
	}
	const query = "?revs=true&revs_info=true&conflicts=true&deleted_conflicts=true&att_encoding_info=true&attachments=true"
	compared := 0
	for _, db := range openShards(t, name) {
		for info, err := range db.Docs(couchfile.DocsOptions{Deleted: true}) {
			if err != nil {
				t.Fatal(err)
			}
			got, err := db.Doc(info.ID, opts)
			var want []byte
			wantErr := c.Get(testenv.DBPath(name, info.ID)+query, &want)
			if errors.Is(err, couchfile.ErrDeleted) && testenv.Status(wantErr) == 404 {
				continue
			}
			if err != nil || wantErr != nil || string(got) != strings.TrimSpace(string(want)) {
				t.Errorf("%s: got %s, %v, want %s, %v", info.ID, clip(string(got)), err, clip(string(want)), wantErr)
			}
			compared++
		}
	}
	if compared == 0 {
		t.Error("compared no document")
	}
}

// compareRandom writes random documents and reads the file they came to.
func compareRandom(t *testing.T, c *testenv.Couch) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, seed))
	if err := c.Put("/random?q=1", nil, nil); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var docs []json.RawMessage
		for i := range 60 {
			body := randomJSON(rnd, 4)
			docs = append(docs, json.RawMessage(fmt.Sprintf(`{"_id":"r%d-%d","v":%s}`, rnd.Uint32(), i, body)))
		}
		if err := c.Post("/random/_bulk_docs", map[string]any{"docs": docs}, nil); err != nil {
			t.Fatal(err)
		}
	}
	db, path := openLive(t, c, "random")
	n := 0
	for info, err := range db.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		got, err := db.Doc(info.ID, couchfile.DocOptions{})
		var want []byte
		wantErr := c.Get(testenv.DBPath("random", info.ID), &want)
		if err != nil || wantErr != nil || string(got) != strings.TrimSpace(string(want)) {
			t.Errorf("%s: got %s, %v, want %s, %v", info.ID, clip(string(got)), err, clip(string(want)), wantErr)
		}
	}
	if n != 180 {
		t.Errorf("got %d documents, want 180", n)
	}
	r, size := load(t, path)
	rep, err := couchfile.Verify(t.Context(), r, size, couchfile.VerifyOptions{AllHeaders: true})
	if err != nil || !rep.OK() {
		t.Errorf("Verify: got %v, %v", rep, err)
	}
}

func openLive(t *testing.T, c *testenv.Couch, name string) (*couchfile.DB, string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(c.DataDir, "shards", "*", name+".*.couch"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("got files %v, %v, want one", paths, err)
	}
	db, err := couchfile.Open(load(t, paths[0]))
	if err != nil {
		t.Fatal(err)
	}
	return db, paths[0]
}

// randomJSON makes a value with the corners that encoders differ in.
func randomJSON(rnd *rand.Rand, depth int) string {
	kinds := 9
	if depth == 0 {
		kinds = 7
	}
	switch rnd.IntN(kinds) {
	case 0:
		return []string{"null", "true", "false", "0", "-0.0", "1.0", "{}", "[]", `""`}[rnd.IntN(9)]
	case 1:
		return fmt.Sprint(rnd.Int64N(1<<rnd.IntN(62)+1) - 1<<rnd.IntN(60))
	case 2: // beyond 64 bits
		return fmt.Sprintf("-%d%020d", 1+rnd.Uint64()>>1, rnd.Uint64())
	case 3:
		f := math.Float64frombits(rnd.Uint64())
		if math.IsNaN(f) || math.IsInf(f, 0) {
			f = 0.1
		}
		return fmt.Sprintf("%e", f)
	case 4:
		return fmt.Sprintf("%g", (rnd.Float64()-0.5)*math.Pow(10, float64(rnd.IntN(26)-3)))
	case 5, 6:
		return randomString(rnd)
	case 7:
		var items []string
		for range rnd.IntN(5) {
			items = append(items, randomJSON(rnd, depth-1))
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	var items []string
	for i := range rnd.IntN(5) {
		items = append(items, fmt.Sprintf(`"k%d":%s`, 10-i, randomJSON(rnd, depth-1)))
	}
	return "{" + strings.Join(items, ",") + "}"
}

func randomString(rnd *rand.Rand) string {
	var s []rune
	for range rnd.IntN(20) {
		s = append(s, []rune{rune(rnd.IntN(128)), rune(0x80 + rnd.IntN(0xd000)), rune(0xe000 + rnd.IntN(0x10000)), '"', '\\', '/', 0x2028, 0x7f}[rnd.IntN(8)])
	}
	b, err := json.Marshal(string(s))
	if err != nil {
		return `""`
	}
	return string(b)
}
