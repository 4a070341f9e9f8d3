// Package retention decides which backups of one instance are kept. It is pure: a
// policy, backups and the time in; keep or not, and why, out.
//
// Backups are counted from the newest back. A bucket (hour, day, week, month or
// year) stands for its newest backup that is not damaged, or, if all are damaged,
// for its newest, a complete one first. A bucket without a backup doesn't count.
//
// A clock that is wrong must not cost a backup. Hence newest is what was made last
// (Backup.Order), whatever it is stamped with. And nothing is ever too old by the time
// of the decision. That time only tells which backups are stamped in the future: those
// are kept and not counted, so that they take nobody's place until their time has come;
// and which ones the storage still protects. So
//
//   - a clock that is behind when deciding keeps more, one that is ahead the same,
//     as long as the backups are stamped right (for what it protects, the storage
//     goes by its own clock);
//   - a backup from a clock that was ahead takes nothing else away.
//
// A stamp that doesn't fit those before and after it (package newest, Times) makes no
// bucket and takes nobody's place in one. Such a backup belongs to the bucket of the one
// made before it, and stays as long as that counts: all of the bucket that have a bucket
// of their own by their stamps. So a night whose clock showed 1970 costs no year its
// place, and a month of them keeps its days.
//
// Deciding again about what was kept keeps all of it, and so does deciding again
// after only some of the others are gone.
package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/newest"
)

// Policy says which backups are kept. Each rule that isn't zero adds to what is
// kept; without any rule every backup is. Some stay in any case, see Decide.
type Policy struct {
	KeepLast    int // newest backups
	KeepHourly  int // hours that have a backup
	KeepDaily   int // days that have one
	KeepWeekly  int // weeks of ISO 8601, Monday to Sunday, that have one
	KeepMonthly int // months that have one
	KeepYearly  int // years that have one
	// KeepWithin keeps what isn't older than this before the newest backup that is
	// not stamped in the future: an instance that stopped loses nothing by waiting.
	KeepWithin calendar.Span

	// Minimum is how many of the newest undamaged backups stay whatever the rules
	// say; if there are fewer, the newest damaged ones fill up. 0 is 1. It is no rule.
	Minimum int
	// Location is where hours, days, weeks, months and years begin; nil is UTC.
	Location *time.Location
}

// Backup is what a decision needs to know of a backup.
type Backup struct {
	ID      string    // one per instance
	Time    time.Time // of the state that it holds, as its clock told it
	Order   int       // greater in what was made later; those of one order are in that of Time
	Full    bool      // how it was made; no rule asks, since each backup restores alone
	Damaged bool      // made of a source that had damage
	// Incomplete says that something is not stored any more which restoring it needs.
	Incomplete bool
	Pinned     bool // not to be removed
	PinReason  string
	Verified   bool // was read back and found to restore

	// Node says which CouchDB it is of; empty if that isn't known. Backups of one node
	// have the same. Each node is counted by itself.
	Node string
	// Maker says who made it; it tells apart what is of no known node.
	Maker     string
	Databases int // that it holds

	// RetainUntil is when the storage begins to let the backup be removed; zero if
	// it always does.
	RetainUntil time.Time
}

// flaw is the greater the less of a backup restores: 0 of a sound one.
func (b Backup) flaw() int {
	switch {
	case b.Incomplete:
		return incomplete
	case b.Damaged:
		return damaged
	}
	return sound
}

// What flaw returns. Of a damaged one all restores that its source had.
const (
	sound = iota
	damaged
	incomplete
)

// Decision says whether a backup is kept, and why.
type Decision struct {
	Backup
	Keep    bool
	Reasons []string // all that keep it, or why it goes; never empty
	// Missed says of one that goes why each rule leaves it, as "2026-11-15 22:00 stands for its week (2026-W46)" or "14 newer
	// days are kept".
	Missed []string

	at      time.Time // what it counts for
	doubted bool      // Time doesn't fit, so at is that of another
	brief   bool      // nobody asks for Reasons and Missed
}

// rule keeps one backup for each of the newest n buckets.
type rule struct {
	key    string
	n      int
	bucket func(time.Time) bucket // nil if each backup is its own
	name   func(time.Time) string // of the bucket
	what   string                 // a bucket is
}

