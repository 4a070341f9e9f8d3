// Package erlterm reads Erlang's external term format where it lies, without
// building values: a term is a slice of the bytes it came from.
//
// A stored term is the version byte 131 and one term; a Term is the part
// after the version byte. All integers are big-endian.
//
//	tag  name            what follows the tag
//	 70  NEW_FLOAT       8 bytes IEEE 754
//	 97  SMALL_INTEGER   1 byte, unsigned
//	 98  INTEGER         4 bytes, two's complement
//	 99  FLOAT           31 bytes of text, zero-padded (before OTP 17)
//	100  ATOM            2-byte length, Latin-1
//	104  SMALL_TUPLE     1-byte arity, elements
//	105  LARGE_TUPLE     4-byte arity, elements
//	106  NIL             nothing: the empty list
//	107  STRING          2-byte length, bytes: a list of integers 0..255
//	108  LIST            4-byte length, elements, tail (NIL if proper)
//	109  BINARY          4-byte length, bytes
//	110  SMALL_BIG       1-byte length, sign, magnitude little-endian
//	111  LARGE_BIG       4-byte length, sign, magnitude little-endian
//	115  SMALL_ATOM      1-byte length, Latin-1
//	116  MAP             4-byte count of pairs, key and value each
//	118  ATOM_UTF8       2-byte length, UTF-8
//	119  SMALL_ATOM_UTF8 1-byte length, UTF-8
//
// The functions that take a term apart (Tuple, List, Uint, Binary ...) read
// one item at the start of b and return what is behind it; ok is false if b
// does not start with such an item or ends inside it. None of them allocates,
// recurses or reads beyond b, whatever the bytes are.
//
// Source: Erlang/OTP, External Term Format
// (https://www.erlang.org/doc/apps/erts/erl_ext_dist.html).
package erlterm

import (
	"encoding/binary"
	"errors"
)

// Version is the byte in front of a stored term.
const Version = 131

// Tags of the external term format.
const (
	TagNewFloat      = 70
	TagSmallInt      = 97
	TagInt           = 98
	TagFloat         = 99
	TagAtom          = 100
	TagSmallTuple    = 104
	TagLargeTuple    = 105
	TagNil           = 106
	TagString        = 107
	TagList          = 108
	TagBinary        = 109
	TagSmallBig      = 110
	TagLargeBig      = 111
	TagSmallAtom     = 115
	TagMap           = 116
	TagAtomUTF8      = 118
	TagSmallAtomUTF8 = 119
)

// ErrMalformed says that bytes are not a term of the tags above.
var ErrMalformed = errors.New("malformed Erlang term")

// Term is one encoded term, without the version byte. It usually is a part of
// a larger buffer and lives as long as that.
type Term []byte

// Parse returns the one term in b, which starts with the version byte and
// must hold nothing else.
func Parse(b []byte) (Term, error) {
	if len(b) < 2 || b[0] != Version {
		return nil, ErrMalformed
	}
	if n, ok := Size(b[1:]); !ok || n != len(b)-1 {
		return nil, ErrMalformed
	}
	return Term(b[1:]), nil
}

// Tag is the first byte of t, or 0 for an empty t.
func (t Term) Tag() byte {
	if len(t) == 0 {
		return 0
	}
	return t[0]
}

// Next splits b behind its first term.
func Next(b []byte) (t Term, rest []byte, ok bool) {
	n, ok := Size(b)
	if !ok {
		return nil, nil, false
	}
	return Term(b[:n:n]), b[n:], true
}

// Size is the length in bytes of the term at the start of b. It walks nested
// terms with a counter, so depth costs nothing.
func Size(b []byte) (n int, ok bool) {
	i, need := 0, 1
	for need > 0 {
		need--
		if len(b)-i < 5 {
			return sizeAtEnd(b, i, need+1)
		}
		switch b[i] { // what most terms are made of; shape knows the rest
		case TagNil:
			i++
		case TagSmallInt:
			i += 2
		case TagInt:
			i += 5
		case TagSmallTuple:
			need += int(b[i+1])
			i += 2
		case TagBinary, TagList:
			n := uint64(binary.BigEndian.Uint32(b[i+1:]))
			if n > uint64(len(b)) {
				return 0, false
			}
			if b[i] == TagBinary {
				i += int(n)
			} else {
				need += int(n) + 1
			}
			i += 5
		default:
			width, items, ok := shape(b[i:])
			if !ok {
				return 0, false
			}
			i += width
			need += items
		}
		if need > len(b)-i { // every item takes at least a byte
			return 0, false
		}
	}
	return i, true
}

// sizeAtEnd is Size for the last bytes of b, from i on, where need items are
// still to come.
func sizeAtEnd(b []byte, i, need int) (n int, ok bool) {
	for need > 0 {
		need--
		if i >= len(b) {
			return 0, false
		}
		width, items, ok := shape(b[i:])
		if !ok {
			return 0, false
		}
		i += width
		need += items
		if need > len(b)-i {
			return 0, false
		}
	}
	return i, true
}

