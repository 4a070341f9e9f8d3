package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"time"
)

const (
	// countAtMost is how many missed firings are counted: a week of a line of each
	// minute. A clock that is years ahead costs no more than that.
	countAtMost = 10080
	// clockBack is how far a clock may have been ahead when the next firing was
	// stored. Firings of that time are not repeated when the clock is set right.
	clockBack = 24 * time.Hour
)

// Plan is what Decide goes by. Negative times count as 0.
type Plan struct {
	ID      string // of the schedule; the jitter of two schedules differs
	Spec    Spec
	Jitter  time.Duration // firings begin at most so much after they are due
	Window  time.Duration // for how long a firing may begin; 0 is until the next is due
	CatchUp bool          // fire once for all firings that were missed
}

// Decision is what to do now. Each firing from the stored next one to Next, this
// excluded, is counted in one way: as Due if Fire or Skipped is true, in Missed, or
// in CaughtUp.
type Decision struct {
	Fire     bool      // begin a backup
	Skipped  bool      // the instance is busy: the firing is dropped
	Due      time.Time // which firing that is; zero if none
	Missed   int       // firings before Due that could not begin, at most countAtMost
	CaughtUp int       // firings before Due that this one makes up for, at most countAtMost
	Next     time.Time // to store: the first firing that is not accounted for
}

// Decide says what to do at now with a plan whose stored next firing is next. It is
// zero for a plan that has never been looked at, which fires after now.
//
// A firing is begun from Begin on until its window is over or the next one is due.
// One at which the instance is busy is skipped at once. What could not begin is
// missed; with CatchUp it is made up for by the next firing that begins, or by the
// last of the missed ones, now, if its own window is over.
//
// Store Next, if it has changed, only if next is still what was stored, and before
// the backup begins: then a firing happens once, also with several servers.
//
// If the clock was set back, firings that are accounted for are not repeated. But a
// next firing that can only come of a clock that was more than a day ahead is
// replaced by the first one after now: a wrong clock must not end the backups.
func (p Plan) Decide(now, next time.Time, busy bool) Decision {
	if next.IsZero() || p.Spec.Ahead(now, next) {
		return Decision{Next: p.Spec.Next(now)}
	}
	if now.Before(next) {
		return Decision{Next: next}
	}
	last, earlier := p.last(next, now)
	after := p.Spec.Next(last)
	begin := p.Begin(last)
	over := p.Window > 0 && !now.Before(begin.Add(p.Window))
	switch {
	case now.Before(begin) && p.CatchUp:
		return Decision{Next: next} // it will begin soon, and make up for the earlier ones
	case now.Before(begin):
		return Decision{Missed: earlier, Next: last}
	case over && !p.CatchUp:
		return Decision{Missed: earlier + 1, Next: after}
	case busy:
		return Decision{Skipped: true, Due: last, Missed: earlier, Next: after}
	case p.CatchUp:
		return Decision{Fire: true, Due: last, CaughtUp: earlier, Next: after}
	}
	return Decision{Fire: true, Due: last, Missed: earlier, Next: after}
}

// Ahead reports whether a stored next firing can only come of a clock that was more than
// a day ahead of now.
func (s Spec) Ahead(now, next time.Time) bool {
	return next.After(now.Add(clockBack)) && next.After(s.Next(now.Add(clockBack)))
}

// Begin returns when the firing that is due then begins: up to Jitter later, the same
// for each time it is asked. It is at most half the way to the next one, so that
// there is time left to begin in.
func (p Plan) Begin(due time.Time) time.Time {
	most := min(p.Jitter, p.Spec.Next(due).Sub(due)/2)
	if most <= 0 {
		return due
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(p.ID), uint64(due.Unix())))
	jitter, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:]), uint64(most)+1)
	return due.Add(time.Duration(jitter))
}

// last returns the last firing that is due by now, and how many there are before it
// from next on, which is due too.
func (p Plan) last(next, now time.Time) (last time.Time, earlier int) {
	last, from := next, next
	for ; earlier < countAtMost; earlier++ {
		after := p.Spec.Next(last)
		if after.After(now) {
			return last, earlier
		}
		from, last = last, after
	}
	// There are too many to walk along, so by halves: the first firing after from is
	// due by now, the first one after to is not.
	for to := now; to.Sub(from) > time.Second; {
		if middle := from.Add(to.Sub(from) / 2); p.Spec.Next(middle).After(now) {
			to = middle
		} else {
			from = middle
		}
	}
	return p.Spec.Next(from), earlier
}