// bucket is what a rule counts: an hour, day, week, month or year of a time zone. The fields that are no part of it are zero.
type bucket struct {
	year, month, day, week, hour int
	zone                         int // minutes east of UTC, which tell the hours apart that a change of the clock repeats
}

func (p Policy) rules() []rule {
	return []rule{
		{"keep_last", p.KeepLast, nil, nil, "backup"},
		{"keep_hourly", p.KeepHourly, hour, layout("2006-01-02 15:00Z07:00"), "hour"},
		{"keep_daily", p.KeepDaily, day, layout("2006-01-02"), "day"},
		{"keep_weekly", p.KeepWeekly, week, weekName, "week"},
		{"keep_monthly", p.KeepMonthly, month, layout("2006-01"), "month"},
		{"keep_yearly", p.KeepYearly, year, layout("2006"), "year"},
	}
}

func hour(t time.Time) bucket {
	b := day(t)
	_, zone := t.Zone()
	b.hour, b.zone = t.Hour(), zone/60
	return b
}

func day(t time.Time) bucket {
	y, m, d := t.Date()
	return bucket{year: y, month: int(m), day: d}
}

func week(t time.Time) bucket {
	y, n := t.ISOWeek()
	return bucket{year: y, week: n}
}

func month(t time.Time) bucket {
	y, m, _ := t.Date()
	return bucket{year: y, month: int(m)}
}

func year(t time.Time) bucket { return bucket{year: t.Year()} }

func layout(s string) func(time.Time) string {
	return func(t time.Time) string { return t.Format(s) }
}

func weekName(t time.Time) string {
	year, n := t.ISOWeek()
	return fmt.Sprintf("%04d-W%02d", year, n)
}

// Decide returns a decision for each backup of one instance, the newest first.
//
// Kept in any case are the newest backup, the newest undamaged, the newest complete
// (an incomplete one is damaged too), the newest verified, the newest that is both, pinned ones, those stamped after now, those
// that the storage protects, one that holds more than twice as many databases as all
// since, and Policy.Minimum. All of this, and each rule, counts for each node by itself,
// and apart for backups without a database. The order of the backups given doesn't matter.
//
// It decides nothing and returns an error if a number is negative, a backup has no
// id or time, or two have the same id.
func Decide(p Policy, backups []Backup, now time.Time) ([]Decision, error) {
	parts, err := p.parts(backups, now, false)
	if err != nil {
		return nil, err
	}
	for i := range parts {
		parts[i].say()
	}
	return merge(parts), nil
}

// Goes returns the ids of those that Decide doesn't keep, in no order. It is Decide without the reasons, which take most of its time.
func Goes(p Policy, backups []Backup, now time.Time) ([]string, error) {
	parts, err := p.parts(backups, now, true)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, part := range parts {
		for i := range part.list {
			if d := &part.list[i]; !d.Keep {
				out = append(out, d.ID)
			}
		}
	}
	return out, nil
}

// parts decides about the backups of one instance, part by part.
func (p Policy) parts(backups []Backup, now time.Time, brief bool) ([]part, error) {
	if err := check(p, backups); err != nil {
		return nil, err
	}
	list := make([]Decision, len(backups))
	for i := range backups {
		list[i].Backup, list[i].brief = backups[i], brief
	}
	if !slices.IsSortedFunc(list, newerFirst) {
		slices.SortFunc(list, newerFirst)
	}
	parts := apart(list)
	for i := range parts {
		p.decide(parts[i].list, now)
	}
	return parts, nil
}

func newerFirst(a, b Decision) int {
	return cmp.Or(cmp.Compare(b.Order, a.Order), b.Time.Compare(a.Time), cmp.Compare(b.ID, a.ID))
}

