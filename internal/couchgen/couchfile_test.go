package couchgen_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/couchgen"
)

// verify holds a file against everything that couchfile checks, in all its states.
func verify(t *testing.T, path string) *couchfile.Report {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	report, err := couchfile.Verify(t.Context(), f, st.Size(), couchfile.VerifyOptions{AllHeaders: true})
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for _, finding := range report.Findings {
		t.Errorf("%s: %v", path, finding)
	}
	if report.TailBytes != 0 {
		t.Errorf("%s: %d bytes behind the newest header", path, report.TailBytes)
	}
	return report
}

func TestVerifyFile(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]couchgen.Options{
		"default":     {},
		"md5":         {Checksum: couchgen.MD5, Seed: 2},
		"none":        {Compression: couchgen.None, Seed: 3},
		"deflate":     {Compression: couchgen.Deflate, Seed: 4},
		"zstd":        {Compression: couchgen.Zstd, Seed: 7},
		"partitioned": {Partitioned: true, Seed: 5},
		"local":       {NodeLocal: true, Seed: 6, RevsLimit: 10, AttachmentChunk: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := create(t, filepath.Join(t.TempDir(), "a.couch"))
			g := make1(t, f, o)
			report := verify(t, f.Name())
			live, deleted := g.Docs()
			if int64(report.Docs) != live || int64(report.DeletedDocs) != deleted || report.Headers != 10 {
				t.Errorf("got %d documents, %d deleted, %d states; want %d, %d, 10",
					report.Docs, report.DeletedDocs, report.Headers, live, deleted)
			}
			checkContent(t, f, g)
		})
	}
}

// checkContent reads back what make1 wrote.
func checkContent(t *testing.T, f *os.File, g *couchgen.Generator) {
	t.Helper()
	db, err := couchfile.Open(f, g.Size())
	if err != nil {
		t.Fatal(err)
	}
	info, err := db.Info()
	if err != nil {
		t.Fatal(err)
	}
	if info.UpdateSeq != g.UpdateSeq() || info.PurgeSeq != 2 || info.UUID != g.UUID() {
		t.Errorf("got %+v, want update_seq %d, purge_seq 2, uuid %s", info, g.UpdateSeq(), g.UUID())
	}
	if n := db.Header().RevsLimit; n != 77 {
		t.Errorf("revs_limit is %d, want 77", n)
	}
	want := map[string]any{"n": 5.0, "f": 5.0 / 3, "big": float64(uint64(1) << 62), "neg": -5.0,
		"list": []any{1.0, 2.0, 300.0}, "bytes": []any{1.0, 2.0, 3.0}, "nothing": nil, "yes": true, "text": "ééééé"}
	raw, err := db.Doc("doc-0035", couchfile.DocOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	delete(got, "_id")
	delete(got, "_rev")
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("document: got %v, want %v", got, want)
	}
	checkLeaves(t, db)
	security, err := db.Security()
	if err != nil || string(security) != `{"admins":{}}` {
		t.Errorf("security: got %s, %v", security, err)
	}
	local, err := db.LocalDoc("_local/one")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := local.JSON(); err != nil || !bytes.Contains(p, []byte(`"seq":13`)) || !bytes.Contains(p, []byte(`"0-2"`)) {
		t.Errorf("local document: got %s, %v", p, err)
	}
}

func checkLeaves(t *testing.T, db *couchfile.DB) {
	t.Helper()
	for id, want := range map[string]int{"conflict": 3, "stemmed": 1, "att": 1, "doc-0100": 1} {
		info, err := db.DocInfo(id)
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		if n := len(info.Leaves()); n != want {
			t.Errorf("%s: %d leaves, want %d", id, n, want)
		}
		if id == "att" {
			atts, err := db.Attachments(id, info.Winner())
			if err != nil || len(atts) != 4 {
				t.Errorf("%d attachments, want 4: %v", len(atts), err)
			}
		}
	}
}

func TestVerifyDataDir(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]couchgen.DirOptions{
		"default": {Databases: 2, DocsPerDB: 700, CommitEvery: 60, UpdateFraction: 0.3, DeleteFraction: 0.1,
			AttachmentEvery: 10, AttachmentBytes: 9000, LocalDocs: 4, Views: true},
		"partitioned": {DocsPerDB: 300, Q: 5, Partitioned: true, Views: true, Compression: couchgen.Deflate},
		"per user":    couchgen.PerUser(40),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if _, err := couchgen.DataDir(dir, o); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
					if err == nil && !e.IsDir() {
						verify(t, path)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := couchgen.Grow(dir, 0.3, couchgen.GrowOptions{DeleteEvery: 7}); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestBoundaries lets chunks and headers end at every place in a block.
func TestBoundaries(t *testing.T) {
	t.Parallel()
	f := create(t, filepath.Join(t.TempDir(), "a.couch"))
	g, err := couchgen.Create(f, couchgen.Options{Compression: couchgen.None})
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 5000)
	for i := range 4200 {
		doc := couchgen.Doc{ID: fmt.Sprintf("doc-%05d", i)}
		if i%3 == 0 {
			doc.Attachments = []couchgen.Attachment{{Name: "a", Type: "image/png", Data: data[:i]}}
		}
		if _, err := g.Put(doc); err != nil {
			t.Fatal(err)
		}
		if i%11 == 0 {
			if err := g.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := g.Commit(); err != nil {
		t.Fatal(err)
	}
	report, err := couchfile.Verify(t.Context(), f, g.Size(), couchfile.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range report.Findings {
		t.Error(finding)
	}
	if report.Docs != 4200 || report.Attachments != 1400 {
		t.Errorf("%d documents, %d attachments, want 4200 and 1400", report.Docs, report.Attachments)
	}
}
