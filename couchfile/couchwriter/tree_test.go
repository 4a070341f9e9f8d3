package couchwriter_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// memory is a file that is written and read back.
type memory struct{ b []byte }

func (m *memory) Write(p []byte) (int, error) {
	m.b = append(m.b, p...)
	return len(p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }

// TestFile writes chunks that end before, on and behind each border of a block, and headers
// among them, and reads them back.
func TestFile(t *testing.T) {
	t.Parallel()
	for _, kind := range []couchfile.ChecksumKind{couchfile.XXH3, couchfile.MD5} {
		for n := 4040; n < 4100; n++ {
			m := &memory{}
			f := couchwriter.NewFile(m, m, 0, kind)
			want := map[int64][]byte{}
			for i, size := range []int{n, 10, 3 * n, 1} {
				p := bytes.Repeat([]byte{byte('a' + i)}, size)
				off, _ := f.Chunk(p)
				want[off] = p
				off, _ = f.Checked(p)
				want[off] = p
				if i%2 == 1 {
					off, err := f.Header(append([]byte{131, 109, 0, 0, 0, byte(size)}, p...))
					if err != nil {
						t.Fatal(err)
					}
					want[off] = append([]byte{131, 109, 0, 0, 0, byte(size)}, p...)
				}
			}
			if err := f.Flush(); err != nil {
				t.Fatal(err)
			}
			seen := 0
			for c, err := range couchfile.Chunks(m, 0, f.Offset()) {
				if err != nil || !bytes.Equal(c.Payload, want[c.Offset]) || c.Flagged && c.Checksum != kind {
					t.Fatalf("%d bytes: chunk at %d: got %d bytes, %v; want %d", n, c.Offset, len(c.Payload), err, len(want[c.Offset]))
				}
				if seen++; c.End%couchfile.BlockSize == 0 {
					t.Errorf("%d bytes: the chunk at %d ends on a block's end", n, c.Offset)
				}
			}
			if seen != len(want) || f.Offset() != int64(len(m.b)) {
				t.Errorf("%d bytes: got %d chunks in %d bytes, want %d in %d", n, seen, len(m.b), len(want), f.Offset())
			}
		}
	}
}

// FuzzTree changes a tree and holds it against a map, as it stands and read back.
func FuzzTree(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef"))
	f.Add(bytes.Repeat([]byte{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9}, 300))
	f.Add(bytes.Repeat([]byte{0xff, 0, 0x80, 7}, 50))
	f.Fuzz(func(t *testing.T, ops []byte) {
		m := &memory{}
		file := couchwriter.NewFile(m, m, 0, couchfile.XXH3)
		opts := couchwriter.TreeOptions{Reducer: couchwriter.CountReduce, Compression: couchwriter.None}
		tree := couchwriter.NewTree(file, file, nil, opts)
		model := map[byte]string{}
		for at := 0; at < len(ops); {
			n := min(1+int(ops[at])%40, len(ops)-at)
			changeTree(t, tree, model, ops[at:at+n], at)
			at += n
		}
		if err := file.Flush(); err != nil {
			t.Fatal(err)
		}
		again := couchwriter.NewTree(file, couchfile.NewChunkReader(m, file.Offset()), tree.State(), opts)
		for k := range 256 {
			want, there := model[byte(k)]
			for _, tr := range []*couchwriter.Tree{tree, again} {
				got, err := tr.Lookup(key(byte(k)))
				if err != nil || there != (got != nil) || there && string(got) != want {
					t.Fatalf("key %d: got %q, %v; want %q, %v", k, got, err, want, there)
				}
			}
		}
		if count := countOf(t, tree.State()); count != len(model) {
			t.Errorf("the tree counts %d entries, want %d", count, len(model))
		}
	})
}

func key(k byte) erlterm.Term { return erlterm.PutBinary(nil, fmt.Sprintf("key %03d", k)) }

// changeTree inserts the keys with an even number behind them, and removes the others.
func changeTree(t *testing.T, tree *couchwriter.Tree, model map[byte]string, ops []byte, at int) {
	var put []couchfile.Entry
	var gone []erlterm.Term
	seen := map[byte]bool{}
	for i, k := range ops {
		if seen[k] {
			continue
		}
		if seen[k] = true; i%3 == 2 {
			gone = append(gone, key(k))
			delete(model, k)
			continue
		}
		value := erlterm.PutBinary(nil, bytes.Repeat([]byte{k}, (at+i)%200))
		put = append(put, couchfile.Entry{Key: key(k), Value: value})
		model[k] = string(value)
	}
	if err := tree.Modify(put, gone); err != nil {
		t.Fatal(err)
	}
}

func countOf(t *testing.T, state erlterm.Term) int {
	if erlterm.IsAtom(state, "nil") {
		return 0
	}
	parts, ok := erlterm.Elements(state)
	if !ok {
		t.Fatalf("state of the tree: %x", state)
	}
	n, _, _ := erlterm.Uint(parts[1])
	return int(n)
}
