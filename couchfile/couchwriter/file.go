package couchwriter

import (
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/xxh3"

	"github.com/slipcover/slipcover/couchfile"
)

const (
	blockSize    = couchfile.BlockSize
	flushSize    = 256 << 10
	checksumFlag = 1 << 31
)

// File appends to a file. It hands bytes on in large pieces; those that it
// still holds are lost without Flush. After an error of its writer it does
// nothing any more, and Flush returns that error.
type File struct {
	// Checksum is the kind that is written, XXH3 or MD5. It may change.
	Checksum couchfile.ChecksumKind

	w        io.Writer
	back     io.ReaderAt
	off      int64 // where the next byte goes
	buf      []byte
	err      error
	reader   *couchfile.ChunkReader
	readable int64 // bytes of the file that reader knows
}

// NewFile continues a file of size bytes on w, which gets what comes behind
// them. back gives back what was written, and what was there before; it may be
// nil if nothing is read back.
func NewFile(w io.Writer, back io.ReaderAt, size int64, sum couchfile.ChecksumKind) *File {
	return &File{Checksum: sum, w: w, back: back, off: size}
}

// Offset is the size of the file with all that was appended.
func (f *File) Offset() int64 { return f.off }

// Chunk appends a chunk without a checksum: a node, an object, a part of an
// attachment. size counts the markers inside it.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, assemble_file_chunk.
func (f *File) Chunk(payload []byte) (off, size int64) {
	off = f.off
	var word [4]byte
	binary.BigEndian.PutUint32(word[:], uint32(len(payload)))
	f.write(word[:])
	f.write(payload)
	f.settle()
	return off, f.off - off
}

// Checked appends a chunk with a checksum: a document's summary.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl,
// assemble_file_chunk_and_checksum.
func (f *File) Checked(payload []byte) (off, size int64) {
	off = f.off
	head := f.head(uint32(len(payload))|checksumFlag, payload)
	f.write(head[:])
	f.write(payload)
	f.settle()
	return off, f.off - off
}

// Header appends a header at the next block and hands everything to the
// writer. term begins with 131 and is not compressed.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, handle_call write_header.
func (f *File) Header(term []byte) (off int64, err error) {
	if rest := f.off % blockSize; rest != 0 {
		f.buf = append(f.buf, make([]byte, blockSize-rest)...)
		f.off += blockSize - rest
	}
	off = f.off
	f.buf = append(f.buf, 1)
	f.off++
	head := f.head(uint32(checksumLen+len(term)), term)
	f.write(head[:])
	f.write(term)
	return off, f.Flush()
}

// Raw appends bytes as they are, markers and all.
func (f *File) Raw(p []byte) {
	f.buf = append(f.buf, p...)
	f.off += int64(len(p))
	f.settle()
}

// Reset forgets what was not yet handed to the writer, and its error, and
// continues the file at another size.
func (f *File) Reset(size int64) {
	f.off, f.buf, f.err, f.reader = size, f.buf[:0], nil, nil
}

const checksumLen = 16

// head is a length word and the checksum of payload.
func (f *File) head(word uint32, payload []byte) (head [4 + checksumLen]byte) {
	binary.BigEndian.PutUint32(head[:], word)
	if f.Checksum == couchfile.MD5 {
		sum := md5.Sum(payload)
		copy(head[4:], sum[:])
		return head
	}
	sum := xxh3.Hash128(payload).Bytes()
	copy(head[4:], sum[:])
	return head
}

// write puts p into blocks. What ends on a block's end is followed by the
// next block's marker.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, make_blocks and split_iolist.
func (f *File) write(p []byte) {
	if f.off%blockSize == 0 {
		f.buf = append(f.buf, 0)
		f.off++
	}
	for len(p) > 0 {
		n := min(len(p), int(blockSize-f.off%blockSize))
		f.buf = append(f.buf, p[:n]...)
		f.off += int64(n)
		p = p[n:]
		if f.off%blockSize == 0 {
			f.buf = append(f.buf, 0)
			f.off++
		}
	}
}

// settle hands on what has become much.
func (f *File) settle() {
	if len(f.buf) >= flushSize {
		_ = f.Flush() // kept in f.err
	}
}

// Flush hands all bytes to the writer and returns its first error.
func (f *File) Flush() error {
	if f.err == nil && len(f.buf) > 0 {
		if _, err := f.w.Write(f.buf); err != nil {
			f.err = fmt.Errorf("write the bytes up to %d: %w", f.off, err)
		}
	}
	f.buf = f.buf[:0]
	return f.err
}

var errNotBack = errors.New("the file that is written can't be read back")

// Payload reads a chunk back. It is valid until the next call.
func (f *File) Payload(off int64) ([]byte, error) {
	if f.back == nil {
		return nil, fmt.Errorf("chunk at %d: %w", off, errNotBack)
	}
	if f.reader == nil || off >= f.readable {
		if err := f.Flush(); err != nil {
			return nil, err
		}
		f.reader, f.readable = couchfile.NewChunkReader(f.back, f.off), f.off
	}
	return f.reader.Payload(off)
}
