package mango

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/dlclark/regexp2/v2"
)

// Regular expressions are PCRE's as Erlang runs them: over bytes, which count as characters of Latin-1. They are translated into those of regexp2, a backtracking
// engine as well, over runes from 0 to 255, with all classes of characters written out. What regexp2 hasn't is refused: recursion, conditions, callouts, verbs, and
// groups whose numbers start over.

const (
	// patience is how long an expression may look at one text. PCRE gives up after some steps, which count as no match.
	patience = 200 * time.Millisecond
	// slow is from when on a text counts, and budget how long all that count may take for one selector before the request is refused.
	slow   = 10 * time.Millisecond
	budget = 20 * time.Second

	longestRegex = 16 << 10
	deepestRegex = 250 // as in PCRE
)

var (
	errRegex       = errors.New("invalid regular expression")
	errUnsupported = errors.New("regular expression with what is not supported here")
)

// pattern is a regular expression that is ready.
type pattern struct {
	re    *regexp2.Regexp
	spent *atomic.Int64 // of the selector, nanoseconds
}

func newPattern(s string, spent *atomic.Int64) (*pattern, error) {
	re, err := translate(s)
	if err != nil {
		return nil, bad("not_supported", "Unsupported regular expression: %s", s)
	}
	return &pattern{re, spent}, nil
}

func (p *pattern) match(s string) (bool, error) {
	if time.Duration(p.spent.Load()) >= budget {
		return false, &Error{http.StatusBadRequest, "not_supported", "The regular expression takes too much time."}
	}
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	start := time.Now()
	ok, err := p.re.MatchRunes(runes)
	if took := time.Since(start); took > slow {
		p.spent.Add(int64(took))
	}
	return ok && err == nil, nil // an error is that time or memory for going back ran out
}

// translate compiles an expression. It returns errRegex if PCRE refuses it, and errUnsupported.
func translate(s string) (*regexp2.Regexp, error) {
	if len(s) > longestRegex {
		return nil, errUnsupported
	}
	if startOption.MatchString(s) {
		return nil, errUnsupported
	}
	t := &translator{in: s, names: map[string]int{}}
	t.countGroups()
	if _, err := t.alternatives(0, modes{}); err != nil {
		return nil, err
	}
	if t.at < len(s) { // a bracket that none opened
		return nil, errRegex
	}
	re, err := regexp2.Compile(t.out.String(), regexp2.OptionMaxBacktrackingStackSize(1<<20))
	if err != nil {
		return nil, errUnsupported
	}
	re.MatchTimeout = patience
	return re, nil
}

// set is a set of bytes.
type set256 [256]bool

func ranges(pairs ...int) (s set256) {
	for i := 0; i < len(pairs); i += 2 {
		for c := pairs[i]; c <= pairs[i+1]; c++ {
			s[c] = true
		}
	}
	return s
}

func (s set256) not() set256 {
	for i := range s {
		s[i] = !s[i]
	}
	return s
}

func (s *set256) add(other set256) {
	for i := range s {
		s[i] = s[i] || other[i]
	}
}

// The classes of PCRE with Erlang's tables, which are those of Latin-1.
var (
	classDigit  = ranges('0', '9')
	classAlpha  = ranges('A', 'Z', 'a', 'z', 170, 170, 181, 181, 186, 186, 192, 214, 216, 246, 248, 255)
	classAlnum  = ranges('0', '9', 'A', 'Z', 'a', 'z', 170, 170, 181, 181, 186, 186, 192, 214, 216, 246, 248, 255)
	classWord   = ranges('0', '9', 'A', 'Z', '_', '_', 'a', 'z', 170, 170, 181, 181, 186, 186, 192, 214, 216, 246, 248, 255)
	classSpace  = ranges('\t', '\r', ' ', ' ')
	classHSpace = ranges('\t', '\t', ' ', ' ', 160, 160)
	classVSpace = ranges('\n', '\r', 133, 133)

	posixClasses = map[string]set256{
		"alpha": classAlpha, "alnum": classAlnum, "word": classWord, "digit": classDigit, "space": classSpace,
		"lower": ranges('a', 'z', 170, 170, 181, 181, 186, 186, 223, 246, 248, 255), "upper": ranges('A', 'Z', 192, 214, 216, 222),
		"punct": ranges('!', '/', ':', '@', '[', '`', '{', '~', 160, 169, 171, 180, 182, 185, 187, 191, 215, 215, 247, 247),
		"print": ranges(' ', '~', 160, 255), "graph": ranges('!', '~', 160, 255), "cntrl": ranges(0, 31, 127, 159),
		"blank": ranges('\t', '\t', ' ', ' '), "xdigit": ranges('0', '9', 'A', 'F', 'a', 'f'), "ascii": ranges(0, 255),
	}

	escapedClasses = map[byte]set256{
		'd': classDigit, 'D': classDigit.not(), 'w': classWord, 'W': classWord.not(), 's': classSpace, 'S': classSpace.not(),
		'h': classHSpace, 'H': classHSpace.not(), 'v': classVSpace, 'V': classVSpace.not(), 'N': ranges('\n', '\n').not(),
	}
	escapedBytes = map[byte]byte{'a': 7, 'e': 27, 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}
)

