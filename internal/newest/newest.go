// Package newest is the one rule by which backups of an instance are in order, and
// by which a stored time is believed. It is pure.
//
// Clocks are wrong now and then: a battery is empty and a night's backup is stamped
// 1970, a host is a year ahead until somebody sees it. So the order is not that of the
// stamps. Each backup gets a number, its order, when it is made: the time by its
// node's clock in milliseconds, or one more than the highest that the repository knows
// of the instance, whichever is more (a hybrid logical clock: Kulkarni et al.,
// "Logical Physical Clocks", 2014). In one repository it only rises, whatever the
// clocks say; and backups that were made into two repositories that know nothing of
// each other are in the order of their clocks, which are right as a rule.
//
// Records of earlier versions have no such number. Theirs is made of when they were
// begun. In any case a backup comes after its parent.
package newest

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Tolerance is how far a stamp may be ahead of the clock here without being taken for
// that of a wrong clock: two machines' clocks never agree quite.
const Tolerance = 10 * time.Minute

// Most is the highest order. What is above it, or below 1, is none: nobody's clock and
// no number of backups gets there, and one can always be added to it.
const Most = 1 << 60

// Backup is what the order goes by.
type Backup struct {
	ID     string
	Parent string // its id; "" if there is none
	Order  int64  // as Next gave it; 0 if it was made before there were orders
	Time   time.Time
}

// Next returns the order of a backup that is made now, where the highest order of the
// backups that are known is highest, 0 if there are none.
func Next(highest int64, now time.Time) int64 {
	return min(max(now.UnixMilli(), highest+1, 1), Most)
}

// Own returns the order that a backup has by itself, if nothing is known of its parent.
func (b *Backup) Own() int64 {
	if b.Order > 0 && b.Order <= Most {
		return b.Order
	}
	return Next(0, b.Time)
}

// Orders returns the order of each backup of a list, by its id. All of one instance
// must be in the list, or at least those between it and its oldest ancestor there.
func Orders(list []Backup) map[string]int64 {
	byID := make(map[string]*Backup, len(list))
	for i := range list {
		byID[list[i].ID] = &list[i]
	}
	out := make(map[string]int64, len(list))
	for i := range list {
		if b := &list[i]; byID[b.Parent] == nil { // most have none
			if out[b.ID] == 0 {
				out[b.ID] = b.Own()
			}
			continue
		}
		var line []*Backup // from the backup to the first ancestor that is known
		at := map[string]bool{}
		for b := &list[i]; b != nil && out[b.ID] == 0 && !at[b.ID]; b = byID[b.Parent] {
			line, at[b.ID] = append(line, b), true
		}
		for _, b := range slices.Backward(line) {
			out[b.ID] = min(max(b.Own(), out[b.Parent]+1), Most)
		}
	}
	return out
}

// Sort puts backups in order, the newest last. Those of one order, which two
// repositories may have given, are in that of their times and ids.
func Sort[T any](list []T, of func(T) Backup) {
	all := make([]Backup, len(list))
	for i := range list {
		all[i] = of(list[i])
	}
	type ranked struct {
		order int64
		of    *Backup
		item  T
	}
	orders, line := Orders(all), make([]ranked, len(list))
	for i := range list {
		line[i] = ranked{orders[all[i].ID], &all[i], list[i]}
	}
	slices.SortStableFunc(line, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.order, b.order), a.of.Time.Compare(b.of.Time), cmp.Compare(a.of.ID, b.of.ID))
	})
	for i := range line {
		list[i] = line[i].item
	}
}

// After reports whether a is newer than b, as far as the two tell. It is Sort of the two.
func After(a, b Backup) bool {
	if a.ID == b.ID {
		return false
	}
	x, y := a.Own(), b.Own()
	switch {
	case a.Parent == b.ID:
		x = min(max(x, y+1), Most)
	case b.Parent == a.ID:
		y = min(max(y, x+1), Most)
	}
	return cmp.Or(cmp.Compare(x, y), a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) > 0
}

// Late says what is wrong with the age of an instance's newest backup, as the end of a
// sentence about that; "" if it was made since oldest. stamps are when the backups were
// begun, by their clocks, in the order that they were made in; now is by the clock here.
// A stamp that can't be believed is never taken for a fresh one.
func Late(stamps []time.Time, oldest, now time.Time) string {
	if len(stamps) == 0 {
		return "is missing"
	}
	last := stamps[len(stamps)-1]
	_, believed := Times(stamps)
	switch {
	case Ahead(last, now):
		return fmt.Sprintf("is stamped %s, and it is %s here: one of the two clocks is or was wrong, so nobody knows how old it is",
			last.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case last.Before(oldest) && !believed[len(believed)-1]:
		return fmt.Sprintf("is stamped %s, which is before those that were made before it: its clock was wrong, so nobody knows how old it is", last.UTC().Format(time.RFC3339))
	case last.Before(oldest):
		return fmt.Sprintf("was made at %s", last.UTC().Format(time.RFC3339))
	}
	return ""
}

// Ahead reports whether a stamp of the past is in the future, by more than clocks differ.
func Ahead(stamp, now time.Time) bool { return stamp.After(now.Add(Tolerance)) }

// Since returns how long ago something was, by stamps of one or two clocks that may have
// been set meanwhile: a stamp in the future says nothing, and ok is false.
func Since(stamp, now time.Time) (age time.Duration, ok bool) {
	return max(0, now.Sub(stamp)), !Ahead(stamp, now)
}

// Times returns, for times that events were stamped with one after the other, the times
// to go by, which never go back: those that fit together as most of them do, and for
// another one that of the event before it that does (or after it, for the first).
// believed tells which are which.
func Times(stamps []time.Time) (times []time.Time, believed []bool) {
	believed = fitting(stamps)
	times = slices.Clone(stamps)
	last := slices.Index(believed, true)
	for i := range times {
		if believed[i] {
			last = i
		} else {
			times[i] = stamps[last]
		}
	}
	return times, believed
}

// fitting marks a longest subsequence that never goes back: of those as long, the one
// that ends earliest, and then spans the least.
func fitting(stamps []time.Time) []bool {
	if slices.IsSortedFunc(stamps, time.Time.Compare) { // as nearly always
		return slices.Repeat([]bool{true}, len(stamps))
	}
	var levels [][]int // by length, less 1, of the longest one that ends there: indices, their stamps ever earlier
	for i, t := range stamps {
		n, _ := slices.BinarySearchFunc(levels, t, func(level []int, t time.Time) int {
			if stamps[level[len(level)-1]].After(t) {
				return 1
			}
			return -1
		})
		if n == len(levels) {
			levels = append(levels, nil)
		}
		levels[n] = append(levels[n], i)
	}
	out, behind := make([]bool, len(stamps)), 0
	for n := len(levels) - 1; n >= 0; n-- {
		i := levels[n][len(levels[n])-1]
		if n < len(levels)-1 {
			i = levels[n][slices.IndexFunc(levels[n], func(i int) bool { return !stamps[i].After(stamps[behind]) })]
		}
		out[i], behind = true, i
	}
	return out
}
