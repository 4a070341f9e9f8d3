package couchgen_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/slipcover/slipcover/internal/couchgen"
)

// make1 writes a file that has everything in it.
func make1(t *testing.T, w io.Writer, o couchgen.Options) *couchgen.Generator {
	t.Helper()
	g, err := couchgen.Create(w, o)
	if err != nil {
		t.Fatal(err)
	}
	put := func(d couchgen.Doc) couchgen.Rev {
		t.Helper()
		rev, err := g.Put(d)
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	long := bytes.Repeat([]byte("0123456789"), 3000)
	for i := range 300 {
		put(couchgen.Doc{ID: fmt.Sprintf("doc-%04d", i*7%300), Body: map[string]any{
			"n": i, "f": float64(i) / 3, "big": uint64(1) << 62, "neg": -i, "list": []any{1, 2, 300}, "bytes": []any{1, 2, 3},
			"nothing": nil, "yes": true, "text": strings.Repeat("é", i),
		}})
		if i%50 == 0 {
			ok(g.Commit())
		}
	}
	put(couchgen.Doc{ID: "att", Attachments: []couchgen.Attachment{
		{Name: "a.txt", Type: "text/plain", Data: long, Gzip: true},
		{Name: "b.bin", Type: "application/octet-stream", Data: long[:4096]},
		{Name: "empty", Type: "image/png"},
	}})
	first := put(couchgen.Doc{ID: "conflict", Body: json.RawMessage(`{"v": 1, "z": 1.0, "a": [[], {}]}`)})
	put(couchgen.Doc{ID: "conflict", Body: couchgen.Object{{Key: "v", Value: 2}}})
	put(couchgen.Doc{ID: "conflict", Parent: first.String(), Body: couchgen.Object{{Key: "v", Value: 3}}})
	put(couchgen.Doc{ID: "conflict", Parent: "0", Body: couchgen.Object{{Key: "v", Value: 4}}})
	put(couchgen.Doc{ID: "stemmed", Parent: "41-" + strings.Repeat("ab", 16), RevID: strings.Repeat("cd", 16)})
	ok(g.PutLocal("_local/one", couchgen.Object{{Key: "seq", Value: 12}}))
	ok(g.PutLocal("_local/two", couchgen.Object{}))
	ok(g.Commit())
	put(couchgen.Doc{ID: "att", KeepAttachments: true, Body: couchgen.Object{{Key: "v", Value: 2}},
		Attachments: []couchgen.Attachment{{Name: "c", Type: "image/png", Data: []byte("c")}}})
	for i := range 40 {
		if i%4 == 0 {
			_, err := g.Delete(fmt.Sprintf("doc-%04d", i*3))
			ok(err)
			continue
		}
		put(couchgen.Doc{ID: fmt.Sprintf("doc-%04d", i*3), Body: couchgen.Object{{Key: "again", Value: i}}})
	}
	ok(g.Purge("doc-0100"))
	ok(g.Purge("doc-0003")) // changed in this commit
	put(couchgen.Doc{ID: "doc-0100", Body: couchgen.Object{{Key: "back", Value: true}}})
	ok(g.PutLocal("_local/one", couchgen.Object{{Key: "seq", Value: 13}}))
	ok(g.DeleteLocal("_local/two"))
	ok(g.SetSecurity(couchgen.Object{{Key: "admins", Value: couchgen.Object{}}}))
	g.SetRevsLimit(77)
	ok(g.Commit())
	return g
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestSameBytes(t *testing.T) {
	t.Parallel()
	o := couchgen.Options{Seed: 3}
	a, b := create(t, filepath.Join(t.TempDir(), "a")), create(t, filepath.Join(t.TempDir(), "b"))
	g := make1(t, a, o)
	o.MemoryDocs = 1 // forgets the trees at each commit and reads them again
	make1(t, b, o)
	if read(t, a.Name()) != read(t, b.Name()) {
		t.Error("the same calls gave other bytes with the trees read back from the file")
	}
	if n := int64(len(read(t, a.Name()))); n != g.Size() {
		t.Errorf("size is %d, the file has %d bytes", g.Size(), n)
	}
	live, deleted := g.Docs()
	if live != 300+3-10-1 || deleted != 10 {
		t.Errorf("%d documents, %d deleted, want %d and 10", live, deleted, 300+3-10-1)
	}
}

func TestReopenAsIfNeverClosed(t *testing.T) {
	t.Parallel()
	for _, o := range []couchgen.Options{{}, {Checksum: couchgen.MD5, Compression: couchgen.None}, {Compression: couchgen.Deflate, NodeLocal: true}} {
		a, b := create(t, filepath.Join(t.TempDir(), "a")), create(t, filepath.Join(t.TempDir(), "b"))
		more := func(g *couchgen.Generator) {
			for i := range 100 {
				if _, err := g.Put(couchgen.Doc{ID: fmt.Sprintf("doc-%04d", i*5), KeepAttachments: true}); err != nil {
					t.Fatal(err)
				}
			}
			if err := g.Purge("doc-0001"); err != nil {
				t.Fatal(err)
			}
			if err := g.PutLocal("_local/one", couchgen.Object{}); err != nil {
				t.Fatal(err)
			}
			if err := g.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		more(make1(t, a, o))
		make1(t, b, o)
		g, err := couchgen.Reopen(b, o)
		if err != nil {
			t.Fatal(err)
		}
		more(g)
		if read(t, a.Name()) != read(t, b.Name()) {
			t.Errorf("%+v: a file continued after Reopen differs from one written in one go", o)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	g, err := couchgen.Create(io.Discard, couchgen.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]couchgen.Doc{
		"no id":          {},
		"not an object":  {ID: "a", Body: 3},
		"not a revision": {ID: "a", Parent: "x"},
		"not JSON":       {ID: "a", Body: json.RawMessage("{")},
	} {
		if _, err := g.Put(d); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := g.Purge("nosuch"); err == nil {
		t.Error("purge of an unknown document: no error")
	}
	if _, err := couchgen.Reopen(create(t, filepath.Join(t.TempDir(), "empty")), couchgen.Options{}); err == nil {
		t.Error("reopen of an empty file: no error")
	}
}

// TestDataDir checks sizes and growth, which need no server.
func TestDataDir(t *testing.T) {
	t.Parallel()
	files := func(dir string) map[string]string {
		m := map[string]string{}
		err := filepath.Walk(dir, func(path string, st os.FileInfo, err error) error {
			if err == nil && !st.IsDir() {
				m[strings.TrimPrefix(path, dir)] = read(t, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	o := couchgen.DirOptions{Seed: 9, Databases: 3, DocsPerDB: 200, AttachmentEvery: 10, UpdateFraction: 0.1, Views: true}
	a, b := t.TempDir(), t.TempDir()
	d, err := couchgen.DataDir(a, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := couchgen.DataDir(b, o); err != nil {
		t.Fatal(err)
	}
	before := files(a)
	if !maps.Equal(before, files(b)) {
		t.Error("the same options gave other files")
	}
	if want := 3*2*2 + 2; d.Files != want || len(before) != want || d.Docs != 3*201 {
		t.Errorf("%d files, %d found, %d documents; want %d, %d, %d", d.Files, len(before), d.Docs, want, want, 3*201)
	}
	grown, bytes, err := couchgen.Grow(a, 0.5, couchgen.GrowOptions{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	after := files(a)
	changed, added := 0, int64(0)
	for path, was := range before {
		if now := after[path]; now != was {
			changed++
			added += int64(len(now) - len(was))
			if !strings.HasPrefix(now, was) {
				t.Errorf("%s: growth changed what was there", path)
			}
		}
	}
	if changed != grown || added != bytes || grown != 6 {
		t.Errorf("grow says %d files and %d bytes, found %d and %d, want 6 files", grown, bytes, changed, added)
	}
}

func TestShapes(t *testing.T) {
	t.Parallel()
	d, err := couchgen.DataDir(t.TempDir(), couchgen.PerUser(100))
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int64
	for _, db := range d.Databases {
		for _, s := range db.Shards {
			sizes = append(sizes, s.Bytes)
		}
	}
	slices.Sort(sizes)
	if len(sizes) != 100 || sizes[0] < 16_000 || sizes[99] > 30_000 {
		t.Errorf("%d files of %d to %d bytes, want 100 of about 20,000", len(sizes), sizes[0], sizes[len(sizes)-1])
	}
	d, err = couchgen.DataDir(t.TempDir(), couchgen.OneShard(4<<20))
	if err != nil {
		t.Fatal(err)
	}
	s := d.Databases[0].Shards[0]
	if s.Bytes < 7<<19 || s.Bytes > 9<<19 {
		t.Errorf("one shard of 4 MiB has %d bytes", s.Bytes)
	}
	// Real shards of the server's make compress to about half.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte(read(t, s.Path))
	if ratio := float64(len(raw)) / float64(len(enc.EncodeAll(raw, nil))); ratio < 1.6 || ratio > 2.4 {
		t.Errorf("zstd makes the file %.2f times smaller, want about 2", ratio)
	}
}
