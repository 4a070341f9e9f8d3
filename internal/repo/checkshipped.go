package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// ShippedReport is what Check found of what was shipped between backups.
type ShippedReport struct {
	Shipped      int   `json:"shipped"`       // objects of chains
	ShippedBytes int64 `json:"shipped_bytes"` // as stored
	// Moments are the ticks that can be had back; without a key those that names tell of.
	Moments int `json:"moments"`
}

const (
	// lookTries is how often what is wrong with chains is looked at again until it is the same twice in a row. A
	// shipper puts objects and deletes others while they are listed, and a listing may be late.
	lookTries = 6
	// lookPause is how long after the first look the second one is; each further one is twice as late.
	lookPause = 500 * time.Millisecond
)

// shipChecker checks what was shipped of an instance.
type shipChecker struct {
	c        *checker
	instance string
	mu       sync.Mutex                    // guards the maps while objects are read
	links    map[string]*Link              // those that were read, by name
	parts    map[string][]manifest.Segment // those that links name
	faults   map[string]error              // what is wrong with the bytes of objects, which never change
	whole    map[string]bool               // objects that were read whole and are right
}

// finding is something that one look at chains found.
type finding struct {
	key    string // the same in the next look
	object storage.Key
	what   string
	going  bool // it may have been deleted just now
}

