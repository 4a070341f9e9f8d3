package web_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
)

// mostPage and mostPacked are how large a page may be, in bytes, as HTML and as it is sent.
const mostPage, mostPacked = 256 << 10, 32 << 10

// No page grows with what the service looks after: with 1,000 instances each is sent within 32 KB.
func TestPagesAreSmall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(manyInstances, 1000)
	cookie := w.as(access.Admin).jar.Cookies(mustURL(t, w.HTTP.URL))[0]
	instance := w.Server.Instances(caller(), false)[0].ID
	for _, path := range []string{"/", "/?page=3", "/backups", "/backups/new", "/jobs", "/schedules", "/schedules/new", "/agents", "/agents/join", "/repositories", "/space", "/tokens", "/restore", "/find?q=node", "/instances/" + instance} {
		size := func(encoding string) int {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, w.HTTP.URL+path, http.NoBody)
			r.Header.Set("Accept", "text/html")
			r.Header.Set("Accept-Encoding", encoding)
			r.AddCookie(cookie)
			out := httptest.NewRecorder()
			w.HTTP.Config.Handler.ServeHTTP(out, r)
			if out.Code != http.StatusOK || out.Header().Get("Content-Encoding") != map[string]string{"gzip": "gzip"}[encoding] {
				t.Fatalf("%s: %d, encoded as %q", path, out.Code, out.Header().Get("Content-Encoding"))
			}
			return out.Body.Len()
		}
		plain, packed := size("identity"), size("gzip")
		t.Logf("%-30s %6d bytes, sent as %5d", path, plain, packed)
		if plain > mostPage || packed > mostPacked {
			t.Errorf("%s has %d bytes, sent as %d", path, plain, packed)
		}
	}
}
