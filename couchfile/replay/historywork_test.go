package replay_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

// docSet is the documents that a database has or had.
type docSet struct {
	prefix string

	mu   sync.Mutex // guards what is below
	list []docRev
	n    int
}

type docRev struct {
	id, rev string
	atts    bool
}

// pick is one of the documents, the newer ones more often.
func (d *docSet) pick(rnd *rand.Rand) (docRev, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) == 0 {
		return docRev{}, false
	}
	return d.list[rnd.IntN(len(d.list))], true
}

// newID is ordered or random.
func (d *docSet) newID(rnd *rand.Rand) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	if rnd.IntN(3) == 0 {
		return fmt.Sprintf("%sa%08d", d.prefix, d.n)
	}
	return fmt.Sprintf("%s%08x%s-%d", d.prefix, rnd.Uint32(), strings.Repeat("x", rnd.IntN(8)*rnd.IntN(2)), d.n)
}

func (d *docSet) put(r docRev) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.list {
		if d.list[i].id == r.id {
			d.list[i] = r
			return
		}
	}
	d.list = append(d.list, r)
}

// work does some of all that can be done to a database.
func (h *history) work(rnd *rand.Rand, docs int) {
	for docs > 0 {
		n := min(docs, 1+rnd.IntN(300))
		docs -= n
		if err := h.step(rnd, n); err != nil {
			h.Fatal(err)
		}
	}
}

// step changes n documents, or something else of the database.
func (h *history) step(rnd *rand.Rand, n int) error {
	switch rnd.IntN(12) {
	case 0:
		return h.limits(rnd)
	case 1:
		return h.request("PUT", "/_security", map[string]any{"members": map[string]any{"roles": []string{fmt.Sprint("r", rnd.IntN(9))}}}, nil)
	case 2:
		path := fmt.Sprint("/_local/l", rnd.IntN(20))
		if rnd.IntN(4) == 0 {
			err := h.request("DELETE", path, nil, nil)
			if testenv.Status(err) == http.StatusNotFound {
				err = nil
			}
			return err
		}
		return h.request("PUT", path, map[string]any{"n": rnd.IntN(1000)}, nil)
	case 3, 4:
		return h.purge(rnd, 1+rnd.IntN(min(n, 30)))
	case 5:
		return h.conflicts(rnd, min(n, 20))
	case 6:
		return h.multipart(rnd)
	default:
		return h.bulk(rnd, n)
	}
}

func (h *history) request(method, path string, body, into any) error {
	return h.couch.Do(h.Context(), method, "/"+h.name+path, body, into)
}

func (h *history) limits(rnd *rand.Rand) error {
	return h.request("PUT", "/_revs_limit", []int{1, 2, 5, 20, 1000}[rnd.IntN(5)], nil)
}

// bulk writes new documents, updates and deletions at once.
func (h *history) bulk(rnd *rand.Rand, n int) error {
	var docs []map[string]any
	seen := map[string]bool{}
	large := rnd.IntN(8) == 0
	updates := rnd.IntN(100)
	for range n {
		d := map[string]any{"n": rnd.IntN(1000), "x": rnd.Float64(), "text": strings.Repeat("lorem ipsum ", rnd.IntN(20))}
		if large && rnd.IntN(5) == 0 {
			d["large"] = fmt.Sprintf("%x", randomBytes(rnd, rnd.IntN(50_000)))
		}
		was, ok := h.docs.pick(rnd)
		if ok && rnd.IntN(100) < updates && !seen[was.id] {
			d["_id"], d["_rev"] = was.id, was.rev
			if rnd.IntN(8) == 0 {
				d["_deleted"] = true
			}
		} else {
			d["_id"] = h.docs.newID(rnd)
		}
		if rnd.IntN(100) < h.atts && d["_deleted"] == nil {
			d["_attachments"] = h.inline(rnd)
		}
		seen[d["_id"].(string)] = true
		docs = append(docs, d)
	}
	return h.send(docs, true)
}

