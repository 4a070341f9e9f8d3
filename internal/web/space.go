package web

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
	"github.com/slipcover/slipcover/internal/words"
)

var spaceRoutes = []route{
	{"GET /space", access.Viewer, "", (*call).spacePage},
}

type spaceData struct {
	*server.Space
	Ratio   string
	Areas   []area
	Grid    []gridLine
	Months  []gridLine
	Label   string
	Choices []choice
	Chosen  *choice
	Strip   []stripMark
	Ticks   []gridLine
	Rules   string
	When    time.Time
	Kept    []keptRow
	Pager   pager
	Going   int
	Of      int
	Bytes   *bytesData
	One     *oneBytes
	Rooms   []roomRow
	Least   *roomRow // of which the least is left, for the summary
	Grew    string   // what the drawing counts
}

// area is the part of an instance in the drawing of the growth.
type area struct {
	Class, Name, Points string
	Stored              int64
}

type gridLine struct {
	X, Text string
	Y, Ty   string
}

type choice struct {
	ID, Name string
	Goes     int
	Current  bool
}

type stripMark struct {
	X, Class, Title string
	Goes            bool
}

type keptRow struct {
	At      time.Time
	To      string
	Stays   bool
	Because string
	Frees   int64
}

// bytesData is where the bytes of an instance are, by its newest backup.
type bytesData struct {
	Name string
	At   time.Time
	Rows []bytesRow
	Note string
	Old  int64 // superseded, of all
}

type bytesRow struct {
	Name, To         string
	Size, Live, Old  int64
	LiveX, OldX      string // per cent
	OldPercent       string
	Grew             int64
	HasGrew          bool
	databasesInGroup int
}

// mostAreas is how many instances have an area of their own; the others are one.
const mostAreas = 5

func (c *call) spacePage() (*answer, error) {
	s, times := c.o.Server.Space(c.who, c.all())
	d := &spaceData{Space: s}
	if s.Stored > 0 {
		d.Ratio = fmt.Sprintf("1 : %.1f", float64(s.Size)/float64(s.Stored))
	}
	d.draw(s, times, c.set.zone)
	d.Rooms = c.rooms()
	for n := range d.Rooms { // the one that is full first is the first one
		r := &d.Rooms[n]
		if d.Least == nil || d.Least.Full.IsZero() && float64(r.Free)/float64(r.Total) < float64(d.Least.Free)/float64(d.Least.Total) {
			d.Least = r
		}
	}
	id := c.r.URL.Query().Get("i")
	for _, i := range s.Instances {
		if i.Gone {
			continue
		}
		d.Choices = append(d.Choices, choice{ID: i.ID, Name: i.Name, Current: i.ID == id})
		if len(d.Choices) == 200 {
			break
		}
	}
	at := slices.IndexFunc(d.Choices, func(x choice) bool { return x.Current })
	if at < 0 && len(d.Choices) > 0 {
		at, d.Choices[0].Current = 0, true
	}
	if at >= 0 {
		d.Chosen = &d.Choices[at]
		if err := c.fillKept(d); err != nil {
			return nil, err
		}
		c.fillBytes(d)
		c.fillOne(d)
	}
	return c.page("Space", "space", d), nil
}

