package couchgen_test

import (
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/testenv"
)

type row struct {
	ID    string
	Value struct{ Rev string }
	Doc   map[string]any
}

func allDocs(t *testing.T, c *testenv.Couch, db, query string) []row {
	t.Helper()
	var got struct {
		TotalRows int `json:"total_rows"`
		Rows      []row
	}
	if err := c.Get(testenv.DBPath(db)+"/_all_docs?"+query, &got); err != nil {
		t.Fatal(err)
	}
	if got.TotalRows != len(got.Rows) {
		t.Errorf("%s: total_rows %d, but %d rows", db, got.TotalRows, len(got.Rows))
	}
	return got.Rows
}

type dbInfo struct {
	Docs    int64 `json:"doc_count"`
	Deleted int64 `json:"doc_del_count"`
	Sizes   struct{ File, Active, External int64 }
	Props   struct{ Partitioned bool }
}

// TestDataDirInCouchDB lets a real server read generated directories, write to
// them and compact them.
func TestDataDirInCouchDB(t *testing.T) {
	t.Parallel()
	base := couchgen.DirOptions{
		Databases: 2, Q: 3, DocsPerDB: 600, CommitEvery: 90, LocalDocs: 3, Views: true,
		UpdateFraction: 0.3, DeleteFraction: 0.1, AttachmentEvery: 20, AttachmentBytes: 20_000,
		Name: func(i int) string { return fmt.Sprintf("team/a+b$(%d)", i) },
	}
	plain, parted := base, base
	plain.Checksum, plain.Compression = couchgen.MD5, couchgen.Deflate
	parted.Partitioned = true
	for name, o := range map[string]couchgen.DirOptions{"default": base, "md5-deflate": plain, "partitioned": parted} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			d, err := couchgen.DataDir(dir, o)
			if err != nil {
				t.Fatal(err)
			}
			c := testenv.CouchDB(t, testenv.Options{DataDir: dir})
			for _, db := range d.Databases {
				checkDatabase(t, c, db)
			}
			if name != "default" {
				return
			}
			db := d.Databases[0]
			before := allDocs(t, c, db.Name, "")
			if err := c.Compact(db.Name); err != nil {
				t.Fatal(err)
			}
			after := allDocs(t, c, db.Name, "")
			if fmt.Sprint(before) != fmt.Sprint(after) {
				t.Error("compaction changed the list of documents")
			}
			checkWrites(t, c, db.Name)
			c.Stop()
			if _, _, err := couchgen.Grow(dir, 0.2, couchgen.GrowOptions{Seed: 5, DeleteEvery: 5}); err != nil {
				t.Fatal(err)
			}
			c.Start()
			for _, db := range d.Databases {
				rows := allDocs(t, c, db.Name, "include_docs=true&attachments=true")
				checkDocs(t, rows)
				if err := c.Get(testenv.DBPath(db.Name)+"/_design/revs/_view/by_id?limit=1", nil); err != nil {
					t.Fatal(err)
				}
				checkView(t, c, db.Name, rows)
				if db.Name == d.Databases[0].Name && len(rows) <= len(after) {
					t.Errorf("%d documents after growth, want more than %d", len(rows), len(after))
				}
			}
		})
	}
}

func checkDatabase(t *testing.T, c *testenv.Couch, db couchgen.Database) {
	t.Helper()
	var want dbInfo
	for _, s := range db.Shards {
		want.Docs += s.Docs
		want.Deleted += s.Deleted
	}
	var info dbInfo
	if err := c.Get(testenv.DBPath(db.Name), &info); err != nil {
		t.Fatal(err)
	}
	if info.Docs != want.Docs || info.Deleted != want.Deleted || info.Props.Partitioned != db.Partitioned {
		t.Errorf("%s: got %+v, want %+v partitioned %v", db.Name, info, want, db.Partitioned)
	}
	rows := allDocs(t, c, db.Name, "include_docs=true&attachments=true")
	if int64(len(rows)) != want.Docs {
		t.Errorf("%s: %d documents listed, want %d", db.Name, len(rows), want.Docs)
	}
	checkDocs(t, rows)
	var changes struct {
		Results []struct{ ID string }
	}
	if err := c.Get(testenv.DBPath(db.Name)+"/_changes", &changes); err != nil {
		t.Fatal(err)
	}
	if n := int64(len(changes.Results)); n != want.Docs+want.Deleted {
		t.Errorf("%s: %d changes, want %d", db.Name, n, want.Docs+want.Deleted)
	}
	var locals struct {
		Rows []struct{ ID string }
	}
	if err := c.Get(testenv.DBPath(db.Name)+"/_local_docs", &locals); err != nil {
		t.Fatal(err)
	}
	if len(locals.Rows) != 3*len(db.Shards) {
		t.Errorf("%s: %d local documents, want %d", db.Name, len(locals.Rows), 3*len(db.Shards))
	}
	checkView(t, c, db.Name, rows)
	// Documents must be where the server looks for them.
	for _, r := range rows[:10] {
		if err := c.Get(testenv.DBPath(db.Name, r.ID), nil); err != nil {
			t.Error(err)
		}
	}
}

