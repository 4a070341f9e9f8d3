package couchwriter_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestTails tells a simulator the documents of each commit of files that servers wrote, and
// holds each node of the commit against the file, and its header.
func TestTails(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			for _, stage := range []string{"2-grown", "4-grown"} {
				tail := tailTest{t: t, file: testenv.GrownFile(t, version, stage, ".couch"), opts: couchwriter.DatabaseOptions{Release: releases[version]}}
				tail.run()
				t.Logf("%s: %d commits, %d of their headers, %d of %d nodes", stage, tail.commits, tail.headers, tail.same, tail.nodes)
				// main has times of sequences in headers, which change now and then
				if tail.nodes < 3000 || tail.same != tail.nodes || tail.headers < tail.commits-1 {
					t.Errorf("%s: got %d of %d nodes and %d of %d headers, want all", stage, tail.same, tail.nodes, tail.headers, tail.commits)
				}
			}
		})
	}
}

// tailTest goes over the commits of one file.
type tailTest struct {
	t                             *testing.T
	file                          []byte
	opts                          couchwriter.DatabaseOptions
	commits, headers, nodes, same int
}

func (c *tailTest) run() {
	c.t.Helper()
	history := map[int64]bool{}
	points, err := couchfile.Points(bytes.NewReader(c.file), int64(len(c.file)))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range points {
		history[p.Offset] = p.History
	}
	headers := rawHeaders(c.t, c.file)
	for i, h := range headers[1:] {
		if history[headers[i].Offset] && history[h.Offset] {
			c.commit(headers[i], h)
		}
	}
}

// commit simulates what stands between two headers.
func (c *tailTest) commit(from, to couchfile.RawHeader) {
	start := c.firstNode(from.End, to.Offset)
	if start < 0 {
		return
	}
	c.commits++
	var out bytes.Buffer
	f := couchwriter.NewFile(&out, nil, start, to.Checksum)
	d, err := couchwriter.OpenDatabase(f, couchfile.NewChunkReader(bytes.NewReader(c.file), int64(len(c.file))), from.Term, c.opts)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := d.Update(updateOf(c.t, c.open(from), c.open(to))); err != nil {
		c.t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		c.t.Fatal(err)
	}
	if bytes.Equal(d.Header(), to.Term) {
		c.headers++
	}
	c.compare(start, to.Offset, out.Bytes())
}

func (c *tailTest) open(h couchfile.RawHeader) *couchfile.DB {
	db, err := couchfile.OpenOffset(bytes.NewReader(c.file), int64(len(c.file)), h.Offset)
	if err != nil {
		c.t.Fatal(err)
	}
	return db
}

// firstNode is the offset of the first node in [from, to), or -1.
func (c *tailTest) firstNode(from, to int64) int64 {
	for chunk, err := range couchfile.Chunks(bytes.NewReader(c.file), from, to) {
		if err != nil {
			c.t.Fatal(err)
		}
		if isNode(chunk) {
			return chunk.Offset
		}
	}
	return -1
}

func isNode(chunk couchfile.Chunk) bool {
	if chunk.IsHeader || chunk.Flagged {
		return false
	}
	term, err := couchfile.Inflate(chunk.Payload)
	if err != nil {
		return false
	}
	rest, ok := erlterm.TupleN(term, 2)
	return ok && (erlterm.IsAtom(rest, "kv_node") || erlterm.IsAtom(rest, "kp_node"))
}

// compare counts the nodes of the file in [from, to) that were predicted.
func (c *tailTest) compare(from, to int64, got []byte) {
	told := 0
	for chunk, err := range couchfile.Chunks(bytes.NewReader(c.file), from, to) {
		if err != nil {
			c.t.Fatal(err)
		}
		if !isNode(chunk) {
			continue
		}
		c.nodes++
		lo, hi := chunk.Offset-from, chunk.End-from
		if hi <= int64(len(got)) && bytes.Equal(got[lo:hi], c.file[chunk.Offset:chunk.End]) {
			c.same++
		} else if told++; told < 3 {
			c.t.Errorf("node at %d of the commit at %d is another", chunk.Offset, to)
		}
	}
}

// updateOf finds what a commit did by the trees before and after it.
func updateOf(t *testing.T, before, after *couchfile.DB) (u couchwriter.Update) {
	from := couchfile.Key{Seq: before.Header().UpdateSeq + 1}
	for e, err := range after.SeqTree().All(&from, false) {
		if err != nil {
			t.Fatal(err)
		}
		u.Docs = append(u.Docs, couchfile.Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)})
	}
	u.Locals, u.LocalsGone = localChanges(t, before, after)
	if before.Header().PurgeSeqTree.Offset == after.Header().PurgeSeqTree.Offset {
		return u
	}
	known := lastPurge(t, before)
	for e, err := range after.PurgeSeqTree().All(&couchfile.Key{Seq: known + 1}, false) {
		if err != nil {
			t.Fatal(err)
		}
		u.Purges = append(u.Purges, couchfile.Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)})
	}
	for p, err := range after.Purges(known) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := after.DocInfo(p.DocID); errors.Is(err, couchfile.ErrNotFound) {
			u.Gone = append(u.Gone, erlterm.PutBinary(nil, p.DocID))
		}
	}
	return u
}

func lastPurge(t *testing.T, db *couchfile.DB) (seq uint64) {
	for p, err := range db.Purges(0) {
		if err != nil {
			t.Fatal(err)
		}
		seq = p.Seq
	}
	return seq
}

// localChanges compares two local trees.
func localChanges(t *testing.T, before, after *couchfile.DB) (put []couchfile.Entry, gone []erlterm.Term) {
	if before.Header().LocalTree.Offset == after.Header().LocalTree.Offset {
		return nil, nil
	}
	old := map[string]string{}
	for e, err := range before.LocalTree().All(nil, false) {
		if err != nil {
			t.Fatal(err)
		}
		old[string(e.Key)] = string(e.Value)
	}
	for e, err := range after.LocalTree().All(nil, false) {
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := old[string(e.Key)]; !ok || v != string(e.Value) {
			put = append(put, couchfile.Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)})
		}
		delete(old, string(e.Key))
	}
	for key := range old {
		gone = append(gone, erlterm.Term(key))
	}
	return put, gone
}

func tuple(parts []erlterm.Term) erlterm.Term {
	out := erlterm.PutTuple(nil, len(parts))
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
