package collate

import (
	"bytes"
	"compress/flate"
	_ "embed"
	"encoding/binary"
	"io"
	"sort"
	"strings"
	"sync"
)

// packed is the root collation, made by gen/root.py; see there for its form.
//
//go:embed root.bin
var packed []byte

// table is a collation.
type table struct {
	low    [0x800][]element // of the first characters, for speed
	runs   []run
	groups map[rune][]group // by their first character
	marks  []mark
}

// run is what characters from first on weigh that follow each other. With step, each weighs one primary weight more than the one before.
type run struct {
	first, last rune
	step        bool
	elements    []element
}

// group is characters that weigh something else together than each by itself.
type group struct {
	rest     string // behind the first character
	elements []element
}

// mark is a range of characters of a combining class that is not 0.
type mark struct {
	first, last rune
	class       uint8
}

// root unpacks the root collation at its first use, which takes some milliseconds.
var root = sync.OnceValue(func() *table {
	b, err := io.ReadAll(flate.NewReader(bytes.NewReader(packed)))
	if err != nil {
		panic("collate: " + err.Error())
	}
	u := unpacker{rest: b}
	t := &table{groups: map[rune][]group{}}
	t.runs = make([]run, u.uint())
	next := rune(0)
	for i := range t.runs {
		first := next + rune(u.uint())
		n := u.uint()
		next = first + rune(n>>1)
		t.runs[i] = run{first: first, last: next - 1, step: n&1 != 0, elements: u.elements()}
	}
	for range u.uint() {
		n := u.uint()
		first := rune(u.uint())
		var rest strings.Builder
		for range n - 1 {
			rest.WriteRune(rune(u.uint()))
		}
		t.groups[first] = append(t.groups[first], group{rest.String(), u.elements()})
	}
	t.marks = make([]mark, u.uint())
	next = 0
	for i := range t.marks {
		first := next + rune(u.uint())
		next = first + rune(u.uint())
		t.marks[i] = mark{first, next - 1, uint8(u.uint())}
	}
	for _, gs := range t.groups { // the longest first
		sort.SliceStable(gs, func(i, j int) bool { return len(gs[i].rest) > len(gs[j].rest) })
	}
	for c := range t.low {
		t.low[c] = t.find(nil, rune(c))
	}
	return t
})

// unpacker reads varints.
type unpacker struct {
	rest    []byte
	primary int64
}

func (u *unpacker) uint() int {
	v, n := binary.Uvarint(u.rest)
	if n <= 0 {
		panic("collate: the root collation is cut off")
	}
	u.rest = u.rest[n:]
	return int(v)
}

func (u *unpacker) elements() []element {
	out := make([]element, u.uint())
	for i := range out {
		d := int64(u.uint())
		p := u.primary + d>>1
		if d&1 != 0 {
			p = u.primary - (d+1)>>1
		}
		if p != 0 {
			u.primary = p
		}
		out[i] = element(p<<32 | int64(u.uint())<<16 | int64(u.uint()))
	}
	return out
}

// find appends what one character weighs.
func (t *table) find(dst []element, c rune) []element {
	i := sort.Search(len(t.runs), func(i int) bool { return t.runs[i].last >= c })
	if i == len(t.runs) || t.runs[i].first > c {
		return dst
	}
	r := &t.runs[i]
	if r.step {
		return append(dst, r.elements[0]+element(c-r.first)<<32)
	}
	return append(dst, r.elements...)
}

func (t *table) class(c rune) uint8 {
	if c < 0x300 {
		return 0
	}
	i := sort.Search(len(t.marks), func(i int) bool { return t.marks[i].last >= c })
	if i == len(t.marks) || t.marks[i].first > c {
		return 0
	}
	return t.marks[i].class
}

// elements appends what s weighs. What is no UTF-8 weighs as U+FFFD.
func (t *table) elements(dst []element, s string) []element {
	for i, c := range s {
		if t.groups[c] != nil {
			return t.grouped(dst, []rune(s[i:]))
		}
		dst = t.single(dst, c)
	}
	return dst
}

func (t *table) single(dst []element, c rune) []element {
	if int(c) < len(t.low) {
		return append(dst, t.low[c]...)
	}
	return t.find(dst, c)
}

// grouped is elements for a string in which there may be groups.
func (t *table) grouped(dst []element, s []rune) []element {
	for len(s) > 0 {
		c := s[0]
		s = s[1:]
		gs := t.groups[c]
		if gs == nil {
			dst = t.single(dst, c)
			continue
		}
		n, found := 0, ""
		elements := t.single(nil, c)
		for _, g := range gs {
			if rest := []rune(g.rest); len(rest) <= len(s) && string(s[:len(rest)]) == g.rest {
				n, found, elements = len(rest), g.rest, g.elements
				break
			}
		}
		s = s[n:]
		s, elements = t.apart(gs, s, found, elements)
		dst = append(dst, elements...)
	}
	return dst
}

// apart looks for marks that belong to a group though other marks stand between: UTS #10, S2.1. found is what of the group stands before s.
func (t *table) apart(gs []group, s []rune, found string, elements []element) (rest []rune, with []element) {
	last := uint8(0) // class of the last mark that was passed over
	copied := false
	for i := 0; i < len(s); i++ {
		class := t.class(s[i])
		if class == 0 {
			break
		}
		if class > last {
			if g := groupOf(gs, found+string(s[i])); g != nil {
				if !copied {
					s, copied = append([]rune(nil), s...), true
				}
				found, elements = g.rest, g.elements
				s = append(s[:i], s[i+1:]...)
				i--
				continue
			}
		}
		last = class
	}
	return s, elements
}

func groupOf(gs []group, rest string) *group {
	for i := range gs {
		if gs[i].rest == rest {
			return &gs[i]
		}
	}
	return nil
}
