package replay

import (
	"bytes"
	"fmt"

	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// How a header is told; from headerParts on, how many of its elements are others than
// expected, and headerParts more less one.
const (
	headerExpected = iota
	headerWhole
	headerParts
)

// readHeader reads how the next header differs from what is expected, and returns it with 131.
func (m *tailMaker) readHeader() ([]byte, error) {
	n, err := m.in.number("header")
	if err != nil || n == headerExpected {
		return bytes.Clone(m.nextHeader()), err
	}
	if n == headerWhole {
		if m.merges {
			return nil, notMerged("a whole header")
		}
		return m.in.str("header")
	}
	parts, ok := headerElements(m.nextHeader())
	if !ok {
		return nil, damaged("elements of a header that has none")
	}
	at := -1
	for range n - headerParts + 1 {
		i, err := m.in.small("element of a header", uint64(len(parts)-1))
		if err != nil {
			return nil, err
		}
		if int(i) <= at {
			return nil, damaged("elements of a header in another order")
		}
		at = int(i)
		if parts[at], err = m.readElement(at); err != nil {
			return nil, err
		}
	}
	return joinHeader(parts), nil
}

// readElement reads one element of a header.
func (m *tailMaker) readElement(at int) (erlterm.Term, error) {
	back, err := m.in.small("element of a header", uint64(len(m.terms)))
	if err != nil {
		return nil, err
	}
	if back > 0 {
		return erlterm.PutInt(nil, m.terms[len(m.terms)-int(back)]), nil
	}
	t, err := m.in.term("element of a header")
	if m.merges && (at >= couchwriter.AtIDTree && at <= couchwriter.AtPurgeSeqTree || pointsToTerm(at)) {
		return nil, notMerged(fmt.Sprintf("element %d of a header, with its place: %x", at, t))
	}
	return t, err
}

// pointsToTerm says whether an element of a header is the offset of a term.
func pointsToTerm(at int) bool {
	return at == couchwriter.AtSecurity || at == couchwriter.AtProps || at == couchwriter.AtTimeSeq
}

// headerElements are those of a header with 131.
func headerElements(term []byte) ([]erlterm.Term, bool) {
	if len(term) == 0 {
		return nil, false
	}
	parts, ok := erlterm.Elements(term[1:])
	return parts, ok && len(parts) > 0 && term[1] == erlterm.TagSmallTuple
}

func joinHeader(parts []erlterm.Term) []byte {
	out := erlterm.PutTuple([]byte{erlterm.Version}, len(parts))
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// appendHeader appends how a header differs from what is expected, element by element if
// apart.
func (m *tailMaker) appendHeader(dst, term []byte, apart bool) []byte {
	expected := m.nextHeader()
	if bytes.Equal(expected, term) {
		return append(dst, headerExpected)
	}
	is, ok := headerElements(term)
	was, okWas := headerElements(expected)
	if !apart || !ok || !okWas || len(is) != len(was) {
		return appendStr(append(dst, headerWhole), term)
	}
	var parts []byte
	n := uint64(0)
	for at := range is {
		if bytes.Equal(is[at], was[at]) {
			continue
		}
		n++
		parts = appendNumber(parts, uint64(at))
		if back := m.termBack(at, is[at]); back > 0 {
			parts = appendNumber(parts, uint64(back))
		} else {
			parts = appendStr(append(parts, 0), is[at])
		}
	}
	return append(appendNumber(dst, n+headerParts-1), parts...)
}

// termBack is how many terms back the one is that an element points to, or 0.
func (m *tailMaker) termBack(at int, element erlterm.Term) int {
	off, _, ok := erlterm.Uint(element)
	if !ok || !pointsToTerm(at) {
		return 0
	}
	for i := len(m.terms) - 1; i >= max(0, len(m.terms)-100); i-- {
		if uint64(m.terms[i]) == off {
			return len(m.terms) - i
		}
	}
	return 0
}
