// Package timeline draws what can be had back of an instance: backups, what was shipped, gaps and what happened to databases,
// as lanes of marks. It is pure: what is known goes in, positions and words come out. Positions are per cent of the width, so
// the drawing needs no script and its text is never stretched. The same facts, by time, say in words what a moment is.
package timeline

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Input is what is known of an instance.
type Input struct {
	Name     string
	Now      time.Time
	From, To time.Time // what is drawn
	At       time.Time // the moment that is chosen; zero is the newest
	Zone     *time.Location

	Backups []Backup
	Shipped []Span
	Gaps    []Gap
	// Behind is since when something isn't stored; zero if all is.
	Behind time.Time
	// Why says why it is behind: "it catches up when the agent is back".
	Why  string
	Keep string      // for how long moments are kept, as "14 days"; "" if it isn't shipped
	Next []time.Time // firings ahead
	// Databases are those with a lane of their own, by name.
	Databases []Database
	// Count is how many databases there are; 0 if that isn't known.
	Count int
}

// Backup is a backup as it is drawn.
type Backup struct {
	At      time.Time
	Href    string
	New     int64 // bytes that it added
	Damaged int   // findings
	Proven  bool
	Pinned  string // why; "" if it isn't
	Goes    bool   // by retention, next
}

// Span is a time in which each moment can be had back.
type Span struct{ From, To time.Time }

// Gap is a time in which none can. A zero To is now.
type Gap struct {
	From, To time.Time
	Why      string
}

// Database is one with a lane, or a group of them.
type Database struct {
	Name   string
	Href   string
	Count  int       // of a group; 0 of a single one
	First  time.Time // the first moment that has it; zero if that isn't known
	Gone   time.Time // since when it isn't there; zero if it is
	Events []Event
}

// Event is something that happened to a database.
type Event struct {
	At   time.Time
	What string // made, dropped, re-created, compacted, split, went back or damaged
	Text string // for who points at it; "" says no more than What
}

// Picture is what is drawn.
type Picture struct {
	Min, Max, Now, At int64 // Unix seconds
	Ticks             []Tick
	Lanes             []Lane // the first is the instance's
	Facts             []Fact
	Title             string // what the chosen moment is: "Fri 27 Nov 18:00:04, exact to the second"
	Words             string // and what that means
	Kind              string
	Cursor            string // position of the chosen moment
}

// Tick is a line of the axis.
type Tick struct {
	X    string
	Text string // "" where there is no room for it
}

// Lane is a line of the time line.
type Lane struct {
	Name, Href, Small string
	Tall              bool   // the instance's
	Label             string // for who hears it
	Reach, But        string // what can be had back, in words
	Marks             []Mark
}

// Mark is one thing that is drawn.
type Mark struct {
	Shape    string // rect, line or use
	Class    string // of the style sheet; of a use the name of the sign
	Title    string
	Href     string
	A, B     int64 // from when to when; B is 0 of what has no width of its own
	X, Width string
	Y, H     string
}

// Fact says what the moments from A on and before B are.
type Fact struct {
	A, B  int64
	Kind  string
	Words string
}

// Kinds of facts.
const (
	Exact   = "exact to the second"
	InGap   = "in the gap"
	Only    = "backups only"
	Pending = "not shipped yet"
	Nothing = "before the first backup"
)

const (
	// least is the least width of what is drawn, in per cent: 3 px on a lane of 700.
	least = 300.0 / 700
	// near is how near signs may stand in per cent before several are drawn as one: 10 px.
	near = 1000.0 / 700
	// mostMarks bounds what a lane has of each kind.
	mostMarks = 400
)

