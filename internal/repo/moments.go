package repo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
)

// Which moments are kept, and which backups they rest on, is told by names and records alone: who deletes has no
// key. A roll-up's name has its times. A chain rests on the backup that it went on from, as long as its first ticks
// are kept; and where a backup was the first to name a file, which is rare, later ticks go on from that one.

// momentSlack is how much longer than asked for moments stay, so that a restore that began with one ends with it.
const momentSlack = 24 * time.Hour

// ErrMoments says that shipped moments rest on a backup.
var ErrMoments = fmt.Errorf("%w: shipped moments rest on it", ErrPinned)

// moments are what is shipped of an instance, as far as deletions go.
type moments struct {
	expired []Shipped                  // objects to delete
	bases   map[manifest.BackupID]bool // backups on which others rest
}

// momentsOf decides what is expired when moments are kept for so long before the newest, 0 for ever, and on which
// backups the rest is based. recs are all backups in their order; now is a time that it isn't after.
func momentsOf(shipped []Shipped, recs []*manifest.Record, keep time.Duration, now time.Time) moments {
	m := moments{bases: map[manifest.BackupID]bool{}}
	var oldest *manifest.Record
	if keep > 0 {
		oldest = oldestBase(shipped, recs, keep, now)
	}
	for len(shipped) > 0 {
		n := slices.IndexFunc(shipped, func(o Shipped) bool { return o.Chain != shipped[0].Chain })
		next := time.Time{} // when the next chain began
		if n < 0 {
			n = len(shipped)
		} else {
			next = shipped[n].Chain.Time()
		}
		m.chain(shipped[:n], recs, oldest, next)
		shipped = shipped[n:]
	}
	return m
}

// oldestBase returns the backup on which the moment rests that is so long, and some more, before the newest one that is
// believed, and before now; nil if there is none so old. What was shipped since the last backup but one stays in any case,
// whatever clocks say.
func oldestBase(shipped []Shipped, recs []*manifest.Record, keep time.Duration, now time.Time) *manifest.Record {
	var stamps []time.Time
	for _, o := range shipped {
		if o.RollUp() && o.Part == 0 {
			stamps = append(stamps, o.To)
		}
	}
	if len(stamps) == 0 || len(recs) < 2 {
		return nil
	}
	times, _ := newest.Times(stamps)
	last := times[len(times)-1]
	if now.Before(last) {
		last = now
	}
	limit := last.Add(-keep - momentSlack)
	for _, rec := range slices.Backward(recs[:len(recs)-1]) {
		if !rec.Finished.After(limit) {
			return rec
		}
	}
	return nil
}

// chain decides about the objects of one chain. What rests on a backup is all since its beginning, and the object before
// that, which shows that nothing is missing.
func (m *moments) chain(objects []Shipped, recs []*manifest.Record, oldest *manifest.Record, next time.Time) {
	upTo, before := int64(0), int64(0) // the last tick that is expired, and that of the object that shows it
	if oldest != nil {
		if !next.IsZero() && next.Before(oldest.Started) {
			m.expired = append(m.expired, objects...)
			return
		}
		for _, o := range objects {
			if o.RollUp() && o.Part == 0 && o.To.Before(oldest.Started) && o.Last > before {
				upTo, before = before, o.Last
			}
		}
	}
	for _, o := range objects {
		if o.Last <= upTo {
			m.expired = append(m.expired, o)
		}
	}
	begun := objects[0].Chain.Time()
	for _, rec := range slices.Backward(recs) {
		switch {
		case !next.IsZero() && rec.Started.After(next):
			continue
		case oldest != nil && rec.ID == oldest.ID, !rec.Finished.After(begun):
			m.bases[rec.ID] = true
			return
		case rec.NewGenerations == nil || *rec.NewGenerations > 0:
			m.bases[rec.ID] = true
		}
	}
	// The one that it went on from isn't here, as in a copy that was begun later: then it rests on the first since.
	if i := slices.IndexFunc(recs, func(rec *manifest.Record) bool { return rec.Finished.After(begun) }); i >= 0 && (next.IsZero() || !recs[i].Started.After(next)) {
		m.bases[recs[i].ID] = true
	}
}

// MomentBases returns the backups on which shipped moments rest, when these are kept for so long, 0 for ever: no rule
// of retention may remove them.
func (r *Repo) MomentBases(ctx context.Context, instance string, keep time.Duration, now time.Time) (map[manifest.BackupID]bool, error) {
	shipped, err := r.Shipped(ctx, instance)
	if err != nil || len(shipped) == 0 {
		return nil, err
	}
	recs, _, err := r.List(ctx, instance)
	if err != nil {
		return nil, err
	}
	return momentsOf(shipped, recs, keep, now).bases, nil
}
