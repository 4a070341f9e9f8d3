package couchwriter_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// TestReductions computes what the nodes of all trees of the fixtures say of those below them.
// A view's reduce functions aren't in its file: those of the server that agree everywhere are
// taken for them.
func TestReductions(t *testing.T) {
	t.Parallel()
	views, known, trees := 0, 0, 0
	err := filepath.WalkDir("../../testdata/couchdb-3.5.0/data", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		w := reductions{t, couchfile.NewChunkReader(bytes.NewReader(b), int64(len(b)))}
		switch {
		case strings.HasSuffix(p, ".couch"):
			trees += w.database(p, b)
		case strings.HasSuffix(p, ".view"):
			n, ok := w.views(b)
			views, known = views+n, known+ok
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d trees of databases, %d of %d of views", trees, known, views)
	if trees < 120 || views < 20 || known < views {
		t.Errorf("got %d trees of databases, %d of %d of views", trees, known, views)
	}
}

type reductions struct {
	t      *testing.T
	chunks *couchfile.ChunkReader
}

func (w *reductions) database(path string, b []byte) (trees int) {
	db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
	h := db.Header()
	for _, tree := range []struct {
		root couchfile.TreeRoot
		r    couchwriter.Reducer
	}{{h.IDTree, couchwriter.DocsReduce}, {h.SeqTree, couchwriter.CountReduce}, {h.LocalTree, couchwriter.NoReduce},
		{h.PurgeTree, couchwriter.CountReduce}, {h.PurgeSeqTree, couchwriter.CountReduce}} {
		if tree.root.Empty {
			continue
		}
		trees++
		if got, err := w.reduce(tree.r, tree.root.Offset); err != nil || !bytes.Equal(got, tree.root.Reduction) {
			w.t.Errorf("%s: tree at %d: got %x, %v; want %x", path, tree.root.Offset, got, err, tree.root.Reduction)
		}
	}
	return trees
}

// views counts the trees of an index, and those whose reductions are known.
func (w *reductions) views(b []byte) (trees, known int) {
	index, err := couchfile.OpenView(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return 0, 0
	}
	for _, v := range index.Header().Views {
		if v.Tree.Empty {
			continue
		}
		trees++
		parts, _ := erlterm.Elements(v.Tree.Reduction)
		values, _ := erlterm.Elements(parts[1])
		for _, functions := range guesses(len(values)) {
			if got, err := w.reduce(couchwriter.ViewReduce(functions), v.Tree.Offset); err == nil && bytes.Equal(got, v.Tree.Reduction) {
				known++
				break
			}
		}
	}
	return trees, known
}

func guesses(n int) [][]string {
	if n == 0 {
		return [][]string{nil}
	}
	var out [][]string
	for _, rest := range guesses(n - 1) {
		for _, fn := range []string{"_count", "_sum", "_stats"} {
			out = append(out, append([]string{fn}, rest...))
		}
	}
	return out
}

var errOther = errors.New("another reduction is stored")

// reduce computes the reduction of the subtree at off out of its leaves.
func (w *reductions) reduce(r couchwriter.Reducer, off int64) (erlterm.Term, error) {
	term, err := w.chunks.Term(off)
	if err != nil {
		return nil, err
	}
	node, _ := erlterm.Elements(bytes.Clone(term))
	list, ok := erlterm.Elements(node[1])
	if !ok {
		return nil, couchfile.ErrCorrupt
	}
	var entries []couchfile.Entry
	var reds []erlterm.Term
	for _, item := range list {
		pair, _ := erlterm.Elements(item)
		entries = append(entries, couchfile.Entry{Key: pair[0], Value: pair[1]})
		if erlterm.IsAtom(node[0], "kv_node") {
			continue
		}
		state, _ := erlterm.Elements(pair[1])
		child, _, _ := erlterm.Uint(state[0])
		got, err := w.reduce(r, int64(child))
		if err == nil && !bytes.Equal(got, state[1]) {
			err = errOther
		}
		if err != nil {
			return nil, err
		}
		reds = append(reds, got)
	}
	if reds != nil {
		return r.Rereduce(nil, reds)
	}
	return r.Reduce(nil, entries)
}

// TestViewReduce has values that the fixtures don't have.
func TestViewReduce(t *testing.T) {
	t.Parallel()
	num := func(v int64) erlterm.Term { return erlterm.PutInt(nil, v) }
	float := func(v float64) erlterm.Term { return erlterm.PutFloat(nil, v) }
	list := func(items ...erlterm.Term) erlterm.Term { return erlterm.PutList(nil, items) }
	for _, c := range []struct {
		function string
		values   []erlterm.Term
		want     erlterm.Term // nil: not known
	}{
		{"_sum", []erlterm.Term{num(250), num(10)}, num(260)},
		{"_sum", []erlterm.Term{float(0.1), float(0.2), float(0.3)}, float(0.1 + float64(0.2) + 0.3)},
		{"_sum", []erlterm.Term{num(1), list(num(1), float(2)), num(1)}, list(num(3), float(2))},
		{"_sum", []erlterm.Term{list()}, list(num(0))},
		{"_sum", []erlterm.Term{erlterm.PutInt(nil, 1<<62), erlterm.PutInt(nil, 1<<62)}, nil},
		{"_sum", []erlterm.Term{erlterm.PutAtom(nil, "null")}, nil},
		{"_count", []erlterm.Term{erlterm.PutAtom(nil, "null"), num(3)}, num(2)},
		{"_stats", []erlterm.Term{num(1), float(1)}, tuple([]erlterm.Term{float(2), num(2), float(1), float(1), float(2)})},
		{"_stats", []erlterm.Term{num(-3), num(5)}, tuple([]erlterm.Term{num(2), num(2), num(-3), num(5), num(34)})},
		{"_stats", []erlterm.Term{num(1 << 40)}, nil},
		{"_stats", []erlterm.Term{erlterm.PutBinary(nil, "x")}, nil},
		{"function(k, v) { return 1 }", []erlterm.Term{num(1)}, nil},
		{"_approx_count_distinct", []erlterm.Term{num(1)}, nil},
	} {
		var entries []couchfile.Entry
		for _, v := range c.values {
			entries = append(entries, couchfile.Entry{Key: tuple([]erlterm.Term{num(1), erlterm.PutBinary(nil, "id")}), Value: v})
		}
		got, err := couchwriter.ViewReduce([]string{c.function}).Reduce(nil, entries)
		if c.want == nil {
			if !errors.Is(err, couchwriter.ErrUnpredicted) {
				t.Errorf("%s of %v: got %v, %v; want ErrUnpredicted", c.function, c.values, got, err)
			}
			continue
		}
		parts, _ := erlterm.Elements(got)
		if want := list(c.want); err != nil || len(parts) != 3 || !bytes.Equal(parts[1], want) {
			t.Errorf("%s of %v: got %v, %v; want %v", c.function, c.values, parts, err, want)
		}
	}
}
