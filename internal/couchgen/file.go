package couchgen

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"
)

const (
	blockSize   = 4096
	flushSize   = 1 << 20
	snappyMark  = 1
	checkedFlag = 1 << 31
)

// Checksum chooses what protects headers and document bodies.
type Checksum int

const (
	XXH3 Checksum = iota // XXH3-128, the default of CouchDB 3.5
	MD5                  // what 3.3 and older write
)

func (c Checksum) sum(p []byte) [16]byte {
	if c == MD5 {
		return md5.Sum(p)
	}
	return xxh3.Hash128(p).Bytes()
}

// Compression chooses how terms are stored: couchdb/file_compression.
type Compression int

const (
	Snappy  Compression = iota // the server's default
	None                       // plain external terms
	Deflate                    // deflate_6
	Zstd                       // of the main branch of August 2026, with Erlang 28
)

// compress appends the stored form of a term, 131 first, to dst.
//
// Source: CouchDB 3.5, src/couch/src/couch_compress.erl, compress.
func (c Compression) compress(dst, term []byte) []byte {
	switch c {
	case Snappy:
		dst = append(dst, snappyMark)
		at := len(dst)
		dst = grow(dst, s2.MaxEncodedLen(len(term)))
		return dst[:at+len(s2.EncodeSnappy(dst[at:cap(dst)], term))]
	case Deflate:
		var z bytes.Buffer
		w := zlibWriters.Get().(*zlib.Writer)
		w.Reset(&z)
		w.Write(term[1:]) //nolint:errcheck // a bytes.Buffer takes everything
		w.Close()         //nolint:errcheck // as above
		zlibWriters.Put(w)
		if z.Len()+5 >= len(term)-1 {
			return append(dst, term...) // a term that does not shrink stays plain
		}
		dst = append(dst, tagVersion, tagZlib)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(term)-1))
		return append(dst, z.Bytes()...)
	case Zstd:
		return zstdWriter().EncodeAll(term, dst)
	default:
		return append(dst, term...)
	}
}

const zstdMark = "\x28\xb5\x2f\xfd"

// zstdWriter makes frames that say how long their content is, as CouchDB wants them.
var zstdWriter = sync.OnceValue(func() *zstd.Encoder {
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithEncoderConcurrency(2))
	if err != nil {
		panic(err) // the options are right
	}
	return zw
})

var zstdReader = sync.OnceValues(func() (*zstd.Decoder, error) { return zstd.NewReader(nil, zstd.WithDecoderConcurrency(2)) })

var zlibWriters = sync.Pool{New: func() any { return zlib.NewWriter(nil) }} // level 6

func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	return append(make([]byte, 0, 2*cap(b)+n), b...)
}

// decompress undoes compress, whatever the compression was.
func decompress(p []byte) ([]byte, error) {
	if len(p) > 0 && p[0] == snappyMark {
		return s2.Decode(nil, p[1:])
	}
	if len(p) > 6 && p[0] == tagVersion && p[1] == tagZlib {
		r, err := zlib.NewReader(bytes.NewReader(p[6:]))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		term, err := io.ReadAll(r)
		return append([]byte{tagVersion}, term...), err
	}
	if bytes.HasPrefix(p, []byte(zstdMark)) {
		zr, err := zstdReader()
		if err != nil {
			return nil, err
		}
		return zr.DecodeAll(p, nil)
	}
	return p, nil
}

// appender puts chunks and headers behind the end of a file.
type appender struct {
	w        io.Writer
	r        io.ReaderAt // nil if w can't be read back
	buf      []byte      // the bytes before off that w has not got yet
	off      int64       // where the next byte goes
	checksum Checksum
	err      error // the first error of w; later writes do nothing
}

// write puts p into blocks.
func (a *appender) write(p []byte) {
	if a.off%blockSize == 0 {
		a.buf = append(a.buf, 0)
		a.off++
	}
	for len(p) > 0 {
		n := min(len(p), int(blockSize-a.off%blockSize))
		a.buf = append(a.buf, p[:n]...)
		a.off += int64(n)
		p = p[n:]
		if a.off%blockSize == 0 {
			a.buf = append(a.buf, 0)
			a.off++
		}
	}
	if len(a.buf) >= flushSize {
		a.flush()
	}
}

func (a *appender) flush() {
	if a.err == nil && len(a.buf) > 0 {
		_, a.err = a.w.Write(a.buf)
	}
	a.buf = a.buf[:0]
}

// chunk appends an unflagged chunk; it returns its offset and its raw length,
// which counts the marker bytes inside it.
func (a *appender) chunk(p []byte) (off, size int64) {
	off = a.off
	var word [4]byte
	binary.BigEndian.PutUint32(word[:], uint32(len(p)))
	a.write(word[:])
	a.write(p)
	return off, a.off - off
}

// checkedChunk appends a chunk with a checksum.
func (a *appender) checkedChunk(p []byte) (off, size int64) {
	off = a.off
	var head [20]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(p))|checkedFlag)
	sum := a.checksum.sum(p)
	copy(head[4:], sum[:])
	a.write(head[:])
	a.write(p)
	return off, a.off - off
}

// header appends a header at the next block boundary and hands all bytes to w.
func (a *appender) header(term []byte) {
	if rest := a.off % blockSize; rest != 0 {
		a.buf = append(a.buf, make([]byte, blockSize-rest)...)
		a.off += blockSize - rest
	}
	a.buf = append(a.buf, 1)
	a.off++
	var head [20]byte
	binary.BigEndian.PutUint32(head[:], uint32(16+len(term)))
	sum := a.checksum.sum(term)
	copy(head[4:], sum[:])
	a.write(head[:])
	a.write(term)
	a.flush()
}

var errNoReader = errors.New("the output can't be read back")

// payload reads the payload of the chunk at off.
func (a *appender) payload(off int64) ([]byte, error) {
	if a.r == nil {
		return nil, errNoReader
	}
	a.flush()
	word, at, err := readBlocks(a.r, off, 4, 2048)
	if err != nil {
		return nil, fmt.Errorf("read chunk at %d: %w", off, err)
	}
	n := binary.BigEndian.Uint32(word)
	skip := 0
	if n&checkedFlag != 0 {
		skip = 16
	}
	want := skip + int(n&^checkedFlag)
	p := word[4:]
	if len(p) < want {
		if p, _, err = readBlocks(a.r, at, want, 0); err != nil {
			return nil, fmt.Errorf("read chunk at %d: %w", off, err)
		}
	}
	return p[skip:want], nil
}

// readBlocks reads n bytes from off without the marker bytes, and as many as
// more further ones if the file has them. next is the offset behind the n bytes.
func readBlocks(r io.ReaderAt, off int64, n, more int) (p []byte, next int64, err error) {
	raw := make([]byte, n+more+(n+more)/(blockSize-1)+2)
	got, err := r.ReadAt(raw, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	raw = raw[:got]
	p = make([]byte, 0, got)
	at := off
	for len(raw) > 0 && len(p) < n+more {
		if at%blockSize == 0 {
			raw, at = raw[1:], at+1
			continue
		}
		k := min(len(raw), int(blockSize-at%blockSize), n+more-len(p))
		if len(p) < n && len(p)+k >= n {
			next = at + int64(n-len(p))
		}
		p = append(p, raw[:k]...)
		raw, at = raw[k:], at+int64(k)
	}
	if len(p) < n {
		return nil, 0, io.ErrUnexpectedEOF
	}
	return p, next, nil
}
