package newest_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/newest"
)

func day(s string) time.Time {
	t, err := time.Parse("2006-01-02", s)
	if err != nil {
		panic(err)
	}
	return t
}

// chain makes backups one after the other, each knowing the ones before, by clocks that
// show the given days.
func chain(days ...string) (list []newest.Backup) {
	highest := int64(0)
	for i, d := range days {
		highest = newest.Next(highest, day(d))
		list = append(list, newest.Backup{ID: string(rune('a' + i)), Order: highest, Time: day(d)})
	}
	return list
}

func sorted(list []newest.Backup) string {
	list = slices.Clone(list)
	slices.Reverse(list)
	newest.Sort(list, func(b newest.Backup) newest.Backup { return b })
	var out strings.Builder
	for _, b := range list {
		out.WriteString(b.ID)
	}
	return out.String()
}

// The order is that in which the backups were made, whatever their clocks showed.
func TestOrderNeedsNoClock(t *testing.T) {
	for _, days := range [][]string{
		{"2026-11-01", "2026-11-02", "2026-11-03"},
		{"2026-11-01", "2099-01-01", "2026-11-03", "2026-11-04"},
		{"2026-11-01", "2026-11-02", "1970-01-01"},
		{"1970-01-01", "1970-01-01", "1969-01-01"},
		{"2099-01-01", "2098-01-01", "2097-01-01", "2026-11-04"},
	} {
		if got, want := sorted(chain(days...)), "abcdefgh"[:len(days)]; got != want {
			t.Errorf("%v: the order is %s, want %s", days, got, want)
		}
	}
}

// Records of earlier versions are in the order of their chains, else of their times; and
// those that a version with orders adds come after all it saw.
func TestOrderOfOldRecords(t *testing.T) {
	old := []newest.Backup{
		{ID: "a", Time: day("2026-11-01")},
		{ID: "b", Parent: "a", Time: day("2099-01-01")},
		{ID: "c", Parent: "b", Time: day("2026-11-03")},
		{ID: "d", Parent: "c", Time: day("1970-01-01")},
	}
	if got := sorted(old); got != "abcd" {
		t.Errorf("the order is %s", got)
	}
	highest := int64(0)
	for _, o := range newest.Orders(old) {
		highest = max(highest, o)
	}
	mixed := append(old, newest.Backup{ID: "e", Order: newest.Next(highest, day("2026-11-05")), Time: day("2026-11-05")},
		newest.Backup{ID: "f", Parent: "e", Time: day("2026-11-06")}) // by an earlier version that came back
	if got := sorted(mixed); got != "abcdef" {
		t.Errorf("with new ones the order is %s", got)
	}
	apart := []newest.Backup{{ID: "b", Time: day("2026-11-02")}, {ID: "a", Time: day("2026-11-01")}}
	if got := sorted(apart); got != "ab" {
		t.Errorf("without parents the order is %s", got)
	}
}

// What no honest writer makes must neither hang nor overflow: ids in a circle, absurd
// numbers.
func TestOrderOfForgedRecords(t *testing.T) {
	forged := []newest.Backup{
		{ID: "a", Parent: "b", Time: day("2026-11-01")}, {ID: "b", Parent: "a", Time: day("2026-11-02")}, {ID: "c", Parent: "c", Time: day("2026-11-03")},
		{ID: "d", Order: 1<<63 - 1, Time: day("2026-11-04")}, {ID: "e", Order: -1 << 63, Time: day("2026-11-05")},
	}
	orders := newest.Orders(forged)
	for id, o := range orders {
		if o < 1 || o > newest.Most {
			t.Errorf("%s has the order %d", id, o)
		}
	}
	if len(orders) != len(forged) || orders["e"] <= orders["d"] {
		t.Errorf("orders %v", orders)
	}
	if got := newest.Next(newest.Most, day("2026-11-04")); got != newest.Most {
		t.Errorf("after the highest order comes %d", got)
	}
	if !newest.After(newest.Backup{ID: "y", Parent: "x", Time: day("1970-01-01")}, newest.Backup{ID: "x", Time: day("2026-11-04")}) {
		t.Error("a child is not after its parent")
	}
}

