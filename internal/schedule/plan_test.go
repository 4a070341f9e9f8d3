package schedule_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/schedule"
)

const day = 24 * time.Hour

func TestDecide(t *testing.T) {
	at := func(text string) time.Time { return moment(t, "2026-06-"+text+":00Z") }
	daily := schedule.Plan{ID: "a", Spec: parse(t, "0 3 * * *", "")}
	window := daily
	window.Window = time.Hour
	catchUp := window
	catchUp.CatchUp = true
	open := daily
	open.CatchUp = true
	negative := daily
	negative.Window, negative.Jitter = -1, -1

	fire := func(due string) schedule.Decision {
		return schedule.Decision{Fire: true, Due: at(due), Next: at(due).Add(day)}
	}
	tests := []struct {
		name      string
		plan      schedule.Plan
		now, next string
		busy      bool
		want      schedule.Decision
	}{
		{"new", daily, "10T02:00", "", false, schedule.Decision{Next: at("10T03:00")}},
		{"new, and just due", daily, "10T03:00", "", false, schedule.Decision{Next: at("11T03:00")}},
		{"not yet", daily, "10T02:59", "10T03:00", false, schedule.Decision{Next: at("10T03:00")}},
		{"not yet, and busy", daily, "10T02:59", "10T03:00", true, schedule.Decision{Next: at("10T03:00")}},
		{"due", daily, "10T03:00", "10T03:00", false, fire("10T03:00")},
		{"negative times", negative, "10T03:00", "10T03:00", false, fire("10T03:00")},
		{"late, without a window", daily, "11T02:59", "10T03:00", false, fire("10T03:00")},
		{"late, within the window", window, "10T03:59", "10T03:00", false, fire("10T03:00")},
		{"window over", window, "10T04:00", "10T03:00", false, schedule.Decision{Missed: 1, Next: at("11T03:00")}},
		{"window over, and busy", window, "10T04:00", "10T03:00", true, schedule.Decision{Missed: 1, Next: at("11T03:00")}},
		{"window over, catch up", catchUp, "10T04:00", "10T03:00", false, fire("10T03:00")},
		{"busy", window, "10T03:00", "10T03:00", true, schedule.Decision{Skipped: true, Due: at("10T03:00"), Next: at("11T03:00")}},

		{"down for days, back in a window", window, "13T03:10", "10T03:00", false,
			schedule.Decision{Fire: true, Due: at("13T03:00"), Missed: 3, Next: at("14T03:00")}},
		{"down for days, back out of a window", window, "13T12:00", "10T03:00", false,
			schedule.Decision{Missed: 4, Next: at("14T03:00")}},
		{"down for days, no window", daily, "13T12:00", "10T03:00", false,
			schedule.Decision{Fire: true, Due: at("13T03:00"), Missed: 3, Next: at("14T03:00")}},
		{"down for days, no window, catch up", open, "13T12:00", "10T03:00", false,
			schedule.Decision{Fire: true, Due: at("13T03:00"), CaughtUp: 3, Next: at("14T03:00")}},
		{"down for days, catch up", catchUp, "13T12:00", "10T03:00", false,
			schedule.Decision{Fire: true, Due: at("13T03:00"), CaughtUp: 3, Next: at("14T03:00")}},
		{"down for days, catch up, back in a window", catchUp, "13T03:10", "10T03:00", false,
			schedule.Decision{Fire: true, Due: at("13T03:00"), CaughtUp: 3, Next: at("14T03:00")}},
		{"down for days, catch up, but busy", catchUp, "13T12:00", "10T03:00", true,
			schedule.Decision{Skipped: true, Due: at("13T03:00"), Missed: 3, Next: at("14T03:00")}},
		{"down for days, busy in a window", window, "13T03:10", "10T03:00", true,
			schedule.Decision{Skipped: true, Due: at("13T03:00"), Missed: 3, Next: at("14T03:00")}},

		{"clock a little back", daily, "09T10:00", "11T03:00", false, schedule.Decision{Next: at("11T03:00")}},
		{"clock back to before the last firing", daily, "10T02:59", "11T03:00", false, schedule.Decision{Next: at("11T03:00")}},
		{"clock was ahead by days", daily, "10T02:59", "15T03:00", false, schedule.Decision{Next: at("10T03:00")}},
		{"next of another line", daily, "10T03:00", "10T02:17", false,
			schedule.Decision{Fire: true, Due: at("10T03:00"), Missed: 1, Next: at("11T03:00")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var next time.Time
			if tt.next != "" {
				next = at(tt.next)
			}
			if got := tt.plan.Decide(at(tt.now), next, tt.busy); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestDecideWaitsForJitter(t *testing.T) {
	due := moment(t, "2026-06-10T03:00:00Z")
	p := schedule.Plan{ID: "a", Spec: parse(t, "0 3 * * *", ""), Jitter: 2 * time.Hour, Window: 10 * time.Minute}
	begin := p.Begin(due)
	if begin.Equal(due) {
		t.Fatal("the example has no jitter: take another id")
	}
	check := func(name string, now, next time.Time, want schedule.Decision) {
		t.Helper()
		if got := p.Decide(now, next, false); got != want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
		}
	}
	after := due.Add(day)
	check("before it", begin.Add(-1), due, schedule.Decision{Next: due})
	check("at it", begin, due, schedule.Decision{Fire: true, Due: due, Next: after})
	check("the window is counted from there", begin.Add(p.Window-1), due, schedule.Decision{Fire: true, Due: due, Next: after})
	check("and over", begin.Add(p.Window), due, schedule.Decision{Missed: 1, Next: after})
	check("earlier ones are missed already", begin.Add(-1), due.Add(-2*day), schedule.Decision{Missed: 2, Next: due})
	p.CatchUp = true
	check("and will be caught up", begin.Add(-1), due.Add(-2*day), schedule.Decision{Next: due.Add(-2 * day)})
	check("now", begin, due.Add(-2*day), schedule.Decision{Fire: true, Due: due, CaughtUp: 2, Next: after})
}

// A clock that is years ahead, or a next firing of long ago, costs little.
func TestDecideIsBounded(t *testing.T) {
	next := moment(t, "2026-06-10T03:00:00Z")
	for _, line := range []string{"* * * * *", "* * * 1 *", "* 0 1 1 *", "0 3 * * *", "@yearly", "0 0 29 2 *"} {
		for _, years := range []int{1, 10, 70} {
			s := parse(t, line, "Europe/Berlin")
			now := next.AddDate(years, 0, 0).Add(17 * time.Second)
			begin := time.Now()
			d := schedule.Plan{ID: "a", Spec: s, CatchUp: true}.Decide(now, s.Next(next), false)
			took := time.Since(begin)
			if d.Next.Before(now) || !d.Next.Equal(s.Next(now)) || d.CaughtUp > 10080 {
				t.Errorf("%s, %d years: got %+v", line, years, d)
			}
			if d.Fire && (d.Due.After(now) || !s.Next(d.Due).Equal(d.Next)) {
				t.Errorf("%s, %d years: %v is not the last one before %v", line, years, d.Due, now)
			}
			t.Logf("%s, %d years: %v", line, years, took)
			if took > 10*time.Second {
				t.Errorf("%s, %d years: took %v", line, years, took)
			}
		}
	}
}

func TestBeginIsSpreadEvenly(t *testing.T) {
	s := parse(t, "0 3 * * *", "Europe/Berlin")
	due := s.Next(moment(t, "2026-06-10T03:00:00Z"))
	p := schedule.Plan{Spec: s, Jitter: time.Hour}
	const n, bins = 20000, 20
	var count [bins]int
	for i := range n {
		p.ID = fmt.Sprint("schedule-", i)
		late := p.Begin(due).Sub(due)
		if late < 0 || late > p.Jitter || !p.Begin(due).Equal(due.Add(late)) {
			t.Fatalf("%s begins %v late", p.ID, late)
		}
		count[min(int(late*bins/p.Jitter), bins-1)]++
	}
	for i, c := range count {
		if c < n/bins*8/10 || c > n/bins*12/10 {
			t.Errorf("bin %d of %d has %d of %d", i, bins, c, n)
		}
	}
	p.ID = "schedule-1"
	if a, b := p.Begin(due).Sub(due), p.Begin(due.Add(day)).Sub(due.Add(day)); a == b {
		t.Errorf("it is %v each day", a)
	}
	p.Jitter = 100 * day
	for i := range 100 {
		p.ID = fmt.Sprint(i)
		if late := p.Begin(due).Sub(due); late < 0 || late > day/2 {
			t.Errorf("%s begins %v late, the next is due a day later", p.ID, late)
		}
	}
}

// TestYearOfDowntimes lives through a year with random downtimes, a clock that is
// set back now and then, and an instance that is busy at times. Each firing is
// accounted for once, and none that could begin is lost.
func TestYearOfDowntimes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for _, line := range []string{"0 3 * * *", "*/20 * * * *", "30 2,14 * * 1-5", "@weekly", "7 * * * *", "15 1 1 * *"} {
		for _, zone := range []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"} {
			p := schedule.Plan{ID: line + zone, Spec: parse(t, line, zone), CatchUp: random.IntN(2) == 0}
			if random.IntN(2) == 0 {
				p.Window = time.Duration(1+random.IntN(90)) * time.Minute
			}
			if random.IntN(2) == 0 {
				p.Jitter = time.Duration(random.IntN(60)) * time.Minute
			}
			t.Run(fmt.Sprintf("%s %s jitter %v window %v catch up %v", line, zone, p.Jitter, p.Window, p.CatchUp), func(t *testing.T) {
				live(t, p, random, seed)
			})
		}
	}
}

func live(t *testing.T, p schedule.Plan, random *rand.Rand, seed uint64) {
	const tick = 61 * time.Second
	start := time.Date(2026, 1, 1, 0, 0, 7, 0, time.UTC)
	end := start.AddDate(1, 0, 0)
	next := p.Decide(start, time.Time{}, false).Next
	walked := next // the first firing that is not accounted for, found by walking
	lastTick, latest := start, start
	var fired, skipped, missed, caughtUp, all int
	for now := start; now.Before(end); now = now.Add(tick) {
		switch random.IntN(1000) {
		case 0: // down
			now = now.Add(time.Duration(random.Int64N(int64(3 * day))))
		case 1: // set back, to at most 20 hours before the latest time it has shown
			now = latest.Add(-time.Duration(random.Int64N(int64(20 * time.Hour))))
		}
		if now.After(latest) {
			latest = now
		}
		busy := random.IntN(6) == 0
		d := p.Decide(now, next, busy)
		if d.Fire && d.Skipped || (d.Fire || d.Skipped) != !d.Due.IsZero() || d.Next.Before(next) {
			t.Fatalf("seed %d: at %v with %v: %+v", seed, now, next, d)
		}
		count, last := 0, time.Time{}
		for ; walked.Before(d.Next); walked = p.Spec.Next(walked) {
			// What is over without a backup must not have been in a window at the last look.
			if begin := p.Begin(walked); d.Missed > 0 && !walked.Equal(d.Due) && !lastTick.Before(begin) && !lastTick.Before(walked) &&
				(p.Window == 0 || lastTick.Before(begin.Add(p.Window))) && lastTick.Before(p.Spec.Next(walked)) {
				t.Fatalf("seed %d: %v could begin at %v and is missed at %v", seed, walked, lastTick, now)
			}
			count, last = count+1, walked
		}
		if !walked.Equal(d.Next) {
			t.Fatalf("seed %d: at %v next is %v, which is no firing", seed, now, d.Next)
		}
		accounted := d.Missed + d.CaughtUp
		if !d.Due.IsZero() {
			accounted++
			begin := p.Begin(d.Due)
			if !d.Due.Equal(last) || now.Before(begin) || d.Skipped != busy {
				t.Fatalf("seed %d: at %v with %v, busy %v: %+v", seed, now, next, busy, d)
			}
			if late := now.Sub(begin); p.Window > 0 && late >= p.Window && !p.CatchUp {
				t.Fatalf("seed %d: %v begins %v late", seed, d.Due, late)
			}
		}
		if accounted != count || d.CaughtUp > 0 && (!p.CatchUp || !d.Fire) {
			t.Fatalf("seed %d: at %v with %v: %d firings, and %+v", seed, now, next, count, d)
		}
		if d.Fire {
			fired++
		}
		if d.Skipped {
			skipped++
		}
		missed, caughtUp, all = missed+d.Missed, caughtUp+d.CaughtUp, all+count
		next, lastTick = d.Next, now
	}
	if fired+skipped+missed+caughtUp != all || all == 0 || p.CatchUp && missed > 0 && skipped == 0 {
		t.Errorf("seed %d: %d fired, %d skipped, %d missed, %d caught up, of %d", seed, fired, skipped, missed, caughtUp, all)
	}
	t.Logf("%d fired, %d skipped, %d missed, %d caught up", fired, skipped, missed, caughtUp)
}
