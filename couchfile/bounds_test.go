package couchfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// forgery is a file of size bytes that begins with data and has a hole of
// zeros behind it, but for tail, which lies at its end.
type forgery struct {
	data, tail []byte
	size       int64
}

func (f *forgery) present() int64 { return int64(len(f.data) + len(f.tail)) }

// forgedReader reads a forgery and counts what is read of it.
type forgedReader struct {
	*forgery
	read int64
}

func (r *forgedReader) ReadAt(p []byte, off int64) (int, error) {
	n := max(0, min(int64(len(p)), r.size-off))
	p = p[:n]
	r.read += n
	clear(p)
	if off < int64(len(r.data)) {
		copy(p, r.data[off:])
	}
	if at := r.size - int64(len(r.tail)); off+n > at {
		copy(p[max(0, at-off):], r.tail[max(0, off-at):])
	}
	if off+n == r.size {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (r *forgedReader) NextData(off int64) (from, to int64, ok bool) {
	at := r.size - int64(len(r.tail))
	switch {
	case off < int64(len(r.data)):
		return off, int64(len(r.data)), true
	case off < at:
		return at, r.size, true
	}
	return off, r.size, true
}

func dense(w *builder) *forgery { return &forgery{data: w.b, size: int64(len(w.b))} }

func seq64(n int64) []byte {
	return append([]byte{110, 8, 0}, binary.LittleEndian.AppendUint64(nil, uint64(n))...)
}

// state is a tree's root in a header.
func state(off int64, red []byte, size int64) []byte { return tuple(seq64(off), red, integer(size)) }

var idRed = tuple(integer(1), integer(0), tuple(atom("size_info"), integer(0), integer(0)))

func kp(items ...[]byte) []byte { return stored(tuple(atom("kp_node"), list(items...))) }
func kv(items ...[]byte) []byte { return stored(tuple(atom("kv_node"), list(items...))) }

// ptr is an item of a kp_node.
func ptr(key []byte, off int64, red []byte) []byte { return tuple(key, state(off, red, 1)) }

// headerOf is a database header of these trees: id, seq, local, purge, purge_seq.
func headerOf(epochs []byte, trees ...[]byte) []byte {
	none := atom("nil")
	all := [][]byte{none, none, none, none, none}
	copy(all, trees)
	return stored(tuple(atom("db_header"), integer(8), integer(1000), integer(0), all[0], all[1], all[2], all[3], all[4], none,
		integer(1000), bin("0123456789abcdef0123456789abcdef"), epochs, integer(0), integer(1000), atom("undefined")))
}

var oneEpoch = list(tuple(atom("a@b"), integer(0)))

// viewOf is a view header.
func viewOf(id []byte, roots ...[]byte) []byte {
	var views [][]byte
	for _, r := range roots {
		views = append(views, tuple(r, atom("nil"), atom("nil"), integer(1), integer(0)))
	}
	return stored(tuple(bin("0123456789abcdef"), tuple(atom("mrheader"), integer(1), integer(0), id, atom("nil"), list(views...))))
}

// leafRev is a revision tree of one revision whose body is at off, in the form
// of old releases, whose sizes are not held against the body.
func leafRev(off int64) []byte {
	return list(tuple(integer(1), tuple(bin("0123456789abcdef"), tuple(integer(0), seq64(off), integer(1),
		tuple(integer(1), integer(1))), list())))
}

// record is an entry of the id or the seq tree.
func record(key, first, revs []byte) []byte {
	return tuple(key, tuple(first, integer(0), tuple(integer(1), integer(1)), revs))
}

func (w *builder) summary(body, atts []byte) int64 {
	p := stored(tuple(bin(string(stored(body))), bin(string(atts))))
	h := xxh3.Hash128(p)
	b := binary.BigEndian.AppendUint32(nil, checksumFlag|uint32(len(p)))
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, h.Hi), h.Lo)
	return w.put(append(b, p...))
}

func object(pairs ...[]byte) []byte { return tuple(list(pairs...)) }

func snappied(term []byte) []byte { return append([]byte{snappyPrefix}, snappy.Encode(nil, term)...) }