// Draw draws.
func Draw(in Input) *Picture {
	if in.Zone == nil {
		in.Zone = time.UTC
	}
	if !in.To.After(in.From) {
		in.To = in.From.Add(time.Minute)
	}
	slices.SortStableFunc(in.Backups, func(a, b Backup) int { return a.At.Compare(b.At) })
	slices.SortStableFunc(in.Shipped, func(a, b Span) int { return a.From.Compare(b.From) })
	slices.SortStableFunc(in.Gaps, func(a, b Gap) int { return a.From.Compare(b.From) })
	for i := range in.Gaps {
		if in.Gaps[i].To.IsZero() {
			in.Gaps[i].To = in.Now
		}
	}
	d := &drawing{in}
	p := &Picture{Min: in.From.Unix(), Max: in.To.Unix(), Now: in.Now.Unix(), Ticks: d.ticks(), Facts: d.facts()}
	p.Lanes = append(p.Lanes, d.instance())
	for i := range in.Databases {
		p.Lanes = append(p.Lanes, d.database(&in.Databases[i]))
	}
	at := in.At
	if at.IsZero() || at.After(in.Now) {
		at = in.Now
		if n := len(in.Shipped); n > 0 && in.Shipped[n-1].To.Before(at) { // the newest that can be had back
			at = in.Shipped[n-1].To
		} else if n == 0 && len(in.Backups) > 0 {
			at = in.Backups[len(in.Backups)-1].At
		}
	}
	f := What(p.Facts, at.Unix())
	p.At, p.Kind, p.Words = at.Unix(), f.Kind, f.Words
	p.Title = d.full(at) + ", " + f.Kind
	p.Cursor = percent(d.x(at))
	return p
}

// What is the fact of a moment.
func What(facts []Fact, at int64) Fact {
	for _, f := range facts {
		if at >= f.A && at < f.B {
			return f
		}
	}
	return Fact{Kind: Nothing, Words: "Nothing is stored of this moment."}
}

type drawing struct{ Input }

// x is the position of a time in per cent.
func (d *drawing) x(t time.Time) float64 {
	return 100 * float64(t.Sub(d.From)) / float64(d.To.Sub(d.From))
}

func percent(x float64) string {
	return strconv.FormatFloat(math.Round(x*1000)/1000, 'f', -1, 64) + "%"
}

func (d *drawing) full(t time.Time) string  { return t.In(d.Zone).Format("Mon 2 Jan 15:04:05") }
func (d *drawing) short(t time.Time) string { return t.In(d.Zone).Format("Mon 2 Jan, 15:04") }

// span is the mark of a time; false if none of it is in the picture.
func (d *drawing) span(class, y, h, title string, from, to time.Time) (Mark, bool) {
	if !to.After(d.From) || !from.Before(d.To) {
		return Mark{}, false
	}
	a, b := max(0, d.x(from)), min(100, d.x(to))
	w := b - a
	if w < least { // and none of it out of the picture
		a, w = min(a, 100-least), least
	}
	return Mark{Shape: "rect", Class: class, Title: title, A: from.Unix(), B: to.Unix(), X: percent(a), Width: percent(w), Y: y, H: h}, true
}

func (d *drawing) within(t time.Time) bool { return !t.Before(d.From) && !t.After(d.To) }

func add(to *[]Mark, m Mark, ok bool) {
	if ok {
		*to = append(*to, m)
	}
}

// instance is the first lane.
func (d *drawing) instance() Lane {
	l := Lane{Name: d.Name, Small: "backups and shipping", Tall: true}
	d.old(&l.Marks)
	l.Marks = append(l.Marks, d.spines()...)
	for _, t := range d.Next {
		if d.within(t) {
			l.Marks = append(l.Marks, Mark{Shape: "rect", Class: "hollow", Title: "Next backup, " + d.short(t), A: t.Unix(), X: percent(d.x(t)), Width: "5", Y: "26", H: "18"})
		}
	}
	d.bands(&l.Marks, "47", "8", "45", "12", time.Time{}, time.Time{})
	d.now(&l.Marks)
	l.Reach, l.But = d.reach()
	l.Label = d.label()
	return l
}

// old is what is older than moments are kept: only backups are left.
func (d *drawing) old(to *[]Mark) {
	if d.Keep == "" || len(d.Shipped) == 0 {
		return
	}
	m, ok := d.span("goes", "0", "100%", "Older than the "+d.Keep+" for which moments are kept: only backups are left", d.From, d.Shipped[0].From)
	add(to, m, ok)
}

