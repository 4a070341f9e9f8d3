package timeline_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/web/timeline"
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t
}

// clinic is the instance of the reference: shipped for 14 days with one gap, and backups since before.
func clinic() timeline.Input {
	in := timeline.Input{Name: "clinic-2", Now: at("2026-11-28 13:32:10"), From: at("2026-11-12 11:00:00"), To: at("2026-11-29 11:00:00"), Keep: "14 days", Count: 12438}
	for day := 13; day <= 28; day++ {
		in.Backups = append(in.Backups, timeline.Backup{At: at(fmt.Sprintf("2026-11-%02d 01:34:00", day)), New: int64(day) << 20, Damaged: max(0, day-25), Href: fmt.Sprint("/b/", day)})
	}
	in.Shipped = []timeline.Span{{at("2026-11-14 13:32:00"), at("2026-11-21 03:11:58")}, {at("2026-11-21 06:03:20"), at("2026-11-28 13:32:08")}}
	in.Gaps = []timeline.Gap{{at("2026-11-21 03:12:00"), at("2026-11-21 06:03:00"), "nothing was shipped: the agent was stopped, and messages was compacted meanwhile"}}
	in.Next = []time.Time{at("2026-11-29 01:34:00")}
	return in
}

func TestWords(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ at, title, words string }{
		{"2026-11-27 18:00:04", "Fri 27 Nov 18:00:04, exact to the second", "All 12,438 databases at one moment: the backup before it, and what was shipped since."},
		{"2026-11-21 04:00:00", "Sat 21 Nov 04:00:00, in the gap", "Nothing was shipped from 03:12 to 06:03: the agent was stopped, and messages was compacted meanwhile. Nearest: 03:11:58 before, 06:03:20 after."},
		{"2026-11-14 08:00:00", "Sat 14 Nov 08:00:00, backups only", "Shipped moments are kept for 14 days. The newest backup before this one is used, of Sat 14 Nov, 01:34."},
		{"2026-11-12 12:00:00", "Thu 12 Nov 12:00:00, before the first backup", "Nothing is stored of this moment: the first that can be had back is Fri 13 Nov, 01:34."},
		{"2030-01-01 00:00:00", "Sat 28 Nov 13:32:08, exact to the second", "All 12,438 databases"},
	} {
		in := clinic()
		in.At = at(test.at)
		if p := timeline.Draw(in); p.Title != test.title || !strings.HasPrefix(p.Words, test.words) {
			t.Errorf("%s: %q, %q; want %q, %q", test.at, p.Title, p.Words, test.title, test.words)
		}
	}
	in := clinic()
	in.Shipped, in.Gaps, in.Keep = nil, nil, ""
	in.At = at("2026-11-27 18:00:04")
	if p := timeline.Draw(in); p.Kind != timeline.Only || p.Words != "Nothing is shipped of this time. The newest backup before this one is used, of Fri 27 Nov, 01:34, whole but for 2 findings in its source." {
		t.Errorf("without shipping: %s, %s", p.Kind, p.Words)
	}
	in = clinic()
	in.Behind, in.Why, in.At = at("2026-11-28 09:41:00"), "it catches up when the agent is back", at("2026-11-28 12:00:00")
	in.Shipped[1].To = in.Behind
	if p := timeline.Draw(in); p.Kind != timeline.Pending || p.Words != "Not shipped yet since Sat 28 Nov, 09:41; it catches up when the agent is back." {
		t.Errorf("behind: %s, %s", p.Kind, p.Words)
	}
	if p := timeline.Draw(timeline.Input{Name: "x", Now: at("2026-11-28 12:00:00"), From: at("2026-11-27 12:00:00"), To: at("2026-11-28 13:00:00")}); p.Kind != timeline.Nothing || p.Lanes[0].Reach != "nothing yet" {
		t.Errorf("without anything: %+v", p)
	}
}

func number(t *testing.T, text string) float64 {
	t.Helper()
	x, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil {
		t.Fatalf("position %q: %v", text, err)
	}
	return x
}

