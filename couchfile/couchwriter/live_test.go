package couchwriter_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/internal/testenv"
)

// liveCase is a database that a CouchDB compacts with some settings.
type liveCase struct {
	name     string
	settings map[string]string // section/key → value
	opts     couchwriter.CompactionOptions
	docs     int
}

var liveCases = []liveCase{
	{name: "plain", docs: 2500},
	{name: "batches", docs: 3000, // of some 100 documents, a dozen checkpoints, and two levels of merging
		settings: map[string]string{"database_compaction/doc_buffer_size": "9000", "couchdb/write_xxhash_checksums": "false"},
		opts:     couchwriter.CompactionOptions{BufferSize: 9000}},
	{name: "uncompressed", docs: 800,
		settings: map[string]string{"couchdb/file_compression": "none", "couchdb/btree_chunk_size": "700"},
		opts:     couchwriter.CompactionOptions{Compression: couchwriter.None, ChunkSize: 700}},
	{name: "recompressed", docs: 800, // written before the setting changed
		settings: map[string]string{},
		opts:     couchwriter.CompactionOptions{Compression: couchwriter.None}},
}

// TestLiveCompaction compacts databases as a CouchDB does that is there: conflicts, deletions,
// cut histories, attachments, purges, local documents; and other settings.
func TestLiveCompaction(t *testing.T) {
	t.Parallel()
	couch := testenv.CouchDB(t, testenv.Options{})
	for _, c := range liveCases {
		t.Run(c.name, func(t *testing.T) {
			live := liveTest{T: t, couch: couch, rnd: rand.New(rand.NewPCG(7, uint64(c.docs)))}
			live.configure(c.settings)
			live.fill(c.name, c.docs)
			if c.name == "recompressed" {
				live.configure(map[string]string{"couchdb/file_compression": "none"})
				live.must("PUT", "/"+c.name+"/last", map[string]any{"last": true}, nil)
			}
			older := live.file(c.name)
			live.tails(older, c)
			if err := couch.Compact(c.name); err != nil {
				t.Fatal(err)
			}
			live.compare(older, live.file(c.name), c.opts)
			live.configure(map[string]string{"couchdb/file_compression": "snappy", "couchdb/btree_chunk_size": "1279",
				"database_compaction/doc_buffer_size": "524288", "couchdb/write_xxhash_checksums": "true"})
		})
	}
	t.Run("passes", func(t *testing.T) {
		live := liveTest{T: t, couch: couch, rnd: rand.New(rand.NewPCG(7, 2))}
		live.underWrites("passes")
	})
	t.Run("views", func(t *testing.T) {
		live := liveTest{T: t, couch: couch, rnd: rand.New(rand.NewPCG(7, 1))}
		live.compactView("views")
	})
}

type liveTest struct {
	*testing.T
	couch *testenv.Couch
	rnd   *rand.Rand
	revs  []string // of what underWrites wrote
}

func (l *liveTest) must(method, path string, body, into any) {
	l.Helper()
	if err := l.couch.Do(l.Context(), method, path, body, into); err != nil {
		l.Fatal(err)
	}
}

func (l *liveTest) configure(settings map[string]string) {
	l.Helper()
	for key, value := range settings {
		l.must("PUT", "/_node/_local/_config/"+key, value, nil)
	}
}

// fill makes a database of all that CouchDB knows.
func (l *liveTest) fill(name string, n int) {
	l.must("PUT", "/"+name+"?q=1", nil, nil)
	l.must("PUT", "/"+name+"/_revs_limit", 4, nil)
	l.must("PUT", "/"+name+"/_security", map[string]any{"admins": map[string]any{"names": []string{"ann"}}}, nil)
	l.must("PUT", "/"+name+"/_local/first", map[string]any{"n": 1}, nil)
	var docs []map[string]any
	for range n {
		docs = append(docs, l.doc(fmt.Sprintf("%016x", l.rnd.Uint64())))
	}
	for round := range 4 { // updates beyond the limit of revisions
		for at := 0; at < len(docs); at += 500 {
			l.bulk(name, docs[at:min(at+500, len(docs))], true)
		}
		l.rnd.Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
		docs = docs[:max(20, len(docs)/(2+round))]
	}
	l.conflicts(name, docs[:20])
	purges := map[string]any{}
	for _, d := range docs[:5] {
		purges[d["_id"].(string)] = []any{d["_rev"]}
	}
	l.must("POST", "/"+name+"/_purge", purges, nil)
}

