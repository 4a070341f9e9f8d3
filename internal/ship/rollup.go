package ship

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/state"
)

// The levels above ticks: how long the time of a roll-up is.
const (
	shortLevel = 5 * time.Minute
	longLevel  = time.Hour
)

// link is an object of the chain that is not yet part of a roll-up of the long level.
type link struct {
	name    repo.ShipName
	tick    *manifest.Tick
	segment manifest.Segment
	was     []*capture.Known // what was known of each of tick.Files before it; nil of a new one
	locals  []capture.Local  // of each of them after it
}

func (l *link) start() time.Time { return time.UnixMilli(l.tick.Times[0].At) }
func (l *link) end() time.Time   { return time.UnixMilli(l.tick.Times[len(l.tick.Times)-1].At) }

// indexSize is about how large an index gets, in bytes.
func indexSize(links []*link) (n int) {
	for _, l := range links {
		n += 200 + 16*len(l.tick.Times)
		for _, f := range l.tick.Files {
			n += 500 + 24*len(f.Cuts)
		}
	}
	return n
}

// rolling is a roll-up in the making.
type rolling struct {
	links []*link
	level time.Duration
	made  *link // nil if it failed
	err   error
	bare  []string // keys that are to be protected, and then those that couldn't be
	done  chan struct{}
}

// dueRollUp returns the links that are to become one, if some are.
func (s *Shipper) dueRollUp(now time.Time) ([]*link, time.Duration) {
	if len(s.links) == 0 {
		return nil, 0
	}
	if first := s.links[0]; now.Sub(first.start()) >= longLevel || indexSize(s.links) > repo.MaxTickIndex/2 {
		return s.upTo(s.links, longLevel), longLevel
	}
	i := slices.IndexFunc(s.links, func(l *link) bool { return !l.name.RollUp() })
	if i < 0 || len(s.links)-i < 2 || now.Sub(s.links[i].start()) < shortLevel {
		return nil, 0
	}
	return s.upTo(s.links[i:], shortLevel), shortLevel
}

// upTo returns the first of links, as many as fit into the time of a level and into an index.
func (s *Shipper) upTo(links []*link, level time.Duration) []*link {
	n := 1
	for n < len(links) && links[n].end().Sub(links[0].start()) <= level && indexSize(links[:n+1]) <= repo.MaxTickIndex/2 {
		n++
	}
	return links[:n]
}

// rollUp begins a roll-up if one is due, and takes over the one that has ended. What it takes is
// read in another goroutine, so that ticks don't wait.
func (s *Shipper) rollUp(ctx context.Context) error {
	if r := s.rolling; r != nil {
		select {
		case <-r.done:
		default:
			return nil
		}
		s.rolling = nil
		if r.err != nil {
			s.rollAfter = s.o.Now().Add(rollRetry)
			s.log.WarnContext(ctx, "ticks were not rolled up, trying again", "err", r.err, "in", rollRetry)
			if errors.Is(r.err, repo.ErrShipped) { // an attempt of which the answer was lost
				return s.clean(ctx)
			}
			return nil
		}
		if err := s.rolled(r); err != nil {
			return err
		}
	}
	now := s.o.Now()
	if now.Before(s.rollAfter) {
		return nil
	}
	links, level := s.dueRollUp(now)
	if links == nil {
		return s.drop(ctx)
	}
	r := &rolling{links: links, level: level, bare: s.bare, done: make(chan struct{})}
	there := map[capture.Name]*capture.Known{} // files that still are those of the links
	for _, l := range links {
		for _, f := range l.tick.Files {
			nm := capture.Name{Root: f.Root, Path: f.Path}
			if is := s.files[nm]; is != nil && is.File.Generation == f.Generation {
				there[nm] = is
			}
		}
	}
	s.rolling = r
	s.work.Go(func() {
		defer close(r.done)
		if r.made, r.err = s.makeRollUp(s.working, links, there, level == longLevel); r.err == nil && level == longLevel {
			s.protect(r)
		}
	})
	return nil
}

