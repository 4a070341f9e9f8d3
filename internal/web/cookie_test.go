package web_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/web"
)

// Over TLS, here or at a proxy in front, the cookie of a session goes to this host alone, over TLS alone, with requests of the
// same site, and to no script; one under the name that it has without TLS counts for nothing.
func TestCookieOverTLS(t *testing.T) {
	t.Parallel()
	direct := newWorld(t)
	s := httptest.NewTLSServer(direct.HTTP.Config.Handler)
	t.Cleanup(s.Close)
	proxied := newWorld(t, func(o *web.Options) { o.URL = "https://backup.example" })
	for name, x := range map[string]struct {
		w         *world
		url, host string
	}{
		"TLS here":       {direct, s.URL, ""},
		"TLS at a proxy": {proxied, proxied.HTTP.URL, "backup.example"},
	} {
		client := s.Client()
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		ask := func(method, path, body string, cookies ...*http.Cookie) (status int, set []*http.Cookie) {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), method, x.url+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Host = x.host
			r.Header.Set("Accept", "text/html")
			if body != "" {
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			for _, c := range cookies {
				r.AddCookie(c)
			}
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.StatusCode, resp.Cookies()
		}
		_, got := ask(http.MethodPost, "/login", url.Values{"token": {x.w.Token(project, access.Viewer)}}.Encode())
		if len(got) != 1 {
			t.Fatalf("%s: %v", name, got)
		}
		c := got[0]
		if c.Name != "__Host-slipcover" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.Expires.IsZero() {
			t.Errorf("%s: %s", name, c.Raw)
		}
		if status, _ := ask(http.MethodGet, "/jobs", "", &http.Cookie{Name: c.Name, Value: c.Value}); status != http.StatusOK {
			t.Errorf("%s: with it %d", name, status)
		}
		if status, _ := ask(http.MethodGet, "/jobs", "", &http.Cookie{Name: "slipcover", Value: c.Value}); status != http.StatusSeeOther {
			t.Errorf("%s: under the other name %d", name, status)
		}
		_, got = ask(http.MethodPost, "/logout", "", &http.Cookie{Name: c.Name, Value: c.Value})
		if len(got) != 1 || got[0].MaxAge >= 0 {
			t.Errorf("%s: signing out leaves %v", name, got)
		}
		for _, c := range got {
			if !c.Secure || !c.HttpOnly {
				t.Errorf("%s: at the end %s", name, c.Raw)
			}
		}
		if status, _ := ask(http.MethodGet, "/jobs", "", &http.Cookie{Name: c.Name, Value: c.Value}); status != http.StatusSeeOther {
			t.Errorf("%s: after the end %d", name, status)
		}
	}
}
