package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
)

var (
	// ErrNoMoment says that there is no moment at the time that was asked for.
	ErrNoMoment = errors.New("there is no moment that can be had back at that time")
	// ErrGap says that what was shipped at that time is not all there.
	ErrGap = errors.New("what was shipped has a hole there")
)

// Moment is a state of an instance that can be had back.
type Moment struct {
	Base  *manifest.Record  // the backup that it is made of
	Chain manifest.BackupID // "" if it is that backup
	Tick  int64
	At    time.Time // when it was seen: the backup's end, or the tick's time
	// Until is up to when it is known to have been the state; the next tick's changes came after.
	Until time.Time
	// Next is when the moment behind it was; zero if there is none yet.
	Next time.Time
	// Shards are the commits that it has of databases' files, by path.
	Shards []Shard
}

// Shard is a commit of a database's file that a moment has.
type Shard struct {
	Path      string    `json:"path"`
	UpdateSeq uint64    `json:"update_seq"`
	Size      int64     `json:"size_bytes"` // of the file, up to it
	Seen      time.Time `json:"seen"`       // it was the newest then
}

// event is a moment in the order of all of an instance.
type event struct {
	backup int    // index in History.Backups; -1 of a tick
	chain  *Chain // of a tick
	tick   int64
	at     time.Time // when it was: all that a server had acknowledged before is in it
	done   time.Time // and nothing of after: the end of a backup
}

// order puts backups and ticks in one order. A tick comes after the backup that it goes on from, and after the
// ticks before it, whatever the clock said; where a backup that was made meanwhile stands among ticks, most of the
// clock's times tell.
func (h *History) order() {
	var stamps []time.Time
	var events []event
	for _, c := range h.Chains {
		c.from, c.times, c.since = c.Links[0].First, nil, nil
		for _, l := range c.Links {
			for i, t := range l.Tick.Times {
				events = append(events, event{backup: -1, chain: c, tick: l.First + int64(i)})
				stamps = append(stamps, time.UnixMilli(t.At).UTC())
			}
		}
	}
	ticks, all := h.backupsAmong(events, stamps), make([]event, 0, len(events)+len(h.Backups))
	for i, e := range events {
		for len(all)-i < len(h.Backups) && ticks[len(all)-i] <= i {
			all = append(all, event{backup: len(all) - i})
		}
		all = append(all, e)
	}
	for k := len(all) - len(events); k < len(h.Backups); k++ {
		all = append(all, event{backup: k})
	}
	h.events = all
	h.stamp(stamps)
	h.rest()
	h.showing()
	// What is left of a chain for the sake of backups alone is no moment any more: others around it have expired.
	h.events = slices.DeleteFunc(h.events, func(e event) bool { return e.backup < 0 && h.kept[e.chain] && e.chain.Broken != "" })
}

// showing finds out what may be there for no other reason than that something else needs it, so that nobody misses the
// moments in it. When moments expire, what is older than the oldest backup goes but for the last roll-up before it and what
// follows that (see moments.chain), which shows that nothing is missing; and what backups refer to stays. Neither is done to
// what is younger than momentSlack. A copy that was begun later has nothing else of before its oldest backup either.
func (h *History) showing() {
	named := namedObjects(h.Backups)
	h.kept = map[*Chain]bool{}
	for _, c := range h.Chains {
		old := h.old(c.times[0], c.times[len(c.times)-1])
		if old && c.named(named) {
			h.kept[c] = true
			continue
		}
		first, last := c.times[0], c.times[c.Links[0].Last-c.from]
		if h.lead != nil || !h.old(first, last) {
			h.lead = cmp.Or(h.lead, c)
			continue
		}
		h.lead = c
		i := 0
		if !slices.ContainsFunc(h.starts, func(t time.Time) bool { return !t.Before(first) && !t.After(last) }) {
			for i++; i < len(c.Links) && !c.Links[i].RollUp(); i++ {
			}
		}
		h.shown = c.Links[min(i, len(c.Links)-1)].Last
	}
}

