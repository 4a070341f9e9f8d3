package replay

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
)

const (
	copyMagic   = "CouchCPY"
	copyVersion = 1
	// maxRuns bounds what one has to hold to read a copy.
	maxRuns = 1 << 24
)

// Copy is what a stream of copies says: of which payload of an older file, and of the
// stream, a file consists.
type Copy struct {
	Size   int64    // of the file that is made, in bytes
	SHA256 [32]byte // of these bytes
	// OlderSize is how many bytes of the older file are needed, from its beginning on.
	OlderSize int64

	literals int64      // bytes of payload in the stream
	prologue int64      // bytes of the stream before them
	markers  []mark     // of blocks that don't begin with 0
	runs     []runStart // in the order of the file
}

// mark is the marker of a block.
type mark struct {
	block int64
	is    byte
}

// runStart is where bytes of one origin begin, in the payload.
type runStart struct {
	at   int64
	from int64 // in the payload of the older file; or, below 0, -1-from in the literals
}

// Run is some payload of a file: bytes of the older file's payload, or of the stream.
type Run struct {
	Older bool
	At    int64 // in the payload of the older file; in the stream
	N     int64
}

// OpenCopy reads the beginning of a stream of copies, which has size bytes. Damage is a
// couchfile.ErrCorrupt. It holds 16 bytes for each run.
func OpenCopy(stream io.ReaderAt, size int64) (*Copy, error) {
	r := io.NewSectionReader(stream, 0, size)
	in, err := openPrologue(r, copyMagic, copyVersion)
	if err != nil {
		return nil, err
	}
	c := &Copy{}
	if err := c.read(in); err != nil {
		return nil, err
	}
	if in.left != 0 {
		return nil, damaged("more in the prologue than there should be")
	}
	if c.prologue, err = r.Seek(0, io.SeekCurrent); err != nil {
		return nil, err
	}
	if c.prologue+c.literals != size {
		return nil, damaged(fmt.Sprintf("a stream of %d bytes instead of %d", size, c.prologue+c.literals))
	}
	return c, nil
}

func (c *Copy) read(in *wireReader) error {
	var err error
	number := func(what string, most int64) int64 {
		if err != nil {
			return 0
		}
		var v uint64
		v, err = in.small(what, uint64(most))
		return int64(v)
	}
	c.Size = number("size", 1<<60)
	if err == nil {
		err = in.sum32("sum", &c.SHA256)
	}
	c.OlderSize = number("size of the older file", 1<<60)
	c.literals = number("bytes in the stream", payloadLen(c.Size))
	block := int64(-1)
	for n := number("markers", int64(in.left)); n > 0 && err == nil; n-- {
		block += 1 + number("block", 1<<60)
		is := number("marker", 255)
		if err == nil && block*couchfile.BlockSize >= c.Size {
			err = damaged("a marker behind the end")
		}
		c.markers = append(c.markers, mark{block, byte(is)})
	}
	if err == nil {
		err = c.readRuns(in)
	}
	return err
}

// readRuns reads pairs of literals and copies until they make all of the file.
func (c *Copy) readRuns(in *wireReader) error {
	at, used, end, older := int64(0), int64(0), payloadLen(c.Size), payloadLen(c.OlderSize)
	from := int64(0)
	for at < end {
		if len(c.runs) >= maxRuns {
			return damaged("more runs than a copy can have")
		}
		n, err := in.small("bytes of the stream", uint64(min(end-at, c.literals-used)))
		if err != nil {
			return err
		}
		if n > 0 {
			c.runs = append(c.runs, runStart{at, -1 - used})
			at, used = at+int64(n), used+int64(n)
		}
		if at == end {
			break
		}
		k, err := in.small("bytes of the older file", uint64(end-at))
		if err != nil {
			return err
		}
		jump, err := binary.ReadVarint(in)
		if err != nil {
			return ended("a place in the older file", err)
		}
		if from += jump; k == 0 || from < 0 || from > older-int64(k) {
			return damaged("bytes that the older file doesn't have")
		}
		c.runs = append(c.runs, runStart{at, from})
		at, from = at+int64(k), from+int64(k)
	}
	if used != c.literals {
		return damaged("bytes in the stream that no one needs")
	}
	return nil
}

