package couchwriter_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestViewCompaction compacts the index that three servers compacted: a tree with _stats and
// one with _count, as it was in memory. What the server wrote into the header is taken from it.
func TestViewCompaction(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			older, want := testenv.GrownFile(t, version, "2-grown", ".view"), testenv.GrownFile(t, version, "3-compacted", ".view")
			headers := rawHeaders(t, want)
			newest := headers[len(headers)-1]
			forged, err := couchwriter.ViewHeader(newest.Term, newestRoots(t, older, 3))
			if err != nil {
				t.Fatal(err)
			}
			out := &memory{}
			f := couchwriter.NewFile(out, out, 0, newest.Checksum)
			at := couchfile.RawHeader{Kind: couchfile.HeaderView, Term: forged, End: int64(len(older))}
			states, err := couchwriter.CompactView(f, bytes.NewReader(older), int64(len(older)), at,
				couchwriter.ViewOptions{Functions: [][]string{{"_stats"}, {"_count"}}})
			if err != nil {
				t.Fatal(err)
			}
			head, err := couchwriter.ViewHeader(newest.Term, states)
			if err != nil {
				t.Fatal(err)
			}
			for range headers[1:] { // one at the swap, one for what was known before
				if _, err := f.Header(head); err != nil {
					t.Fatal(err)
				}
			}
			sameBytes(t, out.b, want)
		})
	}
}

// newestRoots finds the n trees that were written last, the last one last: each root is the
// newest node that no newer one leads to.
func newestRoots(t testing.TB, file []byte, n int) []erlterm.Term {
	t.Helper()
	var nodes []couchfile.Chunk
	for c, err := range couchfile.Chunks(bytes.NewReader(file), 0, int64(len(file))) {
		if err != nil {
			t.Fatal(err)
		}
		if isNode(c) {
			c.Payload = bytes.Clone(c.Payload)
			nodes = append(nodes, c)
		}
	}
	below := map[int64]bool{}
	var roots []erlterm.Term
	for _, c := range slices.Backward(nodes) {
		if !below[c.Offset] {
			if len(roots) == n {
				break
			}
			state := erlterm.PutInt(erlterm.PutTuple(nil, 3), c.Offset)
			roots = append(roots, erlterm.PutInt(append(state, erlterm.TagNil), 0))
		}
		for _, off := range childrenOf(t, c) {
			below[off] = true
		}
	}
	slices.Reverse(roots)
	return roots
}

// childrenOf are the offsets in an inner node.
func childrenOf(t testing.TB, c couchfile.Chunk) (offs []int64) {
	t.Helper()
	term, err := couchfile.Inflate(c.Payload)
	if err != nil {
		t.Fatal(err)
	}
	parts, _ := erlterm.Elements(term)
	if !erlterm.IsAtom(parts[0], "kp_node") {
		return nil
	}
	list, _ := erlterm.Elements(parts[1])
	for _, kp := range list {
		pair, _ := erlterm.Elements(kp)
		state, _ := erlterm.Elements(pair[1])
		off, _, _ := erlterm.Uint(state[0])
		offs = append(offs, int64(off))
	}
	return offs
}