// shipped checks what was shipped of an instance. recs are its backups, in their order, as they were listed before.
func (c *checker) shipped(ctx context.Context, instance string, recs []*manifest.Record) error {
	s := &shipChecker{c: c, instance: instance, links: map[string]*Link{}, parts: map[string][]manifest.Segment{}, faults: map[string]error{}, whole: map[string]bool{}}
	var before map[string]finding
	for try, pause := 1, lookPause; ; try++ {
		list, err := c.repo.Shipped(ctx, instance)
		if err != nil {
			return err
		}
		if try > 1 { // a shipper may go on from one that was made meanwhile
			if recs, _, err = c.repo.List(ctx, instance); err != nil {
				return err
			}
		}
		found, moments, err := s.look(ctx, list, recs)
		if err != nil {
			return err
		}
		now := map[string]finding{}
		again := before == nil
		for _, f := range found {
			now[f.key] = f
			_, was := before[f.key]
			again = again || !was || f.going
		}
		if len(found) > 0 && again && try < lookTries {
			before = now
			if err := sleep(ctx, pause); err != nil {
				return err
			}
			pause *= 2
			continue
		}
		for _, f := range found {
			if _, was := before[f.key]; was {
				c.problem(instance, "", string(f.object), strings.ReplaceAll(f.what, "\n", ": "))
			}
		}
		for _, o := range list {
			c.report.Shipped++
			c.report.ShippedBytes += o.Size
		}
		c.report.Moments += moments
		return nil
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// look takes one look at what is listed. It returns what is wrong and how many moments can be had back.
func (s *shipChecker) look(ctx context.Context, list []Shipped, recs []*manifest.Record) ([]finding, int, error) {
	if len(list) == 0 {
		return nil, 0, nil
	}
	names, bad := listed(list), map[string]error{}
	for _, o := range list {
		if o.Size < s.c.repo.leastSegment() {
			bad[o.String()] = fmt.Errorf("has %d bytes, less than any segment", o.Size)
		}
	}
	if !s.c.repo.CanRead() {
		found, moments := s.byName(list, bad, recs)
		return found, moments, nil
	}
	for name := range names {
		if err := s.faults[name]; err != nil {
			bad[name] = err
		}
	}
	h := &History{Instance: s.instance, Backups: recs, repo: s.c.repo}
	for more := true; more; {
		h.Chains = chainsOf(list, bad, s.links)
		var err error
		if more, err = s.read(ctx, h.Chains, names, bad); err != nil {
			return nil, 0, err
		}
	}
	if s.c.opts.ReadData {
		if err := s.readLeft(ctx, list, bad); err != nil {
			return nil, 0, err
		}
	}
	for name := range names { // also of objects that others need
		if err := s.faults[name]; err != nil {
			bad[name] = err
		}
	}
	h.Chains = proven(h.Chains)
	h.order()
	return s.judge(h, bad)
}

// read reads what was not read yet of the links of chains, and tells whether some of them are bad.
func (s *shipChecker) read(ctx context.Context, chains []*Chain, names map[string]int64, bad map[string]error) (found bool, err error) {
	var links, todo []*Link
	for _, c := range chains {
		links = append(links, c.Links...)
	}
	for _, l := range links {
		if l.Tick == nil || s.c.opts.ReadData && !s.whole[l.String()] {
			todo = append(todo, l)
		}
	}
	if err := s.readLinks(ctx, todo, bad); err != nil {
		return false, err
	}
	if s.c.opts.ReadData {
		var parts []manifest.Segment
		for _, l := range links {
			for _, p := range s.parts[l.String()] {
				if !s.whole[p.Key] && names[p.Key] == p.Size {
					s.whole[p.Key] = true // once; a fault is found below
					parts = append(parts, p)
					s.c.total += p.Size
				}
			}
		}
		if err := s.each(ctx, len(parts), func(ctx context.Context, i int) error { return s.readPart(ctx, parts[i]) }); err != nil {
			return false, err
		}
	}
	for _, l := range links {
		name := l.String()
		if bad[name] != nil {
			found = true
			continue
		}
		for _, p := range s.parts[name] {
			if err := s.partFault(p, names); err != nil {
				bad[name], found = err, true
				break
			}
		}
	}
	return found, nil
}

// partFault says what is wrong with an object that a link names.
func (s *shipChecker) partFault(p manifest.Segment, names map[string]int64) error {
	key := s.c.repo.shipKey(s.instance, p.Key)
	size, ok := names[p.Key]
	switch {
	case !ok:
		return fmt.Errorf("needs %s, which is not there", key)
	case size != p.Size:
		return fmt.Errorf("needs %s, which has %d bytes, not %d", key, size, p.Size)
	case s.faults[p.Key] != nil:
		return fmt.Errorf("needs %s: %w", key, s.faults[p.Key])
	}
	return nil
}

// each does something for the numbers below n, several at once.
func (s *shipChecker) each(ctx context.Context, n int, do func(context.Context, int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	if s.c.opts.ReadData {
		g.SetLimit(4)
	}
	for i := range n {
		g.Go(func() error { return do(gctx, i) })
	}
	return g.Wait()
}

// readLinks reads the indexes of links, or all of them. What is wrong with their bytes goes to faults and bad.
func (s *shipChecker) readLinks(ctx context.Context, links []*Link, bad map[string]error) error {
	if s.c.opts.ReadData {
		for _, l := range links {
			s.c.total += l.Size
		}
	}
	return s.each(ctx, len(links), func(ctx context.Context, i int) error { return s.readLink(ctx, links[i], bad) })
}

func (s *shipChecker) readLink(ctx context.Context, l *Link, bad map[string]error) error {
	name := l.String()
	var t *manifest.Tick
	var seg manifest.Segment
	var err error
	if s.c.opts.ReadData {
		t, seg, err = s.proven(ctx, l.Shipped)
	} else {
		t, seg, err = s.c.repo.readIndex(ctx, s.instance, l.Shipped, true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, storage.ErrNotExist):
		bad[name] = err
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrSignature), errors.Is(err, ErrKeyGone):
		bad[name], s.faults[name] = err, err
	case err != nil:
		return err
	default:
		s.parts[name], s.whole[name] = t.Parts, s.c.opts.ReadData
		t.Files, t.Parts = nil, nil
		l.Tick, l.segment = t, seg
	}
	return nil
}

// proven reads an object with an index whole.
func (s *shipChecker) proven(ctx context.Context, o Shipped) (*manifest.Tick, manifest.Segment, error) {
	r := s.c.repo
	if err := enter(ctx, r.fetches); err != nil {
		return nil, manifest.Segment{}, err
	}
	defer leave(r.fetches)
	b, err := readObject(ctx, r.store, r.shipKey(s.instance, o.String()), 2*SegmentSize)
	if err != nil {
		return nil, manifest.Segment{}, err
	}
	s.count(int64(len(b)))
	if int64(len(b)) != o.Size {
		return nil, manifest.Segment{}, fmt.Errorf("%w: %d of its %d bytes came", ErrCorrupt, len(b), o.Size)
	}
	return r.proveTick(ctx, s.instance, b, o)
}

// readPart compares the hash of an object with that of the index that names it.
func (s *shipChecker) readPart(ctx context.Context, p manifest.Segment) error {
	b, err := readObject(ctx, s.c.repo.store, s.c.repo.shipKey(s.instance, p.Key), 2*SegmentSize)
	if err == nil {
		s.count(int64(len(b)))
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != p.SHA256 {
			err = fmt.Errorf("%w: its %d bytes don't have the recorded hash", ErrCorrupt, len(b))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, storage.ErrNotExist):
		s.whole[p.Key] = false // the next listing doesn't have it, or it is looked for again
	case errors.Is(err, ErrCorrupt):
		s.faults[p.Key] = err
	case err != nil:
		return err
	}
	return nil
}

// readLeft reads the other objects with an index: what a roll-up covers. Faults in them are told, though no moment needs them.
func (s *shipChecker) readLeft(ctx context.Context, list []Shipped, bad map[string]error) error {
	var left []*Link
	for _, o := range list {
		name := o.String()
		if l := s.links[name]; o.Part == 0 && !s.whole[name] && bad[name] == nil && (l == nil || l.Tick == nil) {
			left = append(left, &Link{Shipped: o})
		}
	}
	err := s.readLinks(ctx, left, bad)
	for _, l := range left { // deleted meanwhile, as it was to be
		if errors.Is(bad[l.String()], storage.ErrNotExist) {
			delete(bad, l.String())
		}
	}
	return err
}

func (s *shipChecker) count(n int64) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.report.ReadBytes += n
	s.c.done += n
	if s.c.opts.Progress != nil {
		s.c.opts.Progress(s.c.done, s.c.total)
	}
}

// judge says what bad objects, holes and backups that are gone cost.
func (s *shipChecker) judge(h *History, bad map[string]error) (found []finding, moments int, err error) {
	if len(h.Backups) == 0 {
		return []finding{s.noBackup()}, 0, nil
	}
	t := &timeline{h: h, usable: h.usable()}
	for i, ok := range t.usable {
		if ok && h.events[i].backup < 0 {
			moments++
		}
	}
	keyless := 0
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		n, ok := ParseShipName(name)
		if !ok || n.Part > 0 {
			continue // told with the object that needs it
		}
		if errors.Is(bad[name], ErrKeyGone) {
			keyless++
			continue
		}
		key := s.c.repo.shipKey(s.instance, name)
		what := strings.TrimPrefix(bad[name].Error(), string(key)+": ")
		found = append(found, finding{"object " + name, key, what + ": " + t.costOf(n.Chain, n.First, n.Last, deleteAndCopy), errors.Is(bad[name], storage.ErrNotExist)})
	}
	if keyless > 0 {
		found = append(found, finding{key: "key", what: fmt.Sprintf("of what was shipped %d objects can't be read, nor the moments in them: %s", keyless, ErrKeyGone)})
	}
	for i, c := range h.Chains {
		if c.Broken == "" || h.kept[c] {
			continue
		}
		first, last := c.last()+1, int64(math.MaxInt64)
		if i+1 < len(h.Chains) && h.Chains[i+1].ID == c.ID {
			last = h.Chains[i+1].from - 1
		}
		if isBad(bad, c.ID, first, last) {
			continue
		}
		key := s.c.repo.shipKey(s.instance, ShipName{Chain: c.ID, First: first, Last: first}.String())
		found = append(found, finding{key: fmt.Sprintf("hole %s %d", c.ID, first), object: key, what: c.Broken + ": " + t.costOf(c.ID, first, last, copyBack)})
	}
	return append(found, t.unbased(bad)...), moments, nil
}

