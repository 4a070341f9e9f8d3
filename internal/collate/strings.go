package collate

import "cmp"

// element is what one character or a group of them weighs, on three levels: letters, accents, and case with other variants. 0 is
// no weight on a level, which then is passed over.
//
//	bits 32..63  primary
//	bits 16..31  secondary
//	bits  0..15  tertiary
type element uint64

func (e element) primary() uint32   { return uint32(e >> 32) }
func (e element) secondary() uint32 { return uint32(e>>16) & 0xFFFF }
func (e element) tertiary() uint32  { return uint32(e) & 0xFFFF }

// CompareStrings orders two strings as CouchDB does in views: 0 says that they are equal in this order, which they may be without
// having the same bytes.
//
// It does not allocate for ASCII, nor for other strings of some 60 characters.
func CompareStrings(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == Highest:
		return 1
	case b == Highest:
		return -1
	}
	if c, ok := compareASCII(a, b); ok {
		return c
	}
	var x, y [64]element
	t := root()
	return compareElements(t.elements(x[:0], a), t.elements(y[:0], b))
}

// compareElements compares on one level after the other.
func compareElements(x, y []element) int {
	if c := level(x, y, element.primary); c != 0 {
		return c
	}
	if c := level(x, y, element.secondary); c != 0 {
		return c
	}
	return level(x, y, element.tertiary)
}

func level(x, y []element, weight func(element) uint32) int {
	for {
		var a, b uint32
		for len(x) > 0 && a == 0 {
			a, x = weight(x[0]), x[1:]
		}
		for len(y) > 0 && b == 0 {
			b, y = weight(y[0]), y[1:]
		}
		if a != b || a == 0 {
			return cmp.Compare(a, b)
		}
	}
}

// asciiOrder has what of ASCII has a weight, in the order of letters: each with a lower primary weight than the next one. Capital letters have the
// primary weight of the small ones and come after them. Other control characters than these weigh nothing.
const asciiOrder = "\t\n\v\f\r _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789abcdefghijklmnopqrstuvwxyz"

// asciiWeights has for each ASCII character its place in asciiOrder from 1 on, twice, and 1 for a capital letter.
var asciiWeights = func() (w [128]uint8) {
	for i, c := range []byte(asciiOrder) {
		w[c] = uint8(i+1) << 1
		if c >= 'a' && c <= 'z' {
			w[c-'a'+'A'] = w[c] | 1
		}
	}
	return w
}()

// compareASCII compares two strings of ASCII only; ok is false for others.
func compareASCII(a, b string) (c int, ok bool) {
	variant := 0
	for i, j := 0, 0; ; {
		var x, y uint8
		for ; i < len(a) && x == 0; i++ {
			if a[i] >= 0x80 {
				return 0, false
			}
			x = asciiWeights[a[i]]
		}
		for ; j < len(b) && y == 0; j++ {
			if b[j] >= 0x80 {
				return 0, false
			}
			y = asciiWeights[b[j]]
		}
		if x>>1 != y>>1 {
			// A character beyond ASCII that follows may belong to what was just compared.
			return cmp.Compare(x>>1, y>>1), isASCII(a, i) && isASCII(b, j)
		}
		if x == 0 {
			return variant, true
		}
		if variant == 0 {
			variant = cmp.Compare(x, y)
		}
	}
}

// isASCII says whether s has an ASCII character at i, or ends there.
func isASCII(s string, i int) bool { return i >= len(s) || s[i] < 0x80 }