func deflated(term []byte) []byte {
	var z bytes.Buffer
	zw := zlib.NewWriter(&z)
	_, _ = zw.Write(term[1:]) // a buffer does not fail
	_ = zw.Close()
	return append(binary.BigEndian.AppendUint32([]byte{131, 80}, uint32(len(term)-1)), z.Bytes()...)
}

// zstded is a frame that says how long its content is, or not, as a stream does.
func zstded(term []byte, sized bool) []byte {
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err)
	}
	if sized {
		return zw.EncodeAll(term, nil)
	}
	var z bytes.Buffer
	zw.Reset(&z)
	_, _ = zw.Write(term) // a buffer does not fail
	_ = zw.Flush()        // so that it can't know the length any more
	_ = zw.Close()
	return z.Bytes()
}

// zstdSays is a frame of a few megabytes that says another length.
func zstdSays(frame []byte, n uint32) []byte {
	var head zstd.Header
	if err := head.Decode(frame); err != nil || frame[4]>>6 != 2 { // as 4 bytes
		panic(fmt.Sprintf("%+v, %v", head, err))
	}
	frame = bytes.Clone(frame)
	binary.LittleEndian.PutUint32(frame[head.HeaderSize-4:], n)
	return frame
}

// records ends a file with n documents, each of the revision tree revs.
func (w *builder) records(n int, revs []byte) {
	var ids, seqs [][]byte
	for i := range n {
		id := bin(fmt.Sprintf("doc-%06d", i))
		ids = append(ids, record(id, integer(int64(i+1)), revs))
		seqs = append(seqs, record(integer(int64(i+1)), id, revs))
	}
	id, seq := w.chunk(kv(ids...)), w.chunk(kv(seqs...))
	w.header(headerOf(oneEpoch, state(id, idRed, 1), state(seq, integer(int64(n)), 1)))
}

// padded returns a builder whose first block holds nothing.
func padded() *builder {
	w := &builder{}
	w.put(make([]byte, 16))
	return w
}

var random = func() []byte {
	b := make([]byte, 2<<20)
	x := uint64(1)
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	return b
}()

