package httpd_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/httpd"
)

type span time.Duration

func (s *span) UnmarshalText([]byte) error { return nil }

type Inner struct {
	Name string `json:"name"`
	On   bool   `json:"on"`
	Keep struct {
		Last int `json:"last"`
	} `json:"keep"`
	For span `json:"for"`
}

type outer struct {
	Inner
	List []struct {
		Free int64 `json:"free_bytes"`
	} `json:"list"`
	At time.Time `json:"at"`
}

// Who sends JSON is told of his fields, and not of our types.
func TestJSONFault(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`[]`:                              "The body must be a JSON object, not a list",
		`"x"`:                             "The body must be a JSON object, not text",
		`5`:                               "The body must be a JSON object, not a number",
		`{"name": 5}`:                     "name must be text, not a number",
		`{"name": {}}`:                    "name must be text, not an object",
		`{"on": "yes"}`:                   "on must be true or false, not text",
		`{"keep": []}`:                    "keep must be a JSON object, not a list",
		`{"keep": {"last": "x"}}`:         "keep.last must be a whole number, not text",
		`{"for": 15}`:                     "for must be text, not a number",
		`{"list": {}}`:                    "list must be a list, not an object",
		`{"list": [{"free_bytes": 1.5}]}`: "list.free_bytes must be a whole number, not 1.5",
		`{"list": [{"free_bytes": ` + strings.Repeat("9", 1000) + `}]}`: "list.free_bytes must be a whole number, not " + strings.Repeat("9", 40),
		`{"at": 5}`:            "The body has a value of the wrong form",
		`{"at": "noon"}`:       "The body has a value of the wrong form",
		`{"colour": 5}`:        `The body has an unknown field "colour"`,
		`{"name": "x"`:         "The body is not JSON: unexpected EOF",
		`{"name": x}`:          "The body is not JSON: invalid character 'x' looking for beginning of value",
		`{"name": true, "on"}`: "The body is not JSON: invalid character '}' after object key",
	} {
		d := json.NewDecoder(bytes.NewReader([]byte(text)))
		d.DisallowUnknownFields()
		err := d.Decode(&outer{})
		if err == nil {
			t.Errorf("%.60s: no error", text)
			continue
		}
		if got := httpd.JSONFault("The body", err); got != want {
			t.Errorf("%.60s: got %q, want %q (%v)", text, got, want, err)
		}
	}
}
