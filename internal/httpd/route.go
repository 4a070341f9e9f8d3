package httpd

import (
	"context"
	"net/http"
	"path"
)

// Routes are the methods and paths of an API whose requests come with something more that
// is known by then: a C, such as who asks. They are patterns of a ServeMux.
type Routes[C any] struct {
	// Refuse answers in the API's form what a ServeMux says in plain text: that there is
	// no such path, or that it has no such method.
	Refuse func(w http.ResponseWriter, status int, message string)

	mux http.ServeMux
}

type callKey struct{}

// Handle adds a route.
func (s *Routes[C]) Handle(pattern string, do func(http.ResponseWriter, *http.Request, C)) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { do(w, r, r.Context().Value(callKey{}).(C)) })
}

// Serve does what the routes have for a request. A path that is not in its shortest form,
// from which a ServeMux would send clients elsewhere, is none.
func (s *Routes[C]) Serve(w http.ResponseWriter, r *http.Request, c C) {
	h, pattern := s.mux.Handler(r)
	said := &silent{header: http.Header{}}
	switch p := r.URL.EscapedPath(); {
	case path.Clean(p) != p:
		said.status = http.StatusNotFound
	case pattern != "":
		r.Pattern = pattern // for the log of whoever passed r on
		s.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
		return
	default:
		h.ServeHTTP(said, r)
	}
	if said.status != http.StatusMethodNotAllowed {
		s.Refuse(w, http.StatusNotFound, "The resource could not be found.")
		return
	}
	allowed := said.header.Get("Allow")
	w.Header().Set("Allow", allowed)
	s.Refuse(w, said.status, "The method is not allowed here: use "+allowed+".")
}

// silent is a ResponseWriter that keeps the header only.
type silent struct {
	header http.Header
	status int
}

func (s *silent) Header() http.Header         { return s.header }
func (s *silent) WriteHeader(status int)      { s.status = status }
func (s *silent) Write(p []byte) (int, error) { return len(p), nil }