// old reports whether what was shipped from first to last may have expired but for what something needs, or is not to be
// in a copy but for that.
func (h *History) old(first, last time.Time) bool {
	return !last.After(h.events[len(h.events)-1].at.Add(-momentSlack)) || !slices.ContainsFunc(h.starts, first.After)
}

// namedObjects are the objects of chains that backups refer to.
func namedObjects(recs []*manifest.Record) map[string]bool {
	out := map[string]bool{}
	for _, rec := range recs {
		for _, name := range rec.Shipped {
			out[name] = true
		}
	}
	return out
}

// named reports whether backups refer to all objects of a chain.
func (c *Chain) named(names map[string]bool) bool {
	return !slices.ContainsFunc(c.Links, func(l *Link) bool { return !names[l.String()] })
}

// missed reports whether a tick that can't be had back is a loss.
func (h *History) missed(e *event) bool {
	return !h.kept[e.chain] && (e.chain != h.lead || e.tick > h.shown)
}

// backupsAmong returns before which of the ticks each backup stands.
func (h *History) backupsAmong(events []event, stamps []time.Time) []int {
	adopted := h.adoptions(events)
	out := make([]int, len(h.Backups))
	at := 0
	for k, rec := range h.Backups {
		end := len(events)
		for j := k; j < len(h.Backups); j++ { // it was made before a later one was gone on from
			end = min(end, adopted[j])
		}
		out[k] = max(at, bestPlace(stamps[min(at, end):end], rec.Started)+min(at, end))
		at = out[k]
	}
	return out
}

// adoptions returns the first tick that surely goes on from each backup; the number of ticks if none does.
func (h *History) adoptions(events []event) []int {
	index := map[manifest.BackupID]int{}
	out := make([]int, len(h.Backups))
	for k, rec := range h.Backups {
		index[rec.ID], out[k] = k, len(events)
	}
	i := 0
	for _, c := range h.Chains {
		for _, l := range c.Links {
			first := i
			i += len(l.Tick.Times)
			k, ok := index[l.Tick.Since]
			if !ok || out[k] < len(events) {
				continue
			}
			if l.spans(h.Backups[k]) { // its last tick surely does
				first = i - 1
			}
			out[k] = first
		}
	}
	return out
}

// bestPlace returns before which of some stamps a time fits best.
func bestPlace(stamps []time.Time, t time.Time) int {
	best, most, n := 0, 0, 0
	for _, s := range stamps {
		if !s.Before(t) {
			n++
		}
	}
	most = n
	for i, s := range stamps {
		if s.Before(t) {
			n++
		} else {
			n--
		}
		if n > most {
			best, most = i+1, n
		}
	}
	return best
}

// stamp gives events the times that are believed; stamps are those of the ticks.
func (h *History) stamp(stamps []time.Time) {
	list := make([]time.Time, len(h.events))
	h.starts = make([]time.Time, len(h.Backups))
	n := 0
	for i, e := range h.events {
		if e.backup >= 0 {
			list[i] = h.Backups[e.backup].Started
		} else {
			list[i] = stamps[n]
			n++
		}
	}
	for i, t := range believed(list, h.repo.now()) {
		e := &h.events[i]
		e.at, e.done = t, t
		if e.backup >= 0 {
			rec := h.Backups[e.backup]
			h.starts[e.backup] = t
			e.done = t.Add(max(0, rec.Finished.Sub(rec.Started)))
		} else {
			e.chain.times = append(e.chain.times, t)
		}
	}
}

// spans reports whether a backup was done while the ticks of a roll-up were made, so that some of them go on from the
// one before.
func (l *Link) spans(rec *manifest.Record) bool {
	done, t := rec.Finished.UnixMilli(), l.Tick.Times
	return t[0].At < done && done <= t[len(t)-1].At
}

