package httpd_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/slipcover/slipcover/internal/httpd"
)

func TestOwnHost(t *testing.T) {
	h := httpd.OwnHost(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), "db.example.org")
	for host, want := range map[string]int{
		"127.0.0.1:8779": 200, "127.0.0.1": 200, "[::1]:8779": 200, "[::1]": 200, "localhost:8779": 200, "LOCALHOST.": 200, "db.example.org:8779": 200, "DB.example.org": 200,
		"evil.example:8779": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example:8779": 421, "": 421, "evil.example": 421,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%q: %d, want %d", host, w.Code, want)
		}
	}
}