// shape returns how many bytes the item at the start of b takes by itself,
// and how many terms follow as its elements. b is not empty.
func shape(b []byte) (width, items int, ok bool) {
	switch b[0] {
	case TagNil:
		return 1, 0, true
	case TagSmallInt:
		return 2, 0, len(b) >= 2
	case TagInt:
		return 5, 0, len(b) >= 5
	case TagNewFloat:
		return 9, 0, len(b) >= 9
	case TagFloat:
		return 32, 0, len(b) >= 32
	case TagSmallTuple:
		if len(b) < 2 {
			return 0, 0, false
		}
		return 2, int(b[1]), true
	case TagSmallAtom, TagSmallAtomUTF8:
		return sized(b, 1, 0)
	case TagSmallBig:
		return sized(b, 1, 1)
	case TagAtom, TagAtomUTF8, TagString:
		return sized(b, 2, 0)
	case TagBinary:
		return sized(b, 4, 0)
	case TagLargeBig:
		return sized(b, 4, 1)
	case TagLargeTuple, TagList, TagMap:
		return counted(b)
	}
	return 0, 0, false
}

// sized measures an item of a tag, a length of lenBytes, extra bytes and as
// many bytes as the length says.
func sized(b []byte, lenBytes, extra int) (width, items int, ok bool) {
	if len(b) < 1+lenBytes {
		return 0, 0, false
	}
	n := uint64(b[1])
	switch lenBytes {
	case 2:
		n = uint64(binary.BigEndian.Uint16(b[1:]))
	case 4:
		n = uint64(binary.BigEndian.Uint32(b[1:]))
	}
	total := uint64(1+lenBytes+extra) + n
	if total > uint64(len(b)) {
		return 0, 0, false
	}
	return int(total), 0, true
}

// counted measures the head of an item whose 4-byte count says how many
// elements follow.
func counted(b []byte) (width, items int, ok bool) {
	if len(b) < 5 {
		return 0, 0, false
	}
	n := uint64(binary.BigEndian.Uint32(b[1:]))
	switch b[0] {
	case TagList:
		n++ // the tail
	case TagMap:
		n *= 2
	}
	if n > uint64(len(b)) {
		return 0, 0, false
	}
	return 5, int(n), true
}

// Tuple reads a tuple's head; n elements follow in rest.
func Tuple(b []byte) (n int, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, false
	}
	switch b[0] {
	case TagSmallTuple:
		n, rest = int(b[1]), b[2:]
	case TagLargeTuple:
		if len(b) < 5 {
			return 0, nil, false
		}
		c := binary.BigEndian.Uint32(b[1:])
		if uint64(c) > uint64(len(b)) {
			return 0, nil, false
		}
		n, rest = int(c), b[5:]
	default:
		return 0, nil, false
	}
	return n, rest, n <= len(rest)
}

// TupleN reads the head of a tuple of exactly n elements.
func TupleN(b []byte, n int) (rest []byte, ok bool) {
	m, rest, ok := Tuple(b)
	return rest, ok && m == n
}

// List reads a list's head; n elements and, if n is not 0, a tail follow in
// rest, to be read with ListEnd. A STRING is not a list here; see Items.
func List(b []byte) (n int, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	if b[0] == TagNil {
		return 0, b[1:], true
	}
	if b[0] != TagList || len(b) < 5 {
		return 0, nil, false
	}
	c := binary.BigEndian.Uint32(b[1:])
	if uint64(c) >= uint64(len(b)) || c == 0 {
		return 0, nil, false
	}
	return int(c), b[5:], true
}

// ListEnd reads the tail of a proper list.
func ListEnd(b []byte) (rest []byte, ok bool) {
	if len(b) == 0 || b[0] != TagNil {
		return nil, false
	}
	return b[1:], true
}

// Uint reads an integer that is not negative and fits 64 bits.
func Uint(b []byte) (v uint64, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, false
	}
	switch b[0] {
	case TagSmallInt:
		return uint64(b[1]), b[2:], true
	case TagInt:
		if len(b) < 5 || b[1] >= 0x80 {
			return 0, nil, false
		}
		return uint64(binary.BigEndian.Uint32(b[1:])), b[5:], true
	case TagSmallBig:
		n := int(b[1])
		if len(b) < 3+n || n > 8 || b[2] != 0 {
			return 0, nil, false
		}
		for i := n - 1; i >= 0; i-- {
			v = v<<8 | uint64(b[3+i])
		}
		return v, b[3+n:], true
	}
	return 0, nil, false
}

// Binary reads a binary; data is a part of b.
func Binary(b []byte) (data, rest []byte, ok bool) {
	if len(b) < 5 || b[0] != TagBinary {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b[1:]))
	if n > uint64(len(b)-5) {
		return nil, nil, false
	}
	return b[5 : 5+n : 5+n], b[5+n:], true
}

// Atom reads an atom; name is a part of b, in the atom's own encoding (which
// is the same for ASCII, and CouchDB's own atoms are ASCII).
func Atom(b []byte) (name, rest []byte, ok bool) {
	if len(b) == 0 {
		return nil, nil, false
	}
	head := 0
	switch b[0] {
	case TagAtom, TagAtomUTF8:
		head = 3
	case TagSmallAtom, TagSmallAtomUTF8:
		head = 2
	default:
		return nil, nil, false
	}
	width, _, ok := shape(b)
	if !ok {
		return nil, nil, false
	}
	return b[head:width:width], b[width:], true
}

// IsAtom says whether b starts with the atom name.
func IsAtom(b []byte, name string) bool {
	got, _, ok := Atom(b)
	return ok && string(got) == name
}