func (s *shipChecker) noBackup() finding {
	return finding{key: "backup", what: "what was shipped rests on backups, and there is none: no moment can be restored; " + copyBack}
}

// isBad reports whether a bad object has ticks of a range.
func isBad(bad map[string]error, chain manifest.BackupID, first, last int64) bool {
	for name := range bad {
		if n, ok := ParseShipName(name); ok && n.Part == 0 && n.Chain == chain && n.First <= last && n.Last >= first {
			return true
		}
	}
	return false
}

// What to do about objects that are damaged or gone.
const (
	copyBack      = "`slipcover copy` brings it back from a repository that has it"
	deleteAndCopy = "if another repository has it as it was, delete it here, and `slipcover copy` brings it back"
)

// usable tells of each event whether that moment can be had back, as far as records and indexes say.
func (h *History) usable() []bool {
	type like struct {
		link           *Link
		since, backups int
	}
	known := map[like]bool{}
	out := make([]bool, len(h.events))
	backups := 0
	for i := range h.events {
		e := &h.events[i]
		if e.backup >= 0 {
			out[i] = true
			backups++
			continue
		}
		k := like{e.chain.link(e.tick), e.chain.sinceOf(e.tick), backups}
		ok, seen := known[k]
		if !seen {
			_, err := h.base(e)
			ok = err == nil
			known[k] = ok
		}
		out[i] = ok
	}
	return out
}

