package retention_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/retention"
)

// story is a policy, a history of backups and the time of the decision.
type story struct {
	policy  retention.Policy
	backups []retention.Backup
	now     time.Time
}

// tell makes a story of bytes; any bytes give one.
func tell(t *testing.T, data []byte) story {
	next := func(n int) int {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return int(b) % n
	}
	steps := []time.Duration{7 * time.Minute, time.Hour, 9 * time.Hour, 24 * time.Hour, 100 * time.Hour, 30 * 24 * time.Hour}
	spans := []calendar.Span{{}, {}, {Hours: 1}, {Days: 1}, {Weeks: 2}, {Months: 1}, {Years: 1, Months: 6}}
	zones := []string{"UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York"}
	s := story{policy: retention.Policy{
		KeepLast: next(4), KeepHourly: next(5), KeepDaily: next(6), KeepWeekly: next(4), KeepMonthly: next(4), KeepYearly: next(3),
		KeepWithin: spans[next(len(spans))], Minimum: next(4), Location: zone(t, zones[next(len(zones))]),
	}}
	stamp := time.Date(2026, 10, 27, 3, 0, 0, 0, time.UTC) // soon after a change of the clock
	s.now = stamp.Add(time.Duration(next(100)-50) * time.Hour)
	step, protects, mixed := steps[next(len(steps))], next(4) == 0, next(3) == 0
	for len(data) > 1 && len(s.backups) < 60 {
		stamp = stamp.Add(-step * time.Duration(next(16)) / 5)
		flags, who := next(256), 0
		if mixed {
			who = next(256)
		}
		s.backups = append(s.backups, retention.Backup{
			ID: fmt.Sprintf("%02d", len(s.backups)), Time: stamp,
			Damaged: flags&3 == 0, Verified: flags&12 == 0, Pinned: flags>>4 == 0,
			Node: []string{"", "", "a", "a", "a", "b"}[who%6], Maker: []string{"", "m", "n"}[who/6%3], Databases: []int{10, 10, 10, 4, 1, 0}[who/18%6],
		})
		if protects && flags>>4 == 1 {
			s.backups[len(s.backups)-1].RetainUntil = s.now.Add(time.Duration(flags&3) * 12 * time.Hour)
		}
	}
	return s
}

// kept returns the ids of what is kept.
func (s story) kept(t *testing.T) map[string]bool {
	t.Helper()
	list, err := retention.Decide(s.policy, s.backups, s.now)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, d := range list {
		if d.Keep {
			ids[d.ID] = true
		}
	}
	return ids
}

// without returns the story after some backups are gone.
func (s story) without(gone func(retention.Backup) bool) story {
	s.backups = slices.DeleteFunc(slices.Clone(s.backups), gone)
	return s
}

func mustHold(t *testing.T, what string, less, more map[string]bool) {
	t.Helper()
	for id := range less {
		if !more[id] {
			t.Errorf("%s: %s goes", what, id)
		}
	}
}

// check holds one story against all that the package promises.
func check(t *testing.T, s story, r *rand.Rand) {
	kept := s.kept(t)
	checkDecisions(t, s)
	checkOrder(t, s, r)
	checkAgain(t, s, r, kept)
	checkLarger(t, s, kept)
	checkMore(t, s, kept)
	checkClock(t, s, kept)
	for _, wrong := range []time.Duration{-24 * time.Hour, 0, 24 * time.Hour} {
		other := s
		other.now = s.now.Add(wrong)
		checkAlways(t, other)
	}
}

func checkDecisions(t *testing.T, s story) {
	list, err := retention.Decide(s.policy, s.backups, s.now)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != len(s.backups) {
		t.Errorf("%d decisions on %d backups", len(list), len(s.backups))
	}
	for i, d := range list {
		if i > 0 && d.Time.After(list[i-1].Time) {
			t.Errorf("%s is listed after an older one", d.ID)
		}
		if len(d.Reasons) == 0 || d.Keep == slices.Contains(d.Reasons, "no rule keeps it") {
			t.Errorf("%s: keep %v, reasons %q", d.ID, d.Keep, d.Reasons)
		}
	}
	var want []string
	for _, d := range list {
		if !d.Keep {
			want = append(want, d.ID)
		}
	}
	got, err := retention.Goes(s.policy, s.backups, s.now)
	slices.Sort(want)
	slices.Sort(got)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("without reasons %v go, with them %v; %v", got, want, err)
	}
}

func checkOrder(t *testing.T, s story, r *rand.Rand) {
	want, _ := retention.Decide(s.policy, s.backups, s.now)
	shuffled := slices.Clone(s.backups)
	r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if got, _ := retention.Decide(s.policy, shuffled, s.now); !reflect.DeepEqual(got, want) {
		t.Errorf("in another order:\n%swant\n%s", text(got), text(want))
	}
}

// checkAgain decides again after all or some of what goes is gone.
func checkAgain(t *testing.T, s story, r *rand.Rand, kept map[string]bool) {
	all := s.without(func(b retention.Backup) bool { return !kept[b.ID] })
	if again := all.kept(t); !reflect.DeepEqual(again, kept) {
		t.Errorf("decided again: %v, want %v", again, kept)
	}
	some := s.without(func(b retention.Backup) bool { return !kept[b.ID] && r.IntN(2) == 0 })
	mustHold(t, "decided again after a part", kept, some.kept(t))
}

