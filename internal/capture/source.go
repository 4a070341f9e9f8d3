package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

// Waits for a file that is being swapped by a compaction (its path is missing for
// a moment) or created (it has no header yet).
const (
	settleTries = 20
	settleWait  = 50 * time.Millisecond
)

// Source is an open file of the node; it counts what is read.
type Source struct {
	f     *os.File
	info  fs.FileInfo
	end   int64  // 0 is where the file ends
	whole []byte // all bytes, of a small file; nil if they are to be read
	read  atomic.Int64
}

// Open opens a file of a node, waiting out the moment in which a compaction swaps it.
// What isn't a file is ErrIrregular.
func Open(ctx context.Context, n *node.Node, e node.Entry) (*Source, error) {
	var f *os.File
	path := n.Path(&e)
	err := settle(ctx, func() (again bool, err error) {
		f, err = os.Open(path)
		if e.Source != "" && e.Kind != manifest.Config && errors.Is(err, fs.ErrNotExist) {
			// The compaction's rename has happened since the file was listed.
			e.Source = ""
			path = n.Path(&e)
			f, err = os.Open(path)
		}
		// Only a shard's or index's path may come back, and only if its folder is there.
		return errors.Is(err, fs.ErrNotExist) && e.Kind != manifest.Config && Swapping(path), err
	})
	if err != nil {
		return nil, err
	}
	return NewSource(f)
}

// NewSource returns an open file as a source, which closes it; on an error it is closed.
func NewSource(f *os.File) (*Source, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = ErrIrregular
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &Source{f: f, info: info}, nil
}

// Local is what the system said of the file when it was last looked at.
func (s *Source) Local() Local { return LocalOf(s.info) }

// Close closes the file.
func (s *Source) Close() { _ = s.f.Close() }

// EndAt lets the file end at a size, in bytes, whatever comes behind; 0 lets it end where it does.
func (s *Source) EndAt(size int64) { s.end = size }

// Size is how large the file was when it was last looked at, in bytes, but no more than EndAt set.
func (s *Source) Size() int64 {
	if s.end > 0 {
		return min(s.end, s.info.Size())
	}
	return s.info.Size()
}

// Read is how many bytes were read of the file.
func (s *Source) Read() int64 { return s.read.Load() }

// ReadAt implements io.ReaderAt.
func (s *Source) ReadAt(p []byte, off int64) (int, error) {
	if off >= 0 && off+int64(len(p)) <= int64(len(s.whole)) {
		return copy(p, s.whole[off:]), nil
	}
	n, err := s.f.ReadAt(p, off)
	s.read.Add(int64(n))
	return n, err
}

// NextData lets couchfile skip the holes of the file.
func (s *Source) NextData(off int64) (from, to int64, ok bool) { return couchfile.FileData(s.f, off) }

// readWhole reads a small file into buf.
func (s *Source) readWhole(buf []byte) error {
	b := buf[:s.Size()]
	if err := s.readFull(b, 0); err != nil {
		return err
	}
	s.whole = b
	return nil
}

// readFull fills p from offset off. A file that ends before that was cut short
// under us, which CouchDB doesn't do.
func (s *Source) readFull(p []byte, off int64) error {
	n, err := s.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %s has no byte at %d any more", ErrShrunk, s.f.Name(), off+int64(n))
	}
	return err
}

// settle calls fn until it says that trying again is of no use.
func settle(ctx context.Context, fn func() (again bool, err error)) error {
	for i := 0; ; i++ {
		again, err := fn()
		if !again || i == settleTries {
			return err
		}
		select {
		case <-time.After(settleWait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Swapping reports whether a path that wasn't there may come back: what a
// compaction is about to rename to it is there, or it came back just now.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, finish_compaction_int,
// and src/couch_mrview/src/couch_mrview_compactor.erl, swap_compacted.
func Swapping(path string) bool {
	compacted := path + ".compact"
	if index, ok := strings.CutSuffix(path, ".view"); ok {
		compacted = index + ".compact.view"
	}
	for _, p := range []string{compacted, path} {
		if _, err := os.Stat(p); err == nil {
			return true
		}
	}
	return false
}
