package httpd

import (
	"net"
	"net/http"
	"slices"
	"strings"
)

// OwnHost lets only requests through that were sent to this machine by an address, as
// localhost, or by one of the names given. It is for a server without log-in that its own
// machine alone reaches: a page in a browser there may have had its name point to
// 127.0.0.1 by now, and is of the same origin then, whatever it asks for.
func OwnHost(next http.Handler, names ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
		if host != "localhost" && net.ParseIP(host) == nil && !slices.Contains(names, host) {
			http.Error(w, "this server knows no log-in and answers for its own machine only: ask it as localhost or 127.0.0.1, or by its public_url", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