// decide decides about backups that are counted together, the newest first.
func (p Policy) decide(list []Decision, now time.Time) {
	fit(list)
	past := keepFuture(list, now)
	keepNewest(past, func(Decision) bool { return true })
	keepNewest(past, func(d Decision) bool { return d.Node != "" }) // those that are surely of it
	keepBeforeLoss(past)
	keepPinned(list)
	keepRetained(list, now)
	keepMinimum(past, p.Minimum)
	if !p.applies() {
		for i := range list {
			list[i].keep("no rule is set")
		}
	}
	location := p.Location
	if location == nil {
		location = time.UTC
	}
	rules, stands := p.rules(), map[string]map[bucket]int{} // by rule and bucket that counts, the index of what stands for it
	for _, r := range rules {
		stands[r.key] = r.apply(past, location)
	}
	keepWithin(past, p.KeepWithin, location)
	if len(list) > 0 && list[0].brief {
		return
	}
	for i := range past {
		if !past[i].Keep {
			past[i].Missed = p.missed(rules, past, i, stands, location)
		}
	}
	for i, d := range list {
		if !d.Keep {
			list[i].Reasons = []string{"no rule keeps it"}
		}
		if d.doubted {
			list[i].Reasons = append(list[i].Reasons, fmt.Sprintf("stamped %s, which doesn't fit those made before and after it: counted as of %s",
				d.Time.UTC().Format(time.RFC3339), d.at.UTC().Format(time.RFC3339)))
		}
	}
}

// fit tells what the times of backups count for, the newest first.
func fit(list []Decision) {
	stamps := make([]time.Time, len(list))
	for i, d := range list {
		stamps[len(list)-1-i] = d.Time
	}
	times, believed := newest.Times(stamps)
	for i := range list {
		list[i].at, list[i].doubted = times[len(list)-1-i], !believed[len(list)-1-i]
	}
}

func check(p Policy, backups []Backup) error {
	for _, r := range append(p.rules(), rule{key: "keep_minimum", n: p.Minimum}) {
		if r.n < 0 {
			return fmt.Errorf("%s is %d, and must not be negative", r.key, r.n)
		}
	}
	if w := p.KeepWithin; min(w.Years, w.Months, w.Weeks, w.Days, w.Hours) < 0 {
		return fmt.Errorf("keep_within is %s, and must not be negative", w)
	}
	seen := make(map[string]bool, len(backups))
	for i := range backups {
		b := &backups[i]
		switch {
		case b.ID == "":
			return fmt.Errorf("a backup of %s has no id", b.Time)
		case b.Time.IsZero():
			return fmt.Errorf("backup %s has no time", b.ID)
		case seen[b.ID]:
			return fmt.Errorf("backup %s is listed twice", b.ID)
		}
		seen[b.ID] = true
	}
	return nil
}

// applies says whether there is any rule.
func (p Policy) applies() bool {
	return !p.KeepWithin.IsZero() || slices.ContainsFunc(p.rules(), func(r rule) bool { return r.n > 0 })
}

func (d *Decision) keep(format string, args ...any) {
	if d.Keep = true; d.brief {
		return
	}
	d.Reasons = append(d.Reasons, fmt.Sprintf(format, args...))
}

// keepFuture returns the backups that aren't stamped after now.
func keepFuture(list []Decision, now time.Time) (past []Decision) {
	n := 0
	for ; n < len(list) && list[n].at.After(now); n++ {
		list[n].keep("stamped in the future (%s)", list[n].at.UTC().Format(time.RFC3339))
	}
	return list[n:]
}

// keepNewest keeps the newest of some of the backups, the newest undamaged, the newest
// verified, and the newest that is both.
func keepNewest(past []Decision, of func(Decision) bool) {
	for _, k := range []struct {
		reason, said string // said says it already
		is           func(Decision) bool
	}{
		{"the newest", "the newest", func(Decision) bool { return true }},
		{"the newest undamaged", "the newest", func(d Decision) bool { return d.flaw() == sound }},
		{"the newest complete", "the newest", func(d Decision) bool { return d.flaw() < incomplete }},
		{"the newest verified", "the newest verified", func(d Decision) bool { return d.Verified }},
		{"the newest verified and undamaged", "the newest verified", func(d Decision) bool { return d.Verified && d.flaw() == sound }},
	} {
		i := slices.IndexFunc(past, func(d Decision) bool { return of(d) && k.is(d) })
		if i >= 0 && !slices.Contains(past[i].Reasons, k.said) && !slices.Contains(past[i].Reasons, k.reason) {
			past[i].keep("%s", k.reason)
		}
	}
}

