package couchwriter_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
)

// liveViews have floats whose order of addition matters, two reduces of one map, lists, and
// rows of equal keys.
var liveViews = map[string]any{
	"floats": map[string]any{"map": "function(d) { emit(d.n % 7, d.x); }", "reduce": "_stats"},
	"counts": map[string]any{"map": "function(d) { emit(d.n % 7, d.x); }", "reduce": "_count"},
	"sums":   map[string]any{"map": "function(d) { emit(d.n % 7, d.x); }", "reduce": "_sum"},
	"lists":  map[string]any{"map": "function(d) { emit([d.n, 'a'], [d.n, d.x, -1]); }", "reduce": "_sum"},
	"equal":  map[string]any{"map": "function(d) { emit(null, d.n); emit(null, 1); emit(d.x, 2); emit(null, d.x); }", "reduce": "_stats"},
	"plain":  map[string]any{"map": "function(d) { emit(d._id, null); }"},
}

// liveFunctions are their reduces, in the order of the index: each map once, by its source;
// its reduces from the last view's to the first one's.
var liveFunctions = [][]string{{"_sum"}, nil, {"_sum", "_stats", "_count"}, {"_stats"}}

// compactView compares the index of a database with what the server compacts.
func (l *liveTest) compactView(name string) {
	l.must("PUT", "/"+name+"?q=1", nil, nil)
	l.must("PUT", "/"+name+"/_design/d", map[string]any{"views": liveViews}, nil)
	for range 3 {
		var docs []map[string]any
		for range 600 {
			docs = append(docs, map[string]any{"_id": fmt.Sprintf("%016x", l.rnd.Uint64()), "n": l.rnd.IntN(1000), "x": l.rnd.NormFloat64() * 1e6})
		}
		l.bulk(name, docs, true)
		l.must("GET", "/"+name+"/_design/d/_view/plain?limit=1", nil, nil)
	}
	path := l.viewPath(name)
	older, err := os.ReadFile(path)
	if err != nil {
		l.Fatal(err)
	}
	l.must("POST", "/"+name+"/_compact/d", map[string]any{}, nil)
	l.awaitView(name, path)
	want, err := os.ReadFile(path)
	if err != nil {
		l.Fatal(err)
	}
	headers := rawHeaders(l, want)
	newest := headers[len(headers)-1]
	forged, err := couchwriter.ViewHeader(newest.Term, newestRoots(l, older, len(liveFunctions)+1))
	if err != nil {
		l.Fatal(err)
	}
	out := &memory{}
	f := couchwriter.NewFile(out, out, 0, newest.Checksum)
	at := couchfile.RawHeader{Kind: couchfile.HeaderView, Term: forged, End: int64(len(older))}
	states, err := couchwriter.CompactView(f, bytes.NewReader(older), int64(len(older)), at, couchwriter.ViewOptions{Functions: liveFunctions})
	if err != nil {
		l.Fatal(err)
	}
	head, err := couchwriter.ViewHeader(newest.Term, states)
	if err != nil {
		l.Fatal(err)
	}
	if _, err := f.Header(head); err != nil {
		l.Fatal(err)
	}
	l.Logf("%d bytes out of %d, %d headers", len(want), len(older), len(headers))
	sameBytes(l, out.b, want[:min(len(want), len(out.b))])
}

func (l *liveTest) viewPath(name string) string {
	l.Helper()
	paths, err := filepath.Glob(filepath.Join(l.couch.DataDir, ".shards", "*", name+".*_design", "mrview", "*.view"))
	if err != nil || len(paths) != 1 {
		l.Fatalf("files of the index of %s: %v, %v", name, paths, err)
	}
	return paths[0]
}

// awaitView waits until the index is compacted and its header is written.
func (l *liveTest) awaitView(name, path string) {
	l.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var info struct {
			Index struct {
				Running bool `json:"compact_running"`
			} `json:"view_index"`
		}
		l.must("GET", "/"+name+"/_design/d/_info", nil, &info)
		b, err := os.ReadFile(path)
		if err == nil && !info.Index.Running && compactedView(l, b) {
			return
		}
		if time.Now().After(deadline) {
			l.Fatalf("the index of %s was not compacted in three minutes", name)
		}
	}
}

// compactedView says whether a file ends with the header of a compacted index: no nodes are in
// it but those of its trees.
func compactedView(t testing.TB, file []byte) bool {
	headers := rawHeaders(t, file)
	return len(newestRoots(t, file, 100)) == len(liveFunctions)+1 && headers[len(headers)-1].End == int64(len(file))
}