// draw draws the growth: an area for each of those that store the most, upon each other.
func (d *spaceData) draw(s *server.Space, times []time.Time, zone *time.Location) {
	const height = 160.0
	top := int64(1)
	for n := range times {
		sum := int64(0)
		for _, i := range s.Instances {
			sum += i.Points[n]
		}
		top = max(top, sum*11/10)
	}
	below := make([]int64, len(times))
	list := s.Instances
	rest := &server.InstanceSpace{Name: "others", Points: make([]int64, len(times))}
	if len(list) > mostAreas {
		for _, i := range list[mostAreas:] {
			rest.Stored += i.Stored
			for n := range rest.Points {
				rest.Points[n] += i.Points[n]
			}
		}
		list = append(slices.Clone(list[:mostAreas]), rest)
	}
	y := func(v int64) float64 { return height - height*float64(v)/float64(top) }
	for k, i := range list {
		var up, down []string
		for n := range times {
			x := 100 * float64(n) / float64(len(times)-1)
			down = append(down, fmt.Sprintf("%.2f,%.1f", x, y(below[n])))
			below[n] += i.Points[n]
			up = append(up, fmt.Sprintf("%.2f,%.1f", x, y(below[n])))
		}
		slices.Reverse(down)
		d.Areas = append(d.Areas, area{fmt.Sprintf("f%d", k+1), i.Name, strings.Join(append(up, down...), " "), i.Stored})
	}
	step := math.Pow(10, math.Floor(math.Log10(float64(top))))
	for float64(top)/step < 2 {
		step /= 2
	}
	for v := 0.0; v <= float64(top); v += step {
		line := gridLine{Y: fmt.Sprintf("%.1f", y(int64(v))), Ty: fmt.Sprintf("%.1f", y(int64(v))-4)}
		if v > 0 {
			line.Text = Bytes(int64(v))
		}
		d.Grid = append(d.Grid, line)
	}
	form := "2 Jan"
	if times[len(times)-1].Sub(times[0]) > 300*24*time.Hour {
		form = "Jan 2006"
	}
	for n := 0; n < len(times)-5; n += 5 {
		text := times[n].In(zone).Format(form)
		if k := len(d.Months); k == 0 || d.Months[k-1].Text != text {
			d.Months = append(d.Months, gridLine{X: fmt.Sprintf("%.2f%%", 100*float64(n)/float64(len(times)-1)), Text: text})
		}
	}
	d.Grew = "what is stored now, by when it was added"
	switch day := s.Since.In(zone).Format("2 January 2006"); {
	case s.Since.IsZero():
	case s.Since.After(times[0].Add(24 * time.Hour)):
		d.Grew = "what was stored each day since " + day + "; before, what of it is stored now"
	default:
		d.Grew = "what was stored each day since " + day
	}
	d.Label = fmt.Sprintf("%s: %s now, drawn since %s", words.UpperFirst(d.Grew), Bytes(s.Stored), times[0].In(zone).Format("2 January 2006"))
}

// fillKept says what retention does with the backups of the chosen instance.
func (c *call) fillKept(d *spaceData) error {
	who, err := c.as(d.Chosen.ID)
	if err != nil {
		return err
	}
	lists, rest, err := c.o.Server.InstanceRetention(c.r.Context(), who, d.Chosen.ID)
	if err != nil {
		return err
	}
	var rules []string
	row := func(r server.Retained) {
		x := keptRow{At: r.Backup.MadeAt(), Stays: r.Stays, Because: words.UpperFirst(rulesInShort(r.Reasons)), Frees: r.Backup.Stored}
		if !r.Stays && len(r.Missed) > 0 {
			x.Because = words.UpperFirst(r.Reasons[0]) + ": " + strings.Join(r.Missed, ", and ")
		}
		if c.has("/backups/{id}") {
			x.To = pathOf("backups", r.Backup.ID)
		}
		d.Kept = append(d.Kept, x)
	}
	for _, r := range lists {
		rules = append(rules, r.Schedule.Name+": "+keepSentence(r.Keep))
		n, _ := r.Frees()
		d.Going += n
		d.Of += len(r.Backups)
		if !r.At.IsZero() && (d.When.IsZero() || r.At.Before(d.When)) {
			d.When = r.At
		}
		for _, b := range r.Backups {
			row(b)
		}
	}
	d.Chosen.Goes = d.Going
	for _, b := range rest {
		row(b)
		d.Of++
	}
	d.Rules = strings.Join(rules, ". ")
	slices.SortStableFunc(d.Kept, func(a, b keptRow) int { return b.At.Compare(a.At) })
	d.strip(c)
	slices.SortStableFunc(d.Kept, func(a, b keptRow) int { // those that go first
		switch {
		case a.Stays == b.Stays:
			return 0
		case b.Stays:
			return -1
		}
		return 1
	})
	d.Kept, d.Pager = pagedBy(c, d.Kept, "", "rp", 12, nil)
	return nil
}

// mostStrip bounds how many backups the strip draws, the newest.
const mostStrip = 300

