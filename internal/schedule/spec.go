// Package schedule says when a schedule fires and what to do about it at a given
// moment. It is pure: the time is an argument, and nothing is stored.
//
// A line of cron is five fields: minute, hour, day of the month, month, day of the
// week (0 or sun to 6 or sat). A field is *, a number, a range 1-5, a step */15 or
// 1-30/2, or several of these with commas between. If neither day field begins with
// a plain *, a day that either of them names counts. @hourly, @daily, @weekly,
// @monthly and @yearly stand for five fields; @every is refused, since when it fires
// would depend on when it was asked.
//
// # When the clocks change
//
// A line that does not name every hour means times of the day. Each of them fires
// once a day: in an hour that comes twice the first time, and where the clocks leave
// the hour out, at the moment after it. So a backup at 02:30 is made on each day of
// the year, and several lost times of the same line make one.
//
// A line of every hour, such as "15 * * * *" or "*/10 * * * *", means a distance. It
// fires in both of two equal hours, and not in one that is left out, so that the
// distance stays.
package schedule

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the time zones, for machines that have no database of them

	"github.com/robfig/cron/v3"
)

// Spec is a line of cron in a time zone, as Parse returns it.
type Spec struct {
	line   string
	zone   *time.Location
	wall   *cron.SpecSchedule // of the times that a clock shows, as if they were UTC
	hourly bool               // the line names every hour
}

var (
	errLine  = errors.New("must be five fields (minute, hour, day, month, day of the week), such as 30 2 * * * for each day at 02:30, or @hourly, @daily, @weekly, @monthly or @yearly")
	errZone  = errors.New("must be UTC or a name of the time zone database, such as Europe/Berlin")
	names    = []string{"@hourly", "@daily", "@weekly", "@monthly", "@yearly"}
	longest  = []int{59, 23, 31, 12, 6} // steps of the five fields
	oneField = regexp.MustCompile(`^` + item + `(,` + item + `)*$`)
	steps    = regexp.MustCompile(`/\d+`)
)

// item is what the fields of a line are lists of. The parser below is not as strict.
const item = `(\*|\w{1,3}(-\w{1,3})?)(/\d{1,2})?`

// Parse reads a line of cron. The zone is a name of the time zone database, and ""
// is UTC. Errors are one sentence for who wrote the line.
func Parse(line, zone string) (Spec, error) {
	s := Spec{line: strings.Join(strings.Fields(line), " ")}
	if err := check(s.line); err != nil {
		return Spec{}, err
	}
	var err error
	if s.zone, err = time.LoadLocation(zone); err != nil || zone == "Local" {
		return Spec{}, fmt.Errorf("time zone %q: %w", zone, errZone)
	}
	parsed, err := cron.ParseStandard(s.line)
	if err != nil {
		return Spec{}, fmt.Errorf("schedule %q: %w: %w", s.line, err, errLine)
	}
	s.wall = parsed.(*cron.SpecSchedule)
	s.wall.Location = time.UTC
	const everyHour = 1<<24 - 1
	s.hourly = s.wall.Hour&everyHour == everyHour
	if s.nextWall(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Spec{}, fmt.Errorf("schedule %q never fires: no year has such a day; 0 3 28 * * is each month's 28th at 03:00", s.line)
	}
	return s, nil
}

// check refuses what the parser would take for something else than was meant.
func check(line string) error {
	if slices.Contains(names, line) {
		return nil
	}
	fields := strings.Fields(line)
	if len(fields) != 5 {
		return fmt.Errorf("schedule %q: %w", line, errLine)
	}
	for i, f := range fields {
		if !oneField.MatchString(f) {
			return fmt.Errorf("schedule %q: %q: %w", line, f, errLine)
		}
		for _, step := range steps.FindAllString(f, -1) {
			if n, err := strconv.Atoi(step[1:]); err != nil || n > longest[i] {
				return fmt.Errorf("schedule %q: the step %s is longer than its field, so it would not be kept; */15 * * * * is each 15 minutes", line, step)
			}
		}
	}
	return nil
}

// String returns the line with single spaces.
func (s Spec) String() string { return s.line }

// Location returns the time zone.
func (s Spec) Location() *time.Location { return s.zone }

// Next returns the first firing after a time, in UTC.
func (s Spec) Next(after time.Time) time.Time {
	if s.hourly {
		return s.nextDistance(after)
	}
	for w := clock(after.In(s.zone)); ; {
		w = s.nextWall(w)
		// Of the time that after's clock shows, this side of after may come later, and
		// no earlier time of a clock comes after it.
		if t := moment(w, s.zone); t.After(after) {
			return t.UTC()
		}
	}
}

// nextDistance is Next of a line that names every hour: all moments at which the
// clock shows one of its times.
func (s Spec) nextDistance(after time.Time) time.Time {
	for t := after.In(s.zone); ; {
		_, offset := t.Zone()
		shift := time.Duration(offset) * time.Second
		next := s.nextWall(clock(t)).Add(-shift)
		_, end := t.ZoneBounds()
		if !end.IsZero() && !end.After(t) {
			end = t.Add(time.Hour) // on the last day of a leap year ZoneBounds of Go 1.26 answers with its first moment
		}
		if end.IsZero() || next.Before(end) {
			return next.UTC()
		}
		// From the change of the clock on, itself included, another offset counts.
		if t = end; s.matches(clock(t)) {
			return t.UTC()
		}
	}
}

// nextWall returns the first time after w that the clock of a firing shows. The
// parser looks five years ahead, and from one 29 February to the next it can be
// eight. The zero time is never.
func (s Spec) nextWall(w time.Time) time.Time {
	for range 3 {
		if next := s.wall.Next(w); !next.IsZero() {
			return next
		}
		w = time.Date(w.Year()+5, 1, 1, 0, 0, 0, -1, time.UTC)
	}
	return time.Time{}
}

func (s Spec) matches(w time.Time) bool { return s.nextWall(w.Add(-1)).Equal(w) }

// clock returns what the clock of t's zone shows, as if it were UTC.
func clock(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// moment returns when a clock of the zone shows w: the first time if it does so
// twice, and the moment of the change if the clock leaves it out. It never goes back
// as w goes on.
func moment(w time.Time, zone *time.Location) time.Time {
	t := time.Date(w.Year(), w.Month(), w.Day(), w.Hour(), w.Minute(), w.Second(), w.Nanosecond(), zone)
	start, end := t.ZoneBounds()
	switch shown := clock(t); {
	case shown.After(w): // left out, and t is reckoned by the offset of before
		return start
	case shown.Before(w): // left out, and t is reckoned by the offset of after
		return end
	case start.IsZero():
		return t
	}
	_, before := start.Add(-1).Zone()
	if first := w.Add(-time.Duration(before) * time.Second); first.Before(start) {
		return first
	}
	return t
}
