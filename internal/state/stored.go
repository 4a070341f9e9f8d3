package state

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
)

// Stored is a state that is read as far as its head.
type Stored struct {
	file  *os.File
	z     *zstd.Decoder
	lines *stateReader
}

// Open reads the head of the state in dir.
func Open(dir string) (*Stored, error) {
	f, err := os.Open(Path(dir))
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	s := &Stored{file: f}
	if s.z, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20)); err != nil {
		_ = f.Close()
		return nil, err
	}
	if s.lines, err = newStateReader(s.z); err != nil {
		s.Close()
		return nil, fmt.Errorf("read state: %w", err)
	}
	return s, nil
}

// Close ends reading.
func (s *Stored) Close() {
	s.z.Close()
	_ = s.file.Close()
}

// Summary is of the backup that left it.
func (s *Stored) Summary() manifest.Summary { return s.lines.head.Summary }

// Of reports whether it is the state of a repository, in the form that is written now.
func (s *Stored) Of(repoID string) bool {
	return s.lines.head.Repo == repoID && s.lines.head.Format == stateFormat
}

// Copy stores the state in dir as that of another repository, if it has its checksum.
func (s *Stored) Copy(dir, repoID string) error {
	s.lines.head.Repo = repoID
	return durable.WriteFile(Path(dir), 0o600, func(f *os.File) error {
		w, err := newStateWriter(f)
		if err != nil {
			return err
		}
		if err := w.encode(s.lines.head); err != nil {
			return err
		}
		for {
			b, err := s.lines.next()
			if errors.Is(err, io.EOF) {
				return w.close()
			}
			if err == nil {
				err = w.line(b)
			}
			if err != nil {
				return err
			}
		}
	})
}
