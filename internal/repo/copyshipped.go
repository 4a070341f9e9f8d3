package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/storage"
)

const (
	// settledAfter is how much older than the newest roll-up of its chain one must be to be copied: nothing covers that
	// any more, since a shipper covers an hour, and goes on to the next one only then (see docs/decisions/0011-shipping.md).
	settledAfter = 90 * time.Minute
	// settledAlone is how long ago the storage must have taken a chain's last object for all of the chain to be copied: a
	// shipper that works would have rolled it up.
	settledAlone = 3 * time.Hour
)

// CopyShippedOptions are the options of CopyShipped.
type CopyShippedOptions struct {
	// Readers are as in CopyOptions.
	Readers []string
	// Newer leaves out what is older than the newest that dst has: its retention may have removed it.
	Newer    bool
	Progress *CopyProgress // counters; may be nil
}

// CopyShippedResult is what CopyShipped did, in objects.
type CopyShippedResult struct {
	Sent       int   `json:"sent"`
	SentBytes  int64 `json:"sent_bytes"`
	There      int   `json:"there"` // were there before, and are as large as in the source
	ThereBytes int64 `json:"there_bytes"`
	// Left are those that stay behind: what was shipped in the last hour or two, until it is rolled up for good.
	Left int `json:"left"`
	// UpTo is when the newest moment was that is in the destination, to the second, upwards; nil if none is.
	UpTo *time.Time `json:"up_to,omitempty"`
	// Problems are sentences on objects that could not be copied.
	Problems []string `json:"problems,omitempty"`
}

// CopyShipped copies what is shipped of an instance from src to dst, as it is stored, and only what backups in dst can be
// put together with: so it comes after Copy. It copies what stays as it is, that is of each chain what roll-ups of an hour
// cover, and all of a chain that another one came after; names tell which these are, so it needs no key. With a key that
// reads src, an object must be what its index and that of those that name it say; without one, it has the size that a listing
// of src tells.
//
// What an object needs goes before it, and what is older before what is newer, so that a copy that is interrupted leaves a
// beginning of the chain, and the next one goes on there. It takes the lock of the instance in dst if there is something to
// send, and none in src. What is deleted there meanwhile is left out. It returns ErrMixed, ErrSame, ErrLocked, ErrCorrupt if
// objects were not copied since they are damaged, what CopyKeys returns, or the storage's error.
func CopyShipped(ctx context.Context, dst, src *Repo, instance string, opts CopyShippedOptions) (CopyShippedResult, error) {
	switch {
	case dst.config.Encrypted() != src.config.Encrypted():
		return CopyShippedResult{}, fmt.Errorf("%w: make %s like %s", ErrMixed, dst.URL(), src.URL())
	case dst.config.ID == src.config.ID:
		return CopyShippedResult{}, fmt.Errorf("%w: %s", ErrSame, dst.URL())
	}
	if opts.Progress == nil {
		opts.Progress = &CopyProgress{}
	}
	c := &shipCopier{src: src, dst: dst, instance: instance, opts: opts, bad: map[string]bool{}}
	todo, err := c.plan(ctx)
	if err != nil || len(todo) == 0 {
		return c.res, errors.Join(err, c.failed)
	}
	if src.config.Encrypted() {
		if err := dst.CopyKeys(ctx, src, instance, opts.Readers); err != nil {
			return c.res, err
		}
	}
	lock, err := dst.Lock(ctx, instance, purposeCopy, "")
	if err != nil {
		return c.res, err
	}
	err = c.run(ctx, todo)
	if rerr := lock.End(ctx); err == nil {
		err = rerr
	}
	if err == nil {
		err = c.failed
	}
	return c.res, err
}

// shipCopier is one CopyShipped.
type shipCopier struct {
	src, dst *Repo
	instance string
	opts     CopyShippedOptions

	there  map[string]int64 // sizes of what dst has, by name
	bad    map[string]bool  // objects that can't be copied
	gone   bool             // something was deleted from src since it was listed
	failed error            // the first reason of those that could not be copied
	res    CopyShippedResult
}

// shipUnit is an object with an index, and others of the ticks that it covers, some of which it may need.
type shipUnit struct {
	link   Shipped
	others []Shipped
}

// run sends units, and looks for new ones when some were deleted meanwhile.
func (c *shipCopier) run(ctx context.Context, todo []shipUnit) error {
	for try := 1; ; try++ {
		c.gone = false
		for i := 0; i < len(todo) && !c.gone; i++ {
			if err := c.unit(ctx, todo[i]); err != nil {
				return err
			}
		}
		if !c.gone || try == historyTries {
			return nil
		}
		var err error
		if todo, err = c.plan(ctx); err != nil {
			return err
		}
	}
}

