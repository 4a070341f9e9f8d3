package restore

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/words"
)

// glob is a pattern for names of databases: "*" is any text, slashes included,
// "?" one character, "[a-c]" one of a class, "[!a-c]" one that is not in it.
type glob struct {
	text string
	re   *regexp.Regexp
}

func parseGlob(s string) (glob, error) {
	var b strings.Builder
	b.WriteString("^")
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		case '[':
			class, n := globClass(s[i:])
			if n == 0 {
				return glob{}, fmt.Errorf("%w: %q: a \"[\" needs its \"]\"", ErrOptions, s)
			}
			b.WriteString(class)
			i += n - 1
		default:
			b.WriteString(regexp.QuoteMeta(s[i : i+1]))
		}
	}
	b.WriteString("$")
	re, err := regexp.Compile(b.String())
	if err != nil {
		return glob{}, fmt.Errorf("%w: %q is not a pattern", ErrOptions, s)
	}
	return glob{s, re}, nil
}

// Globs returns what tells whether the name of a database fits one of some patterns. It returns
// ErrOptions if one of them is none.
func Globs(patterns []string) (func(name string) bool, error) {
	list := make([]glob, len(patterns))
	for i, p := range patterns {
		var err error
		if list[i], err = parseGlob(p); err != nil {
			return nil, err
		}
	}
	return func(name string) bool { return slices.ContainsFunc(list, func(g glob) bool { return g.match(name) }) }, nil
}

// Choose is Globs for patterns that each must fit one of the names, else it is ErrNoSuchDB. No patterns fit every name.
func Choose(names, patterns []string) (func(name string) bool, error) {
	if len(patterns) == 0 {
		return func(string) bool { return true }, nil
	}
	for _, p := range patterns {
		g, err := parseGlob(p)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(names, g.match) {
			return nil, noSuchDB(g, names)
		}
	}
	return Globs(patterns)
}

// globClass returns the regular expression of the class that s begins with, as shells
// read it, and its length in s, 0 if it has no end. "!" or "^" at its beginning negates
// it, and a "]" there is one of its characters.
func globClass(s string) (class string, n int) {
	negated, from := "", 1
	if from < len(s) && (s[from] == '!' || s[from] == '^') {
		negated, from = "^", 2
	}
	if from+1 > len(s) {
		return "", 0
	}
	end := strings.IndexByte(s[from+1:], ']')
	if end < 0 {
		return "", 0
	}
	inside := s[from : from+1+end]
	escaped := strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`, `&`, `\&`).Replace(inside)
	return "[" + negated + escaped + "]", from + 1 + end + 1
}

func (g glob) match(name string) bool { return g.re.MatchString(name) }

// near returns up to three names that look like the pattern.
func near(g glob, names []string) []string {
	want := strings.Trim(g.text, "*?")
	type scored struct {
		name string
		d    int
	}
	var list []scored
	for _, n := range names {
		d := words.Distance(want, n)
		if want != "" && (strings.Contains(n, want) || strings.Contains(want, n)) {
			d = min(d, 1)
		}
		if d <= max(2, len(want)/2) {
			list = append(list, scored{n, d})
		}
	}
	slices.SortFunc(list, func(a, b scored) int { return cmp.Or(cmp.Compare(a.d, b.d), cmp.Compare(a.name, b.name)) })
	var out []string
	for _, s := range list[:min(3, len(list))] {
		out = append(out, s.name)
	}
	return out
}