// checkLarger makes each number of the policy larger.
func checkLarger(t *testing.T, s story, kept map[string]bool) {
	if s.policy == (retention.Policy{Minimum: s.policy.Minimum, Location: s.policy.Location}) {
		if len(kept) != len(s.backups) {
			t.Errorf("without a rule only %v are kept", kept)
		}
		return
	}
	for what, grow := range map[string]func(*retention.Policy){
		"keep_last":    func(p *retention.Policy) { p.KeepLast++ },
		"keep_hourly":  func(p *retention.Policy) { p.KeepHourly++ },
		"keep_daily":   func(p *retention.Policy) { p.KeepDaily++ },
		"keep_weekly":  func(p *retention.Policy) { p.KeepWeekly++ },
		"keep_monthly": func(p *retention.Policy) { p.KeepMonthly++ },
		"keep_yearly":  func(p *retention.Policy) { p.KeepYearly++ },
		"keep_within":  func(p *retention.Policy) { p.KeepWithin.Months++ },
		"keep_minimum": func(p *retention.Policy) { p.Minimum++ },
	} {
		larger := s
		grow(&larger.policy)
		mustHold(t, "with a larger "+what, kept, larger.kept(t))
	}
}

// checkMore adds a pin, a mark, and a backup from a clock that is ahead: none of
// them may take another backup away.
func checkMore(t *testing.T, s story, kept map[string]bool) {
	ahead := s
	ahead.backups = append(slices.Clone(s.backups), retention.Backup{ID: "ahead", Time: s.now.Add(time.Hour), Verified: true})
	mustHold(t, "with one from a clock that is ahead", kept, ahead.kept(t))
	for i := range s.backups {
		pinned := s
		pinned.backups = slices.Clone(s.backups)
		pinned.backups[i].Pinned = true
		mustHold(t, "with a pin", kept, pinned.kept(t))
	}
}

// checkClock decides by clocks that are wrong.
func checkClock(t *testing.T, s story, kept map[string]bool) {
	by := func(wrong time.Duration) map[string]bool {
		other := s
		other.now = s.now.Add(wrong)
		return other.kept(t)
	}
	mustHold(t, "by a clock a day behind", kept, by(-24*time.Hour))
	mustHold(t, "by the right clock, of what all rules keep by the latest", by(1e5*time.Hour), kept)
	if slices.ContainsFunc(s.backups, func(b retention.Backup) bool { return b.Time.After(s.now) || b.RetainUntil.After(s.now) }) {
		return
	}
	if ahead := by(24 * time.Hour); !reflect.DeepEqual(ahead, kept) {
		t.Errorf("by a clock a day ahead: %v, want %v", ahead, kept)
	}
}

// checkAlways looks for what is kept in any case.
func checkAlways(t *testing.T, s story) {
	kept := s.kept(t)
	for _, node := range []string{"a", "b"} { // each as if it were alone
		alone := s.without(func(b retention.Backup) bool { return b.Node != node || b.Databases == 0 })
		alone.policy.Minimum = 0 // which counts those of unknown nodes with them
		checkAlwaysOf(t, alone, kept)
	}
	checkAlwaysOf(t, s.without(func(b retention.Backup) bool { return b.Databases == 0 }), kept)
	checkAlwaysOf(t, s, kept)
}

// checkAlwaysOf looks for what is kept in any case of some of the backups.
func checkAlwaysOf(t *testing.T, s story, kept map[string]bool) {
	t.Helper()
	newest := func(what string, is func(retention.Backup) bool) {
		var found retention.Backup
		for _, b := range s.backups {
			if is(b) && (b.Time.After(found.Time) || b.Time.Equal(found.Time) && b.ID > found.ID) {
				found = b
			}
		}
		if found.ID != "" && !kept[found.ID] {
			t.Errorf("%s, %s, goes", what, found.ID)
		}
	}
	now := func(b retention.Backup) bool { return !b.Time.After(s.now) }
	newest("the newest", func(retention.Backup) bool { return true })
	newest("the newest not in the future", now)
	newest("the newest undamaged", func(b retention.Backup) bool { return now(b) && !b.Damaged })
	newest("the newest verified", func(b retention.Backup) bool { return now(b) && b.Verified })
	newest("the newest verified and undamaged", func(b retention.Backup) bool { return now(b) && b.Verified && !b.Damaged })
	sound, soundKept := 0, 0
	for _, b := range s.backups {
		if !kept[b.ID] && (b.Pinned || !now(b) || b.RetainUntil.After(s.now)) {
			t.Errorf("%+v goes", b)
		}
		if !b.Damaged {
			sound++
			if kept[b.ID] {
				soundKept++
			}
		}
	}
	if floor := max(1, s.policy.Minimum); len(kept) < min(floor, len(s.backups)) || soundKept < min(floor, sound) {
		t.Errorf("of %d backups, %d of them undamaged, %d and %d are kept", len(s.backups), sound, len(kept), soundKept)
	}
}

func TestProperties(t *testing.T) {
	removed := 0
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 1))
		data := make([]byte, 12+r.IntN(80))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		if r.IntN(3) > 0 { // few rules, so that more goes
			for range 5 {
				data[r.IntN(8)] = 0
			}
		}
		s := tell(t, data)
		removed += len(s.backups) - len(s.kept(t))
		if check(t, s, r); t.Failed() {
			t.Fatalf("seed %d: %+v", seed, s)
		}
	}
	if removed < 5000 {
		t.Errorf("all stories together remove only %d backups", removed)
	}
}

func FuzzDecide(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 0, 2, 0, 0, 0, 3, 2, 1, 50, 2, 1, 0, 9, 255, 0, 255, 14, 3, 7, 12, 200, 77})
	f.Add([]byte("keep one of each, and nothing else: the newest of a long history of backups"))
	f.Fuzz(func(t *testing.T, data []byte) {
		check(t, tell(t, data), rand.New(rand.NewPCG(uint64(len(data)), 1)))
	})
}
