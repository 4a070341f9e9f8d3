package httpd

import "net/http"

// Allowed returns the methods that a path has, as a ServeMux says them in the header
// Allow when it answers a request with 405; "" if it would answer with anything else.
// With it an API says in its own form what the mux says in plain text.
func Allowed(h http.Handler, r *http.Request) string {
	said := &silent{header: http.Header{}}
	h.ServeHTTP(said, r)
	if said.status != http.StatusMethodNotAllowed {
		return ""
	}
	return said.header.Get("Allow")
}

// silent is a ResponseWriter that keeps the header only.
type silent struct {
	header http.Header
	status int
}

func (s *silent) Header() http.Header         { return s.header }
func (s *silent) WriteHeader(status int)      { s.status = status }
func (s *silent) Write(p []byte) (int, error) { return len(p), nil }
