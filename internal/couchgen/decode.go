package couchgen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

var errTerm = errors.New("not a term that couchgen writes")

// decodeTerm reads a whole external term, 131 first. Binaries come as string,
// byte lists as []any, integers as int64.
func decodeTerm(b []byte) (v any, err error) {
	if len(b) == 0 || b[0] != erlterm.Version {
		return nil, errTerm
	}
	defer func() {
		if recover() != nil { // out of range: the input ends early
			v, err = nil, errTerm
		}
	}()
	d := decoder{b: b[1:]}
	v = d.next()
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes after the term: %w", len(d.b), errTerm)
	}
	return v, d.err
}

type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n int) []byte {
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u16() int { return int(binary.BigEndian.Uint16(d.take(2))) }
func (d *decoder) u32() int { return int(binary.BigEndian.Uint32(d.take(4))) }

func (d *decoder) next() any {
	switch tag := d.take(1)[0]; tag {
	case erlterm.TagSmallInt:
		return int64(d.take(1)[0])
	case erlterm.TagInt:
		return int64(int32(d.u32()))
	case erlterm.TagSmallBig:
		return d.big()
	case erlterm.TagNewFloat:
		return math.Float64frombits(binary.BigEndian.Uint64(d.take(8)))
	case erlterm.TagAtom:
		return Atom(d.take(d.u16()))
	case erlterm.TagBinary:
		return string(d.take(d.u32()))
	case erlterm.TagSmallTuple:
		t := make(Tuple, d.take(1)[0])
		for i := range t {
			t[i] = d.next()
		}
		return t
	case erlterm.TagNil:
		return []any(nil)
	case erlterm.TagString:
		p := d.take(d.u16())
		a := make([]any, len(p))
		for i, c := range p {
			a[i] = int64(c)
		}
		return a
	case erlterm.TagList:
		n := d.u32()
		a := make([]any, 0, min(n, len(d.b)))
		for range n {
			a = append(a, d.next())
		}
		if d.take(1)[0] != erlterm.TagNil {
			d.err = errTerm
		}
		return a
	default:
		panic(tag)
	}
}

func (d *decoder) big() any {
	n, sign := int(d.take(1)[0]), d.take(1)[0]
	var v uint64
	for i, c := range d.take(n) {
		v |= uint64(c) << (8 * i)
	}
	if sign == 1 {
		return -int64(v)
	}
	if v > math.MaxInt64 {
		return v
	}
	return int64(v)
}
