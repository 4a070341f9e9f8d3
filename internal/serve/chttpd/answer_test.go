package chttpd

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// What goes wrong behind a beginning is told as long as nothing was sent, and cuts the answer off then. The log tells of both.
func TestFailedAnswers(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := &Handler{o: Options{Log: slog.New(slog.NewTextHandler(&log, nil))}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		a := &answer{w: w, head: hr.Method == http.MethodHead}
		r := &request{Request: hr, w: a, h: h}
		n, err := strconv.Atoi(hr.URL.Query().Get("n"))
		if err == nil {
			a.w.Header().Set("Etag", `"of what it isn't"`)
			a.beginJSON(http.StatusOK)
			err = a.writeString(strings.Repeat("x", n))
		}
		if err == nil {
			err = errors.New("a frame is damaged")
		}
		r.failed(err)
	}))
	defer s.Close()
	for _, tt := range []struct {
		method, n string
		status    int
		cut       bool
	}{
		{"GET", "0", 500, false}, {"GET", "100", 500, false}, {"GET", "30000", 500, false}, {"GET", "100000", 200, true}, {"HEAD", "100000", 500, false},
	} {
		log.Reset()
		req, err := http.NewRequestWithContext(t.Context(), tt.method, s.URL+"/?n="+tt.n, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // it was read
		if resp.StatusCode != tt.status || (err != nil) != tt.cut {
			t.Errorf("%s of %s bytes: %d, %v", tt.method, tt.n, resp.StatusCode, err)
		}
		const says = `{"error":"internal_server_error","reason":"What is stored can't be read: a frame is damaged"}` + "\n"
		if tt.status == 500 && (tt.method == "GET" && string(b) != says || resp.Header.Get("Etag") != "" || resp.ContentLength != int64(len(says))) {
			t.Errorf("%s of %s bytes: %v %q", tt.method, tt.n, resp.Header, b)
		}
		if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "a frame is damaged") {
			t.Errorf("%s of %s bytes: the log says %q", tt.method, tt.n, log.String())
		}
	}
}
