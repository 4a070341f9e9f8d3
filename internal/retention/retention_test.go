package retention_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/retention"
)

// parse reads backups, one a line: time, then any of damaged, verified,
// pinned (= and its reason, with _ for blanks) and retained (= and until when). The
// id is the time.
func parse(t *testing.T, text string) (list []retention.Backup) {
	t.Helper()
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		b := retention.Backup{ID: f[0], Time: at(t, f[0])}
		for _, word := range f[1:] {
			word, more, _ := strings.Cut(word, "=")
			switch word {
			case "damaged":
				b.Damaged = true
			case "incomplete":
				b.Incomplete = true
			case "pinned":
				b.Pinned, b.PinReason = true, strings.ReplaceAll(more, "_", " ")
			case "verified":
				b.Verified = true
			case "retained":
				b.RetainUntil = at(t, more)
			default:
				t.Fatalf("no such word: %s", word)
			}
		}
		list = append(list, b)
	}
	return list
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	tm, err := time.Parse("2006-01-02T15:04Z07:00", text)
	if err != nil {
		t.Fatal(err)
	}
	return tm
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// text is the decisions, one a line: the id, + or -, the reasons.
func text(list []retention.Decision) string {
	var b strings.Builder
	for _, d := range list {
		sign := "-"
		if d.Keep {
			sign = "+"
		}
		fmt.Fprintf(&b, "%s %s %s\n", d.ID, sign, strings.Join(d.Reasons, ", "))
	}
	return b.String()
}

