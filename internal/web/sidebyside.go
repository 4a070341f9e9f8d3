package web

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// sideBySide is two texts, line by line beside each other.
type sideBySide struct {
	A, B    []diffLine
	Differs int  // lines of B that A has not, and of A that B has not
	Cut     bool // one of them is too long, and shown up to mostLines
}

// diffLine is a line of one side. Mark is the part of it that differs.
type diffLine struct {
	N               int    // from 1; 0 of what is no line
	Kind            string // "", del, add, void (the other side has a line here), fold
	Pre, Mark, Post string
}

const (
	mostLines = 4000    // of a document
	mostCells = 4 << 20 // of the table that finds what two have in common
	around    = 3       // equal lines that are shown beside what differs
)

// lines are those of a document, indented; none of nil.
func lines(doc json.RawMessage) (list []string, cut bool) {
	if len(doc) == 0 {
		return nil, false
	}
	var b bytes.Buffer
	if json.Indent(&b, doc, "", "  ") != nil {
		b.Write(doc)
	}
	list = strings.Split(b.String(), "\n")
	if len(list) > mostLines {
		return list[:mostLines], true
	}
	return list, false
}

// compare puts two documents beside each other. Of equal lines far from what differs only their number is shown, unless whole.
func compare(a, b json.RawMessage, whole bool) sideBySide {
	x, cutA := lines(a)
	y, cutB := lines(b)
	out := sideBySide{Cut: cutA || cutB}
	type row struct{ i, j int } // indexes of lines; -1 is none
	var rows []row
	first := 0
	for first < len(x) && first < len(y) && x[first] == y[first] {
		rows = append(rows, row{first, first})
		first++
	}
	endX, endY := len(x), len(y)
	for endX > first && endY > first && x[endX-1] == y[endY-1] {
		endX, endY = endX-1, endY-1
	}
	var left, right []int // lines that differ, until the next equal one
	flush := func() {
		k := 0
		for _, i := range left {
			n := k
			for n < len(right) && !alike(x[i], y[right[n]]) {
				n++
			}
			if n == len(right) { // the other side has no such line
				rows = append(rows, row{i, -1})
				continue
			}
			for ; k < n; k++ {
				rows = append(rows, row{-1, right[k]})
			}
			rows = append(rows, row{i, right[n]})
			k++
		}
		for _, j := range right[k:] {
			rows = append(rows, row{-1, j})
		}
		left, right = left[:0], right[:0]
	}
	for _, r := range common(x[first:endX], y[first:endY]) {
		switch {
		case r[0] >= 0 && r[1] >= 0:
			flush()
			rows = append(rows, row{first + r[0], first + r[1]})
		case r[0] >= 0:
			left = append(left, first+r[0])
		default:
			right = append(right, first+r[1])
		}
	}
	flush()
	for k := range len(x) - endX {
		rows = append(rows, row{endX + k, endY + k})
	}
	equal := func(r row) bool { return r.i >= 0 && r.j >= 0 && x[r.i] == y[r.j] }
	near := make([]bool, len(rows))
	for k, r := range rows {
		if !equal(r) {
			for n := max(0, k-around); n <= min(len(rows)-1, k+around); n++ {
				near[n] = true
			}
		}
	}
	for k := 0; k < len(rows); k++ {
		n := k
		for n < len(rows) && !near[n] {
			n++
		}
		if !whole && n-k > 1 {
			fold := diffLine{Kind: "fold", Pre: plural(n-k, "equal line", "equal lines")}
			out.A, out.B = append(out.A, fold), append(out.B, fold)
			k = n - 1
			continue
		}
		r := rows[k]
		if equal(r) {
			out.A = append(out.A, diffLine{N: r.i + 1, Pre: x[r.i]})
			out.B = append(out.B, diffLine{N: r.j + 1, Pre: y[r.j]})
			continue
		}
		del, add := diffLine{Kind: "void"}, diffLine{Kind: "void"}
		switch {
		case r.i >= 0 && r.j >= 0:
			del, add = marked(x[r.i], y[r.j])
			out.Differs += 2
		case r.i >= 0:
			del = diffLine{Kind: "del", Pre: x[r.i]}
			out.Differs++
		default:
			add = diffLine{Kind: "add", Pre: y[r.j]}
			out.Differs++
		}
		del.N, add.N = r.i+1, r.j+1
		out.A, out.B = append(out.A, del), append(out.B, add)
	}
	return out
}

// alike says that two lines that differ are one that changed: both are of the same field, or of none.
func alike(a, b string) bool { return field(a) == field(b) }

// field is what a line of an indented document begins with: the name of its field, and how deep it stands.
func field(line string) string {
	trimmed := strings.TrimLeft(line, " ")
	indent := line[:len(line)-len(trimmed)]
	if !strings.HasPrefix(trimmed, `"`) {
		return indent
	}
	for i := 1; i < len(trimmed); i++ {
		switch trimmed[i] {
		case '\\':
			i++
		case '"':
			if strings.HasPrefix(trimmed[i+1:], ": ") {
				return indent + trimmed[:i+1]
			}
			return indent
		}
	}
	return indent
}

// common pairs equal lines of two texts, as many as can be; -1 stands for a line that the other has not.
func common(x, y []string) (out [][2]int) {
	if len(x)*len(y) > mostCells {
		for i := range x {
			out = append(out, [2]int{i, -1})
		}
		for j := range y {
			out = append(out, [2]int{-1, j})
		}
		return out
	}
	wide := len(y) + 1
	longest := make([]int32, (len(x)+1)*wide) // from here to the ends
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				longest[i*wide+j] = longest[(i+1)*wide+j+1] + 1
			} else {
				longest[i*wide+j] = max(longest[(i+1)*wide+j], longest[i*wide+j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			out = append(out, [2]int{i, j})
			i, j = i+1, j+1
		case j == len(y) || i < len(x) && longest[(i+1)*wide+j] >= longest[i*wide+j+1]:
			out = append(out, [2]int{i, -1})
			i++
		default:
			out = append(out, [2]int{-1, j})
			j++
		}
	}
	return out
}

// marked are two lines that stand beside each other, with what differs in them marked.
func marked(a, b string) (del, add diffLine) {
	p := 0
	for p < len(a) && p < len(b) && a[p] == b[p] {
		p++
	}
	for p > 0 && p < len(a) && !utf8.RuneStart(a[p]) {
		p--
	}
	s := 0
	for s < len(a)-p && s < len(b)-p && a[len(a)-1-s] == b[len(b)-1-s] {
		s++
	}
	for s > 0 && !utf8.RuneStart(a[len(a)-s]) {
		s--
	}
	return diffLine{Kind: "del", Pre: a[:p], Mark: a[p : len(a)-s], Post: a[len(a)-s:]}, diffLine{Kind: "add", Pre: b[:p], Mark: b[p : len(b)-s], Post: b[len(b)-s:]}
}
