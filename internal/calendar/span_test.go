package calendar_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/calendar"
)

func TestParseSpan(t *testing.T) {
	tests := []struct {
		text string
		want calendar.Span
	}{
		{"0", calendar.Span{}},
		{"12h", calendar.Span{Hours: 12}},
		{"30d", calendar.Span{Days: 30}},
		{"2w", calendar.Span{Weeks: 2}},
		{"6m", calendar.Span{Months: 6}},
		{"1y6m", calendar.Span{Years: 1, Months: 6}},
		{"1y2m3w4d5h", calendar.Span{1, 2, 3, 4, 5}},
		{"100y", calendar.Span{Years: 100}},
		{"876000h", calendar.Span{Hours: 876000}},
	}
	for _, tt := range tests {
		got, err := calendar.ParseSpan(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.text, got, err, tt.want)
		}
		if got.String() != tt.text || got.IsZero() != (tt.text == "0") {
			t.Errorf("%s is printed as %s, zero: %v", tt.text, got, got.IsZero())
		}
	}
	for text, want := range map[string]string{"0d": "0", "007d": "7d", "0y1h": "1h"} {
		if got, err := calendar.ParseSpan(text); err != nil || got.String() != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
}

func TestNoSpans(t *testing.T) {
	for _, text := range []string{"", "d", "5", "-1d", "+1d", "1.5d", "1d1d", "6m1y", "30 d", "1D", "90min", "1s", "101y", "1201m", "99999999999999999999d", "1y1200m", "١d"} {
		if got, err := calendar.ParseSpan(text); err == nil || !strings.Contains(err.Error(), "such as 12h") || got != (calendar.Span{}) {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
	}
}

func TestSpanInJSON(t *testing.T) {
	type doc struct{ Within calendar.Span }
	b, err := json.Marshal(doc{calendar.Span{Years: 1, Months: 6}})
	if err != nil || string(b) != `{"Within":"1y6m"}` {
		t.Errorf("%s, %v", b, err)
	}
	var d doc
	if err := json.Unmarshal(b, &d); err != nil || d.Within != (calendar.Span{Years: 1, Months: 6}) {
		t.Errorf("%+v, %v", d, err)
	}
	if err := json.Unmarshal([]byte(`{"Within":"soon"}`), &d); err == nil {
		t.Error("soon is a span")
	}
}

func TestBeforeAndAfter(t *testing.T) {
	tests := []struct {
		from, span, before, after string
	}{
		{"2026-11-22T10:00:00Z", "0", "2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z"},
		{"2026-11-22T10:00:00Z", "12h", "2026-11-21T22:00:00Z", "2026-11-22T22:00:00Z"},
		{"2026-11-22T10:00:00Z", "30d", "2026-10-23T10:00:00Z", "2026-12-22T10:00:00Z"},
		{"2026-11-22T10:00:00Z", "2w", "2026-11-08T10:00:00Z", "2026-12-06T10:00:00Z"},
		{"2026-11-22T10:00:00Z", "1y6m", "2025-05-22T10:00:00Z", "2028-05-22T10:00:00Z"},
		{"2026-03-31T10:00:00Z", "1m", "2026-02-28T10:00:00Z", "2026-04-30T10:00:00Z"},
		{"2024-02-29T10:00:00Z", "1y", "2023-02-28T10:00:00Z", "2025-02-28T10:00:00Z"},
		{"2026-01-31T00:00:00Z", "1m1d", "2025-12-30T00:00:00Z", "2026-03-01T00:00:00Z"},
		{"2026-10-26T00:30:00+01:00", "1d", "2026-10-25T00:30:00+02:00", "2026-10-27T00:30:00+01:00"}, // the day of 25 hours
		{"2026-10-25T02:30:00+01:00", "0", "2026-10-25T02:30:00+01:00", "2026-10-25T02:30:00+01:00"},  // the hour that comes twice
		{"2026-10-25T02:30:00+02:00", "1h", "2026-10-25T01:30:00+02:00", "2026-10-25T02:30:00+01:00"},
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	parse := func(text string) time.Time {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(text, "Z") {
			return at.In(berlin)
		}
		return at.UTC()
	}
	for _, tt := range tests {
		s, err := calendar.ParseSpan(tt.span)
		if err != nil {
			t.Fatal(err)
		}
		from := parse(tt.from)
		if got := s.Before(from); !got.Equal(parse(tt.before)) {
			t.Errorf("%s before %s: got %s, want %s", s, tt.from, got, tt.before)
		}
		if got := s.After(from); !got.Equal(parse(tt.after)) {
			t.Errorf("%s after %s: got %s, want %s", s, tt.from, got, tt.after)
		}
	}
}

// A backup that is too old does not become young enough again as time goes on.
func TestBeforeNeverGoesBack(t *testing.T) {
	for _, text := range []string{"1m", "2m", "11m", "1y", "1y1m", "4y", "1m1d", "1m3w"} {
		s, err := calendar.ParseSpan(text)
		if err != nil {
			t.Fatal(err)
		}
		from := time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)
		last := s.Before(from)
		for range 1500 {
			from = from.AddDate(0, 0, 1)
			got := s.Before(from)
			if got.Before(last) {
				t.Fatalf("%s before %s is %s, and %s before the day before", text, from, got, last)
			}
			last = got
		}
	}
}

func FuzzParseSpan(f *testing.F) {
	for _, s := range []string{"0", "1y2m3w4d5h", "100y", "00h", "1d1d", "9999999999999999999y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := calendar.ParseSpan(text)
		if err != nil {
			return
		}
		again, err := calendar.ParseSpan(s.String())
		if err != nil || again != s {
			t.Fatalf("%q is %+v, its text %s is %+v, %v", text, s, s, again, err)
		}
		at := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
		if before, after := s.Before(at), s.After(at); s.IsZero() != before.Equal(at) || before.After(at) || after.Before(at) {
			t.Fatalf("%s before %s is %s, after it %s", s, at, before, after)
		}
	})
}
