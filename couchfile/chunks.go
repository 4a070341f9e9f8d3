package couchfile

import (
	"fmt"
	"io"
	"iter"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Chunk is a chunk of a file, or a header.
type Chunk struct {
	Offset, End int64 // bytes on disk, with the markers inside

	IsHeader bool
	Flagged  bool         // a checksum is stored
	Checksum ChecksumKind // the kind that matched; ChecksumNone if there is none, or neither did
	Payload  []byte       // without length word and checksum; a header's term
}

// Chunks iterates over all chunks and headers that start in [from, to), in the
// order of the file, whether something points to them or not. from is the
// start of one of them, such as 0 or a header's End. It ends with an error at
// bytes that can't be a chunk, such as a torn write's. A Chunk is valid until
// the iteration goes on.
func Chunks(r io.ReaderAt, from, to int64) iter.Seq2[Chunk, error] {
	return func(yield func(Chunk, error) bool) {
		src := newSource(r, to, walkShift, 2)
		cr := chunkReader{src: src}
		for off := from; off < to; {
			c, err := chunkAt(src, &cr, off)
			switch {
			case err != nil:
				yield(Chunk{}, err)
				return
			case c.Payload == nil: // zeros up to the next header
				off += BlockSize - off%BlockSize
				continue
			case !yield(c, nil):
				return
			}
			off = c.End
		}
	}
}

// chunkAt reads what starts at off; Payload is nil if that is padding.
func chunkAt(src *source, cr *chunkReader, off int64) (Chunk, error) {
	var raw [5]byte
	n := min(int64(len(raw)), src.size-off)
	if err := src.readAt(raw[:n], off); err != nil {
		return Chunk{}, err
	}
	if off%BlockSize == 0 && raw[0] == 1 {
		h, err := readHeader(src, off, nil)
		return Chunk{Offset: off, End: storedEnd(h.End), IsHeader: true, Flagged: true, Checksum: h.Checksum, Payload: h.Term}, err
	}
	word, ok := lengthWord(raw[:n], off)
	if word == 0 && (ok || off/BlockSize < (off+n)/BlockSize) { // the padding may be short
		return Chunk{Offset: off}, nil
	}
	c, err := cr.read(off, "chunk")
	return Chunk{Offset: off, End: c.end, Flagged: c.flagged, Checksum: c.kind, Payload: c.payload}, err
}

// ChunkReader reads single chunks. It is not safe for concurrent use.
type ChunkReader struct {
	chunks chunkReader
	inf    inflater
}

// NewChunkReader returns a reader of the chunks of a file of size bytes.
func NewChunkReader(r io.ReaderAt, size int64) *ChunkReader {
	return &ChunkReader{chunks: chunkReader{src: newSource(r, size, lookupShift, lookupFrames)}}
}

// Payload is what the chunk at off holds. It is valid until the next call.
func (r *ChunkReader) Payload(off int64) ([]byte, error) {
	c, err := r.chunks.readChecked(off, "chunk")
	return c.payload, err
}

// Term is the term that the chunk at off holds. It is valid until the next call.
func (r *ChunkReader) Term(off int64) (erlterm.Term, error) {
	p, err := r.Payload(off)
	if err != nil {
		return nil, err
	}
	t, err := r.inf.term(p)
	if err != nil {
		return nil, corrupt(off, "chunk", err)
	}
	return t, nil
}

// Inflater expands stored terms into memory that it uses again. The zero value
// is ready. It is not safe for concurrent use.
type Inflater struct{ inf inflater }

// Term is Inflate, valid until the next call, or as long as payload if that was
// not compressed.
func (f *Inflater) Term(payload []byte) (erlterm.Term, error) {
	t, err := f.inf.term(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return t, nil
}

// Inflate returns the term that is stored in payload, which may be compressed
// as CouchDB compresses: with snappy, zlib or zstd, or not at all. What is no
// such term is an ErrCorrupt.
//
// Source: CouchDB 3.5, src/couch/src/couch_compress.erl, decompress.
func Inflate(payload []byte) (erlterm.Term, error) { return new(Inflater).Term(payload) }
