// Package snappy compresses as CouchDB does: what it makes of some bytes is
// what a CouchDB made of them, byte for byte. The other way any decoder of
// snappy's raw blocks will do, such as github.com/klauspost/compress/snappy.
//
// Snappy's format leaves open where an encoder looks for repetitions, and
// encoders differ. All releases of CouchDB from 2.1 to 3.5, and the main
// branch of August 2026 where it writes snappy, have the C++ library 1.1.3
// built in, which goes like this:
//
//	length      of the input as a varint, and then its blocks of 64 KiB
//	            (the last one may be shorter), each by itself:
//	table       of 2^8 to 2^14 positions, the least that has one for each
//	            byte of the block; zeros at the beginning
//	hash        of the 4 bytes at a position, little-endian:
//	            times 0x1e35a7bd, the upper bits that the table needs
//	search      from the second byte on, or from behind the last copy; the
//	            step is skip/32, where skip begins at 32 and grows by 1 for
//	            each position that was looked at. It ends when the next
//	            position would be beyond the block's end less 15 bytes.
//	copy        as long as the bytes match, up to the block's end. Then the
//	            positions at its last byte and behind it enter the table; if
//	            4 bytes match behind it another copy follows at once, else
//	            the search goes on at the byte after.
//
// github.com/golang/snappy, and encoders made after it, add the whole
// step to skip, which skips faster: of CouchDB's B-tree nodes it gives back a
// few in a hundred.
//
// Source: snappy 1.1.3, snappy.cc, CompressFragment, EmitLiteral and EmitCopy,
// and snappy-internal.h, as bundled in CouchDB 3.5, src/snappy/c_src.
package snappy

import (
	"encoding/binary"
	"math/bits"
	"sync"
)

const (
	blockSize  = 1 << 16
	minTable   = 1 << 8
	maxTable   = 1 << 14
	margin     = 15 // bytes at a block's end that no search begins at
	multiplier = 0x1e35a7bd
)

// Tags of the elements, in their low two bits.
const (
	tagLiteral = 0
	tagCopy1   = 1 // 11 bits of offset, 3 bits of length
	tagCopy2   = 2 // 16 bits of offset, 6 bits of length
)

// Append appends the compressed form of src to dst and returns the extended
// slice. src must be shorter than 4 GiB.
func Append(dst, src []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(src)))
	table := tables.Get().(*[maxTable]uint16)
	defer tables.Put(table)
	for len(src) > 0 {
		n := min(len(src), blockSize)
		dst = appendBlock(dst, src[:n], table)
		src = src[n:]
	}
	return dst
}

// tables spares the clearing of 32 KiB where a block needs 512 bytes of them.
var tables = sync.Pool{New: func() any { return new([maxTable]uint16) }}

// appendBlock compresses one block; table may hold anything.
func appendBlock(dst, src []byte, table *[maxTable]uint16) []byte {
	if len(src) < margin {
		return appendLiteral(dst, src)
	}
	size := minTable
	for size < maxTable && size < len(src) {
		size <<= 1
	}
	clear(table[:size])
	shift := uint(32 - bits.TrailingZeros(uint(size)))
	limit := len(src) - margin
	emitted := 0 // src up to here is in dst
	for at := 1; ; at++ {
		var candidate int
		if at, candidate = search(src, table, shift, at, limit); at < 0 {
			break
		}
		dst = appendLiteral(dst, src[emitted:at])
		dst, at = appendCopies(dst, src, table, shift, at, candidate, limit)
		if emitted = at; at >= limit {
			break
		}
	}
	if emitted < len(src) {
		dst = appendLiteral(dst, src[emitted:])
	}
	return dst
}

// search returns the first position from at on that is looked at and where 4
// bytes are as at an earlier one, the candidate. at is -1 if there is none.
func search(src []byte, table *[maxTable]uint16, shift uint, at, limit int) (int, int) {
	word := load(src, at)
	for skip := 32; ; skip++ {
		next := at + skip>>5
		if next > limit {
			return -1, 0
		}
		slot := &table[hash(word, shift)&(maxTable-1)]
		candidate := int(*slot)
		*slot = uint16(at)
		if word == load(src, candidate) {
			return at, candidate
		}
		at, word = next, load(src, next)
	}
}

// appendCopies appends the copy from candidate to at and those that follow
// without a literal between. It returns the position behind them.
func appendCopies(dst, src []byte, table *[maxTable]uint16, shift uint, at, candidate, limit int) ([]byte, int) {
	for {
		n := 4 + matchLen(src[candidate+4:], src[at+4:])
		dst = appendCopy(dst, at-candidate, n)
		at += n
		if at >= limit {
			return dst, at
		}
		tail := binary.LittleEndian.Uint64(src[at-1:])
		table[hash(uint32(tail), shift)&(maxTable-1)] = uint16(at - 1)
		word := uint32(tail >> 8)
		slot := &table[hash(word, shift)&(maxTable-1)]
		candidate = int(*slot)
		*slot = uint16(at)
		if word != load(src, candidate) {
			return dst, at
		}
	}
}

func load(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }

func hash(word uint32, shift uint) uint32 { return word * multiplier >> shift }

// matchLen is how many bytes at the start of later are those of earlier,
// which begins before it in the same block.
func matchLen(earlier, later []byte) int {
	n := 0
	for len(later) >= n+8 {
		if x := binary.LittleEndian.Uint64(earlier[n:]) ^ binary.LittleEndian.Uint64(later[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
		n += 8
	}
	for n < len(later) && earlier[n] == later[n] {
		n++
	}
	return n
}

// appendLiteral appends p, of 1 to 65536 bytes, as it is; nothing if it is empty.
func appendLiteral(dst, p []byte) []byte {
	switch n := len(p) - 1; {
	case n < 0:
		return dst
	case n < 60:
		dst = append(dst, tagLiteral|byte(n)<<2)
	case n < 1<<8:
		dst = append(dst, tagLiteral|60<<2, byte(n))
	default:
		dst = append(dst, tagLiteral|61<<2, byte(n), byte(n>>8))
	}
	return append(dst, p...)
}

// appendCopy appends a copy of n bytes from offset before. A copy element has
// 64 bytes at most, and no part may have less than 4.
func appendCopy(dst []byte, offset, n int) []byte {
	for n >= 68 {
		dst = appendCopy64(dst, offset, 64)
		n -= 64
	}
	if n > 64 {
		dst = appendCopy64(dst, offset, 60)
		n -= 60
	}
	return appendCopy64(dst, offset, n)
}

func appendCopy64(dst []byte, offset, n int) []byte {
	if n < 12 && offset < 1<<11 {
		return append(dst, tagCopy1|byte(n-4)<<2|byte(offset>>8)<<5, byte(offset))
	}
	return append(dst, tagCopy2|byte(n-1)<<2, byte(offset), byte(offset>>8))
}
