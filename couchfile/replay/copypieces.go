package replay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/slipcover/slipcover/couchfile"
)

// The payload of a file is its bytes without the first one of each block, which is a
// marker. A chunk has the same payload wherever it stands.
const blockPayload = couchfile.BlockSize - 1

// payloadLen is how many bytes of payload the first n bytes of a file have.
func payloadLen(n int64) int64 { return n - (n+couchfile.BlockSize-1)/couchfile.BlockSize }

// fileOffset is where a byte of the payload stands in the file.
func fileOffset(payload int64) int64 { return payload + payload/blockPayload + 1 }

// Sizes of pieces, in bytes of payload.
const (
	// leastPiece is from what size on a chunk is made pieces of. Below it a compaction puts
	// bodies into another order, and joins what attachments consist of.
	leastPiece = 4 << 10
	// maxPiece is the largest piece, but for a small chunk behind it.
	maxPiece = 1 << 20
	// mostPieces is about how many pieces of a file are remembered.
	mostPieces = 4 << 20
)

// piece is some payload that a compaction may have copied as it is: of one chunk, or the
// last chunks of an attachment.
type piece struct {
	at int64 // in the payload of the file
	b  []byte
}

// pieces iterates over the pieces of a file from from on, which is 0 or the end of a
// header, up to to. Where they begin and end follows from the chunks alone, so that a
// compacted file has the same ones. Bytes that are no chunk may be in some, and no one
// relies on the contrary. A piece is valid until the iteration goes on.
func pieces(r io.ReaderAt, from, to int64) iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		c := &cutter{in: newPayloadReader(r, from, to), yield: yield}
		err := error(nil)
		for err == nil && c.pos < c.in.end {
			err = c.next()
		}
		if err == nil {
			err = c.flush()
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(piece{}, err)
		}
	}
}

// cutter cuts a payload into pieces.
type cutter struct {
	in    *payloadReader
	pos   int64 // of the next chunk
	yield func(piece, error) bool
	held  piece // the end of a large chunk of an attachment
}

// next takes a chunk, a header, or bytes that are neither.
func (c *cutter) next() error {
	c.pos = max(c.pos, c.in.at)
	head, err := c.in.get(c.pos, 4)
	if err != nil || len(head) < 4 {
		c.pos = c.in.end
		return err
	}
	word := binary.BigEndian.Uint32(head)
	n := int64(word&^(1<<31)) + 4
	flagged := word&(1<<31) != 0
	header := c.in.header(c.pos, c.pos+4)
	switch {
	case header == c.pos:
		c.pos += n
	case header >= 0: // padding before it
		c.pos = header
	case word == 0: // padding, of a whole block if the chunk before ended with one
		c.pos = (c.pos/blockPayload + 1) * blockPayload
	case flagged:
		return c.chunk(n+16, false)
	default:
		return c.chunk(n, true)
	}
	return c.flush()
}

// chunk takes a chunk of n bytes, which may be one of an attachment.
func (c *cutter) chunk(n int64, attachment bool) error {
	large := n >= leastPiece
	if large || !attachment {
		if err := c.flush(); err != nil {
			return err
		}
	}
	if !large && len(c.held.b) == 0 {
		c.pos += n
		return nil
	}
	for n > 0 {
		b, err := c.part(min(n, maxPiece))
		if b == nil {
			return err
		}
		if len(c.held.b) == 0 {
			c.held.at = c.pos
		}
		c.held.b = append(c.held.b, b...)
		c.pos, n = c.pos+int64(len(b)), n-int64(len(b))
		if n > 0 || !attachment || !large {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// part reads the next bytes of a chunk; none if it is torn, and then goes on with the header behind it.
func (c *cutter) part(n int64) ([]byte, error) {
	b, err := c.in.get(c.pos, int(n))
	if err != nil {
		return nil, err
	}
	h := c.in.header(c.pos, c.pos+n)
	if h < 0 && int64(len(b)) == n {
		return b, nil
	}
	if c.pos = h; h < 0 {
		c.pos = c.in.end
	}
	return nil, c.flush()
}

// flush hands on what is held.
func (c *cutter) flush() error {
	if len(c.held.b) == 0 {
		return nil
	}
	p := c.held
	c.held.b = c.held.b[:0]
	if !c.yield(p, nil) {
		return errStopped
	}
	return nil
}

// payloadReader reads the payload of a file, forwards.
type payloadReader struct {
	r       io.ReaderAt
	raw, to int64 // what was not read yet
	end     int64 // of the payload

	at      int64  // of buf in the payload
	buf     []byte // the end of store
	store   []byte
	headers []int64 // where blocks begin, in the payload, whose marker isn't 0
	block   []byte
	marked  func(mark) // if not nil, is told of these markers
}

// readBlocks is how many bytes of a file are read at once.
const readBlocks = 64 * couchfile.BlockSize

func newPayloadReader(r io.ReaderAt, from, to int64) *payloadReader {
	return &payloadReader{r: r, raw: from, to: to, end: payloadLen(to), at: payloadLen(from)}
}

// get returns n bytes of payload from pos on, fewer at its end. It forgets what is before.
func (p *payloadReader) get(pos int64, n int) ([]byte, error) {
	for {
		if skip := min(pos-p.at, int64(len(p.buf))); skip > 0 {
			p.buf, p.at = p.buf[skip:], p.at+skip
		}
		if p.raw == p.to || pos+int64(n) <= p.at+int64(len(p.buf)) {
			break
		}
		if err := p.read(); err != nil {
			return nil, err
		}
	}
	for len(p.headers) > 0 && p.headers[0] < pos {
		p.headers = p.headers[1:]
	}
	return p.buf[:min(len(p.buf), n)], nil
}

// read reads on, up to the next multiple of readBlocks.
func (p *payloadReader) read() error {
	n := min(readBlocks-p.raw%readBlocks, p.to-p.raw)
	if p.block == nil {
		p.block = make([]byte, readBlocks)
	}
	b := p.block[:n]
	if k, err := p.r.ReadAt(b, p.raw); k < len(b) {
		return fmt.Errorf("read the file at %d: %w", p.raw, err)
	}
	p.store = append(p.store[:0], p.buf...) // what is left moves to the front
	p.buf = p.store
	for len(b) > 0 {
		if p.raw%couchfile.BlockSize == 0 {
			if b[0] != 0 {
				p.headers = append(p.headers, p.at+int64(len(p.buf)))
				if p.marked != nil {
					p.marked(mark{p.raw / couchfile.BlockSize, b[0]})
				}
			}
			b, p.raw = b[1:], p.raw+1
			continue
		}
		part := b[:min(int64(len(b)), couchfile.BlockSize-p.raw%couchfile.BlockSize)]
		p.buf = append(p.buf, part...)
		b, p.raw = b[len(part):], p.raw+int64(len(part))
	}
	p.store = p.buf
	return nil
}

// header returns where the first block whose marker isn't 0 begins of those in [from,
// to), which get returned; -1 if there is none.
func (p *payloadReader) header(from, to int64) int64 {
	for _, h := range p.headers {
		if h >= from && h < to {
			return h
		}
	}
	return -1
}