// checkView asks the index as it is, without letting the server build it.
func checkView(t *testing.T, c *testenv.Couch, db string, docs []row) {
	t.Helper()
	var got struct {
		Rows []struct{ Key, Value string }
	}
	if err := c.Get(testenv.DBPath(db)+"/_design/revs/_view/by_id?update=false", &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, d := range docs {
		if !strings.HasPrefix(d.ID, "_design/") {
			want[d.ID] = d.Value.Rev
		}
	}
	if len(got.Rows) != len(want) {
		t.Errorf("%s: %d rows in the view, want %d", db, len(got.Rows), len(want))
	}
	for _, r := range got.Rows {
		if want[r.Key] != r.Value {
			t.Errorf("%s: the view has %s at %q, want %q", db, r.Key, r.Value, want[r.Key])
		}
	}
}

// checkDocs compares each attachment with its digest.
func checkDocs(t *testing.T, rows []row) {
	t.Helper()
	atts := 0
	for _, r := range rows {
		if r.Doc == nil || r.Doc["_rev"] != r.Value.Rev {
			t.Errorf("document %q: no body or another revision than %s", r.ID, r.Value.Rev)
			continue
		}
		list, _ := r.Doc["_attachments"].(map[string]any)
		for name, a := range list {
			a := a.(map[string]any)
			data, err := base64.StdEncoding.DecodeString(a["data"].(string))
			if err != nil {
				t.Fatal(err)
			}
			atts++
			if len(data) != 20_000 {
				t.Errorf("%s/%s: %d bytes, want 20000", r.ID, name, len(data))
			}
			sum := md5.Sum(data)
			got := "md5-" + base64.StdEncoding.EncodeToString(sum[:])
			if a["content_type"] == "image/jpeg" && got != a["digest"] {
				t.Errorf("%s/%s: digest %v, but the bytes have %s", r.ID, name, a["digest"], got)
			}
		}
	}
	if atts == 0 {
		t.Error("no attachments")
	}
}

func checkWrites(t *testing.T, c *testenv.Couch, db string) {
	t.Helper()
	rows := allDocs(t, c, db, "include_docs=true")
	changed := 0
	for i, r := range rows {
		if i%7 != 0 || strings.HasPrefix(r.ID, "_") {
			continue
		}
		r.Doc["changed"] = true
		var answer struct{ Rev string }
		if err := c.Put(testenv.DBPath(db, r.ID), r.Doc, &answer); err != nil {
			t.Fatal(err)
		}
		changed++
	}
	if err := c.Compact(db); err != nil {
		t.Fatal(err)
	}
	got := 0
	rows = allDocs(t, c, db, "include_docs=true&attachments=true")
	checkDocs(t, rows)
	for _, r := range rows {
		if r.Doc["changed"] == true {
			got++
		}
	}
	if got != changed {
		t.Errorf("%d changed documents, want %d", got, changed)
	}
}

// TestUntouchedByServer checks that nothing in our files makes the server
// repair or upgrade them.
func TestUntouchedByServer(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	d, err := couchgen.DataDir(dir, couchgen.DirOptions{DocsPerDB: 50, AttachmentEvery: 5, LocalDocs: 1})
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]string{}
	for _, s := range d.Databases[0].Shards {
		before[s.Path] = read(t, s.Path)
	}
	c := testenv.CouchDB(t, testenv.Options{DataDir: dir})
	allDocs(t, c, d.Databases[0].Name, "include_docs=true")
	c.Stop()
	for path, want := range before {
		if got := read(t, path); got != want {
			t.Errorf("%s: the server changed it: %d bytes, was %d", path, len(got), len(want))
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}