// forgeries are files that cost their maker little. None may cost a reader
// more than a multiple of its bytes.
var forgeries = []struct {
	name  string
	build func() *forgery
	sound bool   // nothing is wrong with it
	alloc uint64 // bytes that it may cost beside those of all files
	only  string // the only use that is tried: it costs the test much
}{
	{name: "2000 views of one tree", build: func() *forgery {
		w := padded()
		var rows, roots [][]byte
		for i := range 4000 {
			rows = append(rows, tuple(tuple(bin(string(random[i*300:i*300+300])), bin("d")), integer(1)))
		}
		off := w.chunk(kv(rows...))
		for range 2000 {
			roots = append(roots, state(off, tuple(integer(4000), list(), integer(0)), 1))
		}
		w.header(viewOf(atom("nil"), roots...))
		return dense(w)
	}},
	{name: "2000 roots of one tree of views", build: func() *forgery {
		w := padded()
		var rows, roots [][]byte
		for i := range 4000 {
			rows = append(rows, tuple(tuple(bin(string(random[i*300:i*300+300])), bin("d")), integer(1)))
		}
		off := w.chunk(kv(rows...))
		red := tuple(integer(4000), list(), integer(0))
		for range 2000 {
			roots = append(roots, state(w.chunk(kp(ptr(tuple(bin("k"), bin("d")), off, red))), red, 1))
		}
		w.header(viewOf(atom("nil"), roots...))
		return dense(w)
	}},
	{name: "2000 records of one body", build: func() *forgery {
		w := padded()
		off := w.summary(object(tuple(bin("a"), bin(string(random)))), stored(list()))
		w.records(2000, leafRev(off))
		return dense(w)
	}},
	{name: "2000 revisions of one body", build: func() *forgery {
		w := padded()
		off := w.summary(object(tuple(bin("a"), bin(string(random)))), stored(list()))
		node := func(children []byte) []byte {
			return tuple(bin("0123456789abcdef"), tuple(integer(0), seq64(off), integer(1), tuple(integer(1), integer(1)), list()), children)
		}
		n := node(list())
		for range 2000 {
			n = node(list(n))
		}
		w.records(1, list(tuple(integer(1), n)))
		return dense(w)
	}},
	{name: "node that names itself, sparse", build: func() *forgery {
		w := padded()
		off := int64(len(w.b))
		var items [][]byte
		for i := range 100 {
			items = append(items, ptr(bin(fmt.Sprintf("k%04d", i)), off, idRed))
		}
		w.chunk(kp(items...))
		root := state(off, idRed, 1)
		var tail builder
		tail.header(headerOf(oneEpoch, root, root, root, root, root))
		return &forgery{data: w.b, tail: tail.b, size: 1<<30 + int64(len(tail.b))}
	}},
	{name: "nodes that name each other", build: func() *forgery {
		w := padded()
		at := int64(len(w.b))
		size := int64(len(kp(ptr(bin("a"), at, idRed), ptr(bin("b"), at, idRed)))) + 4
		for i := range int64(8) {
			next := at + (i+1)%8*size
			w.chunk(kp(ptr(bin("a"), next, idRed), ptr(bin("b"), next, idRed)))
		}
		root := state(at, idRed, 1)
		w.header(headerOf(oneEpoch, root, root, root, root, root))
		return dense(w)
	}},
	{name: "each level names its child twice", build: func() *forgery {
		w := padded()
		off := w.chunk(kv(record(bin("a"), integer(1), list())))
		for range 30 {
			off = w.chunk(kp(ptr(bin("a"), off, idRed), ptr(bin("a"), off, idRed)))
		}
		root := state(off, idRed, 1)
		w.header(headerOf(oneEpoch, root, root, root, root, root))
		return dense(w)
	}},
	{name: "100000 pointers to anywhere", build: func() *forgery {
		w := padded()
		var items [][]byte
		for i := range 100_000 {
			items = append(items, ptr(bin(fmt.Sprintf("k%06d", i)), int64(i*7919%1_000_000), idRed))
		}
		root := state(w.chunk(snappied(kp(items...))), idRed, 1)
		w.header(headerOf(oneEpoch, root, root))
		return dense(w)
	}},
	{name: "many headers, each of its own trees over the same leaf", build: func() *forgery {
		w := padded()
		leaf := w.chunk(kv(record(bin(string(random[:500_000])), integer(1), list())))
		for range 300 {
			a := state(w.chunk(kp(ptr(bin("x"), leaf, idRed))), idRed, 1)
			b := state(w.chunk(kp(ptr(bin("x"), leaf, integer(1)))), integer(1), 1)
			w.header(headerOf(oneEpoch, a, b))
		}
		return dense(w)
	}},
	{name: "a key of 400 MiB of zeros, sparse", build: func() *forgery {
		const huge = 400 << 20
		w := padded()
		off := int64(len(w.b))
		head := append(stored(append([]byte{104, 2}, atom("kv_node")...)), 108, 0, 0, 0, 1, 104, 2)
		head = binary.BigEndian.AppendUint32(append(head, 109), huge)
		w.put(append(binary.BigEndian.AppendUint32(nil, uint32(len(head)+huge+3)), head...))
		root := state(off, idRed, 1)
		var tail builder
		tail.header(headerOf(oneEpoch, root, root, root))
		return &forgery{data: w.b, tail: tail.b, size: 512<<20 + int64(len(tail.b))}
	}},
	{name: "a key of 4 MiB", build: func() *forgery {
		w := padded()
		key := bin(strings.Repeat(string(random), 2))
		revs := leafRev(1)
		id := w.chunk(kv(record(key, integer(1), revs)))
		seq := w.chunk(kv(record(integer(1), key, revs)))
		for range 40 {
			id = w.chunk(kp(ptr(bin("x"), id, idRed)))
		}
		w.header(headerOf(oneEpoch, state(id, idRed, 1), state(seq, integer(1), 1)))
		return dense(w)
	}},
	{name: "an id of 1 MiB with 20000 revisions that lack a body", build: func() *forgery {
		w := padded()
		var revs [][]byte
		for range 20_000 {
			revs = append(revs, tuple(integer(1), tuple(bin("0123456789abcdef"), list(), list())))
		}
		key := bin(string(random[:1<<20]))
		id := w.chunk(kv(record(key, integer(1), list(revs...))))
		seq := w.chunk(kv(record(integer(1), key, list(revs...))))
		w.header(headerOf(oneEpoch, state(id, idRed, 1), state(seq, integer(1), 1)))
		return dense(w)
	}},
	{name: "zlib of zeros in all levels", alloc: 256 << 20, build: func() *forgery {
		w := padded()
		filler := bin(string(make([]byte, large(60<<20))))
		off := w.chunk(deflated(kv(record(bin("a"), integer(1), list()))))
		one := deflated(kp(ptr(filler, off, idRed)))
		for range 5 {
			off = w.chunk(one)
		}
		root := state(off, idRed, 1)
		w.header(headerOf(oneEpoch, root, root))
		return dense(w)
	}},
	{name: "zlib of ever more items", alloc: 384 << 20, build: func() *forgery {
		w := padded()
		n := large(10 << 20)
		b := binary.BigEndian.AppendUint32(append(stored(append([]byte{104, 2}, atom("kv_node")...)), 108), uint32(n))
		b = append(append(b, bytes.Repeat(tuple(list(), list()), n)...), 106)
		off := w.chunk(deflated(b))
		root := state(off, idRed, 1)
		w.header(headerOf(oneEpoch, root, root, root, root, root))
		return dense(w)
	}},
	{name: "zstd of zeros in all levels", alloc: 256 << 20, build: func() *forgery {
		w := padded()
		filler := bin(string(make([]byte, large(60<<20))))
		off := w.chunk(zstded(kv(record(bin("a"), integer(1), list())), true))
		one := zstded(kp(ptr(filler, off, idRed)), true)
		for range 5 {
			off = w.chunk(one)
		}
		root := state(off, idRed, 1)
		w.header(headerOf(oneEpoch, root, root))
		return dense(w)
	}},
	{name: "2000 zstd nodes that don't say how long they are", alloc: 256 << 20, build: func() *forgery {
		w := padded()
		one := zstded(kv(record(bin(string(make([]byte, 1<<20))), integer(1), list())), false)
		var items [][]byte
		for range 2000 {
			items = append(items, ptr(bin("k"), w.chunk(one), idRed))
		}
		root := state(w.chunk(kp(items...)), idRed, 1)
		w.header(headerOf(oneEpoch, root, root))
		return dense(w)
	}},
	{name: "snappy of a huge length", build: func() *forgery {
		w := padded()
		off := w.chunk([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0})
		root := state(off, idRed, 1)
		w.header(headerOf(oneEpoch, root, root, root, root, root))
		return dense(w)
	}},
	{name: "list of 4 billion", build: func() *forgery {
		w := padded()
		off := w.chunk(stored(append(append([]byte{104, 2}, atom("kv_node")...), 108, 0xff, 0xff, 0xff, 0xff, 106)))
		root := state(off, idRed, 1)
		w.header(headerOf(oneEpoch, root, root, root, root, root))
		return dense(w)
	}},
	{name: "tuple of 4 billion", build: func() *forgery {
		w := padded()
		off := w.chunk(stored([]byte{105, 0xff, 0xff, 0xff, 0xff, 106}))
		root := state(off, idRed, 1)
		w.header(headerOf(oneEpoch, root, root, root, root, root))
		return dense(w)
	}},
	{name: "a body of lists in lists", build: func() *forgery {
		w := padded()
		deep := append(bytes.Repeat([]byte{108, 0, 0, 0, 1}, 1<<20), 106)
		deep = append(deep, bytes.Repeat([]byte{106}, 1<<20)...)
		w.records(1, leafRev(w.summary(object(tuple(bin("a"), deep)), stored(list()))))
		return dense(w)
	}},
	{name: "an attachment of pairs in pairs", build: func() *forgery {
		w := padded()
		deep := append(bytes.Repeat([]byte{104, 2}, 1<<20), bytes.Repeat([]byte{106}, 1<<20+1)...)
		w.records(1, leafRev(w.summary(object(), snappied(stored(list(deep))))))
		return dense(w)
	}},
	{name: "million attachments", build: func() *forgery {
		w := padded()
		att := tuple(bin(""), bin(""), list(), integer(0), integer(0), integer(1), bin(""), atom("gzip"))
		w.records(1, leafRev(w.summary(object(), snappied(stored(list(slices.Repeat([][]byte{att}, 1<<20)...))))))
		return dense(w)
	}},
	{name: "attachment of a million parts that overlap", build: func() *forgery {
		w := padded()
		at := w.chunk(random)
		part := tuple(seq64(at), integer(int64(len(random))))
		att := tuple(bin("a"), bin("b"), list(slices.Repeat([][]byte{part}, 1<<20)...), seq64(int64(len(random))<<20),
			seq64(int64(len(random))<<20), integer(1), bin(""), atom("identity"))
		w.records(1, leafRev(w.summary(object(), snappied(stored(list(att))))))
		return dense(w)
	}},
	{name: "2000 attachments of one chunk", build: func() *forgery {
		w := padded()
		at := w.chunk(random)
		var atts [][]byte
		for i := range 2000 {
			n := integer(int64(len(random)))
			atts = append(atts, tuple(bin("a"), bin("b"), list(tuple(seq64(at), n)), n, n, integer(1), bin(fmt.Sprint(i)), atom("identity")))
		}
		w.records(1, leafRev(w.summary(object(), stored(list(atts...)))))
		return dense(w)
	}},
	{name: "an attachment of 1 GiB of zeros, sparse", build: func() *forgery {
		const n = 1 << 30
		w := padded()
		rec := tuple(bin("a"), bin("b"), list(tuple(seq64(4*BlockSize+1), integer(n))), integer(n), integer(n), integer(1), bin(""), atom("identity"))
		w.records(1, leafRev(w.summary(object(), stored(list(rec)))))
		for len(w.b) <= 4*BlockSize {
			w.put([]byte{0})
		}
		w.chunk(nil)
		copy(w.b[4*BlockSize+1:], []byte{n >> 24, 0, 0, 0})
		var tail builder
		db, _ := Open(bytes.NewReader(w.b), int64(len(w.b)))
		tail.header(headerOf(oneEpoch, state(db.hdr.IDTree.Offset, idRed, 1), state(db.hdr.SeqTree.Offset, integer(1), 1)))
		return &forgery{data: w.b, tail: tail.b, size: n + n>>10 + int64(len(tail.b))/BlockSize*BlockSize + int64(len(tail.b))}
	}},
	{name: "revisions in revisions", build: func() *forgery {
		w := padded()
		var head, tail []byte
		for range 1 << 16 {
			head = append(head, tuple()[0], 3)
			head = append(append(head, bin("")...), 106, 108, 0, 0, 0, 1)
			tail = append(tail, 106)
		}
		inner := tuple(bin(""), list(), list())
		node := append(append(head, inner...), tail...)
		w.records(1, list(tuple(integer(1), node)))
		return dense(w)
	}},
	{name: "more revisions than are believed", alloc: 384 << 20, only: "verify", build: func() *forgery {
		w := padded()
		rev := tuple(integer(1), tuple(bin(""), list(), list()))
		revs := list(slices.Repeat([][]byte{rev}, mostRevs+1)...)
		id := bin("a")
		a := w.chunk(snappied(kv(record(id, integer(1), revs))))
		b := w.chunk(snappied(kv(record(integer(1), id, revs))))
		w.header(headerOf(oneEpoch, state(a, idRed, 1), state(b, integer(1), 1)))
		return dense(w)
	}},
	{name: "header of 4 GiB", build: func() *forgery {
		w := &builder{}
		w.header(headerOf(oneEpoch))
		w.b = append(w.b, make([]byte, BlockSize-len(w.b)%BlockSize)...)
		w.b = append(w.b, 1, 0xff, 0xff, 0xff, 0xff, 0, 0)
		return dense(w)
	}},
	{name: "header of 100000 epochs", build: func() *forgery {
		w := &builder{}
		w.header(headerOf(list(slices.Repeat([][]byte{tuple(atom("a@b"), integer(1))}, 70_000)...)))
		return dense(w)
	}, sound: true},
	{name: "nothing but header markers", build: func() *forgery {
		b := bytes.Repeat(append([]byte{1, 0, 0x0f, 0xff, 0}, make([]byte, BlockSize-5)...), 2048)
		return &forgery{data: b, size: int64(len(b))}
	}},
	{name: "local documents of one node", build: func() *forgery {
		w := padded()
		leaf := w.chunk(kv(tuple(bin("_local/a"), tuple(integer(1), object(tuple(bin("a"), bin(string(random))))))))
		var items [][]byte
		for i := range 2000 {
			items = append(items, ptr(bin(fmt.Sprintf("_local/%06d", i)), leaf, list()))
		}
		w.header(headerOf(oneEpoch, atom("nil"), atom("nil"), state(w.chunk(kp(items...)), list(), 1)))
		return dense(w)
	}},
	{name: "purges of one node", build: func() *forgery {
		w := padded()
		revs := list(slices.Repeat([][]byte{tuple(integer(1), bin("0123456789abcdef"))}, 50_000)...)
		leaf := w.chunk(kv(tuple(integer(1), tuple(bin("u"), bin("d"), revs))))
		var items [][]byte
		for i := range 2000 {
			items = append(items, ptr(integer(int64(i)), leaf, integer(1)))
		}
		root := state(w.chunk(kp(items...)), integer(2000), 1)
		w.header(headerOf(oneEpoch, atom("nil"), atom("nil"), atom("nil"), root, root))
		return dense(w)
	}},
	{name: "integer of a million digits", build: func() *forgery {
		w := padded()
		big := append(binary.BigEndian.AppendUint32([]byte{111}, 500_000), 0)
		big = append(big, random[:500_000]...)
		w.records(1, leafRev(w.summary(object(tuple(bin("a"), big)), stored(list()))))
		return dense(w)
	}},
	{name: "a terabyte behind the header, sparse", build: func() *forgery {
		w := &builder{}
		w.header(headerOf(oneEpoch))
		return &forgery{data: w.b, size: 1 << 40}
	}},
	{name: "eight exabytes of nothing", build: func() *forgery { return &forgery{size: 1<<63 - 1} }},
}

