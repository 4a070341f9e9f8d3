package couchwriter_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// TestTails tells a simulator the documents of each commit of files that servers wrote, and
// holds each node of the commit against the file.
func TestTails(t *testing.T) {
	t.Parallel()
	for _, version := range grownVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			for _, stage := range []string{"2-grown", "4-grown"} {
				tail := tailTest{t: t, file: grownFile(t, version, stage, "grow.couch")}
				tail.run()
				t.Logf("%s: %d commits, %d of %d nodes", stage, tail.commits, tail.same, tail.nodes)
				if tail.nodes < 3000 || tail.same != tail.nodes {
					t.Errorf("%s: got %d of %d nodes, want all of at least 3000", stage, tail.same, tail.nodes)
				}
			}
		})
	}
}

// tailTest goes over the commits of one file.
type tailTest struct {
	t                    *testing.T
	file                 []byte
	commits, nodes, same int
}

func (c *tailTest) run() {
	points, err := couchfile.Points(bytes.NewReader(c.file), int64(len(c.file)))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 1; i < len(points); i++ {
		if points[i-1].History && points[i].UpdateSeq >= points[i-1].UpdateSeq {
			c.commit(points[i-1].Header, points[i].Header)
		}
	}
}

// commit simulates what stands between two headers.
func (c *tailTest) commit(from, to couchfile.Header) {
	start := c.firstNode(from.End, to.Offset)
	if start < 0 {
		return
	}
	c.commits++
	before, after := c.open(from), c.open(to)
	docs := changes(c.t, before, after)
	var out bytes.Buffer
	f := couchwriter.NewFile(&out, nil, start, to.Checksum)
	nodes := couchfile.NewChunkReader(bytes.NewReader(c.file), int64(len(c.file)))
	tree := func(root couchfile.TreeRoot, r couchwriter.Reducer) *couchwriter.Tree {
		return couchwriter.NewTree(f, nodes, rootTerm(root), couchwriter.TreeOptions{Reducer: r})
	}
	ids, seqs := tree(from.IDTree, couchwriter.DocsReduce), tree(from.SeqTree, couchwriter.CountReduce)
	locals := tree(from.LocalTree, couchwriter.NoReduce)
	put, gone := localChanges(c.t, before, after)
	for _, err := range []error{ids.Modify(docs.ids, nil), seqs.Modify(docs.seqs, docs.gone), locals.Modify(put, gone), f.Flush()} {
		if err != nil {
			c.t.Fatal(err)
		}
	}
	c.compare(start, to.Offset, out.Bytes())
}

func (c *tailTest) open(h couchfile.Header) *couchfile.DB {
	db, err := couchfile.OpenAt(bytes.NewReader(c.file), int64(len(c.file)), h)
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

// changed is what one commit did to the documents.
type changed struct {
	ids, seqs []couchfile.Entry
	gone      []erlterm.Term // sequences
}

func changes(t *testing.T, before, after *couchfile.DB) (c changed) {
	from := couchfile.Key{Seq: before.Header().UpdateSeq + 1}
	for e, err := range after.SeqTree().All(&from, false) {
		if err != nil {
			t.Fatal(err)
		}
		key, value := bytes.Clone(e.Key), bytes.Clone(e.Value)
		c.seqs = append(c.seqs, couchfile.Entry{Key: key, Value: value})
		parts, ok := erlterm.Elements(value)
		if !ok {
			t.Fatalf("entry of the seq tree: %x", value)
		}
		id := parts[0]
		parts[0] = key
		c.ids = append(c.ids, couchfile.Entry{Key: id, Value: tuple(parts)})
		name, _, _ := erlterm.Binary(id)
		switch info, err := before.DocInfo(string(name)); {
		case err == nil:
			c.gone = append(c.gone, erlterm.PutUint(nil, info.UpdateSeq))
		case !errors.Is(err, couchfile.ErrNotFound):
			t.Fatal(err)
		}
	}
	return c
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

// rootTerm is a tree's state as the header holds it.
func rootTerm(root couchfile.TreeRoot) erlterm.Term {
	if root.Empty {
		return nil
	}
	out := erlterm.PutInt(erlterm.PutTuple(nil, 3), root.Offset)
	out = append(out, root.Reduction...)
	return erlterm.PutInt(out, root.Size)
}
