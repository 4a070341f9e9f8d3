package couchfile

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zlib"
	"github.com/zeebo/xxh3"
)

// builder writes files byte by byte, so that they may be wrong.
type builder struct{ b []byte }

// put appends payload bytes with the block markers they need, and returns
// where they start.
func (w *builder) put(p []byte) int64 {
	off := int64(len(w.b))
	for _, c := range p {
		if len(w.b)%BlockSize == 0 {
			w.b = append(w.b, 0)
		}
		w.b = append(w.b, c)
	}
	if len(w.b)%BlockSize == 0 {
		w.b = append(w.b, 0)
	}
	return off
}

func (w *builder) chunk(payload []byte) int64 {
	return w.put(append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), payload...))
}

func (w *builder) header(term []byte) {
	for len(w.b)%BlockSize != 0 {
		w.b = append(w.b, 0)
	}
	h := xxh3.Hash128(term)
	p := binary.BigEndian.AppendUint32(nil, uint32(16+len(term)))
	p = binary.BigEndian.AppendUint64(p, h.Hi)
	p = append(binary.BigEndian.AppendUint64(p, h.Lo), term...)
	w.b = append(w.b, 1)
	w.put(p)
}

func atom(s string) []byte { return append([]byte{119, byte(len(s))}, s...) }

func integer(n int64) []byte { return binary.BigEndian.AppendUint32([]byte{98}, uint32(n)) }

func bin(s string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{109}, uint32(len(s))), s...)
}

func tuple(items ...[]byte) []byte {
	return append([]byte{104, byte(len(items))}, bytes.Join(items, nil)...)
}

func list(items ...[]byte) []byte {
	if len(items) == 0 {
		return []byte{106}
	}
	b := binary.BigEndian.AppendUint32([]byte{108}, uint32(len(items)))
	return append(append(b, bytes.Join(items, nil)...), 106)
}

func stored(t []byte) []byte { return append([]byte{131}, t...) }

// dbHeader is a header of fields elements whose seq and id trees are at root.
func dbHeader(version int64, fields int, root []byte) []byte {
	empty := atom("nil")
	all := [][]byte{
		atom("db_header"), integer(version), integer(1), integer(0), root, root, empty, empty, empty, empty, integer(1000),
		bin("0123456789abcdef0123456789abcdef"), list(tuple(atom("a@b"), integer(0))), integer(0), integer(1000), atom("undefined"),
		integer(0), tuple(atom("anything"), list(integer(1))), bin("else"), // of a later release
	}
	if version < 7 {
		all[7], all[8] = integer(0), empty
	}
	return stored(tuple(all[:fields]...))
}

func TestHeaderVersions(t *testing.T) {
	for _, tc := range []struct {
		name    string
		version int64
		fields  int
		want    error
	}{
		{"8", 8, 16, nil},
		{"7", 7, 16, nil},
		{"7 without props", 7, 15, nil},
		{"6 of 2.x", 6, 14, nil},
		{"6 of 1.x", 6, 11, nil},
		{"5", 5, 11, nil},
		{"4", 4, 11, ErrUnsupportedVersion},
		{"9", 9, 16, ErrUnsupportedVersion},
		{"8 of a later release", 8, 19, nil},
		{"too short", 8, 10, ErrUnsupportedVersion},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var w builder
			w.header(dbHeader(tc.version, tc.fields, atom("nil")))
			db, err := Open(bytes.NewReader(w.b), int64(len(w.b)))
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if err == nil && (db.hdr.RevsLimit != 1000 || db.hdr.PurgeInfosLimit != 1000 || db.hdr.DiskVersion != int(tc.version)) {
				t.Errorf("got %+v", db.hdr)
			}
		})
	}
}

// The server uses the newest intact header or none, so neither do we fall back.
func TestNoFallBack(t *testing.T) {
	var w builder
	w.header(dbHeader(8, 16, atom("nil")))
	w.header(stored(tuple(atom("comp_header"), atom("nil"))))
	if _, err := Open(bytes.NewReader(w.b), int64(len(w.b))); !errors.Is(err, ErrNotDatabase) {
		t.Errorf("got %v, want %v", err, ErrNotDatabase)
	}
}

