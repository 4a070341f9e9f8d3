package replay

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// damaged is an error of bytes that can't be what they should be.
func damaged(what string) error { return fmt.Errorf("replay: %s: %w", what, couchfile.ErrCorrupt) }

// wireWriter writes numbers and strings, and sums up what it wrote. It keeps
// the first error.
type wireWriter struct {
	w   *bufio.Writer
	sum hash.Hash
	n   uint64
	err error
	num [binary.MaxVarintLen64]byte
}

func newWireWriter(w io.Writer) *wireWriter {
	sum := sha256.New()
	return &wireWriter{w: bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10), sum: sum}
}

func (w *wireWriter) raw(p []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(p)
		w.n += uint64(len(p))
	}
}

func (w *wireWriter) number(v uint64) { w.raw(binary.AppendUvarint(w.num[:0], v)) }

func (w *wireWriter) str(p []byte) {
	w.number(uint64(len(p)))
	w.raw(p)
}

func (w *wireWriter) flush() error {
	if w.err == nil {
		w.err = w.w.Flush()
	}
	return w.err
}

// seal writes the sum of all that was written behind it, on to what w writes to.
func (w *wireWriter) seal(to io.Writer) error {
	if err := w.flush(); err != nil {
		return err
	}
	_, err := to.Write(w.sum.Sum(nil))
	return err
}

// wireReader reads them again. What it takes memory for has been read.
type wireReader struct {
	r    *bufio.Reader
	sum  hash.Hash
	left uint64 // bytes that may be read
	buf  bytes.Buffer
}

func newWireReader(r io.Reader, left uint64) *wireReader {
	sum := sha256.New()
	limit := int64(min(left, math.MaxInt64))
	return &wireReader{r: bufio.NewReaderSize(io.TeeReader(io.LimitReader(r, limit), sum), 64<<10), sum: sum, left: left}
}

// end says whether all of a body was read, and was what it should be.
func (r *wireReader) end(sum [32]byte) error {
	if r.left != 0 {
		return damaged("more in the stream than is needed")
	}
	if !bytes.Equal(r.sum.Sum(nil), sum[:]) {
		return damaged("the checksum of the stream is wrong")
	}
	return nil
}

// ReadByte is for binary.ReadUvarint.
func (r *wireReader) ReadByte() (byte, error) {
	b, err := r.r.ReadByte()
	if err == nil {
		r.left--
	}
	return b, err
}

func (r *wireReader) number(what string) (uint64, error) {
	v, err := binary.ReadUvarint(r)
	return v, ended(what, err)
}

// small is number, of at most most.
func (r *wireReader) small(what string, most uint64) (uint64, error) {
	v, err := r.number(what)
	if err == nil && v > most {
		err = damaged(fmt.Sprintf("%s of %d", what, v))
	}
	return v, err
}

// ended turns the end of the stream, or a number that is none, into damage.
func ended(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return damaged("the stream ends in " + what)
	case err.Error() == "binary: varint overflows a 64-bit integer":
		return damaged(what + " is no number")
	}
	return fmt.Errorf("read %s: %w", what, err)
}

// bytes reads n bytes, into memory of their own.
func (r *wireReader) bytes(what string, n uint64) ([]byte, error) {
	if n > r.left {
		return nil, damaged("the stream ends in " + what)
	}
	r.buf.Reset()
	if _, err := io.CopyN(&r.buf, r.r, int64(n)); err != nil {
		return nil, ended(what, err)
	}
	r.left -= n
	out := bytes.Clone(r.buf.Bytes())
	if r.buf.Cap() > 1<<20 {
		r.buf = bytes.Buffer{}
	}
	return out, nil
}

func (r *wireReader) str(what string) ([]byte, error) {
	n, err := r.number(what)
	if err != nil {
		return nil, err
	}
	return r.bytes(what, n)
}

// term reads a string that is one whole term.
func (r *wireReader) term(what string) (erlterm.Term, error) {
	p, err := r.str(what)
	if err != nil {
		return nil, err
	}
	return checkTerm(what, p)
}

func checkTerm(what string, p []byte) (erlterm.Term, error) {
	if n, ok := erlterm.Size(p); !ok || n != len(p) {
		return nil, damaged(what + " is no term")
	}
	return p, nil
}

func appendNumber(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

func appendSigned(dst []byte, v int64) []byte { return binary.AppendVarint(dst, v) }

func appendStr(dst, p []byte) []byte { return append(appendNumber(dst, uint64(len(p))), p...) }
