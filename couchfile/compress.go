package couchfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// First bytes of a stored term.
//
// Source: CouchDB 3.5, src/couch/src/couch_compress.erl, compress; zstd: that of the
// main branch of August 2026.
const (
	snappyPrefix = 1
	tagDeflated  = 80                 // behind erlterm.Version
	zstdMagic    = "\x28\xb5\x2f\xfd" // of a frame
)

// Bounds on what a compressed term may become, so that memory stays in
// proportion to the file: snappy can't do better than 64 bytes for 3, and the
// best of zlib (about 1000 to 1) and zstd is believed up to inflateFree bytes.
const (
	snappyRatio  = 22
	inflateRatio = 32
	inflateFree  = 64 << 20
)

var errBomb = errors.New("claims to decompress to more than it can")

// inflater expands stored terms into one reused buffer.
type inflater struct {
	budget *budget // of the pass that reads; may be nil
	buf    []byte
	src    bytes.Reader
	zr     io.ReadCloser
}

// term returns the term stored in payload, which may be compressed. It does
// not check that the term is well formed. It is valid until the next call, or
// as long as payload if that was not compressed.
//
// Source: CouchDB 3.5, src/couch/src/couch_compress.erl, decompress.
func (f *inflater) term(payload []byte) (erlterm.Term, error) {
	switch {
	case len(payload) >= 2 && payload[0] == snappyPrefix:
		return f.snappy(payload[1:])
	case len(payload) >= 6 && payload[0] == erlterm.Version && payload[1] == tagDeflated:
		return f.deflated(payload[2:])
	case len(payload) >= 2 && payload[0] == erlterm.Version:
		return erlterm.Term(payload[1:]), nil
	case bytes.HasPrefix(payload, []byte(zstdMagic)):
		return f.zstd(payload)
	}
	return nil, errShape
}

func (f *inflater) snappy(src []byte) (erlterm.Term, error) {
	n, err := snappy.DecodedLen(src)
	if err != nil {
		return nil, err
	}
	if n > snappyRatio*len(src)+64 {
		return nil, errBomb
	}
	if err := f.budget.inflate(int64(n)); err != nil {
		return nil, err
	}
	if err := f.reserve(n); err != nil {
		return nil, err
	}
	out, err := snappy.Decode(f.buf[:n], src)
	if err != nil {
		return nil, err
	}
	return plainTerm(out)
}

// plainTerm returns the term that is stored plain in b.
func plainTerm(b []byte) (erlterm.Term, error) {
	if len(b) < 2 || b[0] != erlterm.Version {
		return nil, errShape
	}
	return erlterm.Term(b[1:]), nil
}

// zstdDecoder decodes frames into the room that it is given, and has no buffers but
// its tables.
var zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
})

// zstd decodes a frame. It says how long its content is, or leaves that out.
//
// Source: CouchDB's main branch of August 2026, src/couch/src/couch_zstd.erl, decompress.
func (f *inflater) zstd(frame []byte) (erlterm.Term, error) {
	dec, err := zstdDecoder()
	if err != nil {
		return nil, err
	}
	var head zstd.Header
	if err := head.Decode(frame); err != nil {
		return nil, err
	}
	most := max(inflateFree, inflateRatio*int64(len(frame)))
	if !head.HasFCS {
		return f.zstdUnsized(dec, frame, most)
	}
	if head.FrameContentSize > uint64(most) {
		return nil, errBomb
	}
	n := int(head.FrameContentSize)
	if err := f.budget.inflate(int64(n)); err != nil {
		return nil, err
	}
	if err := f.reserve(n); err != nil {
		return nil, err
	}
	out, err := dec.DecodeAll(frame, f.buf[:0:n])
	if err != nil {
		return nil, err
	}
	return plainTerm(out)
}

// zstdUnsized decodes a frame that doesn't say how long its content is.
func (f *inflater) zstdUnsized(dec *zstd.Decoder, frame []byte, most int64) (erlterm.Term, error) {
	for n := 4*int64(len(frame)) + 1024; ; n *= 2 {
		n = min(n, most)
		if err := f.budget.inflate(n); err != nil { // a try costs as much as a success
			return nil, err
		}
		if err := f.reserve(int(n)); err != nil {
			return nil, err
		}
		out, err := dec.DecodeAll(frame, f.buf[:0:n])
		switch {
		case err == nil:
			return plainTerm(out)
		case !errors.Is(err, zstd.ErrDecoderSizeExceeded):
			return nil, err
		case n == most:
			return nil, errBomb
		}
	}
}

func (f *inflater) deflated(src []byte) (erlterm.Term, error) {
	n := int64(binary.BigEndian.Uint32(src))
	if n > max(inflateFree, inflateRatio*int64(len(src))) {
		return nil, errBomb
	}
	if err := f.budget.inflate(n); err != nil {
		return nil, err
	}
	f.src.Reset(src[4:])
	if err := f.resetZlib(); err != nil {
		return nil, err
	}
	if err := f.reserve(int(min(n+1, 4*int64(len(src))+1024))); err != nil {
		return nil, err
	}
	got := 0
	for {
		if got == len(f.buf) { // double, and keep what is there
			if err := f.reserve(int(min(n+1, 2*int64(got)))); err != nil {
				return nil, err
			}
		}
		k, err := f.zr.Read(f.buf[got:])
		got += k
		if int64(got) > n {
			return nil, errBomb
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if int64(got) != n || f.src.Len() != 0 {
		return nil, errShape
	}
	return erlterm.Term(f.buf[:got]), nil
}

func (f *inflater) resetZlib() error {
	if f.zr == nil {
		zr, err := zlib.NewReader(&f.src)
		f.zr = zr
		if err != nil {
			f.zr = nil
		}
		return err
	}
	r, ok := f.zr.(zlib.Resetter)
	if !ok {
		return errShape
	}
	return r.Reset(&f.src, nil)
}

// reserve makes buf at least n bytes long and keeps its content.
func (f *inflater) reserve(n int) error {
	if n <= len(f.buf) {
		return nil
	}
	n = max(n, min(2*len(f.buf), keepBuffer))
	if err := f.budget.hold(int64(n - len(f.buf))); err != nil {
		return err
	}
	buf := make([]byte, n)
	copy(buf, f.buf)
	f.buf = buf
	return nil
}
