package admin

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/calendar"
)

// maxBody is more than any request needs, in bytes; an agent's hello is the largest.
const maxBody = 64 << 10

// body reads the body of a request, a JSON object.
func body(r *http.Request) ([]byte, error) { return api.Body(r, maxBody) }

// decode reads a JSON object into a struct; what the object doesn't name stays. Fields
// that the struct doesn't have are refused.
func decode(text []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := api.Decode(d, to); err != nil {
		return err
	}
	if text[0] != '{' {
		return api.Invalid("The body must be a JSON object.")
	}
	return nil
}

// read is body and decode.
func (c *call) read(to any) error {
	text, err := body(c.r)
	if err != nil {
		return err
	}
	return decode(text, to)
}

// length is a time.Duration as text: 90s, 15m, 1h30m, 12h, 30d, 2w, 1y. In it a day has
// 24 hours and a year 365 days, and m is minutes.
type length time.Duration

// String returns the shortest form of hours, minutes and seconds.
func (l length) String() string {
	text := time.Duration(l).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText is String.
func (l length) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a length, which is not negative.
func (l *length) UnmarshalText(text []byte) error {
	if !bytes.ContainsAny(text, "ms") { // to a span, m is months
		if s, err := calendar.ParseSpan(string(text)); err == nil {
			from := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
			s.Weeks, s.Days, s.Years = 0, s.Days+7*s.Weeks+365*s.Years, 0
			*l = length(s.After(from).Sub(from))
			return nil
		}
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < 0 {
		return api.Invalid("%.40q is no length of time: write it as 15m, 1h30m, 12h, 30d or 1y.", text)
	}
	*l = length(d)
	return nil
}