func (d *drawing) now(to *[]Mark) {
	if d.within(d.Now) {
		x := percent(d.x(d.Now))
		*to = append(*to, Mark{Shape: "line", Class: "now", A: d.Now.Unix(), X: x})
	}
}

// bands are what is shipped, the gaps, and what is not shipped yet; of a database from and to when it was there.
func (d *drawing) bands(to *[]Mark, y, h, gapY, gapH string, from, until time.Time) {
	clip := func(a, b time.Time) (time.Time, time.Time) {
		if !from.IsZero() && a.Before(from) {
			a = from
		}
		if !until.IsZero() && b.After(until) {
			b = until
		}
		return a, b
	}
	n := 0
	for _, s := range d.Shipped {
		a, b := clip(s.From, s.To)
		if m, ok := d.span("ship", y, h, "Shipped from "+d.short(s.From)+" to "+d.short(s.To)+": any second", a, b); ok && n < mostMarks && b.After(a) {
			m.Href = d.at(b)
			*to = append(*to, m)
			n++
		}
	}
	n = 0
	for _, g := range d.Gaps {
		a, b := clip(g.From, g.To)
		if m, ok := d.span("gap", gapY, gapH, "Gap, "+d.short(g.From)+" to "+d.short(g.To)+": "+g.Why, a, b); ok && n < mostMarks && b.After(a) {
			m.Href = d.at(a)
			*to = append(*to, m)
			n++
		}
	}
	if !d.Behind.IsZero() && (until.IsZero() || until.After(d.Behind)) {
		m, ok := d.span("lag", y, h, "Not shipped yet since "+d.short(d.Behind), d.Behind, d.Now)
		add(to, m, ok)
	}
}

// at is the address of the same time line with another moment chosen.
func (d *drawing) at(t time.Time) string {
	return fmt.Sprintf("?from=%d&to=%d&at=%d#win", d.From.Unix(), d.To.Unix(), t.Unix())
}

// spines are backups, of which those that would stand on each other are one.
func (d *drawing) spines() []Mark {
	var most int64 = 1
	for _, b := range d.Backups {
		most = max(most, b.New)
	}
	var out, signs []Mark
	last := math.Inf(-1)
	count := 1
	for _, b := range d.Backups {
		if !d.within(b.At) {
			continue
		}
		x := d.x(b.At)
		height := 10 + int(math.Round(14*math.Sqrt(float64(max(b.New, 0))/float64(most))))
		title := "Backup of " + d.short(b.At) + ", whole"
		if b.Damaged > 0 {
			title = "Backup of " + d.short(b.At) + ", with damage of its source"
		}
		if b.Proven {
			title += ", proven by a restore"
		}
		if b.Pinned != "" {
			title += ", pinned: " + b.Pinned
		}
		if b.Goes {
			title += "; goes next by retention"
		}
		class := "spine"
		if b.Goes {
			class = "leave"
		}
		if n := len(out) - 1; n >= 0 && x-last < least {
			count++
			out[n].Title = fmt.Sprintf("%d backups, the newest of %s", count, d.short(b.At))
			out[n].Href = b.Href
		} else {
			out = append(out, Mark{Shape: "rect", Class: class, Title: title, Href: b.Href, A: b.At.Unix(), X: percent(x), Width: "5", Y: strconv.Itoa(44 - height), H: strconv.Itoa(height)})
			last, count = x, 1
		}
		sign, say := "", ""
		switch {
		case b.Damaged > 0:
			sign, say = "m-damage", "Damage of the source, "+d.short(b.At)
		case b.Pinned != "":
			sign, say = "m-pin", "Pinned, "+d.short(b.At)+": "+b.Pinned
		case b.Proven:
			sign, say = "m-proven", "Proven by a restore, "+d.short(b.At)
		default:
			continue
		}
		signs = append(signs, Mark{Shape: "use", Class: sign, Title: say, A: b.At.Unix(), X: percent(x), Y: strconv.Itoa(44 - height - 7)})
	}
	return append(out, d.apart(signs)...)
}

