package replay_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/testenv"
)

// liveViews have floats whose order of addition matters, several reduces of one map, one of them
// in JavaScript, lists, rows of equal keys, null, and none at all.
var liveViews = map[string]any{
	"floats": map[string]any{"map": "function(d) { emit(d.n % 7, d.x); }", "reduce": "_stats"},
	"counts": map[string]any{"map": "function(d) { emit(d.n % 7, d.x); }", "reduce": "_count"},
	"most":   map[string]any{"map": "function(d) { emit(d.n % 7, d.x); }", "reduce": "function(k, v) { return Math.max.apply(null, v); }"},
	"sums":   map[string]any{"map": "function(d) { emit(d.n % 7, d.x); }", "reduce": "_sum"},
	"names":  map[string]any{"map": "function(d) { emit(d._id, {n: d.n}); }", "reduce": "function(k, v, r) { return {rows: v.length, again: r}; }"},
	"lists":  map[string]any{"map": "function(d) { emit([d.n, 'a'], [d.n, d.x, -1]); }", "reduce": "_sum"},
	"equal":  map[string]any{"map": "function(d) { emit(null, d.n); emit(null, 1); emit(d.x, 2); emit(null, d.x); }", "reduce": "_stats"},
	"about":  map[string]any{"map": "function(d) { emit(d.n, null); }", "reduce": "_approx_count_distinct"},
	"plain":  map[string]any{"map": "function(d) { emit(d._id, null); }"},
	"none":   map[string]any{"map": "function(d) { if (d.never) emit(1, 1); }"},
	"one":    map[string]any{"map": "function(d) { if (d._id == 'only') emit(1, 1); }", "reduce": "_sum"},
}

// TestLiveViews stores indexes that a CouchDB which is there compacted, with the default of
// view_compaction/keyvalue_buffer_size and with batches of some rows, knowing a backup's state
// and not, and reads them with the other reader too.
func TestLiveViews(t *testing.T) {
	t.Parallel()
	couch := testenv.CouchDB(t, testenv.Options{})
	for _, buffer := range []string{"", "20000"} {
		if buffer == "" && testing.Short() {
			continue // the other one has more batches
		}
		seed := uint64(time.Now().UnixNano())
		name := "views" + buffer
		t.Run(name, func(t *testing.T) {
			t.Logf("seed %d", seed)
			l := &live{T: t, couch: couch, name: name, rnd: rand.New(rand.NewPCG(seed, 1)), seed: seed}
			if buffer != "" {
				if err := couch.Do(t.Context(), "PUT", "/_node/_local/_config/view_compaction/keyvalue_buffer_size", buffer, nil); err != nil {
					t.Fatal(err)
				}
			}
			l.compactViews()
		})
	}
}

func (l *live) compactViews() {
	l.must("PUT", "?q=1", nil)
	l.must("PUT", "/_design/d", map[string]any{"views": liveViews})
	l.must("PUT", "/only", map[string]any{"n": 1, "x": 1})
	for range 3 {
		l.bulk("a", 600)
		l.must("GET", "/_design/d/_view/plain?limit=1", nil)
	}
	was := l.view(func(b []byte) bool { // the server writes headers later than nodes
		h, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return false
		}
		v, err := couchfile.ParseViewHeader(h)
		return err == nil && v.UpdateSeq == 2+3*600
	})
	l.bulk("b", 5)
	l.must("GET", "/_design/d/_view/plain?limit=1", nil)
	l.must("POST", "/_compact/d", map[string]any{})
	is := l.compactedView(was)
	stream, r := replayView(l, was, is)
	if r.Info.Taken < 10000 || r.New > 5000 || r.Told == 0 {
		l.Errorf("%d rows taken, %d new, %d reductions told", r.Info.Taken, r.New, r.Told)
	}
	if !testing.Short() {
		mustPython(l, stream, cut(l, was), is[:r.Info.Size])
	}

	// The index is brought up to date while it is compacted, and written to afterwards.
	l.bulk("c", 5)
	l.must("GET", "/_design/d/_view/plain?limit=1", nil)
	l.must("POST", "/_compact/d", map[string]any{})
	l.bulk("d", 200)
	l.must("GET", "/_design/d/_view/plain?limit=1", nil)
	if _, r := replayView(l, is, l.compactedView(is)); r.Info.Taken < 10000 {
		l.Errorf("%d rows taken, %d new", r.Info.Taken, r.New)
	}
}

// compactedView is the index as soon as it is another file than it was.
func (l *live) compactedView(was []byte) []byte {
	l.Helper()
	return l.view(func(b []byte) bool {
		list := headersOf(l, b)
		return !bytes.HasPrefix(b, was) && len(list) > 1 && list[1] > couchfile.BlockSize
	})
}

// view reads the index of the only shard, as soon as it is as it should be.
func (l *live) view(is func([]byte) bool) []byte {
	l.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		file := strings.Repeat("?", 32) + ".view" // not the one that is being compacted
		paths, err := filepath.Glob(filepath.Join(l.couch.DataDir, ".shards", "*", l.name+".*_design", "mrview", file))
		if err != nil || len(paths) > 1 {
			l.Fatalf("files of the index of %s: %v, %v", l.name, paths, err)
		}
		if len(paths) == 1 {
			if b, err := os.ReadFile(paths[0]); err == nil && is(b) {
				return b
			}
		}
		if time.Now().After(deadline) {
			l.Fatalf("no such index of %s in three minutes", l.name)
		}
	}
}

// headersOf are the offsets of a file's headers.
func headersOf(t testing.TB, b []byte) (list []int64) {
	t.Helper()
	for c, err := range couchfile.Chunks(bytes.NewReader(b), 0, int64(len(b))) {
		if err != nil {
			return list // it is being written
		}
		if c.IsHeader {
			list = append(list, c.Offset)
		}
	}
	return list
}