// timeline finds out which moments something costs.
type timeline struct {
	h      *History
	usable []bool
}

// costOf says which moments are lost without ticks of a chain, and what to do then.
func (t *timeline) costOf(chain manifest.BackupID, first, last int64, then string) string {
	for _, c := range t.h.Chains {
		if c.ID == chain && c.Links[0].First <= first && c.last() >= last && last >= first {
			return "no moment is lost, as other objects have its ticks; " + then
		}
	}
	from, to := 0, len(t.h.events)
	for i := range t.h.events {
		switch e := &t.h.events[i]; {
		case e.backup >= 0:
		case e.chain.ID < chain || e.chain.ID == chain && e.tick < first:
			from = i + 1
		case to == len(t.h.events) && (e.chain.ID > chain || e.tick > last):
			to = i
		}
	}
	for from < to && t.usable[from] && t.h.events[from].backup < 0 { // of other objects
		from++
	}
	return t.lost(from, max(from, to)) + "; " + then
}

// lost says which moments are lost where some events are, or between two of them.
func (t *timeline) lost(from, to int) string {
	before, after := time.Time{}, time.Time{}
	for i := from - 1; i >= 0 && before.IsZero(); i-- {
		if t.usable[i] {
			before = t.h.events[i].done
		}
	}
	for i := to; i < len(t.usable) && after.IsZero(); i++ {
		if t.usable[i] {
			after = t.h.events[i].at
		}
	}
	return lostMoments(before, after)
}

// lostMoments says that moments can't be restored between two times; zero where none is known.
func lostMoments(before, after time.Time) string {
	form := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case before.IsZero() && after.IsZero():
		return "its moments can't be restored"
	case before.IsZero():
		return fmt.Sprintf("moments before %s can't be restored", form(after))
	case after.IsZero():
		return fmt.Sprintf("moments after %s can't be restored, but for backups, until the next backup", form(before))
	}
	return fmt.Sprintf("moments from %s to %s can't be restored", form(before), form(after))
}