// apart leaves out signs of the same kind that would stand on each other.
func (d *drawing) apart(signs []Mark) []Mark {
	last, count := map[string]int{}, map[string]int{}
	width := d.To.Sub(d.From).Seconds()
	var out []Mark
	for _, m := range signs {
		if k, ok := last[m.Class]; ok && 100*float64(m.A-out[k].A)/width < near {
			count[m.Class]++
			out[k].Title = fmt.Sprintf("%s, and %d more", strings.Split(out[k].Title, ", and ")[0], count[m.Class])
			continue
		}
		last[m.Class], count[m.Class] = len(out), 0
		out = append(out, m)
	}
	return out
}

// database is a lane of a database or group.
func (d *drawing) database(db *Database) Lane {
	l := Lane{Name: db.Name, Href: db.Href}
	if db.Count > 0 {
		l.Small = number(db.Count) + " databases"
	}
	d.old(&l.Marks)
	from := db.First
	d.bands(&l.Marks, "13", "8", "11", "12", from, db.Gone)
	if !db.Gone.IsZero() {
		m, ok := d.span("base", "17", "0", "Dropped "+d.short(db.Gone), db.Gone, d.Now)
		m.Shape = "line"
		add(&l.Marks, m, ok)
	}
	signs := map[string]string{"compacted": "m-compact", "dropped": "m-drop", "damaged": "m-damage"}
	var list []Mark
	slices.SortStableFunc(db.Events, func(a, b Event) int { return a.At.Compare(b.At) })
	counts := map[string]int{}
	for _, e := range db.Events {
		counts[e.What]++
		sign, ok := signs[e.What]
		if !ok || !d.within(e.At) {
			continue
		}
		text := strings.ToUpper(e.What[:1]) + e.What[1:] + " " + d.short(e.At)
		if e.Text != "" {
			text += ": " + e.Text
		}
		list = append(list, Mark{Shape: "use", Class: sign, Title: text, A: e.At.Unix(), X: percent(d.x(e.At)), Y: "17"})
	}
	l.Marks = append(l.Marks, d.apart(list)...)
	d.now(&l.Marks)
	l.Reach, l.But = d.reach()
	l.Reach = strings.TrimSuffix(strings.TrimSuffix(l.Reach, ", any second"), " of backups")
	if !db.Gone.IsZero() {
		l.Reach, l.But = "until "+db.Gone.In(d.Zone).Format("2 Jan"), "then dropped"
	}
	said := []string{}
	for _, what := range []string{"damaged", "dropped", "re-created", "compacted", "split", "went back"} {
		if n := counts[what]; n == 1 {
			said = append(said, what+" once")
		} else if n > 1 {
			said = append(said, fmt.Sprintf("%s %s times", what, number(n)))
		}
	}
	l.Label = db.Name + ": " + cmp.Or(strings.Join(said, ", "), "nothing happened to it")
	return l
}

