package repo

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
)

// Which objects expire, and which backups moments rest on, by names and records alone.
func TestMomentsOf(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	day := func(d float64) time.Time { return start.Add(time.Duration(d * 24 * float64(time.Hour))) }
	chain := func(n int, d float64) manifest.BackupID {
		ms := day(d).UnixMilli()
		return manifest.BackupID(fmt.Sprintf("%08x-%04x-7000-8000-%012d", ms>>16, ms&0xffff, n))
	}
	one, two := chain(1, 0.5), chain(2, 12)
	roll := func(c manifest.BackupID, first, last int64, from, to float64) Shipped {
		return Shipped{ShipName: ShipName{Chain: c, First: first, Last: last, From: day(from), To: day(to)}}
	}
	tick := func(c manifest.BackupID, n int64) Shipped {
		return Shipped{ShipName: ShipName{Chain: c, First: n, Last: n}}
	}
	zero, some := 0, 1
	var recs []*manifest.Record
	for i := range 20 { // one a day
		rec := &manifest.Record{Summary: manifest.Summary{ID: manifest.BackupID(fmt.Sprintf("b%02d", i)), Started: day(float64(i)), Finished: day(float64(i) + 0.01)}, NewGenerations: &zero}
		recs = append(recs, rec)
	}
	recs[7].NewGenerations = &some
	var shipped []Shipped
	for d := 1.0; d < 10; d++ { // a roll-up a day, one of which refers to an early tick
		shipped = append(shipped, roll(one, int64(d)*100, int64(d)*100+99, d, d+1))
	}
	shipped = append(shipped, tick(one, 1050))
	for d := 12.0; d < 19; d++ {
		shipped = append(shipped, roll(two, int64(d)*100, int64(d)*100+99, d, d+1))
	}
	shipped = append(shipped, tick(two, 1250), tick(two, 1900), tick(two, 1901))
	sort := func() {
		slices.SortFunc(shipped, func(a, b Shipped) int {
			if a.String() < b.String() {
				return -1
			}
			return 1
		})
	}
	sort()
	names := func(m moments) (out []string) {
		for _, o := range m.expired {
			out = append(out, fmt.Sprintf("%.4s %d", map[manifest.BackupID]string{one: "one", two: "two"}[o.Chain], o.First))
		}
		return out
	}
	for _, c := range []struct {
		what    string
		keep    time.Duration
		now     time.Time
		expired []string
		bases   []manifest.BackupID
	}{
		{"for ever", 0, day(20), nil, []manifest.BackupID{"b00", "b07", "b11"}},
		{"longer than there is", 30 * 24 * time.Hour, day(20), nil, []manifest.BackupID{"b00", "b07", "b11"}},
		// Newest 19, less 13 days and one of slack: day 5, on the backup of day 4.
		{"13 days", 13 * 24 * time.Hour, day(20), []string{"one 100"}, []manifest.BackupID{"b04", "b07", "b11"}},
		// Less 3 and one: day 15, on the backup of day 14; the first chain is over. A tick that roll-ups refer to goes
		// with them.
		{"3 days", 3 * 24 * time.Hour, day(20), []string{"one 100", "one 200", "one 300", "one 400", "one 500", "one 600", "one 700", "one 800", "one 900", "one 1050"}, []manifest.BackupID{"b14"}},
		// A clock that is behind keeps more, one that is ahead no less than is asked for.
		{"3 days, behind", 3 * 24 * time.Hour, day(8), nil, []manifest.BackupID{"b03", "b07", "b11"}},
		{"3 days, ahead", 3 * 24 * time.Hour, day(800), []string{"one 100", "one 200", "one 300", "one 400", "one 500", "one 600", "one 700", "one 800", "one 900", "one 1050"}, []manifest.BackupID{"b14"}},
	} {
		m := momentsOf(shipped, recs, c.keep, c.now)
		if got := names(m); !slices.Equal(got, c.expired) {
			t.Errorf("%s: expired are\n%q, want\n%q", c.what, got, c.expired)
		}
		if got := slices.Sorted(maps.Keys(m.bases)); !slices.Equal(got, c.bases) {
			t.Errorf("%s: moments rest on %q, want %q", c.what, got, c.bases)
		}
	}
	// In a copy that was begun later, what is there rests on its oldest backup.
	if got := slices.Sorted(maps.Keys(momentsOf(shipped, recs[5:], 0, day(20)).bases)); !slices.Equal(got, []manifest.BackupID{"b05", "b07", "b11"}) {
		t.Errorf("in a copy moments rest on %q", got)
	}
	// A clock that was a year ahead for an hour expires nothing.
	shipped = append(shipped, roll(two, 1902, 1999, 365, 365.1))
	sort()
	if m := momentsOf(shipped, recs, 3*24*time.Hour, day(366)); slices.ContainsFunc(m.expired, func(o Shipped) bool { return o.Chain == two && o.First >= 1800 }) {
		t.Errorf("expired are %q", names(m))
	}
}