// allocated is how many bytes fn allocates.
func allocated(fn func()) uint64 {
	var a, b runtime.MemStats
	runtime.ReadMemStats(&a)
	fn()
	runtime.ReadMemStats(&b)
	return b.TotalAlloc - a.TotalAlloc
}

func TestHugeLengthWord(t *testing.T) {
	b := make([]byte, 1024)
	copy(b[1:], []byte{0xff, 0xff, 0xff, 0xff})
	n := allocated(func() {
		r := chunkReader{src: memSource(b)}
		if _, err := r.read(1, "chunk"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v, want ErrCorrupt", err)
		}
		s := NewScanner(0)
		_, _ = s.Write(b)
	})
	if n > 64<<10 {
		t.Errorf("allocated %d bytes for a file of 1 KB", n)
	}
}

func TestDecompressionBombs(t *testing.T) {
	_, _ = zstdDecoder() // its tables are there once
	var z bytes.Buffer
	zw := zlib.NewWriter(&z)
	_, _ = zw.Write(make([]byte, 8<<20)) // a buffer does not fail
	_ = zw.Close()
	deflated := func(n uint32) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{131, 80}, n), z.Bytes()...)
	}
	for _, tc := range []struct {
		name    string
		payload []byte
		limit   uint64
	}{
		{"snappy claims 4 GB", []byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0}, 64 << 10},
		{"zlib claims 4 GB", deflated(1<<32 - 1), 64 << 10},
		{"zlib is longer than it says", deflated(1000), 1 << 20},
		{"zlib is shorter than it says", deflated(60 << 20), 64 << 20},
		{"zstd claims 16 EB", []byte(zstdMagic + "\xe0\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00"), 64 << 10},
		{"zstd is longer than it says", zstdSays(zstded(make([]byte, 8<<20), true), 1000), 1 << 20},
		{"zstd is shorter than it says", zstdSays(zstded(make([]byte, 8<<20), true), 60<<20), 64 << 20},
		{"zstd doesn't say how long", zstded(make([]byte, 72<<20), false), 200 << 20},
		{"zstd is torn", zstded(make([]byte, 8<<20), true)[:100], 16 << 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := allocated(func() {
				var inf inflater
				if _, err := inf.term(tc.payload); err == nil {
					t.Error("got no error")
				}
			})
			if n > tc.limit {
				t.Errorf("allocated %d bytes, want at most %d", n, tc.limit)
			}
		})
	}
}

func root(off, size int64) []byte { return tuple(integer(off), integer(1), integer(size)) }

// A node that is its own child, twice, must end soon, and so must a chain.
func TestTreeCycle(t *testing.T) {
	var w builder
	w.put([]byte{0, 0, 0, 0}) // keeps the node off offset 0
	off := int64(len(w.b))
	ptr := tuple(bin("a"), root(off, 100))
	w.chunk(stored(tuple(atom("kp_node"), list(ptr, ptr))))
	w.header(dbHeader(8, 16, root(off, 100)))
	r, size := bytes.NewReader(w.b), int64(len(w.b))
	db, err := Open(r, size)
	if err != nil {
		t.Fatal(err)
	}
	for _, reverse := range []bool{false, true} {
		var last error
		for _, err := range db.IDTree().All(nil, reverse) {
			last = err
		}
		if !errors.Is(last, errCycle) && !errors.Is(last, errDepth) {
			t.Errorf("got %v, want a cycle", last)
		}
	}
	for _, all := range []bool{false, true} {
		rep, err := Verify(t.Context(), r, size, VerifyOptions{AllHeaders: all})
		if err != nil || rep.OK() {
			t.Errorf("got %v, %v, want findings", rep, err)
		}
	}
}

// A file in which every block claims to be a large header is read in a bounded
// number of passes.
func TestForgedHeaders(t *testing.T) {
	b := make([]byte, 8<<20)
	for i := 0; i < len(b); i += BlockSize {
		copy(b[i:], []byte{1, 0, 0x0f, 0, 0})
	}
	r := &countingReaderAt{r: bytes.NewReader(b)}
	if _, err := FindHeader(r, int64(len(b))); !errors.Is(err, ErrNoHeader) {
		t.Errorf("got %v, want %v", err, ErrNoHeader)
	}
	if limit := int64(4*forgedFree + 16*len(b)); r.n > limit {
		t.Errorf("read %d bytes of a file of %d, want at most %d", r.n, len(b), limit)
	}
}

