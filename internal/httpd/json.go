package httpd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"unicode/utf8"
)

// ReadJSON reads the body of a request that is to be JSON, of at most so many bytes, and
// cuts off the white space around it; whether it is JSON is for the caller to find out.
// Of a body that it doesn't take it returns what refuse makes of the status of the answer
// and a sentence.
func ReadJSON(r *http.Request, limit int64, refuse func(status int, message string) error) ([]byte, error) {
	text, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, limit))
	if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
		return nil, refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("The body is larger than %d bytes.", tooBig.Limit))
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "The body could not be read to its end.")
	}
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return nil, refuse(http.StatusBadRequest, "The request has no body: send a JSON object.")
	}
	// Not only for clarity: a page in a browser can't send this type to other sites.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, refuse(http.StatusUnsupportedMediaType, "The body must be JSON, with Content-Type: application/json.")
	}
	if !utf8.Valid(text) {
		return nil, refuse(http.StatusBadRequest, "The body is not UTF-8.")
	}
	return text, nil
}

// SendJSON answers with a body, which nobody is to keep, since it is for one caller; with
// nil it answers without one. If it returns an error, nothing was sent.
func SendJSON(w http.ResponseWriter, status int, body any) error {
	if body == nil {
		w.WriteHeader(status)
		return nil
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false) // & in links
	if err := e.Encode(body); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes()) // a client that went away needs no answer
	return nil
}