func TestDecide(t *testing.T) {
	const daily = "2026-11-22T10:00Z\n2026-11-21T22:00Z\n2026-11-21T10:00Z\n2026-11-18T10:00Z\n2026-11-17T10:00Z\n"
	tests := []struct {
		name    string
		policy  retention.Policy
		backups string
		now     string // 2026-11-22T12:00Z if empty
		want    string
	}{
		{name: "no backup", policy: retention.Policy{KeepLast: 1}},
		{
			name: "no rule keeps all", policy: retention.Policy{Minimum: 1},
			backups: "2026-11-22T10:00Z\n2020-01-01T10:00Z damaged\n",
			want: "2026-11-22T10:00Z + the newest, no rule is set\n" +
				"2020-01-01T10:00Z + no rule is set\n",
		},
		{
			name: "last", policy: retention.Policy{KeepLast: 2}, backups: daily,
			want: "2026-11-22T10:00Z + the newest, the 1st of keep_last: 2\n" +
				"2026-11-21T22:00Z + the 2nd of keep_last: 2\n" +
				"2026-11-21T10:00Z - no rule keeps it\n" +
				"2026-11-18T10:00Z - no rule keeps it\n" +
				"2026-11-17T10:00Z - no rule keeps it\n",
		},
		{
			name: "a day without a backup doesn't count", policy: retention.Policy{KeepDaily: 3}, backups: daily,
			want: "2026-11-22T10:00Z + the newest, the 1st of keep_daily: 3 (2026-11-22)\n" +
				"2026-11-21T22:00Z + the 2nd of keep_daily: 3 (2026-11-21)\n" +
				"2026-11-21T10:00Z - no rule keeps it\n" +
				"2026-11-18T10:00Z + the 3rd of keep_daily: 3 (2026-11-18)\n" +
				"2026-11-17T10:00Z - no rule keeps it\n",
		},
		{
			name: "hours", policy: retention.Policy{KeepHourly: 2},
			backups: "2026-11-22T10:59Z\n2026-11-22T10:00Z\n2026-11-22T09:59Z\n2026-11-22T08:59Z\n",
			want: "2026-11-22T10:59Z + the newest, the 1st of keep_hourly: 2 (2026-11-22 10:00Z)\n" +
				"2026-11-22T10:00Z - no rule keeps it\n" +
				"2026-11-22T09:59Z + the 2nd of keep_hourly: 2 (2026-11-22 09:00Z)\n" +
				"2026-11-22T08:59Z - no rule keeps it\n",
		},
		{
			name: "a week of ISO 8601 can belong to another year", policy: retention.Policy{KeepWeekly: 2, KeepYearly: 2},
			backups: "2027-01-04T00:00Z\n2027-01-03T23:00Z\n2027-01-01T00:00Z\n2026-12-31T00:00Z\n2026-12-27T00:00Z\n", now: "2027-01-05T00:00Z",
			want: "2027-01-04T00:00Z + the newest, the 1st of keep_weekly: 2 (2027-W01), the 1st of keep_yearly: 2 (2027)\n" +
				"2027-01-03T23:00Z + the 2nd of keep_weekly: 2 (2026-W53)\n" +
				"2027-01-01T00:00Z - no rule keeps it\n" +
				"2026-12-31T00:00Z + the 2nd of keep_yearly: 2 (2026)\n" +
				"2026-12-27T00:00Z - no rule keeps it\n",
		},
		{
			name: "months", policy: retention.Policy{KeepMonthly: 2},
			backups: "2026-11-01T00:00Z\n2026-10-31T23:00Z\n2026-10-01T00:00Z\n2026-08-01T00:00Z\n",
			want: "2026-11-01T00:00Z + the newest, the 1st of keep_monthly: 2 (2026-11)\n" +
				"2026-10-31T23:00Z + the 2nd of keep_monthly: 2 (2026-10)\n" +
				"2026-10-01T00:00Z - no rule keeps it\n" +
				"2026-08-01T00:00Z - no rule keeps it\n",
		},
		{
			name: "days begin where the policy says", policy: retention.Policy{KeepDaily: 2, Location: zone(t, "Asia/Kolkata")},
			backups: "2026-11-21T18:31Z\n2026-11-21T18:30Z\n2026-11-21T18:29Z\n",
			want: "2026-11-21T18:31Z + the newest, the 1st of keep_daily: 2 (2026-11-22)\n" +
				"2026-11-21T18:30Z - no rule keeps it\n" +
				"2026-11-21T18:29Z + the 2nd of keep_daily: 2 (2026-11-21)\n",
		},
		{
			name: "the hour that a change of the clock repeats is two", policy: retention.Policy{KeepHourly: 2, Location: zone(t, "Europe/Berlin")},
			backups: "2026-10-25T01:30Z\n2026-10-25T00:30Z\n2026-10-24T23:30Z\n",
			want: "2026-10-25T01:30Z + the newest, the 1st of keep_hourly: 2 (2026-10-25 02:00+01:00)\n" +
				"2026-10-25T00:30Z + the 2nd of keep_hourly: 2 (2026-10-25 02:00+02:00)\n" +
				"2026-10-24T23:30Z - no rule keeps it\n",
		},
		{
			name: "within counts from the newest, not from now", policy: retention.Policy{KeepWithin: calendar.Span{Days: 1}}, backups: daily, now: "2027-11-22T12:00Z",
			want: "2026-11-22T10:00Z + the newest, within 1d of the newest\n" +
				"2026-11-21T22:00Z + within 1d of the newest\n" +
				"2026-11-21T10:00Z + within 1d of the newest\n" +
				"2026-11-18T10:00Z - no rule keeps it\n" +
				"2026-11-17T10:00Z - no rule keeps it\n",
		},
		{
			name: "one from a clock that was ahead takes no place", policy: retention.Policy{KeepLast: 1, KeepDaily: 2, KeepWithin: calendar.Span{Hours: 12}},
			backups: "2026-11-23T10:00Z damaged verified\n" + daily,
			want: "2026-11-23T10:00Z + stamped in the future (2026-11-23T10:00:00Z)\n" +
				"2026-11-22T10:00Z + the newest, the 1st of keep_last: 1, the 1st of keep_daily: 2 (2026-11-22), within 12h of the newest\n" +
				"2026-11-21T22:00Z + the 2nd of keep_daily: 2 (2026-11-21), within 12h of the newest\n" +
				"2026-11-21T10:00Z - no rule keeps it\n" +
				"2026-11-18T10:00Z - no rule keeps it\n" +
				"2026-11-17T10:00Z - no rule keeps it\n",
		},
		{
			name: "pins", policy: retention.Policy{KeepLast: 1},
			backups: "2026-11-22T13:00Z pinned\n2026-11-22T10:00Z\n2026-11-21T10:00Z pinned=before_the_upgrade damaged\n2026-11-20T10:00Z pinned\n",
			want: "2026-11-22T13:00Z + stamped in the future (2026-11-22T13:00:00Z), pinned\n" +
				"2026-11-22T10:00Z + the newest, the 1st of keep_last: 1\n" +
				"2026-11-21T10:00Z + pinned: before the upgrade\n" +
				"2026-11-20T10:00Z + pinned\n",
		},
		{
			name: "what the storage protects", policy: retention.Policy{KeepLast: 1},
			backups: "2026-11-22T10:00Z\n2026-11-21T10:00Z retained=2026-11-22T12:01Z\n2026-11-20T10:00Z retained=2026-11-22T12:00Z\n",
			want: "2026-11-22T10:00Z + the newest, the 1st of keep_last: 1\n" +
				"2026-11-21T10:00Z + protected by the storage until 2026-11-22T12:01:00Z\n" +
				"2026-11-20T10:00Z - no rule keeps it\n",
		},
		{
			name: "damaged ones push out no sound one", policy: retention.Policy{KeepLast: 2},
			backups: "2026-11-22T10:00Z damaged\n2026-11-21T10:00Z damaged verified\n2026-11-20T10:00Z damaged\n2026-11-19T10:00Z\n2026-11-18T10:00Z verified\n2026-11-17T10:00Z verified\n",
			want: "2026-11-22T10:00Z + the newest, the 1st of keep_last: 2\n" +
				"2026-11-21T10:00Z + the newest verified, the 2nd of keep_last: 2\n" +
				"2026-11-20T10:00Z - no rule keeps it\n" +
				"2026-11-19T10:00Z + the newest undamaged\n" +
				"2026-11-18T10:00Z + the newest verified and undamaged\n" +
				"2026-11-17T10:00Z - no rule keeps it\n",
		},
		{
			name: "incomplete ones push out nothing that restores", policy: retention.Policy{KeepLast: 1, KeepDaily: 2, Minimum: 2},
			backups: "2026-11-22T10:00Z incomplete\n2026-11-21T10:00Z incomplete damaged\n2026-11-21T09:00Z damaged\n2026-11-20T10:00Z damaged\n",
			want: "2026-11-22T10:00Z + the newest, the 1st of keep_last: 1, the 1st of keep_daily: 2 (2026-11-22)\n" +
				"2026-11-21T10:00Z - no rule keeps it\n" +
				"2026-11-21T09:00Z + the newest complete, the 1st of keep_minimum: 2, the 2nd of keep_daily: 2 (2026-11-21)\n" +
				"2026-11-20T10:00Z + the 2nd of keep_minimum: 2\n",
		},
		{
			name: "an undamaged backup stands for its day", policy: retention.Policy{KeepDaily: 3},
			backups: "2026-11-22T10:00Z damaged\n2026-11-21T20:00Z damaged\n2026-11-21T10:00Z\n2026-11-21T09:00Z\n2026-11-20T10:00Z damaged\n2026-11-20T09:00Z damaged\n",
			want: "2026-11-22T10:00Z + the newest, the 1st of keep_daily: 3 (2026-11-22)\n" +
				"2026-11-21T20:00Z - no rule keeps it\n" +
				"2026-11-21T10:00Z + the newest undamaged, the 2nd of keep_daily: 3 (2026-11-21)\n" +
				"2026-11-21T09:00Z - no rule keeps it\n" +
				"2026-11-20T10:00Z + the 3rd of keep_daily: 3 (2026-11-20)\n" +
				"2026-11-20T09:00Z - no rule keeps it\n",
		},
		{
			name: "minimum counts undamaged ones first", policy: retention.Policy{KeepLast: 1, Minimum: 3},
			backups: "2026-11-22T10:00Z damaged\n2026-11-21T10:00Z\n2026-11-20T10:00Z damaged\n2026-11-19T10:00Z\n2026-11-18T10:00Z\n2026-11-17T10:00Z\n",
			want: "2026-11-22T10:00Z + the newest, the 1st of keep_last: 1\n" +
				"2026-11-21T10:00Z + the newest undamaged, the 1st of keep_minimum: 3\n" +
				"2026-11-20T10:00Z - no rule keeps it\n" +
				"2026-11-19T10:00Z + the 2nd of keep_minimum: 3\n" +
				"2026-11-18T10:00Z + the 3rd of keep_minimum: 3\n" +
				"2026-11-17T10:00Z - no rule keeps it\n",
		},
		{
			name: "minimum is filled up with damaged ones", policy: retention.Policy{KeepLast: 1, Minimum: 3},
			backups: "2026-11-22T10:00Z damaged\n2026-11-21T10:00Z damaged\n2026-11-20T10:00Z\n2026-11-19T10:00Z damaged\n",
			want: "2026-11-22T10:00Z + the newest, the 2nd of keep_minimum: 3, the 1st of keep_last: 1\n" +
				"2026-11-21T10:00Z + the 3rd of keep_minimum: 3\n" +
				"2026-11-20T10:00Z + the newest undamaged, the 1st of keep_minimum: 3\n" +
				"2026-11-19T10:00Z - no rule keeps it\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := at(t, "2026-11-22T12:00Z")
			if tt.now != "" {
				now = at(t, tt.now)
			}
			backups := parse(t, tt.backups)
			slices.Reverse(backups)
			got, err := retention.Decide(tt.policy, backups, now)
			if err != nil {
				t.Fatal(err)
			}
			if text(got) != tt.want {
				t.Errorf("got\n%swant\n%s", text(got), tt.want)
			}
		})
	}
}

