package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/storage"
)

// History is what was shipped of an instance, put in order: chains of ticks, oldest first,
// and the backups that they stand on.
type History struct {
	Instance string
	Backups  []*manifest.Record // oldest first
	Chains   []*Chain           // in the order of their ticks; one with a hole is two

	repo   *Repo
	from   time.Time   // indexes were read of moments from then on
	events []event     // what there is, in the order in which it was
	starts []time.Time // when each backup was begun, as far as that is believed
	// What may be there though its backup went: see showing.
	kept  map[*Chain]bool // chains of which there is only what backups refer to
	lead  *Chain          // the first other one
	shown int64           // up to that tick
}

// Chain is what one shipper stored, as far as it is without a gap.
type Chain struct {
	ID    manifest.BackupID
	Links []*Link // ascending, each one going on where the one before ends
	// Broken says what is missing behind the last link, or wrong with it; "" if there is nothing behind.
	Broken string

	whole  bool        // it begins with the chain's first tick, or at least before all that was read
	from   int64       // the first tick whose index was read
	times  []time.Time // of the ticks from there on, as they are believed
	since  []int       // the backup that each of them rests on, its index in History.Backups; -1 if that is gone
	lowest int         // index of the oldest backup onto which its ticks can be put; -1 if there is none
}

// Link is an object of a chain: a tick or roll-up.
type Link struct {
	Shipped
	Tick    *manifest.Tick // nil if it wasn't read
	segment manifest.Segment
}

// end returns the SHA-256 of the stored object of the link's last tick, "" if it isn't known.
func (l *Link) end() string {
	if l.RollUp() {
		return l.Tick.End
	}
	return l.segment.SHA256
}

// historyTries is how often a history is read again because objects went while it was read.
const historyTries = 10

// reading says what is read of a history.
type reading struct {
	from, to time.Time // indexes of moments in this time; a zero to is no bound
	// lean reads no more than the indexes of large objects, and keep, if not nil, takes what is
	// wanted of each before its files are forgotten. It is called by several goroutines.
	lean bool
	keep func(*Link)
}

// History lists what was shipped of an instance and reads the indexes of what is of use for
// moments from a time on. An object that is rolled up meanwhile is looked for again. It
// doesn't keep the files of the indexes.
func (r *Repo) History(ctx context.Context, instance string, from time.Time) (*History, error) {
	return r.history(ctx, instance, reading{from: from, lean: true})
}

func (r *Repo) history(ctx context.Context, instance string, o reading) (*History, error) {
	links := map[string]*Link{} // by name: what was read is not read again
	for try := 0; ; try++ {
		h, err := r.historyOnce(ctx, instance, o, links)
		if !errors.Is(err, storage.ErrNotExist) || try == historyTries {
			return h, err
		}
	}
}

func (r *Repo) historyOnce(ctx context.Context, instance string, o reading, links map[string]*Link) (*History, error) {
	shipped, err := r.Shipped(ctx, instance) // first: a backup that is made meanwhile does no harm
	if err != nil {
		return nil, err
	}
	recs, _, err := r.List(ctx, instance)
	if err != nil {
		return nil, err
	}
	h := &History{Instance: instance, Backups: recs, repo: r, from: o.from}
	bad := map[string]error{}
	for {
		h.Chains = chainsOf(shipped, bad, links)
		found, err := h.read(ctx, o, listed(shipped), bad)
		if err != nil {
			return nil, err
		}
		if !found {
			break
		}
	}
	h.Chains = proven(h.Chains)
	h.order()
	return h, nil
}

// listed are the names of objects.
func listed(shipped []Shipped) map[string]int64 {
	out := make(map[string]int64, len(shipped))
	for _, o := range shipped {
		out[o.String()] = o.Size
	}
	return out
}

// chainsOf puts the objects of all chains together, but for the bad ones.
func chainsOf(shipped []Shipped, bad map[string]error, links map[string]*Link) (out []*Chain) {
	for len(shipped) > 0 {
		n := slices.IndexFunc(shipped, func(o Shipped) bool { return o.Chain != shipped[0].Chain })
		if n < 0 {
			n = len(shipped)
		}
		out = append(out, chainOf(shipped[:n], bad, links)...)
		shipped = shipped[n:]
	}
	return out
}

// chainOf picks, of the objects of one chain, those that together cover its ticks, the larger
// ones where there are several. Where ticks are missing, another Chain begins.
func chainOf(shipped []Shipped, bad map[string]error, links map[string]*Link) (out []*Chain) {
	var damage error
	shipped = slices.DeleteFunc(slices.Clone(shipped), func(o Shipped) bool {
		err := bad[o.String()]
		damage = cmp.Or(damage, err)
		return o.Part > 0 || err != nil
	})
	slices.SortFunc(shipped, func(a, b Shipped) int { return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(b.Last, a.Last)) })
	last := int64(0)
	for _, o := range shipped {
		if o.First <= last {
			continue // covered by a larger one
		}
		if len(out) == 0 || o.First > last+1 {
			if len(out) > 0 {
				out[len(out)-1].Broken = missing(o.Chain, last+1, o.First-1, bad)
			}
			out = append(out, &Chain{ID: o.Chain, whole: o.First == 1})
		}
		name := o.String()
		if links[name] == nil {
			links[name] = &Link{Shipped: o}
		}
		c := out[len(out)-1]
		c.Links = append(c.Links, links[name])
		last = o.Last
	}
	if len(out) > 0 { // is what comes last bad?
		for name, err := range bad {
			if n, ok := ParseShipName(name); ok && n.Chain == out[0].ID && n.Last > last {
				out[len(out)-1].Broken = err.Error()
			}
		}
	}
	return out
}

