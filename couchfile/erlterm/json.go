package erlterm

import (
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"strconv"
	"unicode/utf8"
)

// longestInt bounds an integer that is printed, in bytes of its term: some
// 40,000 digits. To print one takes time out of proportion to its length.
const longestInt = 16 << 10

// ErrNotJSON says that a well-formed term is none that stands for JSON.
var ErrNotJSON = errors.New("term is not JSON")

// AppendJSON appends the JSON that CouchDB prints for t: objects are 1-tuples
// with a list of pairs, keys in their stored order; strings are binaries;
// true, false and null are atoms, and any other atom prints as a string.
// Integers keep all digits, up to some 40,000. It returns ErrMalformed or ErrNotJSON otherwise.
//
// Source: CouchDB 3.5, src/couch/src/couch_util.erl, json_encode, which is
// jiffy 1.1.2 with force_utf8; seen by running it.
func AppendJSON(dst []byte, t Term) ([]byte, error) {
	w := jsonWriter{dst: dst, rest: t}
	if err := w.run(); err != nil {
		return dst, err
	}
	if len(w.rest) != 0 {
		return dst, ErrMalformed
	}
	return w.dst, nil
}

// AppendObject is AppendJSON for the inside of an object: a list of pairs.
func AppendObject(dst []byte, list Term) ([]byte, error) {
	w := jsonWriter{dst: dst, rest: list}
	if err := w.object(); err != nil {
		return dst, err
	}
	if err := w.finish(); err != nil {
		return dst, err
	}
	if len(w.rest) != 0 {
		return dst, ErrMalformed
	}
	return w.dst, nil
}

// jsonWriter prints a term with a stack of its own, so that depth costs a few
// bytes a level.
type jsonWriter struct {
	dst   []byte
	rest  []byte
	stack []jsonFrame
}

type jsonFrame struct {
	left   int // items to come
	object bool
	first  bool
}

func (w *jsonWriter) run() error {
	if err := w.value(); err != nil {
		return err
	}
	return w.finish()
}

// finish prints until the stack is empty.
func (w *jsonWriter) finish() error {
	for len(w.stack) > 0 {
		top := &w.stack[len(w.stack)-1]
		if top.left == 0 {
			if err := w.close(top.object); err != nil {
				return err
			}
			continue
		}
		top.left--
		if !top.first {
			w.dst = append(w.dst, ',')
		}
		top.first = false
		if top.object {
			if err := w.key(); err != nil {
				return err
			}
		}
		if err := w.value(); err != nil {
			return err
		}
	}
	return nil
}

func (w *jsonWriter) close(object bool) error {
	rest, ok := ListEnd(w.rest)
	if !ok {
		return ErrNotJSON
	}
	w.rest = rest
	w.stack = w.stack[:len(w.stack)-1]
	if object {
		w.dst = append(w.dst, '}')
	} else {
		w.dst = append(w.dst, ']')
	}
	return nil
}

func (w *jsonWriter) key() error {
	rest, ok := TupleN(w.rest, 2)
	if !ok {
		return ErrNotJSON
	}
	name, rest, ok := Binary(rest)
	if !ok {
		return w.atomKey()
	}
	w.rest = rest
	w.dst = append(AppendString(w.dst, name), ':')
	return nil
}

func (w *jsonWriter) atomKey() error {
	rest, _ := TupleN(w.rest, 2)
	name, rest, ok := atomText(rest)
	if !ok {
		return ErrNotJSON
	}
	w.rest = rest
	w.dst = append(AppendString(w.dst, name), ':')
	return nil
}

// value prints a scalar, or opens a list or an object.
func (w *jsonWriter) value() error {
	if len(w.rest) == 0 {
		return ErrMalformed
	}
	switch w.rest[0] {
	case TagSmallTuple, TagLargeTuple:
		rest, ok := TupleN(w.rest, 1)
		if !ok {
			return ErrNotJSON
		}
		w.rest = rest
		return w.object()
	case TagNil:
		w.rest = w.rest[1:]
		w.dst = append(w.dst, "[]"...)
		return nil
	case TagList:
		return w.open(false)
	}
	return w.scalar()
}

