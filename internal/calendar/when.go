package calendar

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// ErrTime says that a text names no time.
var ErrTime = errors.New("not a time")

// whenForms are the forms of times without a zone.
var whenForms = []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"}

var clockForms = []string{"15:04:05", "15:04"}

var ago = regexp.MustCompile(`^(.+) ago$`)

// ParseWhen reads a time in the past as people write it: RFC 3339, with a zone of its own;
// "2026-11-22 10:32", "yesterday 18:00", "today 06:30:15", "18:00", which are in zone, or in UTC with " UTC" behind them; "90m
// ago", "2d ago", before now; or "now". A day alone is its beginning. What zone had twice, as clocks were
// set back, is the first of the two; what it never had, as they were set forward, is ErrTime.
func ParseWhen(text string, now time.Time, zone *time.Location) (time.Time, error) {
	text = strings.TrimSpace(text)
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if text == "now" {
		return now, nil
	}
	if rest, ok := strings.CutSuffix(text, " UTC"); ok { // as moments are shown
		return ParseWhen(rest, now, time.UTC)
	}
	if m := ago.FindStringSubmatch(text); m != nil {
		if d, err := time.ParseDuration(m[1]); err == nil && d >= 0 {
			return now.Add(-d), nil
		}
		if s, err := ParseSpan(m[1]); err == nil {
			return s.Before(now.In(zone)), nil
		}
	}
	day := now.In(zone)
	clock := text
	for word, days := range map[string]int{"yesterday": -1, "today": 0} {
		if rest, ok := strings.CutPrefix(text, word); ok && (rest == "" || rest[0] == ' ') {
			day, clock = day.AddDate(0, 0, days), strings.TrimSpace(rest)
			if clock == "" {
				clock = "00:00"
			}
		}
	}
	for _, form := range clockForms {
		if _, err := time.Parse(form, clock); err == nil {
			return inZone("2006-01-02 "+form, day.Format("2006-01-02 ")+clock, zone)
		}
	}
	for _, form := range whenForms {
		if _, err := time.Parse(form, text); err == nil {
			return inZone(form, text, zone)
		}
	}
	return time.Time{}, fmt.Errorf("%w: %q: write 2026-11-22T10:32:00Z, \"2026-11-22 10:32\", \"yesterday 18:00\" or \"90m ago\"", ErrTime, text)
}

// inZone reads a time that has no zone.
func inZone(form, text string, zone *time.Location) (time.Time, error) {
	t, err := time.ParseInLocation(form, text, zone)
	if err != nil {
		return t, fmt.Errorf("%w: %w", ErrTime, err)
	}
	wanted, err := time.Parse(form, text) // in UTC, which has all times once
	if err != nil {
		return t, fmt.Errorf("%w: %w", ErrTime, err)
	}
	const all = "2006-01-02T15:04:05.999999999"
	if t.Format(all) != wanted.Format(all) {
		name, _ := t.Zone()
		return time.Time{}, fmt.Errorf("%w: clocks in %s (%s) went forward over %q", ErrTime, zone, name, text)
	}
	if _, offset := t.Zone(); true {
		earlier := t.Add(-time.Hour)
		if _, before := earlier.Zone(); before > offset && earlier.Format(all) == wanted.Format(all) { // the hour came twice
			return earlier, nil
		}
	}
	return t, nil
}
