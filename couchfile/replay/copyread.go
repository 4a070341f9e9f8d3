package replay

import (
	"fmt"
	"io"
)

// CopyReader reads the file that a stream of copies makes. Its ReadAt may be called from
// several goroutines if those of what it reads may be.
type CopyReader struct {
	*Copy
	Stream, Older io.ReaderAt
}

// ReadAt reads from the stream and the older file what it is asked for, and nothing more.
func (r *CopyReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	want := p[:max(0, min(int64(len(p)), r.Size-off))]
	at, n := PayloadIn(off, off+int64(len(want)))
	payload := make([]byte, 0, n)
	err := r.Runs(at, n, func(run Run) (err error) {
		payload, err = r.appendRun(payload, run)
		return err
	})
	k, _ := r.Fill(want, off, payload)
	switch {
	case err != nil:
	case k < len(want):
		err = damaged("the older file is shorter than the stream says")
	case len(want) < len(p):
		err = io.EOF
	}
	return k, err
}

// appendRun appends the payload of a run, or what there is before an error.
func (r *CopyReader) appendRun(dst []byte, run Run) ([]byte, error) {
	if !run.Older {
		b := dst[len(dst) : len(dst)+int(run.N)]
		n, err := readFullAt(r.Stream, b, run.At)
		return dst[:len(dst)+n], err
	}
	from, to := BytesOf(run.At, run.N)
	b := make([]byte, to-from)
	n, err := readFullAt(r.Older, b, from)
	return append(dst, Strip(b[:n], from)...), err
}

// readFullAt is ReadAt that has no error if it read all.
func readFullAt(r io.ReaderAt, b []byte, off int64) (int, error) {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		err = nil
	} else if err == nil || err == io.EOF { //nolint:errorlint // ReaderAt's own
		err = damaged("what a copy is made of ends too early")
	}
	return n, err
}
