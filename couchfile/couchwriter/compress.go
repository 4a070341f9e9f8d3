package couchwriter

import (
	"bytes"
	"encoding/binary"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/couchfile/snappy"
)

// Compression is how terms are stored: couchdb/file_compression. Snappy and
// None give the server's bytes; the others what it can read.
type Compression int

const (
	Snappy  Compression = iota // the server's default
	None                       // plain terms
	Deflate                    // deflate_6
	Zstd                       // of the main branch of August 2026, with Erlang 28
)

const (
	snappyMark  = 1
	deflateMark = 80 // behind 131
	zstdMark    = "\x28\xb5\x2f\xfd"
)

// Append appends the stored form of a term, whose first byte is 131, to dst.
//
// Source: CouchDB 3.5, src/couch/src/couch_compress.erl, compress.
func (c Compression) Append(dst, term []byte) []byte {
	switch c {
	case Snappy:
		return snappy.Append(append(dst, snappyMark), term)
	case Deflate:
		return appendDeflate(dst, term)
	case Zstd:
		return zstdEncoder().EncodeAll(term, dst)
	default:
		return append(dst, term...)
	}
}

// Stores says whether payload is stored in this way already.
//
// Source: CouchDB 3.5, src/couch/src/couch_compress.erl, is_compressed.
func (c Compression) Stores(payload []byte) bool {
	switch {
	case len(payload) == 0:
		return false
	case payload[0] == snappyMark:
		return c == Snappy
	case bytes.HasPrefix(payload, []byte(zstdMark)):
		return c == Zstd
	case len(payload) > 1 && payload[1] == deflateMark:
		return c == Deflate
	}
	return c == None
}

func appendDeflate(dst, term []byte) []byte {
	var z bytes.Buffer
	w := zlibWriters.Get().(*zlib.Writer)
	defer zlibWriters.Put(w)
	w.Reset(&z)
	w.Write(term[1:]) //nolint:errcheck // a bytes.Buffer takes everything
	w.Close()         //nolint:errcheck // as above
	if z.Len()+5 >= len(term)-1 {
		return append(dst, term...) // a term that does not shrink stays plain
	}
	dst = append(dst, erlterm.Version, deflateMark)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(term)-1))
	return append(dst, z.Bytes()...)
}

var zlibWriters = sync.Pool{New: func() any { return zlib.NewWriter(nil) }} // level 6

// zstdEncoder makes frames that say how long their content is, as CouchDB wants them.
var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithEncoderConcurrency(2))
	if err != nil {
		panic(err) // the options are right
	}
	return zw
})
