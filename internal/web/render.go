package web

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/access"
)

//go:embed templates/*.html
var templates embed.FS

// set is the templates, with the functions that write times in one zone.
type set struct {
	t    *template.Template
	zone *time.Location
}

// mostZones bounds how many sets are kept; one takes some hundred kilobytes.
const mostZones = 40

// set returns the templates for a time zone.
func (s *Site) set(zone *time.Location) (*set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.sets[zone.String()]; t != nil {
		return t, nil
	}
	if len(s.sets) >= mostZones {
		clear(s.sets)
	}
	n := &set{zone: zone}
	t, err := template.New("").Funcs(s.functions(zone)).Funcs(contentFunctions).ParseFS(templates, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("read the templates: %w", err)
	}
	n.t = t
	s.sets[zone.String()] = n
	return n, nil
}

// zoneCookie has the reader's time zone, as the script says it. It is no secret.
const zoneCookie = "zone"

// zoneOf is the reader's time zone: the server's own until the script has told it.
func zoneOf(r *http.Request) *time.Location {
	if c, err := r.Cookie(zoneCookie); err == nil {
		if name, err := url.QueryUnescape(c.Value); err == nil && len(name) <= 64 && name != "" {
			if zone, err := time.LoadLocation(name); err == nil {
				return zone
			}
		}
	}
	return time.Local
}

// view is what the templates are given.
type view struct {
	Title string // of the page; the verdict is put before it
	Page  string // name of its template
	Data  any    // of that template

	Who     *access.Caller // nil for who isn't signed in
	Auth    string
	Path    string // of the page, with its query
	Here    string // which entry of the menu it is, by its first segment
	Nav     *nav   // nil for who isn't signed in
	Said    string // what the last action came to
	Zone    string
	Host    string
	Version string
	Main    template.HTML // the page's template, executed
	Stream  string        // where the events of a live page are; "" is Path
	Live    bool          // parts of it are sent again when something changes
}

// May is for templates: whether the caller may do what needs a role, by its name.
func (v *view) May(role string) bool {
	r, err := access.ParseRole(role)
	return err == nil && v.Who != nil && v.Who.May(r)
}

// answer is what a page answers with.
type answer struct {
	status int
	view   *view  // nil for a redirection
	to     string // where that leads
	// live is the template of those parts of the page that change by themselves; "" has none.
	live string
}

// page answers with a template.
func (c *call) page(title, name string, data any) *answer {
	return &answer{status: http.StatusOK, view: &view{Title: title, Page: name, Data: data}}
}

// livePage answers with a template in which another one, live, is included: that is sent
// again whenever it comes out differently.
func (c *call) livePage(title, name, live string, data any) *answer {
	a := c.page(title, name, data)
	a.live = live
	return a
}

// again answers to a form with the same page, in which it says what is wrong.
func (c *call) again(title, name string, data any) *answer {
	a := c.page(title, name, data)
	a.status = http.StatusUnprocessableEntity
	return a
}

// see answers to a form that was taken: the browser goes on to another page, where it is
// said what came of it; "" says nothing.
func (c *call) see(to, said string) *answer {
	if said != "" {
		http.SetCookie(c.w, &http.Cookie{Name: saidCookie, Value: base64.RawURLEncoding.EncodeToString([]byte(said[:min(len(said), 1000)])), Path: "/",
			MaxAge: 60, HttpOnly: true, Secure: c.secure(c.r), SameSite: http.SameSiteStrictMode})
	}
	return &answer{status: http.StatusSeeOther, to: to}
}

const saidCookie = "said"

// takeSaid reads what see left, once.
func (c *call) takeSaid() {
	if c.r.Method != http.MethodGet || streams(c.r) {
		return
	}
	k, err := c.r.Cookie(saidCookie)
	if err != nil {
		return
	}
	if text, err := base64.RawURLEncoding.DecodeString(k.Value); err == nil {
		c.said = strings.ToValidUTF8(string(text), "")
	}
	http.SetCookie(c.w, &http.Cookie{Name: saidCookie, Path: "/", MaxAge: -1, HttpOnly: true, Secure: c.secure(c.r), SameSite: http.SameSiteStrictMode})
}

// complete fills in what all pages have.
func (c *call) complete(v *view) {
	v.Who, v.Auth, v.Said, v.Version = c.who, c.o.Auth, c.said, c.o.Version
	v.Path, v.Host = c.r.URL.RequestURI(), c.r.Host
	v.Zone = zoneName(c.set.zone, c.now())
	first, _, _ := strings.Cut(strings.TrimPrefix(c.r.URL.Path, "/"), "/")
	if v.Here == "" {
		v.Here = first
	}
	if c.who != nil {
		v.Nav = c.nav()
	}
}

// send sends an answer. A page that can't be made is a fault, of which nothing was sent.
func (c *call) send(a *answer) {
	if a.view == nil {
		if fromHTMX(c.r) {
			c.w.Header().Set("HX-Redirect", a.to)
			c.w.WriteHeader(http.StatusOK)
			return
		}
		http.Redirect(c.w, c.r, a.to, a.status) // paths of our own, see local
		return
	}
	a.view.Live = a.live != ""
	text, err := c.render(a.view)
	if err != nil {
		c.fail(err)
		return
	}
	c.write(a.status, text)
}

func (c *call) render(v *view) ([]byte, error) {
	c.complete(v)
	var b bytes.Buffer
	if err := c.set.t.ExecuteTemplate(&b, v.Page, v); err != nil {
		return nil, fmt.Errorf("make the page: %w", err)
	}
	v.Main = template.HTML(b.String()) // made by a template just now
	var page bytes.Buffer
	layout := "layout"
	if v.Nav == nil {
		layout = "outside"
	}
	if err := c.set.t.ExecuteTemplate(&page, layout, v); err != nil {
		return nil, fmt.Errorf("make the page: %w", err)
	}
	return page.Bytes(), nil
}

var zippers = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// write sends a page, compressed if the browser takes it so.
func (c *call) write(status int, text []byte) {
	h := c.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Add("Vary", "Accept-Encoding")
	if acceptsGzip(c.r) && len(text) > 1024 {
		var b bytes.Buffer
		z := zippers.Get().(*gzip.Writer)
		defer zippers.Put(z)
		z.Reset(&b)
		_, _ = z.Write(text) // into memory
		_ = z.Close()
		text = b.Bytes()
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", strconv.Itoa(len(text)))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(text) // who went away needs no answer
	}
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == "gzip" && strings.TrimSpace(q) != "q=0" {
			return true
		}
	}
	return false
}

// fromHTMX says that htmx asks, which follows no redirections of its own.
func fromHTMX(r *http.Request) bool { return r.Header.Get("HX-Request") == "true" }