// missing says which ticks are missing, and why if that is known.
func missing(chain manifest.BackupID, first, last int64, bad map[string]error) string {
	text := fmt.Sprintf("tick %d of chain %s is missing", first, chain)
	if last > first {
		text = fmt.Sprintf("ticks %d to %d of chain %s are missing", first, last, chain)
	}
	for name, err := range bad {
		if n, ok := ParseShipName(name); ok && n.Chain == chain && n.First <= last && n.Last >= first {
			return fmt.Sprintf("%s: %v", text, err)
		}
	}
	return text
}

// read reads the indexes of links that may be of moments in the time that is asked for, and tells
// whether it found some that can't be used.
func (h *History) read(ctx context.Context, o reading, listed map[string]int64, bad map[string]error) (found bool, err error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	var mu sync.Mutex // guards bad and found
	for _, c := range h.Chains {
		first, last := c.within(o)
		c.whole = c.whole || first > 0
		for _, l := range c.Links[first:last] {
			if l.Tick != nil {
				continue
			}
			g.Go(func() error {
				err := h.readLink(gctx, l, o, listed)
				if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrSignature) {
					mu.Lock()
					defer mu.Unlock()
					bad[l.String()], found = err, true
					return nil
				}
				return err
			})
		}
	}
	return found, g.Wait()
}

func (h *History) readLink(ctx context.Context, l *Link, o reading, listed map[string]int64) error {
	t, s, err := h.repo.readIndex(ctx, h.Instance, l.Shipped, o.lean)
	if err != nil {
		return err
	}
	for _, p := range t.Parts {
		if size, ok := listed[p.Key]; !ok || size != p.Size {
			return fmt.Errorf("%s: %w: %s, which has some of its content, is not there", h.repo.shipKey(h.Instance, l.String()), ErrCorrupt, h.repo.shipKey(h.Instance, p.Key))
		}
	}
	l.segment, l.Tick = s, t
	if o.keep != nil {
		o.keep(l)
	}
	if o.lean {
		t.Files, t.Parts = nil, nil
	}
	return nil
}

// within returns which links have, by their names, moments in the time that is read. Names of
// ticks tell no time.
func (c *Chain) within(o reading) (first, last int) {
	var rollUps []int
	var from, to []time.Time
	for i, l := range c.Links {
		if l.RollUp() {
			rollUps, from, to = append(rollUps, i), append(from, l.From), append(to, l.To)
		}
	}
	last = len(c.Links)
	from, to = believed(from, time.Time{}), believed(to, time.Time{})
	for k, i := range rollUps {
		if to[k].Before(o.from) {
			first = i + 1
		}
	}
	for k, i := range slices.Backward(rollUps) {
		if !o.to.IsZero() && from[k].After(o.to) && i >= first {
			last = i + 1 // it tells until when the moment before it was the state
		}
	}
	return first, last
}

// proven parts chains where an object doesn't go on from the one before, as its hash says, and
// drops what was not read.
func proven(chains []*Chain) (out []*Chain) {
	for _, c := range chains {
		part := &Chain{ID: c.ID, whole: c.whole}
		for _, l := range c.Links {
			if l.Tick == nil {
				continue
			}
			if n := len(part.Links); n > 0 {
				if end := part.Links[n-1].end(); end != "" && l.Tick.Prev != end {
					part.Broken = fmt.Sprintf("tick %d of chain %s doesn't go on from tick %d: another shipper has stored one of them", l.First, c.ID, l.First-1)
					out = append(out, part)
					part = &Chain{ID: c.ID}
				}
			}
			part.Links = append(part.Links, l)
		}
		if len(part.Links) > 0 {
			if c.Links[len(c.Links)-1].Tick != nil {
				part.Broken = c.Broken
			}
			out = append(out, part)
		}
	}
	return out
}

// believed returns the times to go by of events that were stamped one after the other, by package
// newest: a stamp that is not believed counts as the next one that is, so
// that nothing is taken to be older than it may be; the last ones as the last that is. Nor is one believed that is
// after now, if that isn't zero, unless all behind it are: then it may be the clock here that is slow.
func believed(stamps []time.Time, now time.Time) []time.Time {
	ended := len(stamps)
	for ended > 0 && newest.Ahead(stamps[ended-1], now) {
		ended--
	}
	var index []int
	var list []time.Time
	for i, t := range stamps {
		if now.IsZero() || i >= ended || !newest.Ahead(t, now) {
			index, list = append(index, i), append(list, t)
		}
	}
	if len(list) == 0 {
		return slices.Clone(stamps)
	}
	trusted := make([]bool, len(stamps))
	_, ok := newest.Times(list)
	for k, i := range index {
		trusted[i] = ok[k]
	}
	out := slices.Clone(stamps)
	next := -1
	for i := range slices.Backward(out) {
		if trusted[i] {
			next = i
		} else if next >= 0 {
			out[i] = out[next]
		}
	}
	for i := len(out) - 1; !trusted[i]; i-- { // nothing believed comes after
		out[i] = list[lastTrue(ok)]
	}
	return out
}

func lastTrue(list []bool) int {
	for i, ok := range slices.Backward(list) {
		if ok {
			return i
		}
	}
	return 0
}
