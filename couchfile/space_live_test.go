package couchfile_test

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/testenv"
)

// What is live of a database's file is what its CouchDB says, and what it leaves when it compacts it.
func TestSpaceOfServer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server")
	}
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	if err := c.Put("/bytes?q=1", nil, nil); err != nil {
		t.Fatal(err)
	}
	fillBytes(t, c)
	before, space, active := spaceLive(t, c)
	t.Logf("%+v, active %d, file %d", space, active, before)
	if space.Attachments < 50<<10 || space.Conflicts == 0 || space.Tombstones == 0 || space.Older == 0 {
		t.Errorf("a kind is missing: %+v", space)
	}
	// Each of these stands for a document of about 300 bytes in the file.
	if each := space.Conflicts / 100; each < 100 || each > 700 {
		t.Errorf("100 conflicts take %d bytes", space.Conflicts)
	}
	if err := c.Post("/bytes/_compact", struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		var info struct {
			Running bool `json:"compact_running"`
		}
		if err := c.Get("/bytes", &info); err != nil {
			t.Fatal(err)
		}
		if !info.Running {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the compaction doesn't end")
		}
	}
	after, compacted, _ := spaceLive(t, c)
	t.Logf("compacted: %+v, file %d", compacted, after)
	// The trees get smaller, by what they said of old revisions; the rest is as it was, but for the marks of blocks.
	if after > active*102/100 || after < active*70/100 {
		t.Errorf("a compaction of %d bytes leaves %d, foretold were at most %d", before, after, active)
	}
	for _, k := range [][2]uint64{{space.Documents, compacted.Documents}, {space.Attachments, compacted.Attachments}, {space.Conflicts, compacted.Conflicts}, {space.Tombstones, compacted.Tombstones}} {
		if k[1] < k[0]-k[0]/1000-10 || k[1] > k[0]+k[0]/1000+10 {
			t.Errorf("it had %+v, and compacted it has %+v", space, compacted)
		}
	}
	if compacted.Older != 0 {
		t.Errorf("compacted, it has old revisions: %+v", compacted)
	}
}

// fillBytes writes documents, attachments, conflicts and deletions, and many of them again.
func fillBytes(t *testing.T, c *testenv.Couch) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(testenv.Seed(t), 0))
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.IntN(256))
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	bulk := func(edits bool, docs []map[string]any) {
		t.Helper()
		if err := c.Post("/bytes/_bulk_docs", map[string]any{"docs": docs, "new_edits": edits}, nil); err != nil {
			t.Fatal(err)
		}
	}
	rev := func(pos int, seed string, n int) map[string]any {
		ids := []string{strings.Repeat(seed, 16)}
		for p := pos - 1; p > 0; p-- {
			ids = append(ids, fmt.Sprintf("%032x", p))
		}
		return map[string]any{"start": pos, "ids": ids, "n": n}
	}
	for round := 1; round <= 6; round++ {
		for from := 0; from < 1000; from += 50 { // each batch writes the trees' nodes anew
			var docs []map[string]any
			for n := from; n < from+50; n++ {
				r := rev(round, "00", n)
				r["ids"].([]string)[0] = fmt.Sprintf("%032x", round)
				doc := map[string]any{"_id": fmt.Sprintf("doc%05d", n), "_revisions": r, "text": noise(200)}
				if round == 6 && n%10 == 0 {
					doc["_deleted"] = true
				}
				if n%100 == 1 {
					doc["_attachments"] = map[string]any{"a": map[string]any{"content_type": "application/octet-stream", "data": noise(6000)}}
				}
				docs = append(docs, doc)
			}
			bulk(false, docs)
		}
	}
	var conflicts []map[string]any
	for n := range 100 {
		conflicts = append(conflicts, map[string]any{"_id": fmt.Sprintf("doc%05d", 10*n+5), "_revisions": map[string]any{"start": 1, "ids": []string{strings.Repeat("ab", 16)}}, "text": noise(200)})
	}
	bulk(false, conflicts)
}

// spaceLive reads the file of the database, once CouchDB has written all of it: its size, and what CouchDB says is active.
func spaceLive(t *testing.T, c *testenv.Couch) (file int64, s couchfile.Space, active int64) {
	t.Helper()
	db, _ := openLive(t, c, "bytes")
	s = spaceOf(t, db)
	var info struct{ Sizes struct{ File, Active int64 } }
	if err := c.Get("/bytes", &info); err != nil {
		t.Fatal(err)
	}
	live := int64(s.Live())
	h := db.Header()
	for _, tree := range []couchfile.TreeRoot{h.IDTree, h.SeqTree, h.LocalTree, h.PurgeTree, h.PurgeSeqTree} {
		live += tree.Size
	}
	if live != info.Sizes.Active || h.End != info.Sizes.File {
		t.Errorf("%d of %d bytes are live, CouchDB says %+v: %+v", live, h.End, info.Sizes, s)
	}
	return h.End, s, live
}