// object opens the list of pairs of an object.
func (w *jsonWriter) object() error {
	if len(w.rest) > 0 && w.rest[0] == TagNil {
		w.rest = w.rest[1:]
		w.dst = append(w.dst, "{}"...)
		return nil
	}
	return w.open(true)
}

func (w *jsonWriter) open(object bool) error {
	n, rest, ok := List(w.rest)
	if !ok {
		return ErrNotJSON
	}
	w.rest = rest
	w.stack = append(w.stack, jsonFrame{left: n, object: object, first: true})
	if object {
		w.dst = append(w.dst, '{')
	} else {
		w.dst = append(w.dst, '[')
	}
	return nil
}

func (w *jsonWriter) scalar() error {
	width, _, ok := shape(w.rest)
	if !ok {
		return ErrMalformed
	}
	b := w.rest[:width]
	w.rest = w.rest[width:]
	switch b[0] {
	case TagBinary:
		w.dst = AppendString(w.dst, b[5:])
	case TagSmallInt:
		w.dst = strconv.AppendUint(w.dst, uint64(b[1]), 10)
	case TagInt:
		w.dst = strconv.AppendInt(w.dst, int64(int32(binary.BigEndian.Uint32(b[1:]))), 10)
	case TagSmallBig, TagLargeBig:
		if len(b) > longestInt {
			return ErrNotJSON
		}
		w.dst = appendBig(w.dst, b)
	case TagNewFloat, TagFloat:
		f, ok := float(b)
		if !ok {
			return ErrNotJSON
		}
		w.dst = AppendFloat(w.dst, f)
	case TagString:
		w.dst = appendBytes(w.dst, b[3:])
	case TagAtom, TagAtomUTF8, TagSmallAtom, TagSmallAtomUTF8:
		w.dst = appendAtom(w.dst, b)
	default:
		return ErrNotJSON
	}
	return nil
}

// appendBytes prints a STRING, which is a list of small integers.
func appendBytes(dst, list []byte) []byte {
	dst = append(dst, '[')
	for i, c := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(c), 10)
	}
	return append(dst, ']')
}

func appendAtom(dst, b []byte) []byte {
	name, _, _ := atomText(b)
	switch string(name) {
	case "true", "false", "null":
		return append(dst, name...)
	}
	return AppendString(dst, name)
}

// atomText is an atom's name in UTF-8.
func atomText(b []byte) (name, rest []byte, ok bool) {
	name, rest, ok = Atom(b)
	if !ok || b[0] == TagAtomUTF8 || b[0] == TagSmallAtomUTF8 {
		return name, rest, ok
	}
	var text []byte
	for _, c := range name {
		text = utf8.AppendRune(text, rune(c))
	}
	return text, rest, true
}

// BigInt reads a big integer of any size.
func BigInt(t Term) (*big.Int, bool) {
	width, _, ok := shapeOf(t)
	if !ok || width != len(t) || t[0] != TagSmallBig && t[0] != TagLargeBig {
		return nil, false
	}
	head := 3
	if t[0] == TagLargeBig {
		head = 6
	}
	mag := make([]byte, len(t)-head)
	for i := range mag {
		mag[len(mag)-1-i] = t[head+i]
	}
	n := new(big.Int).SetBytes(mag)
	if t[head-1] != 0 {
		n.Neg(n)
	}
	return n, true
}

func shapeOf(t Term) (width, items int, ok bool) {
	if len(t) == 0 {
		return 0, 0, false
	}
	return shape(t)
}

func appendBig(dst, b []byte) []byte {
	if v, _, ok := Uint(b); ok {
		return strconv.AppendUint(dst, v, 10)
	}
	n, _ := BigInt(b)
	return n.Append(dst, 10)
}

// float reads an IEEE or a text float. There is no JSON for NaN and infinity,
// and Erlang has neither.
func float(b []byte) (float64, bool) {
	f := 0.0
	if b[0] == TagNewFloat {
		f = math.Float64frombits(binary.BigEndian.Uint64(b[1:]))
	} else {
		text := b[1:32]
		for len(text) > 0 && text[len(text)-1] == 0 {
			text = text[:len(text)-1]
		}
		v, err := strconv.ParseFloat(string(text), 64)
		if err != nil {
			return 0, false
		}
		f = v
	}
	return f, !math.IsNaN(f) && !math.IsInf(f, 0)
}