// rest finds the backup that each tick rests on.
func (h *History) rest() {
	index := map[manifest.BackupID]int{}
	for k, rec := range h.Backups {
		index[rec.ID] = k
	}
	find := func(id manifest.BackupID) int {
		if k, ok := index[id]; ok {
			return k
		}
		return -1
	}
	for _, c := range h.Chains {
		c.lowest = h.lowest(c, index)
		find := func(id manifest.BackupID) int { // or, of one that is gone, the newest before it that the chain goes on from, too
			k := find(id)
			if k < 0 && c.lowest >= 0 {
				for i, rec := range h.Backups {
					if i >= c.lowest && rec.ID < id {
						k = i
					}
				}
			}
			return k
		}
		var before manifest.BackupID
		for _, l := range c.Links {
			k := find(l.Tick.Since)
			for _, t := range l.Tick.Times {
				is := k
				if k >= 0 && before != l.Tick.Since && l.spans(h.Backups[k]) && t.At < h.Backups[k].Finished.UnixMilli() {
					is = h.doneBy(k, t.At, before)
				}
				c.since = append(c.since, is)
			}
			before = l.Tick.Since
		}
		if c.Links[0].Tick.Base == "" { // an index of a version that didn't say it
			c.lowest = c.since[0]
		}
	}
}

// lowest returns the index of the oldest backup onto which ticks of a chain can be put: the one that it was begun on, or if
// that is gone the first that was made since; -1 if there is none, or it isn't known.
func (h *History) lowest(c *Chain, index map[manifest.BackupID]int) int {
	base := c.Links[0].Tick.Base
	if base == "" {
		return -1
	}
	if k, ok := index[base]; ok {
		return k
	}
	return slices.IndexFunc(h.Backups, func(rec *manifest.Record) bool { return rec.ID > base })
}

// doneBy returns the newest backup of the same node before another one that was done by a time, in Unix milliseconds, but none that
// is older than the one that the object before tells, if that isn't ""; -1 if there is none.
func (h *History) doneBy(k int, at int64, before manifest.BackupID) int {
	for i := k - 1; i >= 0; i-- {
		rec := h.Backups[i]
		switch {
		case rec.ID == before:
			return i
		case rec.ID < before:
			return -1
		case rec.Finished.UnixMilli() <= at && rec.Node() == h.Backups[k].Node():
			return i
		}
	}
	return -1
}

// timeOf returns when a tick was, as far as that is believed, and until when it is known to have been the
// newest state.
func (c *Chain) timeOf(tick int64) (at, until time.Time) {
	i := int(tick - c.from)
	at = c.times[i]
	if i+1 == len(c.times) {
		return at, at
	}
	until = c.times[i+1].Add(-c.quiet(tick + 1))
	if until.Before(at) {
		until = at
	}
	return at, until
}

// quiet is for how long before a tick the state may have been another one than that of the tick before.
func (c *Chain) quiet(tick int64) time.Duration {
	l := c.link(tick)
	if l == nil {
		return 0
	}
	return time.Duration(l.Tick.Times[tick-l.First].Quiet) * time.Millisecond
}