func keepPinned(list []Decision) {
	for i, d := range list {
		switch {
		case d.Pinned && d.PinReason != "":
			list[i].keep("pinned: %s", d.PinReason)
		case d.Pinned:
			list[i].keep("pinned")
		}
	}
}

func keepRetained(list []Decision, now time.Time) {
	for i, d := range list {
		if d.RetainUntil.After(now) {
			list[i].keep("protected by the storage until %s", d.RetainUntil.UTC().Format(time.RFC3339))
		}
	}
}

// keepMinimum keeps the newest n undamaged, and the newest damaged if those are
// fewer, complete ones first. One is what keepNewest keeps.
func keepMinimum(past []Decision, n int) {
	if n <= 1 {
		return
	}
	rank := 0
	for flaw := sound; flaw <= incomplete; flaw++ {
		for i, d := range past {
			if d.flaw() == flaw && rank < n {
				rank++
				past[i].keep("the %s of keep_minimum: %d", ordinal(rank), n)
			}
		}
	}
}

// apply keeps what the rule keeps, and returns by bucket that counts the index of the first that stands for it.
func (r rule) apply(past []Decision, location *time.Location) map[bucket]int {
	if r.n == 0 {
		return nil
	}
	if r.bucket == nil {
		for i := range past[:min(r.n, len(past))] {
			past[i].keep("the %s of %s: %d", ordinal(i+1), r.key, r.n)
		}
		return nil
	}
	type place struct {
		in, stamped bucket // stamped is that of a doubted stamp
		doubted     bool
	}
	stands := map[bucket]int{}
	best := map[bucket][]int{} // by bucket that counts, the indices of the backups that stand for it
	of := map[place]int{}      // the same, one by one
	var buckets []bucket       // that count, the newest first
	for i := range past {
		d := &past[i]
		p := place{in: r.bucket(d.at.In(location)), doubted: d.doubted}
		if _, known := best[p.in]; !known {
			if len(buckets) == r.n {
				continue
			}
			buckets = append(buckets, p.in)
		}
		if d.doubted {
			p.stamped = r.bucket(d.Time.In(location))
		}
		n, known := of[p]
		switch {
		case !known:
			of[p] = len(best[p.in])
			best[p.in] = append(best[p.in], i)
		case d.flaw() < past[best[p.in][n]].flaw():
			best[p.in][n] = i
		}
	}
	for i, in := range buckets {
		stands[in] = best[in][0]
		for _, b := range best[in] {
			if d := &past[b]; d.brief {
				d.Keep = true
			} else {
				d.keep("the %s of %s: %d (%s)", ordinal(i+1), r.key, r.n, r.name(d.at.In(location)))
			}
		}
	}
	return stands
}

// missed says why each rule leaves the backup of an index.
func (p Policy) missed(rules []rule, past []Decision, i int, stands map[string]map[bucket]int, location *time.Location) []string {
	var out []string
	for _, r := range rules {
		switch {
		case r.n == 0:
		case r.bucket == nil:
			out = append(out, newer(r.n, r.what))
		default:
			at := past[i].at.In(location)
			if other, counts := stands[r.key][r.bucket(at)]; counts {
				out = append(out, fmt.Sprintf("%s stands for its %s (%s)", past[other].Time.In(location).Format("2006-01-02 15:04"), r.what, r.name(at)))
			} else {
				out = append(out, newer(len(stands[r.key]), r.what))
			}
		}
	}
	if !p.KeepWithin.IsZero() {
		out = append(out, fmt.Sprintf("it is older than %s before the newest", p.KeepWithin))
	}
	return out
}

// newer says how many later ones are kept.
func newer(n int, what string) string {
	if n == 1 {
		return "1 newer " + what + " is kept"
	}
	return fmt.Sprintf("%d newer %ss are kept", n, what)
}

func keepWithin(past []Decision, within calendar.Span, location *time.Location) {
	if within.IsZero() || len(past) == 0 {
		return
	}
	from := within.Before(past[0].at.In(location))
	for i, d := range past {
		if !d.at.Before(from) {
			past[i].keep("within %s of the newest", within)
		}
	}
}

// ordinal returns 1st, 2nd, 3rd, 4th.
func ordinal(n int) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}