// protect lets the storage protect a roll-up of the long level, with what it refers to, and what couldn't be before.
func (s *Shipper) protect(r *rolling) {
	if s.o.Protect <= 0 {
		return
	}
	r.bare = append(slices.Clone(r.bare), r.made.segment.Key)
	for _, p := range r.made.tick.Parts {
		r.bare = append(r.bare, p.Key)
	}
	if err := s.o.Repo.RetainShipped(s.working, s.o.Instance, r.bare, s.o.Now().Add(s.o.Protect)); err != nil {
		s.log.Warn("what was rolled up is not protected by the storage; the next roll-up of an hour tries it again", "objects", len(r.bare), "err", err)
		return
	}
	r.bare = nil
}

// rollRetry is how long after a failure a roll-up is tried again.
const rollRetry = time.Minute

// makeRollUp stores links as one object. It reads nothing of the shipper that ticks change.
func (s *Shipper) makeRollUp(ctx context.Context, links []*link, there map[capture.Name]*capture.Known, long bool) (*link, error) {
	first, last := links[0], links[len(links)-1]
	name := repo.ShipName{Chain: first.name.Chain, First: first.tick.First, Last: last.tick.Last,
		From: first.start().Truncate(time.Second), To: last.end().Add(time.Second - 1).Truncate(time.Second)}
	out := &link{name: name, tick: &manifest.Tick{Instance: s.o.Instance, Chain: name.Chain, First: name.First, Last: name.Last, Prev: first.tick.Prev,
		End: cmp.Or(last.tick.End, last.segment.SHA256), Base: last.tick.Base, Since: last.tick.Since, Identity: last.tick.Identity, NodeName: last.tick.NodeName,
		CouchDBVersion: last.tick.CouchDBVersion, Tool: s.o.Tool, Long: long}}
	c := s.newContent(ctx, name)
	m := &merger{shipper: s, out: out, content: c, taker: s.takers.Apart(c), there: there, refs: map[string]int{}}
	for _, l := range links {
		out.tick.Times = append(out.tick.Times, l.tick.Times...)
		out.tick.Gone = append(out.tick.Gone, l.tick.Gone...)
		out.tick.Notes = append(out.tick.Notes, l.tick.Notes...)
		for i := range l.tick.Files {
			m.add(l, i)
		}
	}
	if err := m.merge(ctx); err != nil {
		return nil, err
	}
	var sealed repo.Sealed
	if err := s.o.Repo.SealTick(&sealed, s.key, s.signer, name, out.tick, c.rest()); err != nil {
		return nil, err
	}
	out.segment = sealed.Segment
	return out, s.o.Repo.PutShipped(ctx, s.o.Instance, &sealed)
}

// merger makes the files of a roll-up.
type merger struct {
	shipper *Shipper
	out     *link
	content *content
	taker   *capture.Taker
	there   map[capture.Name]*capture.Known
	order   []string // generations, by first appearance
	runs    map[string]*run
	refs    map[string]int // numbers of segments of other objects among the parts, by key
	refer   []manifest.Segment
}

// run is what links have of one generation, or of one file without.
type run struct {
	name    capture.Name
	entries []entry
}

type entry struct {
	link *link
	i    int // in link.tick.Files
}

func (e entry) file() *manifest.TickFile { return e.link.tick.Files[e.i] }

func (m *merger) add(l *link, i int) {
	f := l.tick.Files[i]
	key := fmt.Sprintf("%s/%s/%s", f.Generation, f.Root, f.Path)
	if f.Generation == "" {
		key += fmt.Sprintf("/%d", l.tick.First) // each is whole
	}
	if m.runs == nil {
		m.runs = map[string]*run{}
	}
	if m.runs[key] == nil {
		m.runs[key] = &run{name: capture.Name{Root: f.Root, Path: f.Path}}
		m.order = append(m.order, key)
	}
	m.runs[key].entries = append(m.runs[key].entries, entry{l, i})
}