// AppendFloat prints f as the server does: the shortest digits that read back
// as f, plain from 1e-6 up to 1e21 and with a fraction, else as in 1e-7 and
// 1.5e+300.
func AppendFloat(dst []byte, f float64) []byte {
	if f == 0 {
		return append(dst, "0.0"...)
	}
	if a := math.Abs(f); a >= 1e-6 && a < 1e21 {
		dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
		if f == math.Trunc(f) {
			dst = append(dst, ".0"...)
		}
		return dst
	}
	var buf [32]byte
	b := strconv.AppendFloat(buf[:0], f, 'e', -1, 64)
	if n := len(b); b[n-2] == '0' && (b[n-3] == '+' || b[n-3] == '-') { // strconv pads the exponent to two digits
		b = append(b[:n-2], b[n-1])
	}
	return append(dst, b...)
}

const hexDigits = "0123456789ABCDEF"

// AppendString prints b as a JSON string with the server's escapes: quote,
// backslash, \b \f \n \r \t, and \u00XX for other control characters. All
// else stays as it is, but what is no UTF-8 becomes U+FFFD.
func AppendString(dst, b []byte) []byte {
	dst = append(dst, '"')
	start := 0
	broken := !utf8.Valid(b)
	for i := 0; i < len(b); {
		c := b[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(b[i:])
			if !broken || r != utf8.RuneError && r != 0xFFFE && r != 0xFFFF {
				i += n
				continue
			}
		}
		dst = append(dst, b[start:i]...)
		n := 1
		if c < utf8.RuneSelf {
			dst = appendEscape(dst, c)
		} else {
			dst, n = appendRepaired(dst, b[i:])
		}
		i += n
		start = i
	}
	return append(append(dst, b[start:]...), '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// appendRepaired prints bytes that are no UTF-8 as the server repairs them: a
// surrogate pair in two 3-byte sequences is the character it stands for, an
// overlong sequence is its character, and any other broken sequence, as far
// as its continuation bytes reach, is one U+FFFD. In a broken string U+FFFE
// and U+FFFF count as broken too.
//
// Source: jiffy 1.1.2, src/jiffy_utf8.erl, fix; seen by running it.
func appendRepaired(dst, b []byte) (out []byte, used int) {
	r, n := looseRune(b)
	switch {
	case r >= 0xD800 && r < 0xDC00:
		if low, m := looseRune(b[n:]); low >= 0xDC00 && low < 0xE000 {
			return utf8.AppendRune(dst, 0x10000+(r-0xD800)<<10+(low-0xDC00)), n + m
		}
		r = utf8.RuneError
	case r < 0 || r >= 0xDC00 && r < 0xE000 || r == 0xFFFE || r == 0xFFFF || r > utf8.MaxRune:
		r = utf8.RuneError
	}
	if r < 0x20 || r == '"' || r == '\\' {
		return appendEscape(dst, byte(r)), n
	}
	return utf8.AppendRune(dst, r), n
}

// looseRune decodes a sequence by its lead byte without the rules against
// surrogates, overlong forms and large values. r is -1 if it is incomplete.
func looseRune(b []byte) (r rune, n int) {
	if len(b) == 0 {
		return -1, 0
	}
	want := 0
	switch c := b[0]; {
	case c < 0x80:
		return rune(c), 1
	case c>>5 == 0b110:
		want, r = 1, rune(c&0x1F)
	case c>>4 == 0b1110:
		want, r = 2, rune(c&0x0F)
	case c>>3 == 0b11110:
		want, r = 3, rune(c&0x07)
	default: // no lead byte
		for n = 1; n < len(b) && b[n]>>6 == 0b10; n++ {
		}
		return -1, n
	}
	for n = 1; n <= want; n++ {
		if n == len(b) || b[n]>>6 != 0b10 {
			return -1, n
		}
		r = r<<6 | rune(b[n]&0x3F)
	}
	return r, n
}
