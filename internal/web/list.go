package web

import (
	"bytes"
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
	values := c.r.URL.Query()
	p := pager{Query: strings.TrimSpace(values.Get(q)), path: c.r.URL.Path, values: values, by: by}
	if words := strings.Fields(strings.ToLower(p.Query)); len(words) > 0 && text != nil {
		var found []T
		for _, one := range all {
			in := strings.ToLower(text(one))
			fits := true
			for _, w := range words {
				fits = fits && strings.Contains(in, w)
			}
			if fits {
				found = append(found, one)
			}
		}
		all = found
	}
	n, err := strconv.Atoi(values.Get(by))
	if err != nil || n < 1 {
		n = 1
	}
	pages := max(1, (len(all)+each-1)/each)
	n = min(n, pages)
	p.Of = len(all)
	from := (n - 1) * each
	to := min(from+each, len(all))
	p.From, p.To = min(from+1, to), to
	if n > 1 {
		p.prev = n - 1
	}
	if n < pages {
		p.next = n + 1
	}
	return all[from:to], p
}

// finder finds words in the texts of one thing, ignoring case. It is for lists of very many, since it makes no garbage.
type finder struct {
	words []string
	text  []byte
}

func finderOf(query string) *finder { return &finder{words: strings.Fields(strings.ToLower(query))} }

// none says that nothing is searched for.
func (f *finder) none() bool { return len(f.words) == 0 }

// fits reports whether each word is in one of the texts.
func (f *finder) fits(texts ...string) bool {
	f.text = f.text[:0]
	for _, t := range texts {
		f.text = append(f.text, ' ')
		for i := range len(t) {
			b := t[i]
			if b >= utf8.RuneSelf {
				f.text = append(f.text, strings.ToLower(t[i:])...)
				break
			}
			if 'A' <= b && b <= 'Z' {
				b += 'a' - 'A'
			}
			f.text = append(f.text, b)
		}
	}
	for _, w := range f.words {
		if !bytes.Contains(f.text, []byte(w)) {
			return false
		}
	}
	return true
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