// modes are what (?imsx) turns on.
type modes struct{ i, m, s, x bool }

type translator struct {
	in     string
	at     int
	out    strings.Builder
	groups int // all of them
	names  map[string]int
	opened int // so far
	width  int // of the last item, in bytes
}

func (t *translator) left() string { return t.in[t.at:] }

// countGroups counts the groups that capture, and notes their names.
func (t *translator) countGroups() {
	quoted := false
	for i := 0; i < len(t.in); i++ {
		rest := t.in[i:]
		switch {
		case quoted:
			if strings.HasPrefix(rest, `\E`) {
				quoted = false
				i++
			}
		case rest[0] == '\\':
			quoted = strings.HasPrefix(rest, `\Q`)
			i++
		case rest[0] == '[':
			i += max(classLength(rest), 1) - 1
		case strings.HasPrefix(rest, "(?#"):
			if n := strings.IndexByte(rest, ')'); n > 0 {
				i += n
			}
		case rest[0] == '(':
			if name, _ := groupName(rest); name != "" {
				t.groups++
				t.names[name] = t.groups
			} else if !strings.HasPrefix(rest, "(?") && !strings.HasPrefix(rest, "(*") {
				t.groups++
			}
		}
	}
}

// classLength is the length of a class in brackets, or 0 if it isn't closed.
func classLength(s string) int {
	i := 1
	if strings.HasPrefix(s[i:], "^") {
		i++
	}
	if strings.HasPrefix(s[i:], "]") {
		i++
	}
	for i < len(s) && s[i] != ']' {
		switch {
		case strings.HasPrefix(s[i:], `\Q`):
			n := strings.Index(s[i:], `\E`)
			if n < 0 {
				return 0
			}
			i += n + 2
		case s[i] == '\\':
			i += 2
		case posixName(s[i:]) != "":
			i += len(posixName(s[i:]))
		default:
			i++
		}
	}
	if i >= len(s) {
		return 0
	}
	return i + 1
}

// posixName is [:name:] at the start of s.
func posixName(s string) string {
	if !strings.HasPrefix(s, "[:") {
		return ""
	}
	for i := 2; i < len(s); i++ {
		if strings.HasPrefix(s[i:], ":]") {
			return s[:i+2]
		}
		if c := s[i]; (c < 'a' || c > 'z') && c != '^' {
			return ""
		}
	}
	return ""
}

// groupName reads (?<name>, (?'name' and (?P<name>.
func groupName(s string) (name, head string) {
	for _, q := range []string{"(?<", "(?P<", "(?'"} {
		if !strings.HasPrefix(s, q) {
			continue
		}
		end := ">"
		if q == "(?'" {
			end = "'"
		}
		n := strings.Index(s[len(q):], end)
		if n <= 0 {
			return "", ""
		}
		name = s[len(q) : len(q)+n]
		if isName(name) {
			return name, s[:len(q)+n+1]
		}
	}
	return "", ""
}

