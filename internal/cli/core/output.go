package core

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// PrintJSON prints a result as indented JSON.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Size prints bytes for people: "512 B", "1.4 MiB".
func Size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	unit := ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if f /= 1024; f < 1023.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// Count prints a number with its noun: "1 file", "2 files".
func Count(n int, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "y") && !strings.HasSuffix(noun, "ey"):
		noun = strings.TrimSuffix(noun, "y") + "ies"
	case strings.HasSuffix(noun, "x"):
		noun = strings.TrimSuffix(noun, "x") + "ces"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// WasWere is Count with its verb: "1 file was", "2 files were".
func WasWere(n int, noun string) string {
	if n == 1 {
		return Count(n, noun) + " was"
	}
	return Count(n, noun) + " were"
}

// Took prints a duration for people.
func Took(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// When prints a moment for people, in UTC.
func When(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

// Clean makes text from elsewhere safe for a terminal: control characters, which
// could move the cursor or change colours, become their escapes.
func Clean(s string) string {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			q := fmt.Sprintf("%q", s)
			return q[1 : len(q)-1]
		}
	}
	return s
}

// Table prints rows under a head, columns aligned.
func Table(w io.Writer, head []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		for i := range row {
			row[i] = Clean(row[i])
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return t.Flush()
}

// Fact is a line "name  value" of a description.
type Fact [2]string

// Facts prints those with a value, values aligned.
func Facts(w io.Writer, list []Fact) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range list {
		if f[1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", f[0], Clean(f[1]))
		}
	}
	return t.Flush()
}

// Seconds is a duration as JSON gives it.
func Seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond)) / float64(time.Second)
}

// NonNil makes an empty list of none, so that JSON has [] and not null.
func NonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// Num prints a number.
func Num(n uint64) string { return strconv.FormatUint(n, 10) }

// Exact prints bytes for people, and how many they are.
func Exact(n int64) string {
	if n < 1024 {
		return Size(n)
	}
	return fmt.Sprintf("%s (%d bytes)", Size(n), n)
}