func (m *merger) merge(ctx context.Context) error {
	for _, key := range m.order {
		if err := m.mergeRun(ctx, m.runs[key].name, m.runs[key].entries); err != nil {
			return err
		}
	}
	return m.number()
}

// leastLarge is from which size of its content on, in bytes, the range of one object stays there: what is that
// large fills half an object by itself, so to store it anew would save none.
const leastLarge = repo.SegmentSize / 2

func large(f *manifest.TickFile) bool { return f.Content() >= leastLarge }

// mergeRun takes what links have of a generation as one range, out of the file; or, where the file isn't
// there any more, refers to what they have.
func (m *merger) mergeRun(ctx context.Context, nm capture.Name, entries []entry) error {
	if m.closed(entries) {
		return nil
	}
	for len(entries) > 0 {
		first := entries[0].file()
		if first.From == 0 && (len(first.Replays) > 0 || first.Generation == "") || large(first) {
			m.reference(entries[0])
			entries = entries[1:]
			continue
		}
		n := 1 // those that go on from each other, and from what is known
		for n < len(entries) && entries[n].file().From == entries[n-1].file().Size && !large(entries[n].file()) {
			n++
		}
		if err := m.take(ctx, nm, entries[:n]); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// closed refers to the last of entries alone, if that has all that the others have: it was taken when
// the file was swapped by a compaction.
func (m *merger) closed(entries []entry) bool {
	last := entries[len(entries)-1]
	f := last.file()
	first := slices.IndexFunc(entries, func(e entry) bool { return e.file().From >= f.From })
	if f.Generation == "" || first == len(entries)-1 {
		return false
	}
	var cuts manifest.Cuts
	for _, e := range entries[:first] {
		m.reference(e)
	}
	for _, e := range entries[first:] {
		cuts = append(cuts, e.file().Cuts...)
	}
	m.reference(last)
	m.out.tick.Files[len(m.out.tick.Files)-1].Cuts = cuts
	return true
}

// take reads a range of a file again.
func (m *merger) take(ctx context.Context, nm capture.Name, entries []entry) error {
	first, last := entries[0], entries[len(entries)-1]
	want := last.file()
	is := m.there[nm]
	e, ok := m.shipper.o.Node.Entry(nm.Path)
	was := first.link.was[first.i]
	if is == nil || !ok || is.File.Generation != want.Generation || want.Header == nil || first.file().From > 0 && (was == nil || was.File.Size != first.file().From) {
		for _, e := range entries {
			m.reference(e)
		}
		return nil
	}
	var old *capture.Known
	if first.file().From > 0 {
		old = was
	}
	got, err := m.taker.TakeTo(ctx, e, old, &want.File)
	if err != nil {
		return err
	}
	if got == nil {
		for _, e := range entries {
			m.reference(e)
		}
		return nil
	}
	f := &manifest.TickFile{File: want.File, From: first.file().From}
	f.Extents, f.Replays = got.Extents, got.Replays
	for _, e := range entries {
		f.Cuts = append(f.Cuts, e.file().Cuts...)
	}
	m.put(f, was, last)
	return nil
}

// put adds a file to the index.
func (m *merger) put(f *manifest.TickFile, was *capture.Known, last entry) {
	m.out.tick.Files = append(m.out.tick.Files, f)
	m.out.was = append(m.out.was, was)
	m.out.locals = append(m.out.locals, last.link.locals[last.i])
}

// referred marks extents that are in other objects until the parts are numbered.
const referred = 1 << 30

// reference takes a range from where it is.
func (m *merger) reference(e entry) {
	f := *e.file()
	at := func(seg int) int {
		s := e.link.segment
		if seg > 0 {
			s = e.link.tick.Parts[seg-1]
		}
		n, ok := m.refs[s.Key]
		if !ok {
			n = len(m.refer)
			m.refs[s.Key] = n
			m.refer = append(m.refer, s)
		}
		return referred + n
	}
	f.Extents, f.Replays = manifest.Renumbered(f.Extents, f.Replays, at)
	m.put(&f, e.link.was[e.i], e)
}

// number gives all extents the numbers of the index: 0 is the object itself.
func (m *merger) number() error {
	last, parts := m.content.current(), len(m.content.parts)
	m.out.tick.Parts = slices.Concat(m.content.parts, m.refer)
	for _, f := range m.out.tick.Files {
		for e := range f.Stored() {
			switch {
			case e.Seg == last:
				e.Seg = 0
			case e.Seg >= referred:
				e.Seg = e.Seg - referred + parts + 1
			}
		}
	}
	return nil
}

// rolled puts a roll-up in the place of its links.
func (s *Shipper) rolled(r *rolling) error {
	i := slices.Index(s.links, r.links[0])
	if i < 0 {
		return nil // a chain was begun meanwhile
	}
	if err := s.journal.Add(lineOf(r.made)); err != nil {
		return err
	}
	if r.level == longLevel {
		s.bare = r.bare
	}
	s.replace(i, r.links, r.made)
	if r.level == longLevel || s.journal.Grown() {
		return s.rewrite()
	}
	return nil
}

// replace puts a roll-up in the place of links, and has their objects deleted.
func (s *Shipper) replace(i int, links []*link, made *link) {
	gone := state.Drop{By: made.name.String()}
	for _, l := range links {
		gone.Keys = append(gone.Keys, l.segment.Key)
		for _, p := range l.tick.Parts {
			gone.Keys = append(gone.Keys, p.Key)
		}
	}
	s.old = append(s.old, gone)
	if isLong(made) {
		s.long = append(s.long, made.name.String())
		for _, p := range made.tick.Parts {
			s.pinned[p.Key] = true
		}
		s.keep(made)
		s.links = slices.Delete(slices.Clone(s.links), i, i+len(links))
		return
	}
	s.links = slices.Replace(slices.Clone(s.links), i, i+len(links), made)
}

// isLong reports whether a roll-up is of the long level: it is as long as can be, and only a backup
// takes over from it.
func isLong(l *link) bool { return l.tick.Long }

// needed are the keys of all objects that links and roll-ups of the long level refer to.
func (s *Shipper) needed() map[string]bool {
	out := maps.Clone(s.pinned)
	for _, l := range s.links {
		out[l.segment.Key] = true
		for _, p := range l.tick.Parts {
			out[p.Key] = true
		}
	}
	return out
}

// drop deletes objects that were rolled up, and that nothing refers to. What a roll-up refers to goes
// with it, or with the moments.
func (s *Shipper) drop(ctx context.Context) error {
	if len(s.old) == 0 {
		return nil
	}
	needed := s.needed()
	for len(s.old) > 0 {
		by, ok := repo.ParseShipName(s.old[0].By)
		if !ok {
			return fmt.Errorf("the journal of shipping names %q as a roll-up", s.old[0].By)
		}
		keys := slices.DeleteFunc(slices.Clone(s.old[0].Keys), func(k string) bool { return needed[k] })
		if err := s.o.Repo.DropRolledUp(ctx, s.o.Instance, by, keys); err != nil {
			s.rollAfter = s.o.Now().Add(rollRetry)
			s.log.WarnContext(ctx, "objects that were rolled up could not be deleted, trying again", "err", err, "in", rollRetry)
			return nil
		}
		s.old = s.old[1:]
	}
	return nil
}

// lineOf is the journal's line of a tick or roll-up.
func lineOf(l *link) *state.JournalTick {
	return &state.JournalTick{Tick: l.tick, Segment: l.segment, Locals: l.locals}
}
