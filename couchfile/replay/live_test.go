package replay_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestLive stores what a CouchDB that is there compacted, knowing a backup's state: documents
// that were changed, deleted, purged and conflict since, attachments, local documents, compacted
// twice, without a writer and with one at work.
func TestLive(t *testing.T) {
	t.Parallel()
	couch := testenv.CouchDB(t, testenv.Options{})
	for round := range testenv.Rounds(1) {
		for _, busy := range []bool{false, true} {
			if !busy && testing.Short() {
				continue // with a writer there is all of it
			}
			seed := uint64(time.Now().UnixNano())
			name := fmt.Sprintf("replay-%d-%t", round, busy)
			t.Run(name, func(t *testing.T) {
				t.Logf("seed %d", seed)
				l := &live{T: t, couch: couch, name: name, rnd: rand.New(rand.NewPCG(seed, 1)), seed: seed}
				l.run(busy)
			})
		}
	}
}

// live is one database.
type live struct {
	*testing.T
	couch *testenv.Couch
	name  string
	rnd   *rand.Rand
	seed  uint64
	loads uint64
}

func (l *live) must(method, path string, body any) {
	l.Helper()
	if err := l.couch.Do(l.Context(), method, "/"+l.name+path, body, nil); err != nil {
		l.Fatal(err)
	}
}

func (l *live) load(writes int) *testenv.Running {
	l.loads++
	return l.couch.Load(testenv.LoadOptions{Databases: []string{l.name}, Prefix: fmt.Sprintf("load%d", l.loads), Seed: l.seed + l.loads,
		MaxWrites: writes, Duration: time.Minute, Attachments: 10, AttachmentBytes: 6000})
}

func (l *live) run(busy bool) {
	l.must("PUT", "?q=1", nil)
	l.must("PUT", "/_revs_limit", 3)
	l.must("PUT", "/_security", map[string]any{"members": map[string]any{"roles": []string{"r"}}})
	l.bulk("a", 2000)
	writes := l.load(400).Wait().Writes()
	l.must("PUT", "/_local/checkpoint", map[string]any{"n": 1})
	was := l.shard()
	l.bulk("b", 100)
	l.conflicts()
	l.load(100).Wait()
	for _, w := range writes[len(writes)-10:] {
		if !w.Deleted { // if it was written again, there is nothing to purge
			l.must("POST", "/_purge", map[string][]string{w.ID: {w.Rev}})
		}
	}
	l.compact(was, false)
	l.bulk("c", 50)
	l.compact(was, busy)
}

// compact compacts the database and holds what is stored of it against the file.
func (l *live) compact(was []byte, busy bool) {
	l.Helper()
	var meanwhile *testenv.Running
	if busy {
		meanwhile = l.load(1000)
	}
	if err := l.couch.Compact(l.name); err != nil {
		l.Fatal(err)
	}
	if meanwhile != nil {
		meanwhile.Stop()
	}
	is := l.shard()
	older := atNewest(l, was)
	stream, r := mustEncode(l, atNewest(l, is), openKnown(l, knownBytes(l, was)))
	l.Logf("%d bytes of stream (%d packed) for %d of %d (%d packed), %d passes, %d taken, %d new, %d corrections", len(stream),
		packed(l, stream), r.Info.Size, len(is), packed(l, is[:r.Info.Size]), r.Info.Passes, r.Taken, r.New, r.Corrections)
	got, err := decode(stream, &older)
	if err != nil {
		l.Fatal(err)
	}
	if !bytes.Equal(got, is[:r.Info.Size]) {
		l.Fatal("other bytes")
	}
	if r.Taken < 1500 || r.Corrections > 0 {
		l.Errorf("%d documents taken, %d corrections", r.Taken, r.Corrections)
	}
}

// bulk writes documents at once.
func (l *live) bulk(prefix string, n int) {
	var docs []map[string]any
	for i := range n {
		docs = append(docs, map[string]any{"_id": fmt.Sprintf("%s%08x-%d", prefix, l.rnd.Uint32(), i), "n": l.rnd.IntN(100), "x": l.rnd.Float64()})
	}
	l.must("POST", "/_bulk_docs", map[string]any{"docs": docs})
}

// conflicts writes branches of documents, longer than what the database remembers.
func (l *live) conflicts() {
	var docs []map[string]any
	for i := range 30 {
		for branch := range 3 {
			var ids []string
			for n := range 5 {
				own := branch
				if n >= 3 { // what all branches have
					own = 9
				}
				ids = append(ids, fmt.Sprintf("%032x", 1000*i+10*own+n))
			}
			docs = append(docs, map[string]any{"_id": fmt.Sprint("conflict", i), "branch": branch, "_deleted": branch == 2,
				"_revisions": map[string]any{"start": 5, "ids": ids}})
		}
	}
	l.must("POST", "/_bulk_docs", map[string]any{"docs": docs, "new_edits": false})
}

// shard reads the only shard of the database.
func (l *live) shard() []byte {
	l.Helper()
	names, err := l.couch.NodeShards(l.name)
	if err != nil || len(names) != 1 {
		l.Fatalf("shards of %s: %v, %v", l.name, names, err)
	}
	b, err := os.ReadFile(filepath.Join(l.couch.DataDir, filepath.FromSlash(names[0])+".couch"))
	if err != nil {
		l.Fatal(err)
	}
	return b
}

var _ replay.Older = (*replay.OlderFile)(nil)
