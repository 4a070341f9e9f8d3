package web

import (
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// perPage is how many rows a list shows.
const perPage = 50

// pager is the foot of a list: "1 to 50 of 1,234", and the way to the others.
type pager struct {
	From, To, Of int
	Query        string // what is searched for
	prev, next   int
	path         string
	values       url.Values
	by           string // name of the parameter that has the page
}

// paged returns a page of what there is, as the query of the request asks: q is searched
// for in what text returns, ignoring case, and page counts from 1. A page that isn't there
// is the last one.
func paged[T any](c *call, all []T, text func(T) string) ([]T, pager) {
	return pagedBy(c, all, "q", "page", perPage, text)
}

// pagedBy is paged for a page with several lists: their parameters have names of their own.
func pagedBy[T any](c *call, all []T, q, by string, each int, text func(T) string) ([]T, pager) {
	if find := finderOf(c.r.URL.Query().Get(q)); !find.none() && text != nil {
		var found []T
		for _, one := range all {
			if find.fits(text(one)) {
				found = append(found, one)
			}
		}
		all = found
	}
	from := c.asked(by, each)
	p := c.pagerOf(q, by, each, from, len(all))
	return all[max(p.From-1, 0):p.To], p
}

// asked is the offset of the page that the request asks for.
func (c *call) asked(by string, each int) int {
	n, err := strconv.Atoi(c.r.URL.Query().Get(by))
	if err != nil || n < 1 {
		return 0
	}
	return (min(n, 1<<40/each) - 1) * each
}

// pagerOf is the foot of a list of so many rows, at the page with that offset, or the last one.
func (c *call) pagerOf(q, by string, each, from, of int) pager {
	values := c.r.URL.Query()
	p := pager{Query: strings.TrimSpace(values.Get(q)), Of: of, path: c.r.URL.Path, values: values, by: by}
	pages := max(1, (of+each-1)/each)
	n := min(from/each+1, pages)
	from = (n - 1) * each
	p.To = min(from+each, of)
	p.From = min(from+1, p.To)
	if n > 1 {
		p.prev = n - 1
	}
	if n < pages {
		p.next = n + 1
	}
	return p
}

// finder finds words in the texts of one thing, ignoring case. It is for lists of very many, since it makes no garbage.
type finder struct {
	words []string
	ids   []bool          // by word: it may be in an id
	known map[string]seen // by instance; see backup
}

// seen is which words are in the names of an instance, as a set of bits.
type seen struct {
	also string // its name in repositories
	bits uint64
}

// mostWords is how many words are looked for; what comes behind them is not.
const mostWords = 64

func finderOf(query string) *finder {
	f := &finder{words: strings.Fields(strings.ToLower(query)), known: map[string]seen{}}
	f.words = f.words[:min(len(f.words), mostWords)]
	for _, w := range f.words {
		f.ids = append(f.ids, strings.Trim(w, "0123456789abcdef-") == "")
	}
	return f
}

// none says that nothing is searched for.
func (f *finder) none() bool { return len(f.words) == 0 }

// all is the set of all words.
func (f *finder) all() uint64 { return 1<<len(f.words) - 1 }

// fits reports whether each word is in one of the texts.
func (f *finder) fits(texts ...string) bool {
	bits := uint64(0)
	for _, t := range texts {
		bits |= f.in(t, bits)
	}
	return bits == f.all()
}

// in returns which words are in a text, of those that were not found yet.
func (f *finder) in(text string, found uint64) uint64 {
	bits := uint64(0)
	for n, w := range f.words {
		if found&(1<<n) == 0 && containsFold(text, w) {
			bits |= 1 << n
		}
	}
	return bits
}

// inID is in for the id of one thing.
func (f *finder) inID(id string, found uint64) uint64 {
	bits := uint64(0)
	for n, w := range f.words {
		if found&(1<<n) == 0 && f.ids[n] && containsFold(id, w) {
			bits |= 1 << n
		}
	}
	return bits
}

// containsFold reports whether a word, which is in small letters, is in a text of any letters.
func containsFold(text, word string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return strings.Contains(strings.ToLower(text), word)
		}
	}
	for at := 0; at+len(word) <= len(text); at++ {
		n := 0
		for n < len(word) {
			b := text[at+n]
			if 'A' <= b && b <= 'Z' {
				b += 'a' - 'A'
			}
			if b != word[n] {
				break
			}
			n++
		}
		if n == len(word) {
			return true
		}
	}
	return false
}

// Prev is the path of the page before; "" if there is none.
func (p pager) Prev() string { return p.link(p.prev) }

// Next is the path of the page after; "" if there is none.
func (p pager) Next() string { return p.link(p.next) }

func (p pager) link(n int) string {
	if n == 0 {
		return ""
	}
	v := url.Values{}
	for key, value := range p.values {
		v[key] = value
	}
	v.Set(p.by, strconv.Itoa(n))
	return p.path + "?" + v.Encode()
}
