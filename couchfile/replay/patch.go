package replay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
)

// predicted gives back what the simulator wrote: the file, but for corrections.
type predicted struct {
	r           io.ReaderAt
	corrections []correction // with what was said, in order
}

func (p *predicted) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.r.ReadAt(b, off)
	from, _ := slices.BinarySearchFunc(p.corrections, off, func(c correction, off int64) int {
		return int(min(max(c.off+int64(len(c.said))-off, -1), 1))
	})
	for _, c := range p.corrections[from:] {
		if c.off >= off+int64(n) {
			break
		}
		at := max(c.off, off)
		copy(b[at-off:n], c.said[at-c.off:])
	}
	return n, err
}

// patcher applies corrections to what the simulator writes.
type patcher struct {
	predicted
	made
	out io.Writer
	off int64
	at  int // index of the first correction that isn't done
	sum hash.Hash
}

func newPatcher(m made, out Output) *patcher {
	return &patcher{predicted: predicted{r: out}, made: m, out: out, sum: sha256.New()}
}

// Write hands on what is right.
func (p *patcher) Write(b []byte) (int, error) {
	end := p.off + int64(len(b))
	if end > p.Size {
		return 0, damaged(fmt.Sprintf("the older file, or the stream: it makes more than %d bytes", p.Size))
	}
	said := b
	for ; p.at < len(p.made.corrections); p.at++ {
		c := p.made.corrections[p.at]
		if c.off >= end {
			break
		}
		from, to := max(c.off, p.off), min(c.off+int64(len(c.is)), end)
		part := correction{off: from, is: c.is[from-c.off : to-c.off], said: bytes.Clone(said[from-p.off : to-p.off])}
		if &b[0] == &said[0] {
			b = bytes.Clone(said)
		}
		p.predicted.corrections = append(p.predicted.corrections, part)
		copy(b[from-p.off:], part.is)
		if c.off+int64(len(c.is)) > end {
			break
		}
	}
	p.off = end
	p.sum.Write(b)
	return p.out.Write(b)
}

func (p *patcher) end() error {
	switch {
	case p.off != p.Size:
		return damaged(fmt.Sprintf("the older file, or the stream: it makes %d bytes instead of %d", p.off, p.Size))
	case !bytes.Equal(p.sum.Sum(nil), p.SHA256[:]):
		return damaged("what was made has another SHA-256 than the file that was stored: the older file is not the one it rests on")
	}
	return nil
}

// comparer holds what the simulator writes against the true file.
type comparer struct {
	predicted
	size  int64 // of the true file
	off   int64
	limit int64 // bytes that corrections may have
	used  int64
	sum   hash.Hash // of the true file
	buf   []byte
}

var errWrong = errors.New("the prediction is wrong in too many places")

func newComparer(r io.ReaderAt, size int64) *comparer {
	return &comparer{predicted: predicted{r: r}, size: size, limit: min(size/64+4096, 16<<20), sum: sha256.New()}
}

func (c *comparer) Write(b []byte) (int, error) {
	if c.off+int64(len(b)) > c.size {
		return 0, fmt.Errorf("%w: more than %d bytes", errWrong, c.size)
	}
	if len(c.buf) < len(b) {
		c.buf = make([]byte, len(b))
	}
	is := c.buf[:len(b)]
	if n, err := c.r.ReadAt(is, c.off); n < len(is) {
		return 0, fmt.Errorf("read the file at %d: %w", c.off, err)
	}
	c.sum.Write(is)
	if !bytes.Equal(is, b) {
		if err := c.correct(is, b); err != nil {
			return 0, err
		}
	}
	c.off += int64(len(b))
	return len(b), nil
}

// correctionGap is how many right bytes between wrong ones are corrected too.
const correctionGap = 4

// correct notes what differs.
func (c *comparer) correct(is, said []byte) error {
	for i := 0; i < len(is); i++ {
		if is[i] == said[i] {
			continue
		}
		end := i + 1
		for j := end; j < len(is) && j-end <= correctionGap; j++ {
			if is[j] != said[j] {
				end = j + 1
			}
		}
		c.corrections = append(c.corrections,
			correction{off: c.off + int64(i), is: bytes.Clone(is[i:end]), said: bytes.Clone(said[i:end])})
		if c.used += int64(end - i + 8); c.used > c.limit {
			return fmt.Errorf("%w, from byte %d to %d", errWrong, c.corrections[0].off, c.off+int64(end))
		}
		i = end
	}
	return nil
}