// plan lists both sides and returns what is to be sent, in order.
func (c *shipCopier) plan(ctx context.Context) ([]shipUnit, error) {
	list, err := c.src.Shipped(ctx, c.instance)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	has, err := c.dst.Shipped(ctx, c.instance)
	if err != nil {
		return nil, err
	}
	c.there = listed(has)
	units, left := settledUnits(list, c.src.now())
	c.res.Left = left
	for _, u := range units {
		if _, ok := c.there[u.link.String()]; ok {
			c.reached(u.link)
		}
	}
	if slices.ContainsFunc(units, c.lacks) {
		recs, _, err := c.src.List(ctx, c.instance)
		if err != nil {
			return nil, err
		}
		theirs, _, err := c.dst.List(ctx, c.instance)
		if err != nil {
			return nil, err
		}
		if c.opts.Newer {
			units = units[c.newest(units, theirs):]
		}
		units = usableUnits(units, recs, theirs)
	}
	c.compare(units)
	return slices.DeleteFunc(units, func(u shipUnit) bool { return !c.lacks(u) }), nil
}

// newest returns from which unit on dst has none, but for what its backups refer to, which came with these.
func (c *shipCopier) newest(units []shipUnit, theirs []*manifest.Record) (first int) {
	named := namedObjects(theirs)
	for i, u := range units {
		name := u.link.String()
		if _, ok := c.there[name]; ok && !named[name] {
			first = i + 1
		}
	}
	return first
}

// compare counts what is there of units.
func (c *shipCopier) compare(units []shipUnit) {
	n, size := 0, int64(0)
	for _, u := range units {
		for _, o := range append(slices.Clone(u.others), u.link) {
			switch is, ok := c.there[o.String()]; {
			case ok && is != o.Size:
				c.problem(o.String(), fmt.Errorf("%w: %s has %d bytes of it, and %s has %d", ErrCorrupt, c.dst.URL(), is, c.src.URL(), o.Size))
			case ok:
				n++
				size += o.Size
			}
		}
	}
	if c.res.Sent == 0 { // not when it is looked again
		c.res.There, c.res.ThereBytes = n, size
	}
}

// reached takes down that dst has the moments of a link.
func (c *shipCopier) reached(o Shipped) {
	_, to := (&Link{Shipped: o}).span()
	if to = to.UTC(); c.res.UpTo == nil || to.After(*c.res.UpTo) {
		c.res.UpTo = &to
	}
}

// lacks reports whether dst lacks an object of a unit that can be copied.
func (c *shipCopier) lacks(u shipUnit) bool {
	return c.wanted(u.link) || slices.ContainsFunc(u.others, c.wanted)
}

func (c *shipCopier) wanted(o Shipped) bool {
	name := o.String()
	_, ok := c.there[name]
	return !ok && !c.bad[name]
}

// problem takes down that an object can't be copied.
func (c *shipCopier) problem(name string, err error) {
	if c.bad[name] {
		return
	}
	c.bad[name] = true
	err = fmt.Errorf("%s was not copied: %w", c.src.shipKey(c.instance, name), err)
	c.res.Problems = append(c.res.Problems, err.Error())
	c.failed = cmp.Or(c.failed, err)
}

// settledUnits returns what of a listing stays as it is, oldest first, and how many objects may not.
func settledUnits(list []Shipped, now time.Time) (units []shipUnit, left int) {
	for len(list) > 0 {
		n := slices.IndexFunc(list, func(o Shipped) bool { return o.Chain != list[0].Chain })
		chain := list
		if n >= 0 {
			chain = list[:n]
		}
		settled := int64(1<<63 - 1)
		if n < 0 {
			settled = settledTick(chain, now)
		}
		stay := slices.DeleteFunc(slices.Clone(chain), func(o Shipped) bool { return o.Last > settled })
		left += len(chain) - len(stay)
		units = append(units, unitsOf(stay)...)
		list = list[len(chain):]
	}
	return units, left
}

// settledTick returns the last tick of the newest chain that is covered by an object which nothing covers any more.
func settledTick(chain []Shipped, now time.Time) int64 {
	last := time.Time{}
	for _, o := range chain {
		if o.Modified.After(last) {
			last = o.Modified
		}
	}
	if now.Sub(last) >= settledAlone {
		return 1<<63 - 1
	}
	var from, to []time.Time
	var ticks []int64
	for _, c := range chainOf(chain, nil, map[string]*Link{}) {
		for _, l := range c.Links {
			if l.RollUp() {
				from, to, ticks = append(from, l.From), append(to, l.To), append(ticks, l.Last)
			}
		}
	}
	if len(ticks) == 0 {
		return 0
	}
	from, to = believed(from, time.Time{}), believed(to, time.Time{})
	settled := int64(0)
	for i, tick := range ticks {
		if from[i].After(to[len(to)-1].Add(-settledAfter)) {
			break
		}
		settled = tick
	}
	return settled
}

