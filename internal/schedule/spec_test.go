package schedule_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/schedule"
)

func TestParse(t *testing.T) {
	for _, line := range []string{
		"30 2 * * *", "*/15 * * * *", "0 0,12 1-15/2 jan-MAR mon", "5/10 1 * * 0-6", "59 23 31 12 6", "@hourly", "@daily", "@weekly", "@monthly", "@yearly", "  0\t3  * * * ", "0 0 29 2 *",
	} {
		s, err := schedule.Parse(line, "Europe/Berlin")
		if err != nil {
			t.Errorf("%q: %v", line, err)
		} else if want := strings.Join(strings.Fields(line), " "); s.String() != want {
			t.Errorf("%q is printed as %q", line, s)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ line, zone, want string }{
		{"", "", "five fields"},
		{"* * * *", "", "five fields"},
		{"0 30 2 * * *", "", "five fields"}, // with seconds
		{"@every 1h", "", "five fields"},
		{"@reboot", "", "five fields"},
		{"@Daily", "", "five fields"},
		{"TZ=UTC 0 3 * * *", "", "five fields"},
		{"TZ=UTC 3 * * *", "", "five fields"},
		{"60 2 * * *", "", "end of range (60) above maximum (59)"},
		{"0 24 * * *", "", "end of range (24) above maximum (23)"},
		{"0 0 0 * *", "", "beginning of range (0) below minimum (1)"},
		{"0 0 * * 7", "", "end of range (7) above maximum (6)"},
		{"0 0 * foo *", "", "foo"},
		{"10-5 * * * *", "", "beyond end of range"},
		{"*/0 * * * *", "", "step of range should be a positive number"},
		{"*/90 * * * *", "", "the step /90 is longer than its field"},
		{"0 1-5/24 * * *", "", "the step /24 is longer than its field"},
		{", * * * *", "", `","`},
		{"1,,2 * * * *", "", `"1,,2"`},
		{"*-5 * * * *", "", `"*-5"`},
		{"+5 * * * *", "", `"+5"`},
		{"? * * * *", "", `"?"`},
		{"0 0 L * *", "", "L"},
		{"0 0 31 2 *", "", "never fires"},
		{"0 0 30-31 2,2 *", "", "never fires"},
		{"0 0 31 4,6,9,11 *", "", "never fires"},
		{"@daily", "Local", `time zone "Local"`},
		{"@daily", "Europe/Berln", "such as Europe/Berlin"},
		{"@daily", "../../etc/passwd", "time zone"},
		{"@daily", "+02:00", "time zone"},
	}
	for _, tt := range tests {
		_, err := schedule.Parse(tt.line, tt.zone)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q, %q: got %v, want %s", tt.line, tt.zone, err, tt.want)
		}
	}
}

