package takeout

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A node's first answer about a database of its own may be a conflict; one to a write is told.
func TestConflictOfANodeIsAskedAgain(t *testing.T) {
	t.Parallel()
	asked := 0
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			_, _ = w.Write([]byte(`{"couchdb":"Welcome"}`))
			return
		}
		if asked++; asked == 1 || r.Method == http.MethodPut {
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write([]byte(`{"error":"conflict","reason":"Document update conflict."}`))
			return
		}
		_, _ = w.Write([]byte(`{"_id":"db","shard_suffix":[46],"by_node":{}}`))
	}))
	defer h.Close()
	s, _, err := Open(t.Context(), h.URL, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.mapOf(t.Context(), "db"); err != nil || m == nil || asked != 2 {
		t.Errorf("read: %v, %v after %d requests", m, err, asked)
	}
	asked = 0
	if err := s.call(t.Context(), http.MethodPut, mapPath("db"), []byte("{}"), nil); err == nil || !strings.Contains(err.Error(), "conflict") || asked != 1 {
		t.Errorf("write: %v after %d requests", err, asked)
	}
}
