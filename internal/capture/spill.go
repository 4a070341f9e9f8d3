package capture

import (
	"bytes"
	"errors"
	"io"

	"github.com/slipcover/slipcover/internal/durable"
)

// inMemory is up to which size a stream is kept in memory, in bytes: those of most tails are far smaller.
const inMemory = ReadSize

// spill keeps what is written to it, what is more than inMemory in a scratch file.
type spill struct {
	dir     string
	mem     []byte // of the taker, which uses it again
	scratch *durable.Scratch
}

// Write implements io.Writer.
func (s *spill) Write(p []byte) (n int, err error) {
	if len(s.mem)+len(p) > cap(s.mem) {
		if s.scratch == nil {
			if s.scratch, err = durable.NewScratch(s.dir); err != nil {
				return 0, err
			}
		}
		if err := s.flush(); err != nil {
			return 0, err
		}
		if len(p) > cap(s.mem) {
			return s.scratch.Write(p)
		}
	}
	s.mem = append(s.mem, p...)
	return len(p), nil
}

func (s *spill) flush() error {
	_, err := s.scratch.Write(s.mem)
	s.mem = s.mem[:0]
	return err
}

// reader reads what was written.
func (s *spill) reader() (io.Reader, error) {
	if s.scratch == nil {
		return bytes.NewReader(s.mem), nil
	}
	_, err := s.scratch.Seek(0, io.SeekStart)
	return io.MultiReader(s.scratch, bytes.NewReader(s.mem)), err
}

func (s *spill) discard() {
	if s.scratch != nil {
		s.scratch.Discard()
	}
}

// readAll calls fn with all that a reader has, part by part, in buf.
func readAll(r io.Reader, buf []byte, fn func([]byte) error) error {
	for {
		n, err := r.Read(buf)
		if ferr := fn(buf[:n]); ferr != nil {
			return ferr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