type countingReaderAt struct {
	r *bytes.Reader
	n int64
}

func (c *countingReaderAt) ReadAt(p []byte, off int64) (int, error) {
	c.n += int64(len(p))
	return c.r.ReadAt(p, off)
}

// A file that is shorter than its size says is damage, not an endless wait.
func TestShorterThanSize(t *testing.T) {
	b := bytes.Repeat([]byte{0}, 10_000)
	if _, err := FindHeader(bytes.NewReader(b), 20_000); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}

// Payloads of every length around block boundaries, at every kind of offset,
// come back, and end where the writer's bytes end.
func TestBlockBoundaries(t *testing.T) {
	for _, pad := range []int{1, 2, 4090, 4091, 4092, 4093, 4094} {
		for _, n := range []int{1, 3, 4, 4087, 4088, 4090, 4091, 4092, 4095, 4096, 8185, 8190, 8191, 12288} {
			var w builder
			w.put(make([]byte, pad))
			payload := make([]byte, n)
			for i := range payload {
				payload[i] = byte(i*7 + 1)
			}
			off := w.chunk(payload)
			r := chunkReader{src: memSource(w.b)}
			c, err := r.read(off, "chunk")
			if err != nil || !bytes.Equal(c.payload, payload) || c.end != int64(len(w.b)) || c.dirty {
				t.Errorf("%d bytes behind %d: got %d bytes up to %d, %v, want %d up to %d", n, pad, len(c.payload), c.end, err, n, len(w.b))
			}
		}
	}
}

// Headers and chunks whose ends fall on block boundaries keep a Scanner in sync.
func TestScannerBoundaries(t *testing.T) {
	for extra := range 3 * BlockSize / 8 {
		var w builder
		w.header(dbHeader(8, 16, atom("nil")))
		w.chunk(make([]byte, 1+8*extra))
		w.chunk([]byte("x"))
		w.header(append(dbHeader(8, 16, atom("nil")), make([]byte, extra)...))
		w.chunk([]byte("y"))
		w.header(dbHeader(8, 16, atom("nil")))
		s := NewScanner(0)
		_, _ = s.Write(w.b)
		if len(s.Anomalies()) != 0 || !s.Synced() {
			t.Errorf("extra %d: got %v", extra, s.Anomalies())
		}
	}
}

// Payloads that are too large to keep are hashed both ways.
func TestScannerLargePayload(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789abcdef"), (scanBuffer+1<<20)/16)
	x, m := xxh3.Hash128(payload), md5.Sum(payload)
	sums := map[string][]byte{
		"xxh3": binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, x.Hi), x.Lo),
		"md5":  m[:],
		"none": make([]byte, checksumLen),
	}
	for name, sum := range sums {
		var w builder
		w.header(dbHeader(8, 16, atom("nil")))
		head := binary.BigEndian.AppendUint32(nil, checksumFlag|uint32(len(payload)))
		off := w.put(append(append(head, sum...), payload...))
		w.header(dbHeader(8, 16, atom("nil")))
		s := NewScanner(0)
		_, _ = s.Write(w.b)
		got := s.Anomalies()
		if bad := name == "none"; !s.Synced() || bad != (len(got) == 1) || bad && got[0].Offset != off {
			t.Errorf("%s: got %v, want a mismatch at %d for none", name, got, off)
		}
	}
}

// Random damage of small real files, plain terms among them, is survived.
func TestMutations(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(fuzzFixtures, "data/shards/*/*.couch"))
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(7, 7))
	used := 0
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 60_000 {
			continue
		}
		used++
		for range 6 {
			m := bytes.Clone(b)
			for range 1 + rnd.IntN(4) {
				m[rnd.IntN(len(m))] ^= 1 << rnd.IntN(8)
			}
			useAll(t, m)
		}
	}
	if used < 10 {
		t.Errorf("used %d files, want 10 or more", used)
	}
}
