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
	buf    []byte
	guess  int64 // bytes on disk of the chunk before
	prefer ChecksumKind
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
	if off < 0 || off >= r.src.size {
		return c, corrupt(off, what, errBeyondEnd)
	}
	r.grow(firstRead)
	first := min(max(r.guess+r.guess/4, leastRead), firstRead, r.src.size-off)
	if err := r.src.readAt(r.buf[:first], off); err != nil {
		return c, err
	}
	word, ok := lengthWord(r.buf[:first], off)
	if !ok {
		return c, corrupt(off, what, errBeyondEnd)
	}
	n := int64(word & lengthMask)
	c.flagged = word&checksumFlag != 0
	total := 4 + n
	if c.flagged {
		total += checksumLen
	}
	raw := rawLen(off, total)
	if raw > r.src.size-off {
		return c, corrupt(off, what, errBeyondEnd)
	}
	if raw > first {
		r.grow(int(raw))
		if err := r.src.readAt(r.buf[first:raw], off+first); err != nil {
			return c, err
		}
	}
	r.guess = raw
	data, clean := stripMarkers(r.buf[:raw], off)
	c.off, c.end, c.dirty = off, storedEnd(off+raw), !clean
	c.payload = data[total-n : total : total]
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
func (r *chunkReader) grow(n int) {
	if n <= len(r.buf) {
		return
	}
	buf := make([]byte, max(n, 2*len(r.buf)))
	copy(buf, r.buf)
	r.buf = buf
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
