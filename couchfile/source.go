package couchfile

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// source reads a file through a small cache of aligned frames. It is safe for
// concurrent use.
type source struct {
	r     io.ReaderAt
	file  io.ReaderAt    // r without its context: it may know its holes
	ctx   *contextReader // r, if it is one
	size  int64
	shift uint // a frame is 1<<shift bytes

	forged int64 // bytes of blocks that only looked like headers; for one goroutine

	holes   sync.Once // guards allowed
	allowed int64     // what one pass may read

	mu     sync.Mutex // guards frames and free
	frames []frame
	free   [][]byte
}

type frame struct {
	index int64 // number of the frame in the file; valid if buf is not nil
	buf   []byte
}

// Cache shapes, as bits of the frame size and count of frames. A cache holds
// at most 4 MiB, and no more than what was read of the file.
const (
	lookupShift, lookupFrames = 14, 256 // single documents, possibly over a network
	walkShift, walkFrames     = 15, 128 // whole trees
)

// Keeper is an io.ReaderAt that keeps what was read of it, if Keeps says so: what is opened on it keeps nothing itself, so that
// whoever reads many files can bound the memory of all of them.
type Keeper interface {
	io.ReaderAt
	Keeps() bool
}

func newSource(r io.ReaderAt, size int64, shift uint, frames int) *source {
	s := &source{r: r, file: r, size: size, shift: shift, frames: make([]frame, frames)}
	s.ctx, _ = r.(*contextReader)
	for c := s.ctx; c != nil; c, _ = s.file.(*contextReader) {
		s.file = c.r
	}
	if k, ok := s.file.(Keeper); ok && k.Keeps() {
		s.frames = nil
	}
	return s
}

// done is the error of the context that the reader came with.
func (s *source) done() error {
	if s.ctx == nil {
		return nil
	}
	return s.ctx.done()
}

// readAt fills p from off. The caller has checked that off+len(p) is within
// the size; a shorter file is an error.
func (s *source) readAt(p []byte, off int64) error {
	if err := s.done(); err != nil {
		return err
	}
	if len(p) >= 1<<s.shift || len(s.frames) == 0 {
		return s.readFull(p, off)
	}
	for len(p) > 0 {
		n, err := s.readFrame(p, off)
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// readFrame copies the part of p that lies in off's frame.
func (s *source) readFrame(p []byte, off int64) (int, error) {
	index := off >> s.shift
	at := int(off - index<<s.shift)
	slot := &s.frames[index%int64(len(s.frames))]
	s.mu.Lock()
	if slot.buf != nil && slot.index == index {
		n := copy(p, slot.buf[at:])
		s.mu.Unlock()
		return n, nil
	}
	buf := s.takeBuf()
	s.mu.Unlock()

	start := index << s.shift
	buf = buf[:min(int64(1)<<s.shift, s.size-start)]
	if err := s.readFull(buf, start); err != nil {
		return 0, err
	}
	n := copy(p, buf[at:])
	s.mu.Lock()
	if slot.buf != nil {
		s.free = append(s.free, slot.buf)
	}
	slot.index, slot.buf = index, buf
	s.mu.Unlock()
	return n, nil
}

// takeBuf returns an unused frame buffer. s.mu is held.
func (s *source) takeBuf() []byte {
	if n := len(s.free); n > 0 {
		buf := s.free[n-1]
		s.free = s.free[:n-1]
		return buf[:cap(buf)]
	}
	return make([]byte, min(int64(1)<<s.shift, s.size))
}

func (s *source) readFull(p []byte, off int64) error {
	n, err := s.r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return corrupt(off, "read", io.ErrUnexpectedEOF)
	}
	if err := s.done(); err != nil {
		return err
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}