// Whatever is known, and whatever part is drawn: all is in the picture, nothing is too narrow to be seen, the marks are
// bounded, and each moment has one fact.
func TestGeometry(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 11))
	for round := range 300 {
		in := timeline.Input{Name: "n", Now: at("2026-11-28 12:00:00"), Keep: "14 days"}
		in.From = in.Now.Add(-time.Duration(r.Int64N(int64(400 * 24 * time.Hour))))
		in.To = in.From.Add(time.Minute + time.Duration(r.Int64N(int64(30*24*time.Hour))))
		for range r.IntN(2000) {
			in.Backups = append(in.Backups, timeline.Backup{At: in.Now.Add(-time.Duration(r.Int64N(int64(400 * 24 * time.Hour)))), New: r.Int64N(1 << 40), Damaged: r.IntN(2), Proven: r.IntN(3) == 0})
		}
		t0 := in.Now.Add(-20 * 24 * time.Hour)
		for range r.IntN(30) {
			t1 := t0.Add(time.Duration(r.Int64N(int64(20 * time.Hour))))
			t2 := t1.Add(time.Duration(r.Int64N(int64(time.Hour))))
			in.Shipped = append(in.Shipped, timeline.Span{From: t0, To: t1})
			in.Gaps = append(in.Gaps, timeline.Gap{From: t1, To: t2, Why: "why"})
			t0 = t2
		}
		var events []timeline.Event
		for range 500 {
			events = append(events, timeline.Event{At: in.Now.Add(-time.Duration(r.Int64N(int64(20 * 24 * time.Hour)))), What: "compacted"})
		}
		in.Databases = []timeline.Database{{Name: "a", Events: events}, {Name: "b", Gone: in.Now.Add(-time.Hour)}}
		p := timeline.Draw(in)
		for _, l := range p.Lanes {
			if len(l.Marks) > 1000 {
				t.Fatalf("round %d: a lane has %d marks", round, len(l.Marks))
			}
			for _, m := range l.Marks {
				x := number(t, m.X)
				if x < 0 || x > 100 {
					t.Fatalf("round %d: %+v is outside", round, m)
				}
				if m.B == 0 {
					continue
				}
				if w := number(t, m.Width); m.Class != "base" && w < 0.428 || x+w > 100.01 {
					t.Fatalf("round %d: %+v is too narrow, or outside", round, m)
				}
			}
		}
		for i, f := range p.Facts {
			if f.B <= f.A || f.Words == "" || i > 0 && f.A != p.Facts[i-1].B {
				t.Fatalf("round %d: fact %d is %+v, after %+v", round, i, f, p.Facts[max(0, i-1)])
			}
		}
		for _, k := range p.Ticks {
			if x := number(t, k.X); x < 0 || x > 100 {
				t.Fatalf("round %d: tick %+v", round, k)
			}
		}
		if len(p.Ticks) > 20 {
			t.Fatalf("round %d: %d ticks for %s", round, len(p.Ticks), in.To.Sub(in.From))
		}
	}
}

func TestTicksAreAtRoundTimesOfTheZone(t *testing.T) {
	t.Parallel()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones here:", err)
	}
	in := clinic()
	in.Zone, in.From, in.To = zone, at("2026-10-24 10:00:00"), at("2026-10-27 10:00:00") // the clock is set back in the night of the 25th
	var texts []string
	for _, k := range timeline.Draw(in).Ticks {
		texts = append(texts, k.Text)
	}
	if got := strings.Join(texts, ", "); got != "12:00, Sun 25 Oct, 12:00, Mon 26 Oct, 12:00, Tue 27 Oct, " && !strings.Contains(got, "Sun 25 Oct") {
		t.Errorf("ticks: %s", got)
	}
}

func TestGroup(t *testing.T) {
	t.Parallel()
	var all []timeline.Database
	for i := range 12431 {
		all = append(all, timeline.Database{Name: fmt.Sprintf("userdb-%06x", i), Events: []timeline.Event{{At: at("2026-11-20 01:00:00"), What: "compacted"}}})
	}
	all = append(all, timeline.Database{Name: "_users"}, timeline.Database{Name: "audit-2025"}, timeline.Database{Name: "audit-2026"}, timeline.Database{Name: "patients"})
	got := timeline.Group(all)
	var names []string
	for _, d := range got {
		names = append(names, d.Name)
	}
	if strings.Join(names, " ") != "_users audit-2025 audit-2026 patients userdb-…" || got[4].Count != 12431 {
		t.Fatalf("groups: %v", names)
	}
	in := clinic()
	in.Databases = got
	p := timeline.Draw(in)
	l := p.Lanes[5]
	if l.Small != "12,431 databases" || len(l.Marks) > 20 || !strings.Contains(l.Label, "compacted 12,431 times") {
		t.Errorf("the group's lane: %s, %d marks, %s", l.Small, len(l.Marks), l.Label)
	}
	if p.Lanes[0].Reach != "14 d, any second" || p.Lanes[0].But != "but 2 h 51 min" || !strings.HasSuffix(p.Lanes[0].Label, "with one gap") {
		t.Errorf("the instance's lane: %+v", p.Lanes[0])
	}
}
