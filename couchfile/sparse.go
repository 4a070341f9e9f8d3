package couchfile

import (
	"context"
	"io"
	"os"
)

// Sparse is an io.ReaderAt that knows where its file has data. An *os.File
// needs no such method.
type Sparse interface {
	io.ReaderAt

	// NextData returns the first stretch of bytes at or behind off that are
	// not a hole. It is empty, and begins at the end of the file, if there is
	// none. ok is false if nobody knows.
	NextData(off int64) (from, to int64, ok bool)
}

// FileData is NextData of a file. It moves the file's offset for a moment,
// which matters only to those who read without ReadAt.
func FileData(f *os.File, off int64) (from, to int64, ok bool) { return fileData(f, off) }

// mostStretches bounds how many stretches of data are counted; what lies
// behind them counts as data.
const mostStretches = 1 << 14

// nextData is where the first stretch of data at or behind off lies, as far as
// somebody knows: else it is all of the rest. It lies within the file.
func (s *source) nextData(off int64) (from, to int64) {
	ok := false
	switch r := s.file.(type) {
	case *os.File:
		from, to, ok = fileData(r, off)
	case Sparse:
		from, to, ok = r.NextData(off)
	}
	if !ok || from < off || to < from {
		return off, s.size
	}
	return min(from, s.size), min(to, s.size)
}

// present counts the bytes of the file that are no holes.
func (s *source) present() int64 {
	n, off := int64(0), int64(0)
	for range mostStretches {
		from, to := s.nextData(off)
		n += to - from
		if off = to; off >= s.size || to == from {
			return n
		}
	}
	return n + s.size - off
}

// lastBlock is where the last block below hi starts.
func lastBlock(hi int64) int64 { return (hi - 1) / BlockSize * BlockSize }

// holeBelow returns where the hole that ends at hi begins, or an offset inside
// it, or hi if there is data right below. hi and the answer are multiples of
// BlockSize, or the end of the file.
func (s *source) holeBelow(hi int64) int64 {
	lo := hi
	for step := int64(backStep); lo > 0; step *= 2 {
		next := max(0, lastBlock(hi)-step)
		if from, _ := s.nextData(next); from < hi {
			break
		}
		lo = next
	}
	return lo
}

// WithContext returns a reader of r's bytes that answers ctx's error once ctx
// is done. What this package does with such a reader ends soon then, also
// where it needs no new bytes; large reads end in between.
func WithContext(ctx context.Context, r io.ReaderAt) io.ReaderAt {
	return &contextReader{ctx: ctx, r: r}
}

// contextReader carries a context through functions that take an io.ReaderAt.
type contextReader struct {
	ctx context.Context
	r   io.ReaderAt
}

// done is the error of the context, or of one that r was given before.
func (c *contextReader) done() error {
	if inner, ok := c.r.(*contextReader); ok {
		if err := inner.done(); err != nil {
			return err
		}
	}
	return c.ctx.Err()
}

// readPiece is how much is read between two looks at the context.
const readPiece = 4 << 20

// ReadAt implements io.ReaderAt.
func (c *contextReader) ReadAt(p []byte, off int64) (n int, err error) {
	for {
		if err := c.ctx.Err(); err != nil {
			return n, err
		}
		k, err := c.r.ReadAt(p[n:min(len(p), n+readPiece)], off+int64(n))
		if n += k; err != nil || n == len(p) {
			return n, err
		}
	}
}