// unbased finds ticks that can't be put onto any backup though nothing is missing in their chain.
func (t *timeline) unbased(bad map[string]error) (found []finding) {
	for i := 0; i < len(t.usable); i++ {
		e := &t.h.events[i]
		if t.usable[i] || !t.h.missed(e) || t.behindHole(e.chain) || isBad(bad, e.chain.ID, 1, e.chain.from-1) {
			continue
		}
		first := i
		for i+1 < len(t.usable) && !t.usable[i+1] && t.h.events[i+1].chain == e.chain {
			i++
		}
		why := ErrGap.Error()
		if _, err := t.h.base(e); err != nil {
			why = strings.TrimPrefix(strings.TrimPrefix(err.Error(), ErrNoMoment.Error()+": "), ErrGap.Error()+": ")
		}
		found = append(found, finding{key: fmt.Sprintf("base %s %s", e.chain.ID, e.chain.link(e.tick).Tick.Since), what: why + ": " + t.lost(first, i+1) + "; " + copyBack})
	}
	return found
}

// behindHole reports whether what is before a chain's ticks is missing or bad, which is told already.
func (t *timeline) behindHole(c *Chain) bool {
	i := slices.Index(t.h.Chains, c)
	return i > 0 && t.h.Chains[i-1].ID == c.ID && !t.h.kept[t.h.Chains[i-1]]
}

// byName is judge for who can't read: names and sizes tell of holes alone.
func (s *shipChecker) byName(list []Shipped, bad map[string]error, recs []*manifest.Record) (found []finding, moments int) {
	if len(recs) == 0 {
		return []finding{s.noBackup()}, 0
	}
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		found = append(found, finding{key: "object " + name, object: s.c.repo.shipKey(s.instance, name), what: bad[name].Error() + ": what it has can't be restored; " + deleteAndCopy})
	}
	chains := chainsOf(list, bad, map[string]*Link{})
	names, last := namedObjects(recs), time.Time{}
	for _, c := range chains {
		if _, to := c.Links[len(c.Links)-1].span(); to.After(last) {
			last = to
		}
	}
	for i, c := range chains {
		for _, l := range c.Links {
			moments += int(l.Last - l.First + 1)
		}
		l := c.Links[len(c.Links)-1]
		if c.Broken == "" || i+1 == len(chains) || chains[i+1].ID != c.ID || isBad(bad, c.ID, l.Last+1, chains[i+1].Links[0].First-1) {
			continue
		}
		next := chains[i+1].Links[0]
		begin, _ := c.Links[0].span()
		_, before := l.span()
		after, _ := next.span()
		older := func(rec *manifest.Record) bool { return rec.Started.Before(begin) }
		if c.named(names) && (!before.After(last.Add(-momentSlack)) || !slices.ContainsFunc(recs, older)) {
			continue // it is there for backups, and the rest expired, or was not to be copied
		}
		key := s.c.repo.shipKey(s.instance, ShipName{Chain: c.ID, First: l.Last + 1, Last: l.Last + 1}.String())
		found = append(found, finding{key: fmt.Sprintf("hole %s %d", c.ID, l.Last), object: key, what: c.Broken + ": " + lostMoments(before, after) + ", nor later ones up to the next backup; " + copyBack})
	}
	return found, moments
}

// span is when the ticks of a link were, as far as names and the storage tell.
func (l *Link) span() (from, to time.Time) {
	if l.RollUp() {
		return l.From, l.To
	}
	return l.Modified, l.Modified
}

// ShippedInstances returns the instances of which something is shipped.
func (r *Repo) ShippedInstances(ctx context.Context) ([]string, error) {
	seen := map[string]bool{}
	err := r.store.List(ctx, shipPrefix, func(i storage.Info) error {
		if name, _, ok := strings.Cut(strings.TrimPrefix(string(i.Key), shipPrefix), "/"); ok && manifest.ValidInstance(name) {
			seen[name] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list what was shipped: %w", err)
	}
	return slices.Sorted(maps.Keys(seen)), nil
}