func (d *spaceData) strip(c *call) {
	list := d.Kept[:min(len(d.Kept), mostStrip)]
	if len(list) == 0 {
		return
	}
	first, last := list[len(list)-1].At, list[0].At
	width := max(last.Sub(first), time.Hour)
	x := func(t time.Time) string { return fmt.Sprintf("%.3f%%", 2+96*float64(t.Sub(first))/float64(width)) }
	for _, b := range list {
		m := stripMark{X: x(b.At), Class: "spine", Title: when(b.At, c.now(), c.set.zone) + ": stays", Goes: !b.Stays}
		if m.Goes {
			m.Class, m.Title = "leave", when(b.At, c.now(), c.set.zone)+": goes"
		}
		d.Strip = append(d.Strip, m)
	}
	form := "2 Jan"
	if width < 4*24*time.Hour {
		form = "2 Jan, 15:04"
	}
	for n := range 4 {
		t := first.Add(width * time.Duration(n) / 4)
		d.Ticks = append(d.Ticks, gridLine{X: x(t), Text: t.In(c.set.zone).Format(form)})
	}
}

// keepSentence is a retention in words.
func keepSentence(k job.Keep) string {
	var out []string
	for _, r := range []struct {
		n    int
		what string
	}{{k.Last, "last"}, {k.Hourly, "hourly"}, {k.Daily, "daily"}, {k.Weekly, "weekly"}, {k.Monthly, "monthly"}, {k.Yearly, "yearly"}} {
		if r.n > 0 {
			out = append(out, fmt.Sprintf("%s %d", r.what, r.n))
		}
	}
	if k.Within != "" {
		out = append(out, "all within "+k.Within)
	}
	if len(out) == 0 {
		return "no rule, so all stay"
	}
	return strings.Join(out, ", ") + "; the newest, the newest undamaged and the newest proven stay in any case"
}

// mostBytes is how many databases are looked at for where the bytes are.
const mostBytes = contents.MostLimit

// fillBytes says where the bytes of the chosen instance are, by its newest backup.
func (c *call) fillBytes(d *spaceData) {
	b := &bytesData{Name: d.Chosen.Name}
	d.Bytes = b
	who, err := c.as(d.Chosen.ID)
	if err != nil {
		return
	}
	list, err := c.reader.Databases(c.r.Context(), who, d.Chosen.ID, states.State{Backup: "latest"}, contents.DatabasesQuery{Page: contents.Page{Limit: mostBytes}})
	if err != nil {
		b.Note = sentenceOf(err)
		return
	}
	b.At = list.State.State
	groups := map[string]*bytesRow{}
	var rows []*bytesRow
	for _, x := range list.Databases {
		name := x.Name
		if n := strings.IndexAny(name, "-_"); n > 0 {
			name = name[:n+1] + "…"
		}
		r := groups[name]
		if r == nil {
			r = &bytesRow{Name: name}
			groups[name] = r
			rows = append(rows, r)
		}
		r.databasesInGroup++
		if r.databasesInGroup == 1 {
			r.Name = x.Name
		} else {
			r.Name = name + " " + Number(r.databasesInGroup)
		}
		old := max(0, x.FileBytes-max(0, x.ActiveBytes))
		r.Size, r.Live, r.Old = r.Size+x.FileBytes, r.Live+x.FileBytes-old, r.Old+old
		b.Old += old
		if x.GrewBytes != nil {
			r.Grew, r.HasGrew = r.Grew+*x.GrewBytes, true
		}
	}
	slices.SortStableFunc(rows, func(a, b *bytesRow) int { return int(max(-1, min(1, b.Size-a.Size))) })
	for _, r := range rows[:min(len(rows), 20)] {
		if r.Size > 0 {
			live := 100 * float64(r.Live) / float64(r.Size)
			r.LiveX, r.OldX, r.OldPercent = fmt.Sprintf("%.2f%%", live), fmt.Sprintf("%.2f%%", 100-live), fmt.Sprintf("%.0f %%", 100-live)
		}
		if r.databasesInGroup == 1 {
			r.To = "/space?" + url.Values{"i": {d.Chosen.ID}, "db": {r.Name}}.Encode() + "#by"
		}
		b.Rows = append(b.Rows, *r)
	}
	if list.More {
		b.Note = fmt.Sprintf("Of %s databases the first %s by name are counted.", Number(list.Total), Number(mostBytes))
	}
}
