package couchfile

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"hash"

	"github.com/zeebo/xxh3"
)

// Scanner checks the bytes of a .couch or .view file as they pass by, in file
// order. It follows the append-only sequence - chunk after chunk, zeros up to
// a header's block, the header, chunks again - and verifies the checksum of
// each header and of each chunk that has one.
//
// It sees no trees: chunks without a checksum (tree nodes, attachments) are
// only stepped over. An anomaly is a reason to run Verify, not a verdict, for
// a server that crashed leaves torn bytes behind that nothing refers to.
//
// A Scanner holds at most some 20 MiB, and far less unless there are large
// documents. It is not safe for concurrent use.
type Scanner struct {
	pos   int64 // offset in the file of the next byte
	state scanState
	start int64 // where the current item or loss of sync began

	head     [4]byte // length word
	headLen  int
	flagged  bool
	need     int64 // payload bytes of the current item still to come
	sum      [checksumLen]byte
	sumLen   int
	buf      []byte // payload seen so far, if it came in pieces
	big      *bigHash
	prefer   ChecksumKind
	inHeader bool // the current item is a header
	lost     bool // out of sync: only headers count

	anomalies []Finding
	dropped   int
}

type scanState uint8

const (
	scanGap     scanState = iota // between items: a length word or padding
	scanPadding                  // zeros up to the next header
	scanSum                      // in the checksum of a chunk or header
	scanPayload                  // in the payload
	scanSkip                     // in a payload without a checksum
	scanHeader                   // in the length word of a header
	scanLost                     // looking for a header
)

const (
	scanBuffer    = 16 << 20 // larger payloads are hashed both ways on the fly
	scanAnomalies = 100
)

// NewScanner returns a Scanner for the bytes from off on. off is 0 or the End
// of a header.
func NewScanner(off int64) *Scanner {
	return &Scanner{pos: off, start: off, prefer: XXH3}
}

// Offset is the offset in the file of the next byte.
func (s *Scanner) Offset() int64 { return s.pos }

// Synced says that the bytes so far end where an item of the file may end: a
// cut at a header's End does, a torn chunk does not.
func (s *Scanner) Synced() bool { return s.state == scanGap && s.headLen == 0 }

// Anomalies returns what was found so far, at most 100 of them.
func (s *Scanner) Anomalies() []Finding { return s.anomalies }

// Dropped is the number of anomalies beyond those that Anomalies returns.
func (s *Scanner) Dropped() int { return s.dropped }

// Write takes the next bytes. It never fails, and splits anywhere are fine.
func (s *Scanner) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		o := s.pos % BlockSize
		if o == 0 {
			s.marker(p[0])
			s.pos++
			p = p[1:]
			continue
		}
		seg := p[:min(int64(len(p)), BlockSize-o)]
		used := s.step(seg, p)
		s.pos += int64(used)
		p = p[used:]
	}
	return n, nil
}

// marker takes the first byte of a block.
func (s *Scanner) marker(m byte) {
	switch {
	case m == 1:
		s.headerMark()
	case s.inHeader && m != 0:
		s.lose("header: block marker is not 0", s.start)
	case s.state == scanLost:
	case m != 0:
		s.lose("block marker is neither 0 nor 1", s.pos)
	case s.state == scanPadding:
		s.lose("zeros where a header was expected", s.start)
	}
}

// headerMark takes a marker that says a header starts here. It may do so only
// between items; elsewhere what went before was torn.
func (s *Scanner) headerMark() {
	clean := s.state == scanPadding || s.state == scanGap && zeros(s.head[:s.headLen])
	if !clean && !s.lost {
		s.note("torn "+s.item()+": a header starts inside", s.start, nil)
		s.lost = true
	}
	s.start, s.headLen, s.inHeader, s.big = s.pos, 0, true, nil
	s.state = scanHeader
}

func (s *Scanner) item() string {
	switch {
	case s.inHeader:
		return "header"
	case s.state == scanGap:
		return "length word"
	}
	return "chunk"
}

// step consumes a part of seg, which holds no block marker, and returns how
// much. all starts with seg and may reach further.
func (s *Scanner) step(seg, all []byte) int {
	switch s.state {
	case scanGap:
		return s.gap(seg)
	case scanPadding:
		if !zeros(seg) {
			s.lose("padding is not zero", s.start)
		}
		return len(seg)
	case scanHeader:
		return s.headerLength(seg)
	case scanSum:
		n := copy(s.sum[s.sumLen:], seg)
		if s.sumLen += n; s.sumLen == checksumLen {
			s.state = scanPayload
			s.buf = s.buf[:0]
			if s.need == 0 {
				s.verify(nil)
			}
		}
		return n
	case scanPayload:
		return s.payload(seg)
	case scanSkip:
		n := int(min(s.need, int64(len(seg))))
		if s.need -= int64(n); s.need == 0 {
			s.next()
		}
		return n
	}
	return len(seg) // scanLost
}

