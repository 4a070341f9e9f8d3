package web

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/words"
)

// functions are those of the templates. Times are in the zone; what is zero is "–".
func (s *Site) functions(zone *time.Location) template.FuncMap {
	return template.FuncMap{
		"icon":   icon,
		"pill":   func(state, text string) pill { return pill{state, text} },
		"list":   func(items ...any) []any { return items },
		"bytes":  Bytes,
		"num":    Number,
		"dur":    Duration,
		"path":   pathOf,
		"crumb":  crumbs,
		"static": s.static.url,
		"plural": plural,
		"upper":  words.UpperFirst,
		"when":   func(t time.Time) template.HTML { return timeTag(t, when(t, s.o.Now(), zone)) },
		"clock":  func(t time.Time) template.HTML { return timeTag(t, t.In(zone).Format("15:04")) },
		"second": func(t time.Time, day bool) template.HTML {
			layout := "15:04:05"
			if day {
				layout = "2 Jan, 15:04:05"
			}
			return timeTag(t, t.In(zone).Format(layout))
		},
		"exact": func(t time.Time) template.HTML { return timeTag(t, t.In(zone).Format("Mon 2 Jan 2006, 15:04:05")) },
		"ago":   func(t time.Time) template.HTML { return timeTag(t, Ago(t, s.o.Now())) },
		"until": func(t time.Time) template.HTML { return timeTag(t, until(t, s.o.Now())) },
		"age":   func(t time.Time) string { return age(t, s.o.Now()) },
		"day":   func(t time.Time) template.HTML { return timeTag(t, t.In(zone).Format("2 January 2006")) },
		"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	}
}

// icon is a sign of the sprite, which says nothing to readers of the screen: a word
// stands beside it.
func icon(name string) template.HTML {
	return template.HTML(`<svg class="i" aria-hidden="true"><use href="#i-` + template.HTMLEscapeString(name) + `"/></svg>`) // escaped
}

// pill is a state: a shape, a word, a colour. State is ok, run, warn, bad, or the name of
// another sign for what is none of these.
type pill struct{ State, Text string }

// Class is the class of the pill; Icon its sign.
func (p pill) Class() string {
	switch p.State {
	case "ok", "proven":
		return "ok"
	case "run":
		return "run"
	case "warn", "damaged":
		return "warn"
	case "bad", "late":
		return "bad"
	}
	return ""
}

// Icon is the name of the pill's sign.
func (p pill) Icon() string { return cmp.Or(p.State, "queued") }

// pathOf joins segments, each escaped, to a path: path "jobs" .ID.
func pathOf(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(p))
	}
	return b.String()
}

func timeTag(t time.Time, text string) template.HTML {
	if t.IsZero() {
		return "–"
	}
	u := t.UTC()
	return template.HTML(`<time datetime="` + u.Format(time.RFC3339) + `" title="` + u.Format("2006-01-02 15:04:05") + ` UTC">` + template.HTMLEscapeString(text) + `</time>`) // escaped
}

// when is a time in words: today 02:37, yesterday 03:04, Sun 22 Nov, 05:14.
func when(t, now time.Time, zone *time.Location) string {
	t, now = t.In(zone), now.In(zone)
	day := func(t time.Time) time.Time { return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC) }
	clock := t.Format("15:04")
	switch days := int(day(t).Sub(day(now)).Hours() / 24); {
	case days == 0:
		return "today " + clock
	case days == -1:
		return "yesterday " + clock
	case days == 1:
		return "tomorrow " + clock
	case days > -180 && days < 180:
		return t.Format("Mon 2 Jan, 15:04")
	}
	return t.Format("2 Jan 2006, 15:04")
}

var instant = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)

// withWhen is a text in which times stand as machines write them, with these as readers do.
func (c *call) withWhen(text string) string {
	return instant.ReplaceAllStringFunc(text, func(s string) string {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return s
		}
		return when(t, c.now(), c.set.zone)
	})
}

// Duration is a length of time in its two largest units that say something: 35 h, 28 h 51
// min, 6 d, 9 min 12 s, 2.6 s.
func Duration(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return strconv.FormatFloat(math.Round(d.Seconds()*10)/10, 'f', -1, 64) + " s"
	case d < 10*time.Second:
		return strconv.FormatFloat(math.Round(d.Seconds()*10)/10, 'f', -1, 64) + " s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 10*time.Minute:
		return two(d, time.Minute, "min", time.Second, "s")
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return two(d, time.Hour, "h", time.Minute, "min")
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

func two(d, big time.Duration, name string, small time.Duration, rest string) string {
	if n := int(d % big / small); n > 0 {
		return fmt.Sprintf("%d %s %d %s", d/big, name, n, rest)
	}
	return fmt.Sprintf("%d %s", d/big, name)
}

// short is Duration in one unit: 35 h, 6 d.
func short(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

func age(t, now time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return short(now.Sub(t))
}

// Ago is how long ago a time was.
func Ago(t, now time.Time) string { return age(t, now) + " ago" }

// until is how long it is to a time.
func until(t, now time.Time) string {
	if d := t.Sub(now); d > 0 {
		return "in " + short(d)
	}
	return "now"
}

// Bytes is an amount in decimal units with three figures: 38.1 GB, 141 GB, 0 B.
func Bytes(n int64) string {
	if n < 0 {
		return "–" + Bytes(-n)
	}
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n), []string{"kB", "MB", "GB", "TB", "PB", "EB"}
	unit := ""
	for _, unit = range units {
		if v /= 1000; v < 999.5 {
			break
		}
	}
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f %s", v, unit)
	case v < 99.95:
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// Number is a whole number, of any type of them, with commas: 12,438.
func Number(n any) string {
	text := fmt.Sprint(n)
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "–", text[1:]
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return sign + text
}

// plural is a number with its word: plural 1 "backup" "backups".
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Number(n) + " " + many
}

// zoneName names a zone with its distance from UTC: Europe/Berlin (UTC+1).
func zoneName(zone *time.Location, now time.Time) string {
	name := zone.String()
	abbreviation, offset := now.In(zone).Zone()
	if name == "Local" {
		name = abbreviation
	}
	if offset == 0 {
		return name
	}
	sign := "+"
	if offset < 0 {
		sign, offset = "−", -offset
	}
	text := fmt.Sprintf("UTC%s%d", sign, offset/3600)
	if m := offset % 3600 / 60; m != 0 {
		text += fmt.Sprintf(":%02d", m)
	}
	return name + " (" + text + ")"
}

// crumb is one step of the way to a page.
type crumb struct{ To, Name string }

// crumbs are pairs of a path and a name, and last the name of the page itself.
func crumbs(parts ...string) []crumb {
	var out []crumb
	for ; len(parts) > 1; parts = parts[2:] {
		out = append(out, crumb{parts[0], parts[1]})
	}
	for _, name := range parts {
		out = append(out, crumb{"", name})
	}
	return out
}