// unitsOf puts the objects of one chain into units.
func unitsOf(chain []Shipped) (units []shipUnit) {
	for _, c := range chainOf(chain, nil, map[string]*Link{}) {
		for _, l := range c.Links {
			units = append(units, shipUnit{link: l.Shipped})
		}
	}
	for _, o := range chain { // in the order of units, which don't overlap
		i, _ := slices.BinarySearchFunc(units, o.First, func(u shipUnit, first int64) int { return cmp.Compare(u.link.Last, first) })
		if i < len(units) && o.First >= units[i].link.First && o.Last <= units[i].link.Last && o != units[i].link {
			units[i].others = append(units[i].others, o)
		}
	}
	return units
}

// usableUnits returns those units that the backups in dst can be put together with. recs are those of src, theirs those of
// dst, each in their order.
func usableUnits(units []shipUnit, recs, theirs []*manifest.Record) (out []shipUnit) {
	has := map[manifest.BackupID]bool{}
	for _, rec := range theirs {
		has[rec.ID] = true
	}
	all := append(slices.Clone(theirs), slices.DeleteFunc(slices.Clone(recs), func(rec *manifest.Record) bool { return has[rec.ID] })...)
	newest.Sort(all, OrderOf)
	for len(units) > 0 {
		n := slices.IndexFunc(units, func(u shipUnit) bool { return u.link.Chain != units[0].link.Chain })
		next := time.Time{} // when the next chain began
		chain := units
		if n >= 0 {
			next, chain = units[n].link.Chain.Time(), units[:n]
		}
		if from, to, ok := usable(chain[0].link.Chain.Time(), next, all, has); ok {
			out = append(out, unitsWithin(chain, from, to)...)
		}
		units = units[len(chain):]
	}
	return out
}

// usable returns from when to when ticks of a chain can be put onto backups that dst has: since the oldest of those that the
// chain goes on from behind which none is lacking that was the first to name a file, and up to the next one that is. A zero
// from is since its beginning, a zero to is no bound.
func usable(begun, next time.Time, all []*manifest.Record, has map[manifest.BackupID]bool) (from, to time.Time, ok bool) {
	for _, rec := range slices.Backward(all) {
		base := !rec.Finished.After(begun)
		switch {
		case !next.IsZero() && rec.Started.After(next):
		case has[rec.ID] && base:
			return time.Time{}, to, true
		case has[rec.ID]:
			from, ok = rec.Started, true
		case !base && rec.NewGenerations != nil && *rec.NewGenerations == 0:
		case base || ok:
			return from, to, ok
		default:
			to = rec.Started
		}
	}
	return from, to, ok
}

// unitsWithin returns the units of a chain that are needed for a time: also the one in which it begins, or the last one
// before it, which shows that nothing is missing.
func unitsWithin(chain []shipUnit, from, to time.Time) []shipUnit {
	var index []int
	var begins, ends []time.Time
	for i, u := range chain {
		if u.link.RollUp() {
			index, begins, ends = append(index, i), append(begins, u.link.From), append(ends, u.link.To)
		}
	}
	if len(index) == 0 {
		return chain
	}
	first, last := 0, len(chain)
	for k, t := range believed(begins, time.Time{}) {
		if !from.IsZero() && t.Add(time.Second).Before(from) {
			first = index[k]
		}
	}
	for k, t := range believed(ends, time.Time{}) {
		if !to.IsZero() && t.After(to) {
			last = index[k]
			break
		}
	}
	return chain[min(first, last):last]
}

// unit sends what dst lacks of a unit: what the object with the index needs, and then that.
func (c *shipCopier) unit(ctx context.Context, u shipUnit) error {
	var link []byte
	hashes := map[string]manifest.Segment{}
	if c.wanted(u.link) {
		var t *manifest.Tick
		var err error
		if link, t, err = c.read(ctx, u.link); err != nil || link == nil && c.gone {
			return err
		}
		if t != nil {
			for _, p := range t.Parts {
				hashes[p.Key] = p
			}
		}
	}
	if err := c.others(ctx, u.others, hashes); err != nil || link == nil {
		return err
	}
	for name, p := range hashes {
		if size, ok := c.there[name]; !ok || size != p.Size {
			if !c.gone {
				c.problem(u.link.String(), fmt.Errorf("%w: %s, which has some of its content, is not there as it was", ErrCorrupt, c.src.shipKey(c.instance, name)))
			}
			return nil
		}
	}
	if err := c.put(ctx, u.link, link); err != nil {
		return err
	}
	c.reached(u.link)
	return nil
}