// reach says what can be had back, and what of it can't.
func (d *drawing) reach() (reach, but string) {
	if len(d.Shipped) == 0 {
		if len(d.Backups) == 0 {
			return "nothing yet", ""
		}
		return Length(d.Now.Sub(d.Backups[0].At)) + " of backups", count(len(d.Backups), "backup")
	}
	first, last := d.Shipped[0].From, d.Shipped[len(d.Shipped)-1].To
	var lost time.Duration
	for _, g := range d.Gaps {
		if g.To.After(first) {
			lost += g.To.Sub(later(g.From, first))
		}
	}
	if lost > 0 {
		but = "but " + Length(lost)
	}
	return Length(last.Sub(first)) + ", any second", but
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (d *drawing) label() string {
	damaged, pinned := 0, 0
	for _, b := range d.Backups {
		if b.Damaged > 0 {
			damaged++
		}
		if b.Pinned != "" {
			pinned++
		}
	}
	text := d.Name + ": " + count(len(d.Backups), "backup")
	if damaged > 0 {
		text += fmt.Sprintf(", %d with damage of the source", damaged)
	}
	if pinned > 0 {
		text += fmt.Sprintf(", %d pinned", pinned)
	}
	if len(d.Shipped) == 0 {
		return text + "; not shipped"
	}
	text += "; shipped since " + d.Shipped[0].From.In(d.Zone).Format("2 January")
	switch n := len(d.Gaps); n {
	case 0:
		return text + " without a gap"
	case 1:
		return text + " with one gap"
	default:
		return text + fmt.Sprintf(" with %d gaps", n)
	}
}

// facts say what moments are, in the order of time and without holes from the first backup until now.
func (d *drawing) facts() []Fact {
	type piece struct {
		from, to time.Time
		kind     string
		words    string
	}
	var pieces []piece
	for _, s := range d.Shipped {
		pieces = append(pieces, piece{s.From, s.To, Exact, ""})
	}
	for i, g := range d.Gaps {
		pieces = append(pieces, piece{g.From, g.To, InGap, d.gapWords(i)})
	}
	if !d.Behind.IsZero() {
		words := "Not shipped yet since " + d.short(d.Behind)
		if d.Why != "" {
			words += "; " + d.Why
		}
		pieces = append(pieces, piece{d.Behind, d.Now, Pending, words + "."})
	}
	slices.SortStableFunc(pieces, func(a, b piece) int { return a.from.Compare(b.from) })
	var out []Fact
	put := func(from, to time.Time, kind, words string) {
		a, b := from.Unix(), to.Unix()
		if b > a && (len(out) == 0 || b > out[len(out)-1].B) {
			if n := len(out); n > 0 {
				a = max(a, out[n-1].B)
			}
			out = append(out, Fact{a, b, kind, words})
		}
	}
	end := d.Now.Add(time.Second)
	at := time.Time{}
	for _, p := range append(pieces, piece{from: end, to: end}) {
		d.between(at, p.from, put)
		if p.kind == Exact {
			p.words = d.exactWords(p.from)
			p.to = p.to.Add(time.Second)
		}
		put(p.from, p.to, p.kind, p.words)
		at = later(at, p.to)
	}
	if len(out) > 0 && out[0].A > d.From.Unix() {
		out = append([]Fact{{d.From.Unix(), out[0].A, Nothing, "Nothing is stored of this moment: the first that can be had back is " + d.short(time.Unix(out[0].A, 0)) + "."}}, out...)
	}
	if len(out) == 0 {
		out = []Fact{{d.From.Unix(), end.Unix(), Nothing, "Nothing is stored yet: it begins with the first backup."}}
	}
	return out
}

// between puts what is known of a time in which nothing is shipped: only backups.
func (d *drawing) between(from, to time.Time, put func(from, to time.Time, kind, words string)) {
	for i, b := range d.Backups {
		next := to
		if i+1 < len(d.Backups) && d.Backups[i+1].At.Before(to) {
			next = d.Backups[i+1].At
		}
		start := later(b.At, from)
		if !start.Before(to) || !next.After(start) {
			continue
		}
		words := "Nothing is shipped of this time."
		if d.Keep != "" && len(d.Shipped) > 0 && next.Before(d.Shipped[0].From.Add(time.Second)) {
			words = "Shipped moments are kept for " + d.Keep + "."
		}
		put(start, next, Only, words+" The newest backup before this one is used, of "+d.short(b.At)+d.flaw(b)+".")
	}
}

func (d *drawing) flaw(b Backup) string {
	if b.Damaged > 0 {
		return ", whole but for " + count(b.Damaged, "finding") + " in its source"
	}
	return ""
}

func (d *drawing) exactWords(from time.Time) string {
	all := "All databases"
	if d.Count > 0 {
		all = "All " + number(d.Count) + " databases"
	}
	if d.Count == 1 {
		all = "The database"
	}
	return all + " at one moment: the backup before it, and what was shipped since."
}

// gapWords says of a gap what is the reason and what is near.
func (d *drawing) gapWords(i int) string {
	g := d.Gaps[i]
	form := "15:04"
	if g.To.Sub(g.From) < 2*time.Minute {
		form = "15:04:05"
	}
	if g.From.In(d.Zone).YearDay() != g.To.In(d.Zone).YearDay() {
		form = "Mon 2 Jan, 15:04"
	}
	why := strings.TrimSuffix(strings.TrimPrefix(g.Why, "nothing was shipped: "), ".")
	text := "Nothing was shipped from " + g.From.In(d.Zone).Format(form) + " to " + g.To.In(d.Zone).Format(form)
	if why != "" && why != "nothing was shipped" {
		text += ": " + why
	}
	text += "."
	var near []string
	var before, after time.Time
	for _, s := range d.Shipped {
		if !s.To.After(g.From) && s.To.After(before) {
			before = s.To
		}
		if !s.From.Before(g.To) && (after.IsZero() || s.From.Before(after)) {
			after = s.From
		}
	}
	for _, b := range d.Backups {
		if !b.At.After(g.From) && b.At.After(before) {
			before = b.At
		}
		if !b.At.Before(g.To) && (after.IsZero() || b.At.Before(after)) {
			after = b.At
		}
	}
	clock := func(t time.Time) string {
		if t.In(d.Zone).YearDay() != g.From.In(d.Zone).YearDay() {
			return d.full(t)
		}
		return t.In(d.Zone).Format("15:04:05")
	}
	if !before.IsZero() {
		near = append(near, clock(before)+" before")
	}
	if !after.IsZero() {
		near = append(near, clock(after)+" after")
	}
	if len(near) > 0 {
		text += " Nearest: " + strings.Join(near, ", ") + "."
	}
	return text
}

// ticks are the lines of the axis, at round times of the zone.
func (d *drawing) ticks() []Tick {
	const room = 9
	steps := []time.Duration{time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour}
	width := d.To.Sub(d.From)
	var step time.Duration
	for _, s := range steps {
		if width <= room*s {
			step = s
			break
		}
	}
	days := 1
	for step == 0 && width > room*24*time.Hour*time.Duration(days) {
		days *= 2
	}
	from := d.From.In(d.Zone)
	day := time.Date(from.Year(), from.Month(), from.Day(), 0, 0, 0, 0, d.Zone)
	if step == 0 && days > 1 { // the same days wherever the picture begins
		day = day.AddDate(0, 0, -int(day.Unix()/86400)%days)
	}
	var out []Tick
	for ; !day.After(d.To) && len(out) < 200; day = day.AddDate(0, 0, days) {
		next := day.AddDate(0, 0, 1)
		if step == 0 {
			d.tick(&out, day, "Mon 2 Jan")
			continue
		}
		for t := later(day, day.Add(d.From.Sub(day).Truncate(step))); t.Before(next) && !t.After(d.To); t = t.Add(step) {
			form := "15:04"
			switch {
			case t.Equal(day):
				form = "Mon 2 Jan"
			case step < time.Minute:
				form = "15:04:05"
			}
			d.tick(&out, t, form)
		}
	}
	return out
}

func (d *drawing) tick(to *[]Tick, t time.Time, form string) {
	x := d.x(t)
	if x < 0 || x > 100 {
		return
	}
	text := t.In(d.Zone).Format(form)
	if x > 92 { // its text would be cut off
		text = ""
	}
	*to = append(*to, Tick{percent(x), text})
}

// Length is a length of time in words: 14 d, 2 h 51 min.
func Length(l time.Duration) string {
	switch {
	case l >= 48*time.Hour:
		return fmt.Sprintf("%d d", int(l.Hours()/24))
	case l >= time.Hour:
		if m := int(l.Minutes()) % 60; m > 0 {
			return fmt.Sprintf("%d h %d min", int(l.Hours()), m)
		}
		return fmt.Sprintf("%d h", int(l.Hours()))
	case l >= time.Minute:
		return fmt.Sprintf("%d min", int(l.Minutes()))
	}
	return fmt.Sprintf("%d s", int(l.Seconds()))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return number(n) + " " + what + "s"
}

func number(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// X2 is where a line ends.
func (m Mark) X2() string {
	if m.B == 0 {
		return m.X
	}
	x, _ := strconv.ParseFloat(strings.TrimSuffix(m.X, "%"), 64)
	w, _ := strconv.ParseFloat(strings.TrimSuffix(m.Width, "%"), 64)
	return percent(x + w)
}

// Y2 is where it ends in height.
func (m Mark) Y2() string { return cmp.Or(m.Y, "100%") }
