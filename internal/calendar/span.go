// Package calendar has lengths of time in the units of a calendar, which
// time.Duration does not know: a month is not always as long.
package calendar

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Span is a length of time, such as 1y6m or 12h. Its fields are not negative.
type Span struct {
	Years, Months, Weeks, Days, Hours int
}

// maxYears is the most that a span may add up to.
const maxYears = 100

var errSpan = errors.New("must be a time such as 12h, 30d, 2w or 1y6m, at most 100y, or 0")

// ParseSpan reads numbers, each followed by its unit, the larger unit first: y, m
// (months), w, d, h. "0" is no time at all.
func ParseSpan(text string) (Span, error) {
	if text == "0" {
		return Span{}, nil
	}
	var s Span
	rest := text
	for _, u := range s.units() {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if !strings.HasPrefix(rest[digits:], u.letter) {
			continue
		}
		n, err := strconv.Atoi(rest[:digits])
		if err != nil || n > maxYears*366*24 {
			return Span{}, fmt.Errorf("%q: %w", text, errSpan)
		}
		*u.n, rest = n, rest[digits+len(u.letter):]
	}
	if text == "" || rest != "" || s.aboutHours() > maxYears*366*24 {
		return Span{}, fmt.Errorf("%q: %w", text, errSpan)
	}
	return s, nil
}

type unit struct {
	n      *int
	letter string
}

func (s *Span) units() []unit {
	return []unit{{&s.Years, "y"}, {&s.Months, "m"}, {&s.Weeks, "w"}, {&s.Days, "d"}, {&s.Hours, "h"}}
}

// Longest is how long the span is at most: a month has 31 days in it, and a year 366.
func (s Span) Longest() time.Duration { return time.Duration(s.aboutHours()) * time.Hour }

// aboutHours is how long the span is at most.
func (s Span) aboutHours() int {
	return (s.Years*366+s.Months*31+s.Weeks*7+s.Days)*24 + s.Hours
}

// String returns the span as ParseSpan reads it.
func (s Span) String() string {
	var b strings.Builder
	for _, u := range s.units() {
		if *u.n != 0 {
			b.WriteString(strconv.Itoa(*u.n) + u.letter)
		}
	}
	if b.Len() == 0 {
		return "0"
	}
	return b.String()
}

// MarshalText is String for encoders of text and JSON.
func (s Span) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseSpan for decoders of text and JSON.
func (s *Span) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSpan(string(text))
	return err
}

// IsZero says that the span is no time at all.
func (s Span) IsZero() bool { return s == Span{} }

// Before returns the time that is the span before t. Years to days are counted on
// the calendar of t's location, so a day can have 23 or 25 hours. Where a month
// has no such day its last one is taken: a month before the 31st of March is the
// end of February, so that the result never moves to an earlier day as t goes on.
func (s Span) Before(t time.Time) time.Time { return s.shift(t, -1) }

// After is Before in the other direction.
func (s Span) After(t time.Time) time.Time { return s.shift(t, 1) }

func (s Span) shift(t time.Time, sign int) time.Time {
	hours := time.Duration(sign*s.Hours) * time.Hour
	days := sign * (7*s.Weeks + s.Days)
	if s.Years == 0 && s.Months == 0 && days == 0 {
		return t.Add(hours) // the calendar can't tell the two hours apart that a change of the clock repeats
	}
	first := time.Date(t.Year()+sign*s.Years, t.Month()+time.Month(sign*s.Months), 1, 0, 0, 0, 0, time.UTC)
	day := min(t.Day(), first.AddDate(0, 1, -1).Day())
	hour, minute, second := t.Clock()
	return time.Date(first.Year(), first.Month(), day+days, hour, minute, second, t.Nanosecond(), t.Location()).Add(hours)
}
