package job

import (
	"fmt"
	"slices"
	"time"
)

// MostLines is how many lines a Log keeps, and FirstLines how many of them are its first ones.
const (
	MostLines  = 60
	FirstLines = 15
)

// Log is what happened to a job or a restore, in sentences: the first lines and the newest ones. It is never changed in place.
type Log struct {
	Lines []Line `json:"lines,omitempty"`
	Left  int    `json:"left,omitempty"` // lines that were left out behind the first ones
}

// Line is a sentence of a Log. Its time is by the server's clock.
type Line struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// With is a log with one more line, unless the newest says the same.
func (l Log) With(at time.Time, text string) Log {
	if n := len(l.Lines); n > 0 && l.Lines[n-1].Text == text {
		return l
	}
	l.Lines = append(slices.Clip(l.Lines), Line{at, text})
	if len(l.Lines) > MostLines {
		l.Lines = slices.Delete(l.Lines, FirstLines, FirstLines+1)
		l.Left++
	}
	return l
}

// Said is a sentence of an agent's about a job.
type Said struct {
	Number int64   `json:"number"` // counts what a session says, from 1: reports repeat what wasn't heard
	Ago    float64 `json:"ago"`    // seconds before the report
	Text   string  `json:"text"`
}

// Amount is a number of bytes in words, as logs have it.
func Amount(n int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB"}
	f := float64(n)
	for f >= 999.5 && len(units) > 1 {
		f, units = f/1000, units[1:]
	}
	if units[0] == "bytes" || f >= 9.95 {
		return fmt.Sprintf("%.0f %s", f, units[0])
	}
	return fmt.Sprintf("%.1f %s", f, units[0])
}