func (h *history) send(docs []map[string]any, edits bool) error {
	var answers []struct{ ID, Rev string }
	if err := h.request("POST", "/_bulk_docs", map[string]any{"docs": docs, "new_edits": edits}, &answers); err != nil {
		return err
	}
	for _, a := range answers {
		if a.Rev != "" && edits {
			h.docs.put(docRev{id: a.ID, rev: a.Rev})
		}
	}
	return nil
}

func (h *history) inline(rnd *rand.Rand) map[string]any {
	atts := map[string]any{}
	for i := range 1 + rnd.IntN(3) {
		atts[fmt.Sprint("att", i)] = map[string]any{"content_type": []string{"text/plain", "image/png"}[rnd.IntN(2)],
			"data": base64.StdEncoding.EncodeToString(randomBytes(rnd, attachmentSize(rnd)))}
	}
	return atts
}

// attachmentSize is 0 at times, and a few KiB as a rule.
func attachmentSize(rnd *rand.Rand) int {
	return []int{0, 1, 100, 4095, 4096, 4097, 9000, 30_000}[rnd.IntN(8)] * (1 + rnd.IntN(2))
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	most := 1 + rnd.IntN(255)
	for i := range b {
		b[i] = byte(rnd.IntN(most))
	}
	return b
}

// multipart writes a document with a large attachment, or one that keeps those that it has.
func (h *history) multipart(rnd *rand.Rand) error {
	size := 1 + rnd.IntN(200_000)
	if rnd.IntN(10) == 0 {
		size = rnd.IntN(4 << 20)
	}
	if h.atts == 0 {
		size = rnd.IntN(5000)
	}
	id := h.docs.newID(rnd)
	rev, err := h.putMultipart(id, "", map[string]any{"n": rnd.IntN(1000)}, randomBytes(rnd, size))
	if err != nil || rev == "" {
		return err
	}
	h.docs.put(docRev{id: id, rev: rev, atts: true})
	if rnd.IntN(2) == 0 {
		return nil
	}
	var answer struct{ Rev string }
	err = h.request("PUT", "/"+id, map[string]any{"_rev": rev, "changed": true, "_attachments": map[string]any{"big": map[string]any{"stub": true}}}, &answer)
	if err == nil {
		h.docs.put(docRev{id: id, rev: answer.Rev, atts: true})
	}
	return err
}

func (h *history) putMultipart(id, rev string, doc map[string]any, data []byte) (string, error) {
	doc["_attachments"] = map[string]any{"big": map[string]any{"follows": true, "content_type": "application/octet-stream", "length": len(data)}}
	if rev != "" {
		doc["_rev"] = rev
	}
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for _, part := range []struct {
		kind string
		data []byte
	}{{"application/json", asJSON(h, doc)}, {"application/octet-stream", data}} {
		p, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {part.kind}})
		if err != nil {
			return "", err
		}
		p.Write(part.data) // into memory
	}
	w.Close() // into memory
	req, err := http.NewRequestWithContext(h.Context(), "PUT", h.couch.URL+"/"+h.name+"/"+id, &body)
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "multipart/related; boundary="+w.Boundary())
	req.SetBasicAuth(h.couch.Admin, h.couch.Password)
	resp, err := h.couch.HTTP.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return "", fmt.Errorf("multipart: %s", resp.Status)
	}
	return strings.Trim(resp.Header.Get("ETag"), `"`), nil
}

