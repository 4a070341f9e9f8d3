package calendar

import (
	"errors"
	"testing"
	"time"
)

func TestParseWhen(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC) // 10:00 in Berlin
	for text, want := range map[string]string{
		"2026-11-22T10:32:00Z":          "2026-11-22T10:32:00Z",
		"2026-11-22T10:32:00.250+01:00": "2026-11-22T09:32:00.25Z",
		"2026-11-20 10:32":              "2026-11-20T09:32:00Z",
		"2026-11-20T10:32:05":           "2026-11-20T09:32:05Z",
		"2026-07-01":                    "2026-06-30T22:00:00Z",
		"yesterday 18:00":               "2026-11-21T17:00:00Z",
		"yesterday":                     "2026-11-20T23:00:00Z",
		"today 06:30:15":                "2026-11-22T05:30:15Z",
		" 06:30 ":                       "2026-11-22T05:30:00Z",
		"90m ago":                       "2026-11-22T07:30:00Z",
		"1h30m ago":                     "2026-11-22T07:30:00Z",
		"2d ago":                        "2026-11-20T09:00:00Z",
		"1m ago":                        "2026-11-22T08:59:00Z", // of minutes, not of months
		"now":                           "2026-11-22T09:00:00Z",
		"2026-10-25 02:30":              "2026-10-25T00:30:00Z", // came twice
		"2026-10-25 03:30":              "2026-10-25T02:30:00Z",
		"2026-11-22 10:32:05.5":         "2026-11-22T09:32:05.5Z",
		"2026-10-25 02:30:00.25":        "2026-10-25T00:30:00.25Z",
		"2026-11-22 10:32:05 UTC":       "2026-11-22T10:32:05Z",
		"yesterday 18:00 UTC":           "2026-11-21T18:00:00Z",
	} {
		got, err := ParseWhen(text, now, berlin)
		if err != nil || got.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %s, %v; want %s", text, got.UTC().Format(time.RFC3339Nano), err, want)
		}
	}
	for _, text := range []string{"", "tomorrow", "yesterdays", "yesterday noon", "25:00", "2026-13-01", "-5m ago", "2026-03-29 02:30", "ago"} {
		if got, err := ParseWhen(text, now, berlin); !errors.Is(err, ErrTime) {
			t.Errorf("%q: %s, %v; want %v", text, got, err, ErrTime)
		}
	}
}