func TestRanks(t *testing.T) {
	var backups []retention.Backup
	newest := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for i := range 123 {
		backups = append(backups, retention.Backup{ID: fmt.Sprint(i), Time: newest.Add(-time.Duration(i) * time.Minute)})
	}
	list, err := retention.Decide(retention.Policy{KeepLast: 122}, backups, newest)
	if err != nil {
		t.Fatal(err)
	}
	for rank, want := range map[int]string{2: "2nd", 3: "3rd", 4: "4th", 10: "10th", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 22: "22nd", 101: "101st", 111: "111th", 112: "112th", 122: "122nd"} {
		if got := list[rank-1].Reasons[0]; got != "the "+want+" of keep_last: 122" {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if list[122].Keep {
		t.Error("the 123rd is kept")
	}
}

// A rule keeps as many as it says, of backups that lie far enough apart.
func TestCounts(t *testing.T) {
	var backups []retention.Backup
	newest := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for i := range 20 {
		backups = append(backups, retention.Backup{ID: fmt.Sprint(i), Time: newest.AddDate(-i, 0, 0)})
	}
	for _, n := range []int{1, 2, 7, 19, 20, 21} {
		for name, p := range map[string]retention.Policy{
			"last": {KeepLast: n}, "hourly": {KeepHourly: n}, "daily": {KeepDaily: n}, "weekly": {KeepWeekly: n}, "monthly": {KeepMonthly: n}, "yearly": {KeepYearly: n},
			"within": {KeepWithin: calendar.Span{Years: n - 1, Hours: 1}}, "minimum": {KeepLast: 1, Minimum: n},
		} {
			list, err := retention.Decide(p, backups, newest)
			if err != nil {
				t.Fatal(err)
			}
			for i, d := range list {
				if d.Keep != (i < n) {
					t.Errorf("%s %d: the backup of %s is kept: %v", name, n, d.Time, d.Keep)
				}
			}
		}
	}
}

// Of two with the same time the one with the larger id is the newer: ids of one
// instance sort by time.
func TestSameTime(t *testing.T) {
	now := at(t, "2026-11-22T12:00Z")
	backups := []retention.Backup{{ID: "a", Time: now}, {ID: "c", Time: now}, {ID: "b", Time: now}}
	list, err := retention.Decide(retention.Policy{KeepLast: 2}, backups, now)
	if err != nil {
		t.Fatal(err)
	}
	want := "c + the newest, the 1st of keep_last: 2\nb + the 2nd of keep_last: 2\na - no rule keeps it\n"
	if text(list) != want {
		t.Errorf("got\n%swant\n%s", text(list), want)
	}
}

func TestRefuses(t *testing.T) {
	now := at(t, "2026-11-22T12:00Z")
	tests := []struct {
		name    string
		policy  retention.Policy
		backups []retention.Backup
		want    string
	}{
		{"negative last", retention.Policy{KeepLast: -1}, nil, "keep_last is -1"},
		{"negative yearly", retention.Policy{KeepYearly: -1}, nil, "keep_yearly is -1"},
		{"negative minimum", retention.Policy{Minimum: -1}, nil, "keep_minimum is -1"},
		{"negative within", retention.Policy{KeepWithin: calendar.Span{Years: 1, Days: -1}}, nil, "keep_within is 1y-1d"},
		{"no id", retention.Policy{}, []retention.Backup{{Time: now}}, "has no id"},
		{"no time", retention.Policy{}, []retention.Backup{{ID: "a"}}, "backup a has no time"},
		{"twice", retention.Policy{}, []retention.Backup{{ID: "a", Time: now}, {ID: "b", Time: now}, {ID: "a", Time: now.Add(time.Hour)}}, "backup a is listed twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := retention.Decide(tt.policy, tt.backups, now)
			if err == nil || !strings.Contains(err.Error(), tt.want) || list != nil {
				t.Errorf("got %v, %v, want %s", list, err, tt.want)
			}
		})
	}
}