// gap reads the length word of a chunk; zeros start the padding before a
// header, since no chunk is empty.
func (s *Scanner) gap(seg []byte) int {
	if s.headLen == 0 {
		s.start = s.pos
	}
	n := copy(s.head[s.headLen:], seg)
	if s.headLen += n; s.headLen < len(s.head) {
		return n
	}
	word := binary.BigEndian.Uint32(s.head[:])
	s.headLen = 0
	s.flagged = word&checksumFlag != 0
	s.need = int64(word & lengthMask)
	switch {
	case word == 0:
		s.state = scanPadding
		if s.pos/BlockSize != s.start/BlockSize {
			s.lose("zeros where a header was expected", s.start)
		}
	case s.flagged:
		s.state, s.sumLen = scanSum, 0
	case s.need == 0:
		s.next()
	default:
		s.state = scanSkip
	}
	return n
}

func (s *Scanner) headerLength(seg []byte) int {
	n := copy(s.head[s.headLen:], seg)
	if s.headLen += n; s.headLen < len(s.head) {
		return n
	}
	s.headLen = 0
	l := int64(binary.BigEndian.Uint32(s.head[:]))
	if l <= checksumLen || l-checksumLen > maxHeaderTerm {
		s.lose("header: impossible length", s.start)
		return n
	}
	s.need = l - checksumLen
	s.state, s.sumLen = scanSum, 0
	return n
}

// payload takes bytes under a checksum. One that lies in a single piece is
// hashed where it is; pieces are put together first, up to a bound.
func (s *Scanner) payload(seg []byte) int {
	n := int(min(s.need, int64(len(seg))))
	part := seg[:n]
	whole := len(s.buf) == 0 && s.big == nil && int64(n) == s.need
	if !whole {
		s.collect(part)
	}
	if s.need -= int64(n); s.need > 0 {
		return n
	}
	if whole {
		s.verify(part)
	} else {
		s.verify(s.buf)
	}
	return n
}

func (s *Scanner) collect(part []byte) {
	if s.big == nil && int64(len(s.buf))+s.need > scanBuffer {
		s.big = newBigHash()
		s.big.write(s.buf)
		s.buf = s.buf[:0]
	}
	if s.big != nil {
		s.big.write(part)
		return
	}
	s.buf = append(s.buf, part...)
}

// verify ends a payload under a checksum.
func (s *Scanner) verify(data []byte) {
	var kind ChecksumKind
	if s.big != nil {
		kind = s.big.match(s.sum[:])
		s.big = nil
	} else {
		kind = matchChecksum(data, s.sum[:], s.prefer)
	}
	if kind != ChecksumNone {
		s.prefer = kind
		s.lost = false
		s.next()
		return
	}
	if s.inHeader {
		s.lose("header: checksum mismatch", s.start)
		return
	}
	s.note("chunk: checksum mismatch", s.start, errChecksum)
	s.next()
}

// next waits for the item after the current one.
func (s *Scanner) next() {
	s.state, s.headLen, s.inHeader = scanGap, 0, false
}

// lose gives up following the sequence until the next good header. Only the
// first loss is an anomaly; forged headers in the lost stretch are not.
func (s *Scanner) lose(what string, off int64) {
	if !s.lost {
		s.note(what, off, nil)
	}
	s.lost, s.inHeader, s.big = true, false, nil
	s.state = scanLost
}

func (s *Scanner) note(what string, off int64, err error) {
	if len(s.anomalies) == scanAnomalies {
		s.dropped++
		return
	}
	s.anomalies = append(s.anomalies, Finding{Offset: off, What: what, Err: err})
}

var zeroBlock [BlockSize]byte

func zeros(b []byte) bool { return bytes.Equal(b, zeroBlock[:len(b)]) }

func allZero(b []byte) bool {
	for len(b) > BlockSize {
		if !zeros(b[:BlockSize]) {
			return false
		}
		b = b[BlockSize:]
	}
	return zeros(b)
}

// bigHash computes both checksums of a payload that is too large to keep.
type bigHash struct {
	xxh *xxh3.Hasher
	md5 hash.Hash
}

func newBigHash() *bigHash { return &bigHash{xxh: xxh3.New(), md5: md5.New()} }

func (h *bigHash) write(p []byte) {
	_, _ = h.xxh.Write(p) // neither hash fails
	_, _ = h.md5.Write(p)
}

func (h *bigHash) match(sum []byte) ChecksumKind {
	x := h.xxh.Sum128()
	if x.Hi == binary.BigEndian.Uint64(sum) && x.Lo == binary.BigEndian.Uint64(sum[8:]) {
		return XXH3
	}
	if bytes.Equal(h.md5.Sum(nil), sum) {
		return MD5
	}
	return ChecksumNone
}