// others sends the objects of a unit beside its link, several at once.
func (c *shipCopier) others(ctx context.Context, list []Shipped, hashes map[string]manifest.Segment) error {
	list = slices.DeleteFunc(slices.Clone(list), func(o Shipped) bool { return !c.wanted(o) })
	slices.SortStableFunc(list, func(a, b Shipped) int { // parts before those that name them
		return cmp.Or(cmp.Compare(min(b.Part, 1), min(a.Part, 1)), cmp.Compare(a.First, b.First))
	})
	parts := slices.IndexFunc(list, func(o Shipped) bool { return o.Part == 0 })
	if parts < 0 {
		parts = len(list)
	}
	for len(list) > 0 { // some at a time, so that what is stored of them is a beginning
		some := list[:min(copiedAtOnce, cmp.Or(parts, 1), len(list))]
		contents := make([][]byte, len(some))
		results := make([]error, len(some))
		g, gctx := errgroup.WithContext(ctx)
		for i, o := range some {
			g.Go(func() (err error) {
				contents[i], results[i], err = c.readOther(gctx, o, hashes[o.String()])
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		puts, pctx := errgroup.WithContext(ctx)
		for i, o := range some {
			switch {
			case errors.Is(results[i], storage.ErrNotExist): // it went with what covers it, or was no more needed
				if _, needed := hashes[o.String()]; needed {
					c.gone = true
				}
			case results[i] != nil:
				c.problem(o.String(), results[i])
			default:
				puts.Go(func() error { return c.store(pctx, o, contents[i]) })
			}
		}
		if err := puts.Wait(); err != nil {
			return err
		}
		for i, o := range some {
			if results[i] == nil {
				c.sent(o)
			}
		}
		list = list[len(some):]
		parts = max(0, parts-len(some))
	}
	return nil
}

// readOther reads an object, and compares its hash if the index that names it was read. fault is what is wrong with it.
func (c *shipCopier) readOther(ctx context.Context, o Shipped, want manifest.Segment) (b []byte, fault, err error) {
	key := c.src.shipKey(c.instance, o.String())
	if b, err = readObject(ctx, c.src.store, key, 2*SegmentSize); errors.Is(err, storage.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		return nil, err, nil
	}
	if err != nil {
		return nil, nil, err
	}
	switch {
	case int64(len(b)) != o.Size:
		return nil, fmt.Errorf("%w: %d of its %d bytes came", ErrCorrupt, len(b), o.Size), nil
	case want.SHA256 != "":
		return b, sameHash(b, key, want.Size, want.SHA256), nil
	}
	return b, nil, nil
}

// read reads an object with an index, and the index if there is a key. Without an error and without bytes it is gone, or
// can't be copied.
func (c *shipCopier) read(ctx context.Context, o Shipped) ([]byte, *manifest.Tick, error) {
	b, fault, err := c.readOther(ctx, o, manifest.Segment{})
	if err != nil {
		return nil, nil, err
	}
	var t *manifest.Tick
	if fault == nil && c.src.CanRead() {
		t, _, fault = c.src.proveTick(ctx, c.instance, slices.Clone(b), o)
	}
	switch {
	case fault == nil:
		return b, t, nil
	case errors.Is(fault, storage.ErrNotExist):
		c.gone = true
	case errors.Is(fault, ErrCorrupt), errors.Is(fault, ErrSignature), errors.Is(fault, ErrKeyGone):
		c.problem(o.String(), fault)
	default:
		return nil, nil, fault
	}
	return nil, nil, nil
}

// put stores an object in dst.
func (c *shipCopier) put(ctx context.Context, o Shipped, b []byte) error {
	if err := c.store(ctx, o, b); err != nil {
		return err
	}
	c.sent(o)
	return nil
}

func (c *shipCopier) sent(o Shipped) {
	c.there[o.String()] = o.Size
	c.res.Sent++
	c.res.SentBytes += o.Size
}

// store puts an object into dst, where another copy may just have stored it.
func (c *shipCopier) store(ctx context.Context, o Shipped, b []byte) error {
	key := c.dst.shipKey(c.instance, o.String())
	p := c.opts.Progress
	p.Bytes.Add(o.Size)
	opts := storage.PutOptions{IfAbsent: true}
	if _, ok := c.dst.store.(storage.Retainer); ok {
		opts.RetainUntil = c.dst.opts.RetainUntil
	}
	err := c.dst.store.Put(ctx, key, bytes.NewReader(b), opts)
	if errors.Is(err, storage.ErrExist) {
		var info storage.Info
		if info, err = c.dst.store.Stat(ctx, key); err == nil && info.Size != o.Size {
			err = fmt.Errorf("%w: %s has %d bytes of it, and %s has %d", ErrCorrupt, c.dst.URL(), info.Size, c.src.URL(), o.Size)
		}
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", key, err)
	}
	p.Done.Add(o.Size)
	p.Sent.Add(o.Size)
	return nil
}