// append appends the prologue.
func (c *Copy) append(dst []byte) []byte {
	b := appendNumber(nil, uint64(c.Size))
	b = append(b, c.SHA256[:]...)
	b = appendNumber(b, uint64(c.OlderSize))
	b = appendNumber(b, uint64(c.literals))
	b = appendNumber(b, uint64(len(c.markers)))
	last := int64(-1)
	for _, m := range c.markers {
		b = appendNumber(appendNumber(b, uint64(m.block-last-1)), uint64(m.is))
		last = m.block
	}
	from, literal := int64(0), int64(0)
	for i, r := range c.runs {
		n := c.runEnd(i) - r.at
		if r.from < 0 {
			literal = n
			continue
		}
		b = appendNumber(appendNumber(b, uint64(literal)), uint64(n))
		b = appendSigned(b, r.from-from)
		from, literal = r.from+n, 0
	}
	if literal > 0 {
		b = appendNumber(b, uint64(literal))
	}
	return sealPrologue(dst, copyMagic, copyVersion, b)
}

func (c *Copy) runEnd(i int) int64 {
	if i+1 < len(c.runs) {
		return c.runs[i+1].at
	}
	return payloadLen(c.Size)
}

// Runs calls fn with what makes the payload from at on, n bytes, in its order. At ends of
// the payload it ends.
func (c *Copy) Runs(at, n int64, fn func(Run) error) error {
	i, ok := slices.BinarySearchFunc(c.runs, at, func(r runStart, at int64) int { return cmp.Compare(r.at, at) })
	if !ok {
		i--
	}
	for end := min(at+n, payloadLen(c.Size)); at < end; i++ {
		r := c.runs[i]
		k := min(c.runEnd(i), end) - at
		run := Run{r.from >= 0, r.from + at - r.at, k}
		if !run.Older {
			run.At = c.prologue + (-1 - r.from) + at - r.at
		}
		if err := fn(run); err != nil {
			return err
		}
		at += k
	}
	return nil
}

// PayloadIn is where the payload of the bytes [from, to) of a file begins and how many
// bytes it has.
func PayloadIn(from, to int64) (at, n int64) {
	return payloadLen(from), payloadLen(to) - payloadLen(from)
}

// BytesOf is where the bytes of a file begin and end that hold n bytes of its payload, at
// least one.
func BytesOf(at, n int64) (from, to int64) { return fileOffset(at), fileOffset(at+n-1) + 1 }

// Strip returns the payload of bytes of a file that begin at off, which it overwrites.
func Strip(b []byte, off int64) []byte {
	first := int((couchfile.BlockSize - off%couchfile.BlockSize) % couchfile.BlockSize)
	if first >= len(b) {
		return b
	}
	w := first
	for i := first; i < len(b); i += couchfile.BlockSize {
		w += copy(b[w:], b[i+1:min(i+couchfile.BlockSize, len(b))])
	}
	return b[:w]
}

// Fill puts the payload of a file, from that of its byte at off on, into p, with the
// markers: so many bytes as p has. It returns how many bytes it filled, all unless the
// payload is too short, and what is left of that.
func (c *Copy) Fill(p []byte, off int64, payload []byte) (n int, rest []byte) {
	for n < len(p) {
		if off%couchfile.BlockSize == 0 {
			p[n] = c.marker(off / couchfile.BlockSize)
			n, off = n+1, off+1
			continue
		}
		k := copy(p[n:min(len(p), n+int(couchfile.BlockSize-off%couchfile.BlockSize))], payload)
		if k == 0 {
			break
		}
		n, off, payload = n+k, off+int64(k), payload[k:]
	}
	return n, payload
}

// marker is that of a block.
func (c *Copy) marker(block int64) byte {
	if i, ok := slices.BinarySearchFunc(c.markers, block, func(m mark, b int64) int { return cmp.Compare(m.block, b) }); ok {
		return c.markers[i].is
	}
	return 0
}

// Filler puts the markers into the payload of a file.
type Filler struct {
	c   *Copy
	out io.Writer
	off int64
	buf []byte
}

// NewFiller returns a Filler that writes the file to out.
func (c *Copy) NewFiller(out io.Writer) *Filler {
	return &Filler{c: c, out: out, buf: make([]byte, 64*couchfile.BlockSize)}
}

// Write takes the payload that follows.
func (f *Filler) Write(payload []byte) (int, error) {
	left := payload
	for len(left) > 0 {
		var n int
		if n, left = f.c.Fill(f.buf[:min(int64(len(f.buf)), f.c.Size-f.off)], f.off, left); n == 0 {
			return 0, damaged("more payload than the file has")
		}
		if _, err := f.out.Write(f.buf[:n]); err != nil {
			return 0, err
		}
		f.off += int64(n)
	}
	return len(payload), nil
}

// Close writes the marker at the end if there is one, and says if the file isn't whole.
func (f *Filler) Close() error {
	n, _ := f.c.Fill(f.buf[:min(1, f.c.Size-f.off)], f.off, nil)
	f.off += int64(n)
	if f.off != f.c.Size {
		return damaged("less payload than the file has")
	}
	_, err := f.out.Write(f.buf[:n])
	return err
}
