package erlterm

import (
	"encoding/binary"
	"math"
)

// The Put functions write terms as Erlang's term_to_binary does with
// minor_version 1, which is how CouchDB stores all of them. Each appends to
// dst and returns the extended slice. What is read with this package and
// written back with these functions is the same bytes.

// PutInt appends an integer, in the shortest form.
func PutInt(dst []byte, v int64) []byte {
	switch {
	case v >= 0 && v < 256:
		return append(dst, TagSmallInt, byte(v))
	case v >= math.MinInt32 && v <= math.MaxInt32:
		return binary.BigEndian.AppendUint32(append(dst, TagInt), uint32(v))
	case v < 0:
		return putBig(dst, 1, -uint64(v))
	}
	return putBig(dst, 0, uint64(v))
}

// PutUint appends an integer that is not negative.
func PutUint(dst []byte, v uint64) []byte {
	if v > math.MaxInt64 {
		return putBig(dst, 0, v)
	}
	return PutInt(dst, int64(v))
}

func putBig(dst []byte, sign byte, v uint64) []byte {
	at := len(dst)
	dst = append(dst, TagSmallBig, 0, sign)
	for ; v > 0; v >>= 8 {
		dst = append(dst, byte(v))
		dst[at+1]++
	}
	return dst
}

// PutFloat appends a float.
func PutFloat(dst []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, TagNewFloat), math.Float64bits(f))
}

// PutAtom appends an atom of at most 255 ASCII characters.
func PutAtom(dst []byte, name string) []byte {
	dst = binary.BigEndian.AppendUint16(append(dst, TagAtom), uint16(len(name)))
	return append(dst, name...)
}

// PutBinary appends a binary.
func PutBinary[T string | []byte](dst []byte, data T) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, TagBinary), uint32(len(data)))
	return append(dst, data...)
}

// PutTuple appends the head of a tuple, which n elements must follow.
func PutTuple(dst []byte, n int) []byte {
	if n < 256 {
		return append(dst, TagSmallTuple, byte(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, TagLargeTuple), uint32(n))
}

// PutListHead appends the head of a list of n > 0 elements, which they and
// TagNil must follow. A list of small integers only would be a STRING.
func PutListHead(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, TagList), uint32(n))
}

// PutList appends a list of the terms items: NIL if there are none, a
// STRING if all of them are integers from 0 to 255.
func PutList[T ~[]byte](dst []byte, items []T) []byte {
	if len(items) == 0 {
		return append(dst, TagNil)
	}
	small := len(items) <= math.MaxUint16
	for _, t := range items {
		small = small && t[0] == TagSmallInt
	}
	if small {
		dst = binary.BigEndian.AppendUint16(append(dst, TagString), uint16(len(items)))
		for _, t := range items {
			dst = append(dst, t[1])
		}
		return dst
	}
	dst = PutListHead(dst, len(items))
	for _, t := range items {
		dst = append(dst, t...)
	}
	return append(dst, TagNil)
}

// Elements returns the elements of a tuple or of a proper list; those of a
// STRING are made anew. ok is false if t is something else.
func Elements(t Term) (items []Term, ok bool) {
	n, rest, ok := Tuple(t)
	if ok {
		items, rest, ok = elements(rest, n)
		return items, ok && len(rest) == 0
	}
	if t.Tag() == TagString && len(t) >= 3 && len(t) == 3+int(binary.BigEndian.Uint16(t[1:])) {
		for _, c := range t[3:] {
			items = append(items, Term{TagSmallInt, c})
		}
		return items, true
	}
	if n, rest, ok = List(t); !ok || n == 0 {
		return nil, ok && len(rest) == 0
	}
	if items, rest, ok = elements(rest, n); !ok {
		return nil, false
	}
	rest, ok = ListEnd(rest)
	return items, ok && len(rest) == 0
}

func elements(b []byte, n int) (items []Term, rest []byte, ok bool) {
	items = make([]Term, n)
	for i := range items {
		if items[i], b, ok = Next(b); !ok {
			return nil, nil, false
		}
	}
	return items, b, true
}
