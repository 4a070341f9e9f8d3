package couchwriter

import (
	"cmp"
	"encoding/binary"
	"math"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// number is an Erlang integer of 64 bits or a float.
type number struct {
	i     int64
	f     float64
	float bool
}

func integer(v int64) number { return number{i: v} }

// parseNumber reads a number; integers beyond 64 bits are none here.
func parseNumber(t erlterm.Term) (n number, ok bool) {
	switch t.Tag() {
	case erlterm.TagNewFloat:
		if len(t) == 9 {
			return number{f: math.Float64frombits(binary.BigEndian.Uint64(t[1:])), float: true}, true
		}
	case erlterm.TagInt:
		if len(t) == 5 {
			return integer(int64(int32(binary.BigEndian.Uint32(t[1:])))), true
		}
	case erlterm.TagSmallBig:
		if len(t) > 3 && len(t) <= 11 && t[2] != 0 {
			v, _, ok := erlterm.Uint(append(erlterm.Term{t[0], t[1], 0}, t[3:]...))
			return integer(-int64(v)), ok && v <= math.MaxInt64
		}
	}
	v, _, ok := erlterm.Uint(t)
	return integer(int64(v)), ok && v <= math.MaxInt64
}

func (n number) put(dst []byte) []byte {
	if n.float {
		return erlterm.PutFloat(dst, n.f)
	}
	return erlterm.PutInt(dst, n.i)
}

func (n number) toFloat() float64 {
	if n.float {
		return n.f
	}
	return float64(n.i)
}

// add is a + b; ok is false where Erlang's result has more than 64 bits or is
// no number.
func (n number) add(b number) (number, bool) {
	if n.float || b.float {
		return floatNumber(n.toFloat() + b.toFloat())
	}
	sum := n.i + b.i
	return integer(sum), (sum < n.i) == (b.i < 0)
}

func (n number) square() (number, bool) {
	if n.float {
		return floatNumber(float64(n.f * n.f)) // rounded: no processor may add to it in one step
	}
	const most = 3037000499 // of which the square fits
	return integer(n.i * n.i), n.i <= most && n.i >= -most
}

func floatNumber(f float64) (number, bool) {
	return number{f: f, float: true}, !math.IsInf(f, 0) && !math.IsNaN(f)
}

// compare orders numbers by their value.
func (n number) compare(b number) (c int, ok bool) {
	if !n.float && !b.float {
		return cmp.Compare(n.i, b.i), true
	}
	if n.float && b.float {
		return cmp.Compare(n.f, b.f), true
	}
	return erlterm.Compare(n.put(nil), b.put(nil))
}