func (l *liveTest) doc(id string) map[string]any {
	d := map[string]any{"_id": id, "n": l.rnd.IntN(1000), "x": l.rnd.Float64(), "text": strings.Repeat("lorem ipsum ", l.rnd.IntN(30))}
	if l.rnd.IntN(12) == 0 {
		atts := map[string]any{}
		for i := range 1 + l.rnd.IntN(3) {
			data := make([]byte, l.rnd.IntN(3)*l.rnd.IntN(9000))
			for j := range data {
				data[j] = byte(l.rnd.IntN(1 + i*255))
			}
			atts[fmt.Sprint("att", i)] = map[string]any{"content_type": []string{"text/plain", "image/png"}[i%2],
				"data": base64.StdEncoding.EncodeToString(data)}
		}
		d["_attachments"] = atts
	}
	return d
}

// bulk writes documents and keeps their new revisions. Some are deleted.
func (l *liveTest) bulk(name string, docs []map[string]any, edits bool) {
	for _, d := range docs {
		if edits && d["_rev"] != nil {
			delete(d, "_attachments")
			d["n"] = l.rnd.IntN(1000)
			if l.rnd.IntN(15) == 0 {
				d["_deleted"] = true
			}
		}
	}
	var answers []struct{ ID, Rev string }
	l.must("POST", "/"+name+"/_bulk_docs", map[string]any{"docs": docs, "new_edits": edits}, &answers)
	for i, a := range answers {
		if edits && a.Rev != "" {
			docs[i]["_rev"] = a.Rev
			delete(docs[i], "_deleted")
		}
	}
}

// conflicts adds branches, roots of their own and long histories.
func (l *liveTest) conflicts(name string, docs []map[string]any) {
	var out []map[string]any
	for i, d := range docs {
		hash := func(n int) string { return fmt.Sprintf("%032x", 1000*i+n) }
		ids := []string{hash(1), hash(2), hash(3), hash(4), hash(5), hash(6)}
		out = append(out,
			map[string]any{"_id": d["_id"], "c": 1, "_revisions": map[string]any{"start": 6, "ids": ids}},
			map[string]any{"_id": d["_id"], "c": 2, "_revisions": map[string]any{"start": 4, "ids": []string{hash(9), hash(4)}}},
			map[string]any{"_id": d["_id"], "c": 3, "_deleted": i%2 == 0, "_revisions": map[string]any{"start": 5, "ids": []string{hash(7), hash(3)}}})
	}
	l.bulk(name, out, false)
}

// file reads the shard of a database.
func (l *liveTest) file(name string) []byte {
	l.Helper()
	names, err := l.couch.NodeShards(name)
	if err != nil || len(names) != 1 {
		l.Fatalf("shards of %s: %v, %v", name, names, err)
	}
	b, err := os.ReadFile(filepath.Join(l.couch.DataDir, filepath.FromSlash(names[0])+".couch"))
	if err != nil {
		l.Fatal(err)
	}
	return b
}

// tails holds each commit of the filled database against what it should be. The server
// compresses as it was told when it opened the file.
func (l *liveTest) tails(file []byte, c liveCase) {
	l.Helper()
	opts := couchwriter.DatabaseOptions{Release: couchwriter.Release30, Compression: c.opts.Compression, ChunkSize: c.opts.ChunkSize}
	if c.name == "recompressed" {
		opts.Compression = couchwriter.Snappy
	}
	tail := tailTest{t: l.T, file: file, opts: opts}
	tail.run()
	l.Logf("%d commits, %d of their headers, %d of %d nodes", tail.commits, tail.headers, tail.same, tail.nodes)
	if tail.nodes < 100 || tail.same != tail.nodes || tail.headers != tail.commits {
		l.Errorf("got %d of %d nodes and %d of %d headers, want all", tail.same, tail.nodes, tail.headers, tail.commits)
	}
}

func (l *liveTest) compare(older, want []byte, opts couchwriter.CompactionOptions) {
	l.Helper()
	headers := rawHeaders(l, older)
	newest := headers[len(headers)-1]
	src := openSource(l, older, newest)
	src.Sorting = sorting(l, want)
	opts.Release, opts.DefaultSecurity = couchwriter.Release30, firstSecurity(l, want)
	out := &memory{}
	f := couchwriter.NewFile(out, out, 0, newest.Checksum)
	c := couchwriter.NewCompaction(f, nil, opts)
	if err := c.Pass(src, minPurge(l, want)); err != nil {
		l.Fatal(err)
	}
	if err := c.Swap(src); err != nil {
		l.Fatal(err)
	}
	l.Logf("%d bytes out of %d", len(want), len(older))
	sameBytes(l, out.b, want)
}

// minPurge is the sequence of the last purge that a compaction left out.
func minPurge(t testing.TB, file []byte) uint64 {
	t.Helper()
	db, err := couchfile.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	for p, err := range db.Purges(0) {
		if err != nil {
			t.Fatal(err)
		}
		return p.Seq - 1
	}
	return 1 << 40
}