func isName(s string) bool {
	for i := range len(s) {
		if !classWord[s[i]] || i == 0 && classDigit[s[i]] {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// varies is the width of what may match more or fewer bytes.
const varies = -1

func plus(a, b int) int {
	if a == varies || b == varies {
		return varies
	}
	return a + b
}

// alternatives translates up to the end or a closing bracket, and returns how many bytes each alternative matches.
func (t *translator) alternatives(depth int, m modes) (widths []int, err error) {
	if depth > deepestRegex {
		return nil, errRegex
	}
	repeatable := false // what stands before may be repeated
	width := 0          // of the alternative up to what stands before
	t.width = 0         // of what stands before
	for t.at < len(t.in) {
		c := t.in[t.at]
		switch {
		case c == ')':
			return append(widths, plus(width, t.width)), nil
		case c == '|':
			t.at++
			t.out.WriteByte('|')
			widths = append(widths, plus(width, t.width))
			width, t.width, repeatable = 0, 0, false
		case c == '(':
			// Modes that are set hold until the group ends.
			before := t.width
			kind, w, err := t.group(depth, &m)
			if err != nil {
				return nil, err
			}
			if t.width = before; kind != nothing {
				width, t.width = plus(width, before), w
				repeatable = kind == something
			}
		case c == '*' || c == '+' || c == '?' || c == '{' && quantifier(t.left()) != "":
			if !repeatable {
				return nil, errRegex
			}
			if err := t.repeat(); err != nil {
				return nil, err
			}
			repeatable = false
		case m.x && strings.IndexByte(" \t\n\v\f\r", c) >= 0:
			t.at++
		case m.x && c == '#':
			n := strings.IndexByte(t.left(), '\n')
			if n < 0 {
				t.at = len(t.in)
			} else {
				t.at += n + 1
			}
		default:
			before := t.width
			t.width = 1
			kind, err := t.atom(c, m)
			if err != nil {
				return nil, err
			}
			if kind == nothing {
				t.width = before
				continue
			}
			if width = plus(width, before); kind == place {
				t.width = 0
			}
			repeatable = kind == something
		}
	}
	if depth > 0 {
		return nil, errRegex
	}
	return append(widths, plus(width, t.width)), nil
}

// quantifier is {n}, {n,} or {n,m} at the start of s.
func quantifier(s string) string {
	n := strings.IndexByte(s, '}')
	if n < 2 {
		return ""
	}
	low, high, _ := strings.Cut(s[1:n], ",")
	if low == "" || strings.Trim(low, "0123456789") != "" || strings.Trim(high, "0123456789") != "" {
		return ""
	}
	return s[:n+1]
}

func (t *translator) repeat() error {
	once := t.width
	t.width = varies
	if q := quantifier(t.left()); t.in[t.at] == '{' {
		low, high, two := strings.Cut(q[1:len(q)-1], ",")
		a, err := strconv.Atoi(low)
		b := a
		if err == nil && two && high != "" {
			b, err = strconv.Atoi(high)
		}
		if err != nil || a > 65535 || b > 65535 || b < a {
			return errRegex
		}
		if b > 1000 { // which regexp2 would write out
			return errUnsupported
		}
		t.out.WriteString(q)
		t.at += len(q)
		if once != varies && a == b && (!two || high != "") {
			t.width = once * a
		}
	} else {
		t.out.WriteByte(t.in[t.at])
		t.at++
	}
	if t.at < len(t.in) && (t.in[t.at] == '?' || t.in[t.at] == '+') {
		t.out.WriteByte(t.in[t.at])
		t.at++
	}
	return nil
}

// group translates what begins with a bracket, and says how many bytes it matches.
func (t *translator) group(depth int, m *modes) (kind outcome, width int, err error) {
	s := t.left()
	head, out := "(", ""
	inner := *m
	name, named := groupName(s)
	switch {
	case named != "":
		t.opened++
		if t.names[name] != t.opened {
			return place, 0, errRegex // two of one name
		}
		head, out = named, fmt.Sprintf("(?<g%d>", t.opened)
	case strings.HasPrefix(s, "(?#"):
		n := strings.IndexByte(s, ')')
		if n < 0 {
			return place, 0, errRegex
		}
		t.at += n + 1
		return nothing, 0, nil
	case strings.HasPrefix(s, "(?P="):
		n := strings.IndexByte(s, ')')
		if n < 0 {
			return place, 0, errRegex
		}
		t.at += n + 1
		return something, varies, t.reference(s[4:n], *m)
	case beyond(s):
		return place, 0, t.refuse(s)
	case strings.HasPrefix(s, "(?"):
		head = ""
		for _, h := range []string{"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"} {
			if strings.HasPrefix(s, h) {
				head, out = h, h
			}
		}
		if head == "" {
			head, err = flags(s, &inner)
			if err != nil {
				return place, 0, err
			}
			if strings.HasSuffix(head, ")") {
				*m = inner
				t.at += len(head)
				return place, 0, nil
			}
			out = "(?:"
		}
	default:
		t.opened++
		out = fmt.Sprintf("(?<g%d>", t.opened)
	}
	t.at += len(head)
	t.out.WriteString(out)
	widths, err := t.alternatives(depth+1, inner)
	if err != nil {
		return place, 0, err
	}
	if t.at >= len(t.in) {
		return place, 0, errRegex
	}
	t.at++
	t.out.WriteByte(')')
	switch head {
	case "(?=", "(?!":
		return something, 0, nil
	case "(?<=", "(?<!":
		if slices.Contains(widths, varies) {
			return place, 0, errRegex
		}
		return something, 0, nil
	}
	if slices.Min(widths) != slices.Max(widths) {
		return something, varies, nil
	}
	return something, widths[0], nil
}

var (
	// startOption is what an expression may begin with, and verb what stands in brackets within it.
	startOption = regexp.MustCompile(`^\(\*(UTF8?|UCP|CR|LF|CRLF|ANYCRLF|ANY|BSR_ANYCRLF|BSR_UNICODE|NO_START_OPT|NO_AUTO_POSSESS|LIMIT_(MATCH|RECURSION)=[0-9]+)\)`)
	verb        = regexp.MustCompile(`^\(\*(ACCEPT|F|FAIL|((COMMIT|PRUNE|SKIP|THEN|MARK)?(:[^)]*)?))\)`)
	// condition begins a group of which one part or the other counts.
	condition = regexp.MustCompile(`^\(\?\((\?=|\?!|\?<=|\?<!|[+-]?[0-9]+\)|R|DEFINE\)|<|'|[A-Za-z_])`)
)

// beyond says whether a bracket begins what is refused: verbs, numbers that start over, conditions, callouts and calls of groups.
func beyond(s string) bool {
	for _, head := range []string{"(*", "(?|", "(?(", "(?C", "(?R", "(?&", "(?P>"} {
		if strings.HasPrefix(s, head) {
			return true
		}
	}
	return len(s) > 2 && s[1] == '?' && (s[2] >= '0' && s[2] <= '9' || s[2] == '+') || len(s) > 3 && s[:3] == "(?-" && s[3] >= '0' && s[3] <= '9'
}

// refuse tells what is not supported here from what PCRE refuses too: brackets that aren't closed, and groups that aren't there.
func (t *translator) refuse(s string) error {
	inside, _, closed := strings.Cut(s[2:], ")")
	if !closed || s[1] == '*' && (!verb.MatchString(s) || s[2] == ')') || strings.HasPrefix(s, "(?(") && !condition.MatchString(s) {
		return errRegex
	}
	name := strings.TrimPrefix(strings.TrimPrefix(inside, "&"), "P>")
	n, err := strconv.Atoi(strings.TrimLeft(inside, "+-"))
	switch {
	case s[1] != '?', strings.HasPrefix(inside, "|"), strings.HasPrefix(inside, "("), strings.HasPrefix(inside, "C"), inside == "R":
	case err == nil && strings.HasPrefix(inside, "-"):
		if n > t.opened {
			return errRegex
		}
	case err == nil && strings.HasPrefix(inside, "+"):
		if t.opened+n > t.groups {
			return errRegex
		}
	case err == nil && n > t.groups, err != nil && t.names[name] == 0:
		return errRegex
	}
	return errUnsupported
}

// flags reads (?imsx-imsx: and (?imsx-imsx).
func flags(s string, m *modes) (head string, err error) {
	on := true
	for i := 2; i < len(s); i++ {
		switch s[i] {
		case 'i':
			m.i = on
		case 'm':
			m.m = on
		case 's':
			m.s = on
		case 'x':
			m.x = on
		case 'U', 'J', 'X':
			return "", errUnsupported
		case '-':
			if !on {
				return "", errRegex
			}
			on = false
		case ':', ')':
			return s[:i+1], nil
		default:
			return "", errRegex
		}
	}
	return "", errRegex
}

func (t *translator) reference(name string, m modes) error {
	n := t.names[name]
	if n == 0 {
		return errRegex
	}
	return t.backreference(n, m)
}

func (t *translator) backreference(n int, m modes) error {
	if n < 1 || n > t.groups {
		return errRegex
	}
	t.width = varies
	fold := "(?-i:"
	if m.i {
		fold = "(?i:"
	}
	fmt.Fprintf(&t.out, `%s\k<g%d>)`, fold, n)
	return nil
}

// outcome says what became of an atom.
type outcome int

const (
	something outcome = iota // may be repeated
	nothing                  // nothing was written
	place                    // a place, which can't be repeated
)

// atom translates one character, class or escape.
func (t *translator) atom(c byte, m modes) (outcome, error) {
	switch c {
	case '[':
		s, negated, n, err := class(t.left())
		if err != nil {
			return place, err
		}
		t.at += n
		t.set(s, negated, m)
		return something, nil
	case '\\':
		return t.escape(m)
	}
	t.at++
	switch c {
	case '.':
		if m.s {
			t.set(ranges(0, 255), false, modes{})
		} else {
			t.set(escapedClasses['N'], false, modes{})
		}
	case '^', '$':
		t.anchor(string(c), m)
		return place, nil
	default:
		t.literal(c, m)
	}
	return something, nil
}

func (t *translator) anchor(s string, m modes) {
	if m.m {
		t.out.WriteString("(?m:" + s + ")")
	} else {
		t.out.WriteString("(?-m:" + s + ")")
	}
}

func (t *translator) literal(c byte, m modes) { t.set(ranges(int(c), int(c)), false, m) }

// set writes a set of bytes, with the letters of the other case if case doesn't matter.
func (t *translator) set(s set256, negated bool, m modes) {
	if m.i {
		for c := range s {
			if s[c] {
				if other := otherCase(byte(c)); other != byte(c) {
					s[other] = true
				}
			}
		}
	}
	if negated {
		s = s.not()
	}
	t.out.WriteByte('[')
	none := true
	for i := 0; i < len(s); i++ {
		if !s[i] {
			continue
		}
		none = false
		last := i
		for last+1 < len(s) && s[last+1] {
			last++
		}
		fmt.Fprintf(&t.out, `\u%04x`, i)
		if last > i {
			fmt.Fprintf(&t.out, `-\u%04x`, last)
		}
		i = last
	}
	if none {
		t.out.WriteString(`^\u0000-\uffff`)
	}
	t.out.WriteByte(']')
}

// otherCase is the same letter of the other case, in Latin-1.
func otherCase(c byte) byte {
	switch {
	case c >= 'a' && c <= 'z', c >= 224 && c != 247 && c != 255:
		return c - 32
	case c >= 'A' && c <= 'Z', c >= 192 && c <= 222 && c != 215:
		return c + 32
	}
	return c
}

// class reads a class in brackets.
func class(s string) (out set256, negated bool, n int, err error) {
	for _, q := range []string{":", ".", "="} { // [:alpha:] outside of brackets
		if rest, ok := strings.CutPrefix(s, "["+q); ok {
			if n := strings.IndexByte(rest, ']'); n > 0 && rest[n-1] == q[0] {
				return out, false, 0, errRegex
			}
		}
	}
	length := classLength(s)
	if length == 0 {
		return out, false, 0, errRegex
	}
	i := 1
	if s[i] == '^' {
		negated = true
		i++
	}
	quoted := false
	from := -1 // the last single byte, which may begin a range
	inRange := false
	for first := true; i < length-1; first = false {
		single, n := -1, 1
		var many set256
		switch {
		case quoted && strings.HasPrefix(s[i:], `\E`):
			quoted = false
			i += 2
			continue
		case quoted:
			single = int(s[i])
		case s[i] == ']' && !first:
			return out, false, 0, errRegex
		case strings.HasPrefix(s[i:], `\Q`):
			quoted = true
			i += 2
			continue
		case strings.HasPrefix(s[i:], `\E`):
			i += 2
			continue
		case posixName(s[i:]) != "":
			name := posixName(s[i:])
			n = len(name)
			plain := strings.TrimPrefix(name[2:n-2], "^")
			found, ok := posixClasses[plain]
			if !ok {
				return out, false, 0, errRegex
			}
			if plain != name[2:n-2] {
				found = found.not()
			}
			many = found
		case strings.HasPrefix(s[i:], "[.") && strings.Contains(s[i+2:length], ".]"), strings.HasPrefix(s[i:], "[=") && strings.Contains(s[i+2:length], "=]"):
			return out, false, 0, errRegex
		case s[i] == '\\':
			if i+1 >= length-1 {
				return out, false, 0, errRegex
			}
			if known, ok := escapedClasses[s[i+1]]; ok && s[i+1] != 'N' {
				many, n = known, 2
			} else if s[i+1] == 'b' {
				single, n = 8, 2
			} else if s[i+1] == 'p' || s[i+1] == 'P' {
				many, n, err = property(s[i:length])
			} else {
				single, n, err = escapedByte(s[i:length], true)
			}
			if err != nil {
				return out, false, 0, err
			}
		case s[i] == '-' && from >= 0 && !inRange && i+1 < length-1:
			inRange = true
			i++
			continue
		default:
			single = int(s[i])
		}
		i += n
		switch {
		case inRange && single < 0:
			// PCRE takes the hyphen before a class for itself in brackets of its own time; Erlang's refuses it.
			return out, false, 0, errRegex
		case inRange:
			if single < from {
				return out, false, 0, errRegex
			}
			out.add(ranges(from, single))
			from, inRange = -1, false
		case single >= 0:
			out[single] = true
			from = single
		default:
			out.add(many)
			from = -1
		}
	}
	if inRange {
		out['-'] = true
	}
	return out, negated, length, nil
}

// property reads \p{..}, \P{..}, \pL and \PL.
func property(s string) (out set256, n int, err error) {
	negated := s[1] == 'P'
	if len(s) < 3 {
		return out, 0, errRegex
	}
	name := s[2:3]
	n = 3
	if name == "{" {
		end := strings.IndexByte(s, '}')
		if end < 0 {
			return out, 0, errRegex
		}
		name, n = s[3:end], end+1
		if strings.HasPrefix(name, "^") {
			name, negated = name[1:], !negated
		}
	}
	table, ok := unicode.Categories[name]
	if !ok {
		table, ok = unicode.Scripts[name]
	}
	if !ok {
		if slices.Contains([]string{"Any", "L&", "Xan", "Xps", "Xsp", "Xuc", "Xwd"}, name) {
			return out, 0, errUnsupported
		}
		return out, 0, errRegex
	}
	for c := range out {
		out[c] = unicode.Is(table, rune(c)) != negated
	}
	return out, n, nil
}

// escape translates what begins with a backslash outside of brackets.
func (t *translator) escape(m modes) (outcome, error) {
	s := t.left()
	if len(s) < 2 {
		return place, errRegex
	}
	c := s[1]
	if known, ok := escapedClasses[c]; ok {
		if c == 'N' && strings.HasPrefix(s[2:], "{") && quantifier(s[2:]) == "" {
			return place, errRegex
		}
		t.at += 2
		t.set(known, false, modes{})
		return something, nil
	}
	switch c {
	case 'Q':
		rest := s[2:]
		quoted, _, _ := strings.Cut(rest, `\E`)
		for i := range len(quoted) {
			t.literal(quoted[i], m)
		}
		t.width = len(quoted)
		t.at += 2 + len(quoted)
		if len(quoted) < len(rest) {
			t.at += 2
		}
		if quoted == "" {
			return nothing, nil
		}
		return something, nil
	case 'E':
		t.at += 2
		return nothing, nil
	case 'A', 'z', 'Z', 'G':
		t.at += 2
		t.out.WriteString(`\` + string(c))
		return place, nil
	case 'b', 'B':
		t.at += 2
		word := setText(classWord)
		if c == 'b' {
			fmt.Fprintf(&t.out, `(?:(?<=%[1]s)(?!%[1]s)|(?<!%[1]s)(?=%[1]s))`, word)
		} else {
			fmt.Fprintf(&t.out, `(?:(?<=%[1]s)(?=%[1]s)|(?<!%[1]s)(?!%[1]s))`, word)
		}
		return place, nil
	case 'K':
		t.at += 2
		t.out.WriteString("(?:)")
		return place, nil
	case 'C':
		t.at += 2
		t.set(ranges(0, 255), false, modes{})
		return something, nil
	case 'X', 'R':
		t.at += 2
		t.width = varies
		any := ranges(0, 255)
		if c == 'R' {
			any = classVSpace
		}
		t.out.WriteString(`(?>\u000d\u000a|`)
		t.set(any, false, modes{})
		t.out.WriteByte(')')
		return something, nil
	case 'p', 'P':
		set, n, err := property(s)
		if err != nil {
			return place, err
		}
		t.at += n
		t.set(set, false, modes{})
		return something, nil
	case 'g', 'k':
		return something, t.longReference(s, m)
	case 'L', 'l', 'U', 'u':
		return place, errRegex
	}
	if c >= '1' && c <= '9' {
		digits := s[1 : 1+len(s[1:])-len(strings.TrimLeft(s[1:], "0123456789"))]
		n, err := strconv.Atoi(digits)
		if err == nil && (n < 8 || n <= t.groups) {
			t.at += 1 + len(digits)
			return something, t.backreference(n, m)
		}
	}
	b, n, err := escapedByte(s, false)
	if err != nil {
		return place, err
	}
	t.at += n
	t.literal(byte(b), m)
	return something, nil
}

func setText(s set256) string {
	t := &translator{}
	t.set(s, false, modes{})
	return t.out.String()
}

// longReference translates \g{n}, \gn, \g{-n}, \g{name}, \k{name}, \k<name> and \k'name'.
func (t *translator) longReference(s string, m modes) error {
	name, n := "", 0
	for _, q := range []string{"{}", "<>", "''"} {
		if len(s) > 2 && s[2] == q[0] {
			if s[1] == 'g' && q != "{}" {
				return errUnsupported // a call of the group
			}
			end := strings.IndexByte(s[3:], q[1])
			if end < 0 {
				return errRegex
			}
			name, n = s[3:3+end], 4+end
		}
	}
	if n == 0 && s[1] == 'g' {
		rest := strings.TrimLeft(s[2:], "+-")
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n = len(s) - len(rest) + digits
		name = s[2:n]
	}
	t.at += n
	number, err := strconv.Atoi(name)
	switch {
	case err != nil || s[1] == 'k':
		return t.reference(name, m)
	case number < 0:
		return t.backreference(t.opened+1+number, m)
	}
	return t.backreference(number, m)
}

// escapedByte reads an escape that stands for a byte.
func escapedByte(s string, inClass bool) (b, n int, err error) {
	c := s[1]
	if known, ok := escapedBytes[c]; ok {
		return int(known), 2, nil
	}
	number := func(digits string, base int) (int, error) {
		if digits == "" {
			return 0, nil
		}
		v, err := strconv.ParseInt(digits, base, 32)
		if err != nil || v > 255 {
			return 0, errRegex
		}
		return int(v), nil
	}
	count := func(s, of string, most int) int {
		n := 0
		for n < len(s) && n < most && strings.IndexByte(of, s[n]) >= 0 {
			n++
		}
		return n
	}
	const octal, hex = "01234567", "0123456789abcdefABCDEF"
	switch {
	case c == 'c':
		if len(s) < 3 || s[2] >= 128 {
			return 0, 0, errRegex
		}
		return int(strings.ToUpper(s[2:3])[0] ^ 0x40), 3, nil
	case c == 'x' && strings.HasPrefix(s[2:], "{"), c == 'o' && strings.HasPrefix(s[2:], "{"):
		end := strings.IndexByte(s, '}')
		base, of := 16, hex
		if c == 'o' {
			base, of = 8, octal
		}
		if end < 4 || strings.Trim(s[3:end], of) != "" {
			return 0, 0, errRegex
		}
		b, err = number(s[3:end], base)
		return b, end + 1, err
	case c == 'x':
		n := count(s[2:], hex, 2)
		b, err = number(s[2:2+n], 16)
		return b, 2 + n, err
	case c == 'o':
		return 0, 0, errRegex
	case c >= '0' && c <= '7':
		n := count(s[1:], octal, 3)
		b, err = number(s[1:1+n], 8)
		return b, 1 + n, err
	case c == '8' || c == '9':
		return int(c), 2, nil
	case inClass && strings.IndexByte("LlUuN", c) >= 0:
		return 0, 0, errRegex
	}
	return int(c), 2, nil
}