// purge purges some documents, and at times a revision that is none any more.
func (h *history) purge(rnd *rand.Rand, n int) error {
	gone := map[string][]string{}
	for range n {
		if d, ok := h.docs.pick(rnd); ok {
			gone[d.id] = []string{d.rev}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return h.request("POST", "/_purge", gone, nil)
}

// conflicts writes branches of documents, some of which are there already.
func (h *history) conflicts(rnd *rand.Rand, n int) error {
	var docs []map[string]any
	for range n {
		id := h.docs.newID(rnd)
		if d, ok := h.docs.pick(rnd); ok && rnd.IntN(2) == 0 {
			id = d.id
		}
		common := rnd.Uint32()
		for branch := range 1 + rnd.IntN(3) {
			length, own := 1+rnd.IntN(8), 1+rnd.IntN(4)
			var ids []string
			for at := range length {
				b := branch
				if at >= own {
					b = 99
				}
				ids = append(ids, fmt.Sprintf("%08x%020d%04d", common, b, length-at))
			}
			d := map[string]any{"_id": id, "branch": branch, "_revisions": map[string]any{"start": length + rnd.IntN(2), "ids": ids}}
			if rnd.IntN(5) == 0 {
				d["_deleted"] = true
			} else if rnd.IntN(100) < h.atts {
				d["_attachments"] = h.inline(rnd)
			}
			docs = append(docs, d)
		}
	}
	return h.send(docs, false)
}

// meanwhile works until it is told to end.
func (h *history) meanwhile() (end func()) {
	var stop atomic.Bool
	done := make(chan error, 1)
	rnd := rand.New(rand.NewPCG(h.rnd.Uint64(), 2))
	most := 1 + h.rnd.IntN(40)
	go func() {
		var err error
		for i := 0; i < most && !stop.Load() && err == nil; i++ {
			err = h.step(rnd, 1+rnd.IntN(40))
		}
		done <- err
	}()
	return func() {
		stop.Store(true)
		if err := <-done; err != nil {
			h.Error(err)
		}
	}
}

// kill begins a compaction and kills the server in its middle.
func (h *history) kill() {
	h.set("database_compaction/checkpoint_after", "") // of strings, which it compares with a number, none comes
	h.set("database_compaction/doc_buffer_size", "1000")
	var sizes int64
	for _, c := range h.chains {
		sizes += int64(len(c.copy))
	}
	limit := 10_000 + h.rnd.Int64N(sizes+1)/3
	if err := h.couch.Post("/"+h.name+"/_compact", struct{}{}, nil); err != nil {
		h.Fatal(err)
	}
	until := time.Now().Add(5 * time.Second)
	for seen := false; time.Now().Before(until); time.Sleep(time.Millisecond) {
		now := h.compacting()
		if seen = seen || now > 0; now > limit || seen && now == 0 {
			break
		}
	}
	h.couch.Kill()
	left := h.compacting()
	for _, c := range h.chains {
		if !h.copying(c.path + ".compact.data") {
			h.excuse = "killed behind the documents"
		}
	}
	h.couch.Start()
	h.set("database_compaction/doc_buffer_size", []string{"20000", "524288"}[h.rnd.IntN(2)])
	h.Logf("killed with %d bytes of compacted files", left)
	if h.taken = left > 0; h.taken {
		h.tally["killed"]++
	}
}

// compacting is how much a compaction wrote up to now.
func (h *history) compacting() (n int64) {
	for _, c := range h.chains {
		if info, err := os.Stat(c.path + ".compact.data"); err == nil {
			n += info.Size()
		}
	}
	return n
}

// copying says whether a compaction was at its documents when it ended, or there is none: its newest
// header is the database's, or has the object of the first one still.
func (h *history) copying(path string) bool {
	h.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	if err != nil {
		h.Fatal(err)
	}
	var first, newest couchfile.Header
	err = couchfile.EachHeader(bytes.NewReader(b), int64(len(b)), func(raw couchfile.RawHeader) error {
		if raw.Kind == couchfile.HeaderCompaction {
			parts, ok := erlterm.Elements(erlterm.Term(raw.Term[1:]))
			if !ok || len(parts) != 3 {
				return errors.New("a header of a compaction of another form")
			}
			raw.Kind, raw.Term = couchfile.HeaderDB, append([]byte{erlterm.Version}, parts[1]...)
		} else {
			first = couchfile.Header{SecurityPtr: -1}
		}
		newest, err = couchfile.ParseHeader(raw)
		if first.SecurityPtr < 0 {
			first = newest
		}
		return err
	})
	if err != nil {
		h.Fatal(err)
	}
	return newest.SecurityPtr == first.SecurityPtr
}

func newestEnd(h *history, f replay.File) int64 {
	h.Helper()
	head, err := couchfile.ReadHeader(f.R, f.Size, f.Header)
	if err != nil {
		h.Fatal(err)
	}
	return head.End
}

func asJSON(h *history, v any) []byte {
	h.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		h.Fatal(err)
	}
	return b
}
