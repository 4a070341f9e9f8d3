package replay_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestLiveTail stores what a CouchDB that is there appends while several clients write: updates,
// deletions, conflicts, purges, local documents, security, limits, and attachments that are
// uploaded in pieces while commits are written.
func TestLiveTail(t *testing.T) {
	t.Parallel()
	couch := testenv.CouchDB(t, testenv.Options{})
	for round := range testenv.Rounds(1) {
		seed := uint64(time.Now().UnixNano())
		name := fmt.Sprintf("tail-%d", round)
		t.Run(name, func(t *testing.T) {
			t.Logf("seed %d", seed)
			l := &live{T: t, couch: couch, name: name, rnd: rand.New(rand.NewPCG(seed, 1)), seed: seed}
			l.must("PUT", "?q=1", nil)
			l.bulk("a", 500)
			l.must("PUT", "/_local/first", map[string]any{"n": 1})
			was := l.shard()
			l.tail()
			file := l.shard()
			if !bytes.Equal(file[:len(was)], was) {
				t.Fatal("the file was compacted")
			}
			from := atNewest(t, was)
			l.holdTail(file, from.Header)
			for range 5 { // from any header to any later one
				l.holdTail(file, l.someHeader(file))
			}
		})
	}
}

// TestLiveTailChunkSize changes btree_chunk_size while the server runs.
func TestLiveTailChunkSize(t *testing.T) {
	t.Parallel()
	couch := testenv.CouchDB(t, testenv.Options{})
	l := &live{T: t, couch: couch, name: "cut", rnd: rand.New(rand.NewPCG(1, 1)), seed: 1}
	l.must("PUT", "?q=1", nil)
	l.bulk("a", 1000)
	from := atNewest(t, l.shard())
	for _, size := range []string{"3000", "600"} {
		if err := couch.Put("/_node/_local/_config/couchdb/btree_chunk_size", size, nil); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			l.bulk("b", 20)
		}
		l.must("PUT", "/_local/"+size, map[string]any{"n": 1})
	}
	_, r := tailTrip(t, l.shard(), from.Size)
	t.Logf("%d commits, %d predicted, %d other nodes", r.Changed, r.Predicted, r.Others)
	if r.Predicted != r.Changed || r.Others > 10 || r.Raw > 0 {
		t.Errorf("%d commits, %d predicted, %d other nodes, %d raw", r.Changed, r.Predicted, r.Others, r.Raw)
	}
}

// tail writes all that a server can be told, from several clients at once.
func (l *live) tail() {
	load := l.load(400)
	var uploads sync.WaitGroup
	for i := range 2 {
		uploads.Go(func() { l.upload(fmt.Sprint("upload", i), 40) })
	}
	l.conflicts()
	l.must("PUT", "/_security", map[string]any{"members": map[string]any{"roles": []string{"r"}}})
	l.must("PUT", "/_local/first", map[string]any{"_rev": "0-1", "n": 2, "text": "0123456789 0123456789"})
	l.must("PUT", "/_local/second", map[string]any{"n": 1})
	l.must("PUT", "/_revs_limit", 3)
	l.must("PUT", "/_purged_infos_limit", 500)
	l.history("deep", 8)
	l.must("DELETE", "/_local/first?rev=0-2", nil)
	uploads.Wait()
	for _, w := range load.Wait().Writes()[:10] {
		if !w.Deleted { // if it was written again, there is nothing to purge
			l.must("POST", "/_purge", map[string][]string{w.ID: {w.Rev}})
		}
	}
	l.must("POST", "/_purge", map[string][]string{"conflict1": {fmt.Sprintf("5-%032x", 1000)}, "deep": {l.rev("deep")}, "none": {"1-a"}})
	l.bulk("b", 30)
}

// history writes a document again and again, beyond the limit of revisions.
func (l *live) history(id string, n int) {
	doc := map[string]any{"text": "what remains as it was, revision by revision"}
	for i := range n {
		doc["n"] = i
		var answer struct{ Rev string }
		if err := l.couch.Do(l.Context(), "PUT", "/"+l.name+"/"+id, doc, &answer); err != nil {
			l.Error(err)
			return
		}
		doc["_rev"] = answer.Rev
	}
}

func (l *live) rev(id string) string {
	l.Helper()
	var doc struct {
		Rev string `json:"_rev"`
	}
	if err := l.couch.Do(l.Context(), "GET", "/"+l.name+"/"+id, nil, &doc); err != nil {
		l.Fatal(err)
	}
	return doc.Rev
}

// upload sends an attachment piece by piece, as others write.
func (l *live) upload(id string, pieces int) {
	r, w := io.Pipe()
	go func() {
		rnd := rand.New(rand.NewPCG(l.seed, uint64(len(id))))
		for range pieces {
			p := make([]byte, 9000)
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			if _, err := w.Write(p); err != nil {
				return
			}
			_ = l.couch.Do(l.Context(), "GET", "/"+l.name, nil, nil) // let others go on
		}
		w.Close()
	}()
	req, err := http.NewRequestWithContext(l.Context(), http.MethodPut, l.couch.URL+"/"+l.name+"/"+id+"/big", r)
	if err != nil {
		l.Error(err)
		return
	}
	req.SetBasicAuth(l.couch.Admin, l.couch.Password)
	req.Header.Set("Content-Type", "application/octet-stream")
	answer, err := l.couch.HTTP.Do(req)
	if err != nil {
		l.Error(err)
		return
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		b, _ := io.ReadAll(answer.Body)
		l.Errorf("upload: %s %s", answer.Status, b)
	}
}

// someHeader is a header of the file that is not the last one.
func (l *live) someHeader(file []byte) int64 {
	l.Helper()
	points, err := couchfile.Points(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		l.Fatal(err)
	}
	return points[l.rnd.IntN(len(points)-1)].Offset
}

// holdTail stores all behind a header, and holds it against the file.
func (l *live) holdTail(file []byte, header int64) {
	l.Helper()
	h, err := couchfile.ReadHeader(bytes.NewReader(file), int64(len(file)), header)
	if err != nil {
		l.Fatal(err)
	}
	stream, r := tailTrip(l, file, h.End)
	l.Logf("%d bytes (%d packed) in %d (%d packed); %d commits, %d changed, %d predicted, %d chunks among nodes, %d other nodes, %d raw",
		r.Info.Size, packed(l, file[h.End:]), len(stream), packed(l, stream), r.Commits, r.Changed, r.Predicted, r.Between, r.Others, r.Raw)
	if r.Predicted != r.Changed || r.Others > 0 || r.Raw > 0 {
		l.Error("not all is predicted")
	}
}
