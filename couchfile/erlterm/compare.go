package erlterm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"math/big"
)

// maxCompare is how deep Compare looks into nested terms.
const maxCompare = 10_000

// Compare orders two terms as Erlang's < and == do: numbers before atoms,
// tuples, lists and binaries; tuples by their size and then by their elements,
// lists by their elements, numbers by their value whether integer or float.
// ok is false where it comes to terms that are malformed, nested more than
// 10,000 deep, or maps, whose order is not known here.
//
// Source: Erlang/OTP, Term Comparisons
// (https://www.erlang.org/doc/system/expressions.html#term-comparisons).
func Compare(a, b Term) (c int, ok bool) {
	var w comparison
	c = w.terms(a, b, 0)
	return c, !w.bad
}

// comparison notes in bad that something could not be compared.
type comparison struct{ bad bool }

// Ranks of the kinds of terms.
const (
	rankNumber = iota
	rankAtom
	rankTuple
	rankNil
	rankList
	rankBinary
	rankUnknown
)

func rank(t Term) int {
	switch t.Tag() {
	case TagSmallInt, TagInt, TagSmallBig, TagLargeBig, TagNewFloat:
		return rankNumber
	case TagAtom, TagAtomUTF8, TagSmallAtom, TagSmallAtomUTF8:
		return rankAtom
	case TagSmallTuple, TagLargeTuple:
		return rankTuple
	case TagNil:
		return rankNil
	case TagList, TagString:
		return rankList
	case TagBinary:
		return rankBinary
	}
	return rankUnknown
}

func (w *comparison) terms(a, b Term, depth int) int {
	if bytes.Equal(a, b) {
		return 0
	}
	ra, rb := rank(a), rank(b)
	if ra == rankUnknown || rb == rankUnknown || depth > maxCompare {
		w.bad = true
		return 0
	}
	if ra != rb {
		return cmp.Compare(ra, rb)
	}
	switch ra {
	case rankNumber:
		return w.numbers(a, b)
	case rankAtom:
		x, _, _ := Atom(a)
		y, _, _ := Atom(b)
		return bytes.Compare(x, y)
	case rankBinary:
		x, _, okA := Binary(a)
		y, _, okB := Binary(b)
		w.bad = w.bad || !okA || !okB
		return bytes.Compare(x, y)
	}
	x, okA := Elements(a)
	y, okB := Elements(b)
	w.bad = w.bad || !okA || !okB // an improper list among them
	if ra == rankTuple && len(x) != len(y) {
		return cmp.Compare(len(x), len(y))
	}
	for i := range min(len(x), len(y)) {
		if c := w.terms(x[i], y[i], depth+1); c != 0 || w.bad {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}

func (w *comparison) numbers(a, b Term) int {
	if x, ok := smallInt(a); ok {
		if y, ok := smallInt(b); ok {
			return cmp.Compare(x, y)
		}
	}
	x, okA := exact(a)
	y, okB := exact(b)
	if !okA || !okB {
		w.bad = true
		return 0
	}
	return x.Cmp(y)
}

func smallInt(t Term) (int64, bool) {
	switch {
	case len(t) == 2 && t[0] == TagSmallInt:
		return int64(t[1]), true
	case len(t) == 5 && t[0] == TagInt:
		return int64(int32(binary.BigEndian.Uint32(t[1:]))), true
	}
	return 0, false
}

// exact is a number without loss.
func exact(t Term) (*big.Float, bool) {
	if v, ok := smallInt(t); ok {
		return new(big.Float).SetInt64(v), true
	}
	if len(t) == 9 && t[0] == TagNewFloat {
		f := math.Float64frombits(binary.BigEndian.Uint64(t[1:]))
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, false
		}
		return new(big.Float).SetFloat64(f), true
	}
	head := 3
	if t.Tag() == TagLargeBig {
		head = 6
	}
	if n, ok := Size(t); !ok || n != len(t) || n <= head {
		return nil, false
	}
	mag := bytes.Clone(t[head:])
	for i, j := 0, len(mag)-1; i < j; i, j = i+1, j-1 {
		mag[i], mag[j] = mag[j], mag[i]
	}
	v := new(big.Int).SetBytes(mag)
	if t[head-1] != 0 {
		v.Neg(v)
	}
	return new(big.Float).SetPrec(uint(max(64, v.BitLen()))).SetInt(v), true
}