func TestTimes(t *testing.T) {
	for _, tt := range []struct{ stamps, want string }{
		{"", ""},
		{"2026-11-01 2026-11-02 2026-11-02", "2026-11-01 2026-11-02 2026-11-02"},
		{"2026-11-01 2099-01-01 2026-11-03", "2026-11-01 2026-11-01 2026-11-03"},
		{"2026-11-01 2026-11-02 1970-01-01", "2026-11-01 2026-11-02 2026-11-02"},
		{"1970-01-01 2026-11-01 2026-11-02", "1970-01-01 2026-11-01 2026-11-02"},
		{"2099-01-01 2026-11-01 2026-11-02", "2026-11-01 2026-11-01 2026-11-02"},
		{"2026-11-01 2026-11-02 2027-11-03 2027-11-04 2026-11-05 2026-11-06 2026-11-07", "2026-11-01 2026-11-02 2026-11-02 2026-11-02 2026-11-05 2026-11-06 2026-11-07"},
	} {
		var stamps []time.Time
		for _, s := range strings.Fields(tt.stamps) {
			stamps = append(stamps, day(s))
		}
		times, believed := newest.Times(stamps)
		var got []string
		for i, x := range times {
			got = append(got, x.Format("2006-01-02"))
			if believed[i] != x.Equal(stamps[i]) {
				t.Errorf("%s: %s is believed: %v", tt.stamps, stamps[i], believed[i])
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: times %v, want %s", tt.stamps, got, tt.want)
		}
	}
}

func TestLate(t *testing.T) {
	now := day("2026-11-28")
	for _, tt := range []struct {
		stamps []time.Time
		want   string
	}{
		{nil, "is missing"},
		{[]time.Time{day("2026-11-26"), now.Add(-time.Hour)}, ""},
		{[]time.Time{day("2026-11-26"), now.Add(newest.Tolerance)}, ""},
		{[]time.Time{day("2026-11-26"), now.Add(newest.Tolerance + 1)}, "is stamped 2026-11-28T00:10:00Z, and it is 2026-11-28T00:00:00Z here"},
		{[]time.Time{day("2026-11-25"), day("2026-11-26")}, "was made at 2026-11-26T00:00:00Z"},
		{[]time.Time{day("2026-11-26"), day("2026-11-27"), day("1970-01-01")}, "is stamped 1970-01-01T00:00:00Z, which is before"},
		{[]time.Time{day("2099-01-01"), day("2026-11-27"), now}, ""},
	} {
		if got := newest.Late(tt.stamps, day("2026-11-27"), now); !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%v: %q, want %q", tt.stamps, got, tt.want)
		}
	}
	if age, ok := newest.Since(now.Add(time.Hour), now); ok || age != 0 {
		t.Errorf("a stamp in the future is %v ago", age)
	}
}

// After is what Sort says of two.
func TestAfterAsSort(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	ids, parents := []string{"a", "b", "c"}, []string{"", "a", "b", "c"}
	one := func() newest.Backup {
		return newest.Backup{ID: ids[rnd.IntN(3)], Parent: parents[rnd.IntN(4)], Order: []int64{0, 5, 6, newest.Most, newest.Most + 1}[rnd.IntN(5)], Time: time.UnixMilli(int64(4 + rnd.IntN(4)))}
	}
	for range 20_000 {
		a, b := one(), one()
		two := []newest.Backup{a, b}
		newest.Sort(two, func(b newest.Backup) newest.Backup { return b })
		if want := two[1].ID == a.ID && a.ID != b.ID; newest.After(a, b) != want {
			t.Fatalf("%+v after %+v: %v", a, b, !want)
		}
	}
}