// TestNext has the changes of the clocks, as a person would look them up.
func TestNext(t *testing.T) {
	const (
		berlin   = "Europe/Berlin"       // 2026-03-29 02:00 -> 03:00 at 01:00Z, 2026-10-25 03:00 -> 02:00 at 01:00Z
		newYork  = "America/New_York"    // 2026-03-08 02:00 -> 03:00 at 07:00Z, 2026-11-01 02:00 -> 01:00 at 06:00Z
		lordHowe = "Australia/Lord_Howe" // 2026-04-05 02:00 -> 01:30 at 2026-04-04T15:00Z, 2026-10-04 02:00 -> 02:30 at 2026-10-03T15:30Z
		apia     = "Pacific/Apia"        // had no 2011-12-30
		saoPaulo = "America/Sao_Paulo"   // 2018-11-04 00:00 -> 01:00 at 03:00Z
	)
	tests := []struct {
		line, zone, after string
		want              []string
	}{
		{"30 2 * * *", "", "2026-03-28T02:29:59Z", []string{"2026-03-28T02:30:00Z", "2026-03-29T02:30:00Z"}},
		{"30 2 * * *", "", "2026-03-28T02:30:00Z", []string{"2026-03-29T02:30:00Z"}},
		{"0 0 29 2 *", "", "2096-02-29T00:00:00Z", []string{"2104-02-29T00:00:00Z"}}, // 2100 is no leap year
		{"0 0 13 * 5", "", "2026-03-01T00:00:00Z", []string{"2026-03-06T00:00:00Z", "2026-03-13T00:00:00Z", "2026-03-20T00:00:00Z"}},
		{"@weekly", "", "2026-03-28T02:30:00Z", []string{"2026-03-29T00:00:00Z", "2026-04-05T00:00:00Z"}},
		{"@yearly", "", "2026-03-28T02:30:00Z", []string{"2027-01-01T00:00:00Z"}},

		{"30 2 * * *", berlin, "2026-03-28T00:00:00Z", []string{"2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		{"0,30 2,3 * * *", berlin, "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:00:00Z"}},
		{"30 2 * * *", berlin, "2026-10-24T00:00:00Z", []string{"2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		{"30 2 * * *", berlin, "2026-10-25T01:10:00Z", []string{"2026-10-26T01:30:00Z"}}, // between the second 02:00 and 02:30
		{"0 * * * *", berlin, "2026-03-28T23:30:00Z", []string{"2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"}},
		{"0 * * * *", berlin, "2026-10-24T23:30:00Z", []string{"2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"}},
		{"30 * * * *", berlin, "2026-10-24T23:30:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"}},

		{"30 2 * * *", newYork, "2026-03-08T00:00:00Z", []string{"2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"}},
		{"30 1 * * *", newYork, "2026-11-01T00:00:00Z", []string{"2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"}},
		{"*/30 * * * *", newYork, "2026-11-01T05:15:00Z", []string{"2026-11-01T05:30:00Z", "2026-11-01T06:00:00Z", "2026-11-01T06:30:00Z", "2026-11-01T07:00:00Z"}},

		{"0 0 31 12 *", berlin, "2044-12-31T00:00:00Z", []string{"2045-12-30T23:00:00Z"}},
		{"30 * * * *", berlin, "2044-12-31T22:40:00Z", []string{"2044-12-31T23:30:00Z", "2045-01-01T00:30:00Z"}},
		{"* * * 2 *", berlin, "2044-12-31T00:00:00Z", []string{"2045-01-31T23:00:00Z"}},

		{"15,45 1 * * *", lordHowe, "2026-04-04T12:00:00Z", []string{"2026-04-04T14:15:00Z", "2026-04-04T14:45:00Z", "2026-04-05T14:45:00Z"}},
		{"15 2 * * *", lordHowe, "2026-10-03T12:00:00Z", []string{"2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"}},
		{"*/30 * * * *", lordHowe, "2026-04-04T14:10:00Z", []string{"2026-04-04T14:30:00Z", "2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z", "2026-04-04T16:30:00Z"}[:3]},

		{"0 3 * * *", apia, "2011-12-29T00:00:00Z", []string{"2011-12-29T13:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T13:00:00Z"}},
		{"0 0 * * *", saoPaulo, "2018-11-03T12:00:00Z", []string{"2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"}},
	}
	for _, tt := range tests {
		s := parse(t, tt.line, tt.zone)
		at := moment(t, tt.after)
		for i, want := range tt.want {
			if at = s.Next(at); !at.Equal(moment(t, want)) || at.Location() != time.UTC {
				t.Errorf("%s in %s after %s: firing %d is at %v, want %s", tt.line, tt.zone, tt.after, i, at, want)
			}
		}
	}
}

// TestYears walks through each minute of some years as a person at the clock would,
// and compares.
func TestYears(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, tt := range []struct {
		zone string
		year int
	}{
		{"UTC", 2027}, {"Europe/Berlin", 2026}, {"America/New_York", 2028}, {"Australia/Lord_Howe", 2026},
		{"America/Sao_Paulo", 2018}, {"Pacific/Apia", 2011}, {"Africa/Casablanca", 2026}, {"Asia/Kathmandu", 2026},
	} {
		zone, err := time.LoadLocation(tt.zone)
		if err != nil {
			t.Fatal(err)
		}
		var minutes []minute
		for at := time.Date(tt.year, 1, 1, 12, 0, 0, 0, time.UTC); at.Year() == tt.year; at = at.Add(time.Minute) {
			minutes = append(minutes, minute{at, clockOf(at.In(zone))})
		}
		for range 10 {
			l := randomLine(random)
			s, err := schedule.Parse(l.String(), tt.zone)
			if err != nil {
				t.Fatalf("seed %d: %s: %v", seed, l, err)
			}
			at := minutes[0].at
			for i, want := range l.walk(minutes) {
				if at = s.Next(at); !at.Equal(want) {
					t.Fatalf("seed %d: %s in %s: firing %d is at %v, want %v", seed, l, tt.zone, i, at, want)
				}
			}
		}
	}
}

// A minute is a moment, and what the clock shows then, as if it were UTC.
type minute struct{ at, clock time.Time }

func clockOf(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
}

// A line of cron as lists; nil is *.
type cronLine [5][]int

func randomLine(random *rand.Rand) cronLine {
	some := func(from, to, most int) []int {
		var list []int
		for range 1 + random.IntN(most) {
			list = append(list, from+random.IntN(to-from+1))
		}
		return list
	}
	l := cronLine{some(0, 59, 4), some(0, 3, 3)}
	if random.IntN(3) == 0 {
		l[1] = nil
	}
	if random.IntN(10) == 0 {
		l[0] = nil
	}
	if random.IntN(5) == 0 {
		l[2] = some(1, 28, 15)
	}
	if random.IntN(8) == 0 {
		l[3] = some(1, 12, 8)
	}
	if random.IntN(5) == 0 {
		l[4] = some(0, 6, 4)
	}
	return l
}

func (l cronLine) String() string {
	var fields []string
	for _, f := range l {
		text := "*"
		for i, n := range f {
			if i == 0 {
				text = ""
			} else {
				text += ","
			}
			text += strconv.Itoa(n)
		}
		fields = append(fields, text)
	}
	return strings.Join(fields, " ")
}

func (l cronLine) matches(w time.Time) bool {
	in := func(f, n int) bool { return l[f] == nil || slices.Contains(l[f], n) }
	day, weekday := in(2, w.Day()), in(4, int(w.Weekday()))
	days := day && weekday
	if l[2] != nil && l[4] != nil {
		days = day || weekday
	}
	return days && in(0, w.Minute()) && in(1, w.Hour()) && in(3, int(w.Month()))
}

// walk returns the firings after the first minute.
func (l cronLine) walk(minutes []minute) (out []time.Time) {
	shown := minutes[0].clock // the latest time that the clock has shown
	for _, m := range minutes[1:] {
		fires := false
		if l[1] == nil {
			fires = l.matches(m.clock)
		} else {
			for shown.Before(m.clock) {
				shown = shown.Add(time.Minute)
				fires = fires || l.matches(shown)
			}
		}
		if fires {
			out = append(out, m.at)
		}
	}
	return out
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"30 2 * * *", "*/15 * * * *", "0 0 29 2 *", "@daily", "@every 1h", "TZ=", "0 0 31 2 *", "1-5/2,7 * jan mon-fri *", ", , , , ,"} {
		f.Add(seed, "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, line, zone string) {
		s, err := schedule.Parse(line, zone)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			return
		}
		again, err := schedule.Parse(s.String(), zone)
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q is printed as %q: %v", line, s, err)
		}
		after := time.Date(2026, 3, 28, 23, 0, 0, 0, time.UTC)
		for range 5 {
			next := s.Next(after)
			if !next.After(after) || next.Sub(after) > 9*366*24*time.Hour || !again.Next(after).Equal(next) {
				t.Fatalf("%q in %q fires after %v at %v", line, zone, after, next)
			}
			after = next
		}
	})
}

func BenchmarkNext(b *testing.B) {
	for _, line := range []string{"*/15 * * * *", "30 2 * * *", "0 3 1 * *", "0 0 29 2 *"} {
		b.Run(fmt.Sprintf("%q", line), func(b *testing.B) {
			s, err := schedule.Parse(line, "Europe/Berlin")
			if err != nil {
				b.Fatal(err)
			}
			for at := time.Date(2026, 3, 28, 0, 0, 0, 0, time.UTC); b.Loop(); at = at.Add(time.Minute) {
				s.Next(at)
			}
		})
	}
}

func parse(t *testing.T, line, zone string) schedule.Spec {
	t.Helper()
	s, err := schedule.Parse(line, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func moment(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}
