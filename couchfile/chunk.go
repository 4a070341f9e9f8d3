package couchfile

import (
	"crypto/md5"
	"encoding/binary"

	"github.com/zeebo/xxh3"
)

// ChecksumKind is the algorithm of a stored 16-byte checksum. Nothing in the
// file names it; whichever matches is it.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, generate_checksum and
// verify_checksum.
type ChecksumKind uint8

const (
	ChecksumNone ChecksumKind = iota // there is none, or it matched neither
	XXH3                             // 128-bit XXH3, written by default since 3.5
	MD5                              // written by default until 3.4
)

func (k ChecksumKind) String() string {
	switch k {
	case XXH3:
		return "xxh3-128"
	case MD5:
		return "md5"
	}
	return "none"
}

const checksumLen = 16

// matchChecksum tells which algorithm turns data into sum, trying first first.
func matchChecksum(data, sum []byte, first ChecksumKind) ChecksumKind {
	if first == MD5 {
		if matchMD5(data, sum) {
			return MD5
		}
		if matchXXH3(data, sum) {
			return XXH3
		}
		return ChecksumNone
	}
	if matchXXH3(data, sum) {
		return XXH3
	}
	if matchMD5(data, sum) {
		return MD5
	}
	return ChecksumNone
}

func matchXXH3(data, sum []byte) bool {
	h := xxh3.Hash128(data)
	return h.Hi == binary.BigEndian.Uint64(sum) && h.Lo == binary.BigEndian.Uint64(sum[8:])
}

func matchMD5(data, sum []byte) bool {
	h := md5.Sum(data)
	return string(h[:]) == string(sum)
}

// chunk is one length-prefixed piece of the file. payload lies in the
// buffer that was used to read it.
type chunk struct {
	off, end int64 // bytes on disk, boundary marker included
	payload  []byte
	flagged  bool         // a checksum is stored
	kind     ChecksumKind // which one matched; ChecksumNone if none did
	dirty    bool         // a block marker inside is not 0
}

func (c *chunk) raw() int64 { return c.end - c.off }

// chunkReader reads chunks with one reused buffer. It is not safe for
// concurrent use.
type chunkReader struct {
	src    *source
	budget *budget // of the pass that reads; may be nil
	buf    []byte
	guess  int64 // bytes on disk of the chunk before
	prefer ChecksumKind
}

// chunkHead is the beginning of a chunk.
type chunkHead struct {
	n       int64 // bytes of payload
	flagged bool  // a checksum is stored
	total   int64 // n, the length word and the checksum
	raw     int64 // total with the block markers in between
	have    int64 // bytes of it that lie in the buffer
}

const (
	lengthMask   = 1<<31 - 1
	checksumFlag = 1 << 31
	firstRead    = 2048 // of a chunk: most nodes and summaries come with one read
	leastRead    = 320
)

// read reads the chunk at off. A checksum that does not match is no error
// here: c.flagged is set and c.kind is ChecksumNone. The payload is valid
// until the next call.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, pread and
// assemble_file_chunk_and_checksum.
func (r *chunkReader) read(off int64, what string) (c chunk, err error) {
	h, err := r.head(off, what)
	if err != nil {
		return c, err
	}
	if h.n > maxTerm {
		return c, corrupt(off, what, errTerm)
	}
	return r.rest(off, what, h)
}

// head reads the beginning of the chunk at off and takes all of it off the
// budget.
func (r *chunkReader) head(off int64, what string) (h chunkHead, err error) {
	if off < 0 || off >= r.src.size {
		return h, r.bad(off, what)
	}
	if err := r.grow(firstRead); err != nil {
		return h, corrupt(off, what, err)
	}
	first := min(max(r.guess+r.guess/4, leastRead), firstRead, r.src.size-off)
	if err := r.src.readAt(r.buf[:first], off); err != nil {
		return h, err
	}
	word, ok := lengthWord(r.buf[:first], off)
	if !ok {
		return h, r.bad(off, what)
	}
	h.n = int64(word & lengthMask)
	h.flagged = word&checksumFlag != 0
	h.total = 4 + h.n
	if h.flagged {
		h.total += checksumLen
	}
	h.raw, h.have = rawLen(off, h.total), first
	if h.raw > r.src.size-off {
		return h, r.bad(off, what)
	}
	return h, r.budget.spend(off, what, h.raw)
}

// bad is the error of a chunk that reaches beyond the file.
func (r *chunkReader) bad(off int64, what string) error {
	if err := r.budget.spend(off, what, badPiece); err != nil {
		return err
	}
	return corrupt(off, what, errBeyondEnd)
}

// rest reads what is behind the beginning of a chunk.
func (r *chunkReader) rest(off int64, what string, h chunkHead) (c chunk, err error) {
	if h.raw > h.have {
		if err := r.grow(int(h.raw)); err != nil {
			return c, corrupt(off, what, err)
		}
		if err := r.src.readAt(r.buf[h.have:h.raw], off+h.have); err != nil {
			return c, err
		}
	}
	r.guess = h.raw
	data, clean := stripMarkers(r.buf[:h.raw], off)
	c.off, c.end, c.dirty = off, storedEnd(off+h.raw), !clean
	c.flagged = h.flagged
	c.payload = data[h.total-h.n : h.total : h.total]
	if c.flagged {
		c.kind = matchChecksum(c.payload, data[4:4+checksumLen], r.prefer)
		if c.kind != ChecksumNone {
			r.prefer = c.kind
		}
	}
	return c, nil
}

// readChecked is read, with a wrong checksum as an error.
func (r *chunkReader) readChecked(off int64, what string) (chunk, error) {
	c, err := r.read(off, what)
	if err == nil && c.flagged && c.kind == ChecksumNone {
		err = corrupt(off, what, errChecksum)
	}
	return c, err
}

// grow makes the buffer at least n bytes long and keeps what is in it.
func (r *chunkReader) grow(n int) error {
	if n <= len(r.buf) {
		return nil
	}
	n = max(n, min(2*len(r.buf), keepBuffer))
	if err := r.budget.hold(int64(n - len(r.buf))); err != nil {
		return err
	}
	buf := make([]byte, n)
	copy(buf, r.buf)
	r.buf = buf
	return nil
}

// lengthWord reads the 4-byte length at the start of raw, which lies at off
// and may cross a block boundary.
func lengthWord(raw []byte, off int64) (uint32, bool) {
	o := off % BlockSize
	if o != 0 && o <= BlockSize-4 {
		if len(raw) < 4 {
			return 0, false
		}
		return binary.BigEndian.Uint32(raw), true
	}
	var head [4]byte
	n := 0
	for i := 0; i < len(raw) && n < 4; i++ {
		if (off+int64(i))%BlockSize != 0 {
			head[n] = raw[i]
			n++
		}
	}
	return binary.BigEndian.Uint32(head[:]), n == 4
}
