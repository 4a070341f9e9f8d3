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
	"slices"
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
	shift := uint(32-bits.TrailingZeros(uint(size))) & 31 // the compiler can't know
	limit := len(src) - margin
	done := len(dst)
	dst = slices.Grow(dst, mostBlock(len(src)))
	out := dst[:done+mostBlock(len(src))]
	emitted := 0 // src up to here is in out[:done]
	for at := 1; at < limit; {
		word := load(src, at)
		candidate, found := 0, false
		for skip := 32; ; skip++ { // the search
			next := at + skip>>5
			if next > limit {
				break
			}
			slot := &table[word*multiplier>>shift&(maxTable-1)]
			candidate = int(*slot)
			*slot = uint16(at)
			if found = word == load(src, candidate); found {
				break
			}
			at, word = next, load(src, next)
		}
		if !found {
			break
		}
		done += putLiteral(out[done:], src[emitted:], at-emitted)
		for { // copies without a literal between them
			n := 4 + matchLen(src[candidate+4:], src[at+4:])
			done += putCopy(out[done:], at-candidate, n)
			if at += n; at >= limit {
				break
			}
			tail := binary.LittleEndian.Uint64(src[at-1:])
			table[uint32(tail)*multiplier>>shift&(maxTable-1)] = uint16(at - 1)
			word := uint32(tail >> 8)
			slot := &table[word*multiplier>>shift&(maxTable-1)]
			candidate = int(*slot)
			*slot = uint16(at)
			if word != load(src, candidate) {
				break
			}
		}
		emitted = at
		at++
	}
	return appendLiteral(dst[:done], src[emitted:])
}

// mostBlock is more than a block of n bytes can become, and what putLiteral writes
// too much of.
func mostBlock(n int) int { return 48 + n + n/6 }

func load(b []byte, at int) uint32 {
	b = b[at : at+4 : len(b)]
	return binary.LittleEndian.Uint32(b)
}

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

// putLiteral puts the first n bytes of src, at most 65536, into dst, and returns how many
// it wrote; nothing if n is 0.
func putLiteral(dst, src []byte, n int) int {
	if n <= 16 && len(src) >= 16 && len(dst) >= 17 { // most: 16 bytes cost less than any other number
		if n == 0 {
			return 0
		}
		dst[0] = tagLiteral | byte(n-1)<<2
		*(*[16]byte)(dst[1:]) = *(*[16]byte)(src)
		return 1 + n
	}
	return len(appendLiteral(dst[:0], src[:n]))
}

// putCopy puts a copy of n bytes from offset before into dst, and returns how many it
// wrote. A copy element has 64 bytes at most, and no part may have less than 4.
func putCopy(dst []byte, offset, n int) int {
	done := 0
	for n >= 68 {
		done += putCopy64(dst[done:], offset, 64)
		n -= 64
	}
	if n > 64 {
		done += putCopy64(dst[done:], offset, 60)
		n -= 60
	}
	return done + putCopy64(dst[done:], offset, n)
}

func putCopy64(dst []byte, offset, n int) int {
	_ = dst[2]
	if n < 12 && offset < 1<<11 {
		dst[0], dst[1] = tagCopy1|byte(n-4)<<2|byte(offset>>8)<<5, byte(offset)
		return 2
	}
	dst[0], dst[1], dst[2] = tagCopy2|byte(n-1)<<2, byte(offset), byte(offset>>8)
	return 3
}