// link is the one that has a tick, nil if none has.
func (c *Chain) link(tick int64) *Link {
	i, ok := slices.BinarySearchFunc(c.Links, tick, func(l *Link, t int64) int {
		switch {
		case l.Last < t:
			return -1
		case l.First > t:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return c.Links[i]
}

// sinceOf returns the index of the backup that a tick rests on, -1 if that is gone.
func (c *Chain) sinceOf(tick int64) int { return c.since[tick-c.from] }

// last is the number of the last tick.
func (c *Chain) last() int64 { return c.Links[len(c.Links)-1].Last }

// At returns the newest moment up to a time, as a manifest: the state that was seen last,
// put together from a backup and what was shipped since. A zero time is no bound. It returns ErrNoMoment if there is
// none so old, and ErrGap if what was shipped then is not all there.
func (r *Repo) At(ctx context.Context, instance string, at time.Time) (*manifest.Manifest, *Moment, error) {
	recs, _, err := r.List(ctx, instance)
	if err != nil {
		return nil, nil, err
	}
	o := reading{to: at}
	for _, rec := range recs {
		if at.IsZero() || !rec.Finished.After(at) {
			o.from = rec.Started
		}
	}
	return r.find(ctx, instance, o, func(h *History) (*event, error) { return h.newest(at) })
}

// find makes the manifest of the moment that pick finds in a history.
func (r *Repo) find(ctx context.Context, instance string, o reading, pick func(*History) (*event, error)) (*manifest.Manifest, *Moment, error) {
	var uncovered error
	tried := map[manifest.BackupID]bool{} // backups that don't have what is needed
	for {
		h, err := r.history(ctx, instance, o)
		if err != nil {
			return nil, nil, err
		}
		e, err := pick(h)
		if err != nil {
			return nil, nil, err
		}
		base, err := h.base(e)
		if err != nil {
			return nil, nil, h.before(e, err)
		}
		for base >= 0 && tried[h.Backups[base].ID] {
			base--
		}
		if base < 0 || e.backup < 0 && h.suits(e.chain, base) != nil {
			return nil, nil, h.before(e, uncovered)
		}
		rec := h.Backups[base]
		if rec.Started.Before(h.from) { // it rests on more than was read
			o.from = rec.Started
			continue
		}
		m, moment, err := h.moment(ctx, e, max(base, h.meanwhile(e, base, o.to)))
		switch {
		case !errors.Is(err, errNotCovered):
			return m, moment, err
		case !h.from.IsZero(): // a file has bytes from before its backup was begun
			o.from = time.Time{}
		default: // an earlier backup may have them
			tried[rec.ID], uncovered = true, cmp.Or(uncovered, err)
		}
	}
}

// newest returns the newest moment up to a time.
func (h *History) newest(at time.Time) (*event, error) {
	for i := len(h.events) - 1; i >= 0; i-- {
		e := &h.events[i]
		if !at.IsZero() && e.done.After(at) {
			continue
		}
		if why := h.hole(i); why != "" && (at.IsZero() || e.done.Before(at)) {
			err := fmt.Errorf("%w: %s", ErrGap, why)
			if _, berr := h.base(e); berr != nil { // nor can that one be had back
				return nil, h.before(e, err)
			}
			return nil, before(e, err)
		}
		return e, nil
	}
	if len(h.Backups) == 0 {
		return nil, fmt.Errorf("%w: there is no backup of %s", ErrNoMoment, h.Instance)
	}
	return nil, fmt.Errorf("%w: the oldest backup of %s was finished %s", ErrNoMoment, h.Instance, h.Backups[0].Finished.UTC().Format(time.RFC3339))
}

// before adds to an error that says why a moment can't be had back which one before it can.
func (h *History) before(e *event, err error) error {
	for i := range slices.Backward(h.events) {
		x := &h.events[i]
		if x == e || x.done.After(e.done) || x.backup < 0 && x.chain == e.chain {
			continue
		}
		if _, berr := h.base(x); berr == nil {
			return before(x, err)
		}
	}
	return err
}

func before(e *event, err error) error {
	return fmt.Errorf("%w; the newest moment before it is %s: pass that time to get it", err, e.done.UTC().Format(time.RFC3339Nano))
}

// hole says why moments are missing right behind an event, "" if none are.
func (h *History) hole(i int) string {
	for k := i; k >= 0; k-- { // a backup within a hole is a moment, and doesn't end it
		e := &h.events[k]
		if e.backup >= 0 {
			continue
		}
		if e.tick < e.chain.last() || e.chain.Broken == "" {
			return ""
		}
		next := slices.Index(h.Chains, e.chain) + 1
		if k < i && (next == len(h.Chains) || h.Chains[next].ID != e.chain.ID) {
			return "" // nobody knows how long it was
		}
		return e.chain.Broken
	}
	return ""
}

// base returns the index of the backup that a moment is made of.
func (h *History) base(e *event) (int, error) {
	if e.backup >= 0 {
		return e.backup, nil
	}
	c := e.chain
	is := c.sinceOf(e.tick)
	if is < 0 { // it is gone, and one before it serves as well, if there is one
		for i := range h.events {
			if x := &h.events[i]; x.backup >= 0 && x.at.Before(e.at) {
				is = max(is, x.backup)
			}
		}
	}
	if is < 0 {
		return 0, fmt.Errorf("%w: tick %d of chain %s rests on a backup that is gone", ErrNoMoment, e.tick, c.ID)
	}
	return is, h.suits(c, is)
}

// suits says why ticks of a chain can't be put onto a backup: what was committed before the first of them, or before
// the chain was begun, they don't have. What was not read yet may have it.
func (h *History) suits(c *Chain, backup int) error {
	rec := h.Backups[backup]
	if rec.Started.Before(h.from) {
		return nil
	}
	if backup < c.lowest || c.lowest < 0 {
		return fmt.Errorf("%w: ticks of chain %s from %d on rest on a backup that is gone", ErrNoMoment, c.ID, c.from)
	}
	if c.whole || !c.times[0].After(h.starts[backup]) {
		return nil
	}
	why := "those before it are gone"
	if i := slices.Index(h.Chains, c); i > 0 && h.Chains[i-1].ID == c.ID && h.Chains[i-1].Broken != "" {
		why = h.Chains[i-1].Broken
	}
	return fmt.Errorf("%w: ticks of chain %s go on from backup %s, and of those since then there are only the ones from %d on: %s",
		ErrGap, c.ID, rec.ID, c.from, why)
}

// meanwhile returns the newest backup that was being made when a tick saw a state, and was done later, up to a time: it has
// what came after the tick, and of each file whichever has more counts. -1 if there is none of this node.
func (h *History) meanwhile(e *event, base int, at time.Time) int {
	if e.backup >= 0 {
		return -1
	}
	found, node := -1, h.Backups[base].Node()
	for i := range h.events {
		x := &h.events[i]
		if x == e {
			return found
		}
		if x.backup > base && x.done.After(e.at) && (at.IsZero() || !x.done.After(at)) && h.Backups[x.backup].Node() == node {
			found = x.backup
		}
	}
	return found
}

// moment makes the manifest of a moment.
func (h *History) moment(ctx context.Context, e *event, base int) (*manifest.Manifest, *Moment, error) {
	rec := h.Backups[base]
	out := &Moment{Base: rec, At: rec.Finished, Until: rec.Finished, Next: h.after(e)}
	if e.backup >= 0 {
		m, err := h.repo.Manifest(ctx, rec)
		if err == nil {
			out.Shards = shardsOf(m, nil, rec.Finished)
		}
		return m, out, err
	}
	m, seen, err := h.compose(ctx, base, e.chain, e.tick)
	if err != nil {
		return nil, nil, err
	}
	out.Chain, out.Tick = e.chain.ID, e.tick
	if out.At, out.Until = e.chain.timeOf(e.tick); rec.Finished.After(out.At) {
		out.At, out.Until = rec.Finished, rec.Finished
	}
	out.Shards = shardsOf(m, seen, rec.Finished)
	return m, out, nil
}

// after returns when the next moment behind an event was that has other bytes, zero if there is none.
func (h *History) after(e *event) time.Time {
	i := slices.IndexFunc(h.events, func(x event) bool { return x == *e })
	for i++; i > 0 && i < len(h.events); i++ {
		if x := &h.events[i]; x.done.After(e.done) {
			return x.done
		}
	}
	return time.Time{}
}

// shardsOf are the commits of the databases' files of a manifest: those that were seen in ticks, and others in a backup.
func shardsOf(m *manifest.Manifest, seen map[fileName]time.Time, backup time.Time) []Shard {
	out := []Shard{}
	for _, f := range m.Files {
		if f.Root != manifest.DataRoot || f.Kind == manifest.View || f.Header == nil {
			continue
		}
		x := Shard{f.Path, f.Header.UpdateSeq, f.Size, backup.UTC()}
		if at, ok := seen[fileName{f.Root, f.Path}]; ok {
			x.Seen = at
		}
		out = append(out, x)
	}
	return out
}
