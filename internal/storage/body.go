package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Preread returns what to read of body for a checksum before it is sent: the same
// bytes, which don't count against a rate limit (storage/limit) then.
func Preread(body Body) Body {
	if b, ok := body.(interface{ Preread() Body }); ok {
		return b.Preread()
	}
	return body
}

// BodyError is an error of a body that was to be put, which says nothing about the
// storage.
type BodyError struct{ Err error }

func (e *BodyError) Error() string { return "read the body: " + e.Err.Error() }
func (e *BodyError) Unwrap() error { return e.Err }

// BodySize returns the size of body, or a *BodyError if it is none.
func BodySize(body Body) (int64, error) {
	size := body.Size()
	if size < 0 {
		return 0, &BodyError{fmt.Errorf("its size is %d", size)}
	}
	return size, nil
}

// ReadBody fills p from offset off of body. Its errors are *BodyError.
func ReadBody(body Body, p []byte, off int64) error {
	n, err := body.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%d bytes of %d: %w", off+int64(n), body.Size(), io.ErrUnexpectedEOF)
	}
	return &BodyError{err}
}

// copyBytes is what CopyBody reads and writes at a time.
const copyBytes = 256 << 10

// CopyBody writes body to w, as long as ctx isn't done.
func CopyBody(ctx context.Context, w io.Writer, body Body) error {
	size, err := BodySize(body)
	if err != nil {
		return err
	}
	buf := make([]byte, min(size, copyBytes))
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(size-off, copyBytes)]
		if err := ReadBody(body, part, off); err != nil {
			return err
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
		off += int64(len(part))
	}
	return nil
}
