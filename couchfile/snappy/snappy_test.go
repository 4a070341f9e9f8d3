package snappy_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/s2"
	library "github.com/klauspost/compress/snappy"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/couchfile/snappy"
	"github.com/slipcover/slipcover/internal/testenv"
)

// tally counts the snappy blocks that come back as they were.
type tally struct{ blocks, same int }

func (c *tally) block(t *testing.T, where string, off int64, p []byte) {
	plain, err := library.Decode(nil, p)
	if err != nil || len(plain) < 2 || plain[0] != erlterm.Version {
		return // an attachment that begins as a compressed term does
	}
	if n, ok := erlterm.Size(plain[1:]); !ok || n != len(plain)-1 {
		return
	}
	c.blocks++
	if got := snappy.Append(nil, plain); bytes.Equal(got, p) {
		c.same++
	} else if c.blocks-c.same < 4 {
		t.Errorf("%s: chunk at %d, %d bytes of %d: got %d others", where, off, len(p), len(plain), len(got))
	}
}

// file counts all nodes, document bodies, attachment lists and objects of a file, those too
// that nothing points to any more.
func (c *tally) file(t *testing.T, where string, b []byte) {
	for chunk, err := range couchfile.Chunks(bytes.NewReader(b), 0, int64(len(b))) {
		if err != nil {
			return // the rest was torn, or hidden behind it
		}
		switch p := chunk.Payload; {
		case chunk.IsHeader || len(p) < 2:
		case p[0] == 1:
			c.block(t, where, chunk.Offset, p[1:])
		case chunk.Flagged:
			c.summary(t, where, chunk)
		}
	}
}

// summary takes {body, attachment list}, each compressed.
func (c *tally) summary(t *testing.T, where string, chunk couchfile.Chunk) {
	term, err := erlterm.Parse(chunk.Payload)
	if err != nil {
		return
	}
	rest, ok := erlterm.TupleN(term, 2)
	for ok && len(rest) > 0 {
		var part []byte
		if part, rest, ok = erlterm.Binary(rest); len(part) > 1 && part[0] == 1 {
			c.block(t, where, chunk.Offset, part[1:])
		}
	}
}

// TestSameAsCouchDB holds what CouchDBs compressed against Append. Their bundled library is
// the same since 2.1.
func TestSameAsCouchDB(t *testing.T) {
	t.Parallel()
	counts := map[string]*tally{}
	testenv.EachFixture(t, func(version, where string, b []byte) {
		if counts[version] == nil {
			counts[version] = &tally{}
		}
		counts[version].file(t, where, b)
	})
	for version, atLeast := range map[string]int{"2.1": 2000, "2.3": 2000, "3.3": 2000, "3.5.0": 10000, "3.5.2": 2000, "main": 2000} {
		c := counts[version]
		if c == nil || c.blocks < atLeast || c.same != c.blocks {
			t.Errorf("%s: got %+v, want at least %d blocks, all of them the same", version, c, atLeast)
			continue
		}
		t.Logf("%s: %d blocks", version, c.blocks)
	}
}

func FuzzAppend(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("snappy"))
	f.Add(bytes.Repeat([]byte("0123456789abcdef"), 9000))
	f.Add(mixed(200_000))
	f.Fuzz(func(t *testing.T, src []byte) {
		packed := snappy.Append([]byte("before"), src)
		got, err := library.Decode(nil, packed[len("before"):])
		if err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%d bytes: decode: got %d others, %v", len(src), len(got), err)
		}
	})
}

// mixed returns bytes that are partly new and partly repeated.
func mixed(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+1000)
	for len(b) < n {
		if len(b) > 100 && rnd.IntN(2) == 0 {
			at := rnd.IntN(len(b))
			b = append(b, b[at:min(len(b), at+rnd.IntN(300))]...)
			continue
		}
		for range rnd.IntN(200) {
			b = append(b, "etaoinshrdlu 0123"[rnd.IntN(17)])
		}
	}
	return b[:n]
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{600, 2000, 60_000} {
		src := mixed(size)
		b.Run("here", func(b *testing.B) { bench(b, src, snappy.Append) })
		b.Run("s2", func(b *testing.B) {
			bench(b, src, func(dst, src []byte) []byte { return s2.EncodeSnappy(dst[:cap(dst)], src) })
		})
		b.Run("golang", func(b *testing.B) {
			bench(b, src, func(dst, src []byte) []byte { return library.Encode(dst[:cap(dst)], src) })
		})
	}
}

func bench(b *testing.B, src []byte, fn func(dst, src []byte) []byte) {
	dst := make([]byte, 0, s2.MaxEncodedLen(len(src)))
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		fn(dst, src)
	}
}