// uses are what is done with files, each in one pass.
// large is how much a chunk says that it holds: n, or a tenth with -short.
func large(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

var uses = []struct {
	name string
	do   func(ctx context.Context, r io.ReaderAt, size int64) (findings int)
}{
	{"verify", func(ctx context.Context, r io.ReaderAt, size int64) int {
		return verified(ctx, r, size, VerifyOptions{})
	}},
	{"verify all headers", func(ctx context.Context, r io.ReaderAt, size int64) int {
		return verified(ctx, r, size, VerifyOptions{AllHeaders: true})
	}},
	{"find header", func(_ context.Context, r io.ReaderAt, size int64) int {
		_, _ = FindHeader(r, size)
		return 0
	}},
	{"points", func(_ context.Context, r io.ReaderAt, size int64) int {
		_, _ = Points(r, size)
		return 0
	}},
	{"documents", func(_ context.Context, r io.ReaderAt, size int64) int { return readDocs(r, size, false) }},
	{"documents down", func(_ context.Context, r io.ReaderAt, size int64) int { return readDocs(r, size, true) }},
	{"changes", func(_ context.Context, r io.ReaderAt, size int64) int {
		db, err := Open(r, size)
		if err != nil {
			return 0
		}
		for range db.Changes(0, false) {
		}
		return 0
	}},
	{"info", func(_ context.Context, r io.ReaderAt, size int64) int {
		db, err := Open(r, size)
		if err != nil {
			return 0
		}
		_, _ = db.Info()
		_, _ = db.CountBefore("doc-000003")
		_, _ = db.CountChanges(3)
		_, _ = db.Doc("doc-000003", DocOptions{})
		for range db.Purges(0) {
		}
		return 0
	}},
	{"local documents", func(_ context.Context, r io.ReaderAt, size int64) int {
		db, err := Open(r, size)
		if err != nil {
			return 0
		}
		for d, err := range db.LocalDocs("") {
			if err == nil {
				_, _ = d.JSON()
			}
		}
		return 0
	}},
	{"attachments", func(_ context.Context, r io.ReaderAt, size int64) int {
		db, err := Open(r, size)
		if err != nil {
			return 0
		}
		_, _ = db.Doc("doc-000000", DocOptions{Attachments: true})
		return 0
	}},
	{"walk", func(_ context.Context, r io.ReaderAt, size int64) int { return useParts(r, size, 0) }},
	{"groups", func(_ context.Context, r io.ReaderAt, size int64) int { return useParts(r, size, 1) }},
	{"one group", func(_ context.Context, r io.ReaderAt, size int64) int { return useParts(r, size, 2) }},
	{"scan", func(_ context.Context, r io.ReaderAt, size int64) int {
		s := NewScanner(0)
		_, _ = io.Copy(s, io.NewSectionReader(r, 0, min(size, 8<<20)))
		return 0
	}},
}

// useParts walks or folds the first tree, in one pass, as if its keys were in an order that they aren't in.
func useParts(r io.ReaderAt, size int64, how int) int {
	var tree *Tree
	if db, err := Open(r, size); err == nil {
		tree = db.IDTree()
	} else if v, err := OpenView(r, size); err == nil && len(v.Trees()) > 0 {
		tree = v.Trees()[0]
	}
	if tree == nil {
		return 0
	}
	n := 0
	part := Part{Reverse: true, Start: func(erlterm.Term) (int, error) {
		n++
		return n%5 - 2, nil
	}}
	if how == 0 {
		_ = tree.Walk(part, Visitor{Passed: func(Entry) error { return nil }, PassedBelow: func(erlterm.Term) error { return nil },
			Visit: func(Entry) (bool, error) { return true, nil }})
		return 0
	}
	_ = tree.Groups(part, func(_, _ erlterm.Term) (bool, error) { return how == 2, nil }, func(Group) (bool, error) { return true, nil })
	return 0
}

func verified(ctx context.Context, r io.ReaderAt, size int64, opts VerifyOptions) int {
	rep, err := Verify(ctx, r, size, opts)
	if errors.Is(err, context.DeadlineExceeded) {
		return -1
	}
	if err != nil {
		return 1
	}
	return len(rep.Findings)
}

// readDocs prints all documents in one pass.
func readDocs(r io.ReaderAt, size int64, down bool) int {
	db, err := Open(r, size)
	if err != nil {
		return 0
	}
	bodies := db.Bodies()
	for info, err := range db.Docs(DocsOptions{Descending: down, Deleted: true}) {
		if err == nil {
			_, _ = bodies.RevisionJSON(info, info.Winner(), DocOptions{})
		}
	}
	return 0
}

// Each file costs what it is worth, whatever is done with it.
func TestForgeries(t *testing.T) {
	for _, tc := range forgeries {
		t.Run(tc.name, func(t *testing.T) {
			f := tc.build()
			mostRead, mostAlloc := 16<<20+12*f.present(), uint64(32<<20+64*f.present())+tc.alloc
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			for _, use := range uses {
				if tc.only != "" && use.name != tc.only {
					continue
				}
				r := &forgedReader{forgery: f}
				var found int
				alloc := allocated(func() { found = use.do(ctx, WithContext(ctx, r), f.size) })
				if ctx.Err() != nil {
					t.Fatalf("%s: hangs", use.name)
				}
				if r.read > mostRead || alloc > mostAlloc {
					t.Errorf("%s of %d bytes: read %d and allocated %d, want at most %d and %d", use.name, f.present(), r.read, alloc, mostRead, mostAlloc)
				}
				if strings.HasPrefix(use.name, "verify") && (found == 0) != tc.sound || found > 100 {
					t.Errorf("%s: %d findings, sound is %v", use.name, found, tc.sound)
				}
			}
		})
	}
}
