package ship

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/state"
)

// tick is a tick in the making.
type tick struct {
	index   manifest.Tick
	content *content
	files   []took
	gone    []capture.Name
	absent  []capture.Name // gone in this tick for the first time
}

// took is a file that was taken.
type took struct {
	name capture.Name
	file *capture.Known
	from int64
	was  *capture.Known // what was known before From; nil if nothing was
	seen time.Time
}

// Tick ships what is new, if anything is. After an error all of it is still to be shipped.
func (s *Shipper) Tick(ctx context.Context) error {
	err := s.tick(ctx)
	if err != nil {
		s.status.failed(err, s.o.Now())
	}
	return err
}

func (s *Shipper) tick(ctx context.Context) error {
	if err := s.makeSure(ctx); err != nil {
		return err
	}
	if err := s.adopt(ctx); err != nil {
		return err
	}
	s.started = s.o.Now()
	s.note(s.follow.Take())
	s.release(false)
	if len(s.dirty) == 0 && !s.config {
		s.quiet = s.started
		return s.after(ctx)
	}
	s.begun()
	s.waited = false
	if err := s.checkNode(); err != nil {
		return err
	}
	if err := s.look(ctx); err != nil {
		return err
	}
	n := s.chain.Tick + 1
	t := &tick{content: s.newContent(ctx, repo.ShipName{Chain: s.chain.ID, First: n, Last: n})}
	if err := s.takeAll(ctx, t); err != nil {
		return err
	}
	if len(t.files)+len(t.gone) > 0 {
		if err := s.store(ctx, t); err != nil {
			return err
		}
	}
	if err := s.settle(t); err != nil {
		return err
	}
	return s.after(ctx)
}

// after goes on with what is done beside ticks.
func (s *Shipper) after(ctx context.Context) error {
	s.remember()
	err := s.rollUp(ctx)
	s.told() // that a roll-up has ended, too
	return err
}

// note marks paths that the follower told.
func (s *Shipper) note(paths []string) {
	for _, p := range paths {
		rel, err := filepath.Rel(s.o.Node.DataDir, p)
		if err != nil || !filepath.IsLocal(rel) || slices.Contains(s.o.Node.IniFiles, p) {
			s.config = true
			continue
		}
		nm := capture.Name{Root: manifest.DataRoot, Path: filepath.ToSlash(rel)}
		if db, ok := compactionOf(nm.Path); ok {
			s.hold(capture.Name{Root: nm.Root, Path: db})
			continue
		}
		s.mark(nm)
	}
}

// takeAll takes what is new of the files that changed: the shard map first, so that every shard
// that it names is there and is taken after it, and configuration last.
//
// A shard is made before the map names it, and deleted after the map doesn't any more. Source: CouchDB
// 3.5, src/fabric/src/fabric_db_create.erl and fabric_db_delete.erl.
func (s *Shipper) takeAll(ctx context.Context, t *tick) error {
	names := make([]capture.Name, 0, len(s.dirty))
	for nm := range s.dirty {
		names = append(names, nm)
	}
	slices.SortFunc(names, func(a, b capture.Name) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.Path, b.Path))
	})
	taker := s.takers.Taker(t.content)
	for _, nm := range names {
		e, ok := s.o.Node.Entry(nm.Path)
		if !ok {
			continue
		}
		if err := s.takeOne(ctx, t, taker, e); err != nil {
			return err
		}
	}
	if !s.config {
		return nil
	}
	for _, e := range s.o.Node.ConfigEntries() {
		if err := s.takeOne(ctx, t, taker, e); err != nil {
			return err
		}
	}
	return nil
}

func order(nm capture.Name) int {
	if nm.Path == state.MapFile {
		return 0
	}
	return 1
}

// takeOne takes what is new of one file.
func (s *Shipper) takeOne(ctx context.Context, t *tick, taker *capture.Taker, e node.Entry) error {
	nm := capture.Name{Root: e.Root, Path: e.Path}
	old := s.files[nm]
	if err := s.closeGeneration(ctx, t, taker, e); err != nil {
		return err
	}
	seen := s.o.Now()
	from, err := s.begins(ctx, taker, e, old)
	if err != nil {
		return err
	}
	got, err := taker.Take(ctx, e, from)
	if err != nil {
		return err
	}
	got.WentBack = got.WentBack || from != old
	switch {
	case got.File == nil && s.isGone(e):
		if old == nil {
			return nil
		}
		if s.dirty[nm] || e.Kind == manifest.Config {
			t.gone = append(t.gone, nm)
		} else {
			t.absent = append(t.absent, nm)
		}
		return nil
	case got.File == nil:
		s.log.WarnContext(ctx, "a file is not shipped", "path", nm.Path, "why", got.LeftOut)
		return nil
	case got.File.Header == nil && e.Kind != manifest.Config:
		s.log.WarnContext(ctx, "a file is not shipped: it has no valid header; the next backup takes it as it is", "path", nm.Path)
		return nil
	}
	if got.WentBack {
		text := nm.Path + ": it doesn't begin any more with what was shipped of it, as after a power cut, a rollback of the disk, or an older copy put back: another generation"
		t.index.Notes = append(t.index.Notes, text)
		s.log.WarnContext(ctx, "a file went back in time: all of it is shipped as another generation", "path", nm.Path)
	}
	now := &capture.Known{File: got.File, Local: got.Local, Damaged: got.Local.Unsound}
	if old != nil {
		now.Whole = old.Whole
	}
	if old != nil && got.From == got.File.Size && same(old.File, got.File) { // at most touched
		old.Local = now.Local
		return nil
	}
	t.files = append(t.files, took{nm, now, got.From, old, seen})
	return nil
}

// begins returns on what of a file the next range goes on: on what is known, or on nothing if the file has that, but not
// what a backup has behind it. Then it was set back and has grown again.
func (s *Shipper) begins(ctx context.Context, taker *capture.Taker, e node.Entry, old *capture.Known) (*capture.Known, error) {
	want := s.ahead[capture.Name{Root: e.Root, Path: e.Path}]
	if want == nil || old == nil || old.File.Generation != want.Generation || old.File.Size >= want.Size || !taker.Has(ctx, e, old.File) {
		return old, nil
	}
	leads, err := taker.Leads(ctx, e, old, want)
	if err != nil || leads {
		return old, err
	}
	return nil, nil
}

// same reports whether two states of a file are the same.
func same(a, b *manifest.File) bool {
	return a.Generation == b.Generation && a.Size == b.Size && a.SHA256 == b.SHA256
}

// isGone reports whether a file isn't there.
func (s *Shipper) isGone(e node.Entry) bool {
	_, err := os.Lstat(s.o.Node.Path(&e))
	return errors.Is(err, os.ErrNotExist)
}

var (
	// ErrOtherNode says that the files are not those of the node that was shipped until now.
	ErrOtherNode = errors.New("these are not the files that were shipped until now")
	errOtherMap  = fmt.Errorf("%w: the shard map is another file", ErrOtherNode)
)

// checkNode refuses to take the loss of all files for their deletion, as when a disk isn't mounted, and another
// CouchDB's files for this one's. The shard map tells: each node has one of its own, and keeps it.
func (s *Shipper) checkNode() error {
	s.identity, s.nodeName = state.Identify(s.o.Node)
	known := s.files[capture.Name{Root: manifest.DataRoot, Path: state.MapFile}]
	if known == nil || known.File.Header == nil || s.identity.MapUUID != "" && s.identity.MapUUID == known.File.Header.UUID {
		return nil
	}
	is, err := state.FileHeader(filepath.Join(s.o.Node.DataDir, state.MapFile))
	switch {
	case errors.Is(err, os.ErrNotExist) && capture.Swapping(filepath.Join(s.o.Node.DataDir, state.MapFile)):
		return nil
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %s is gone from %s: if its disk is not mounted, mount it", ErrOtherNode, state.MapFile, s.o.Node.DataDir)
	case err == nil && is.UUID != known.File.Header.UUID && known.File.Header.UUID != "":
		return fmt.Errorf("%w: %s in %s (uuid %.8s, was %.8s). If its disk is not mounted, mount it; if it was restored, or another CouchDB has replaced the one before, make a backup, with --take-over if that is refused",
			errOtherMap, state.MapFile, s.o.Node.DataDir, is.UUID, known.File.Header.UUID)
	}
	return nil
}

// store makes an object of a tick and stores it.
func (s *Shipper) store(ctx context.Context, t *tick) error {
	s.fill(t)
	name := repo.ShipName{Chain: s.chain.ID, First: t.index.First, Last: t.index.Last}
	var sealed repo.Sealed
	if err := s.o.Repo.SealTick(&sealed, s.key, s.signer, name, &t.index, t.content.rest()); err != nil {
		return err
	}
	l := &link{name: name, tick: &t.index, segment: sealed.Segment}
	for _, f := range t.files {
		l.locals = append(l.locals, f.file.Local)
		l.was = append(l.was, f.was)
	}
	if err := s.journal.Add(lineOf(l)); err != nil {
		return err
	}
	err := s.put(ctx, &sealed)
	if errors.Is(err, repo.ErrShipped) {
		return s.taken(ctx, err)
	}
	if err != nil {
		s.unsure = l
		return err
	}
	s.attempts = nil
	s.goOn(l)
	s.looked = time.Now()
	s.status.stored(sealed.Segment.Size)
	return nil
}

// makeSure finds out whether a tick is stored whose put failed, before another one of its number is made: it
// may be, and the journal must have no two of which one isn't.
func (s *Shipper) makeSure(ctx context.Context) error {
	if s.unsure == nil {
		return nil
	}
	stored, err := s.o.Repo.IsShipped(ctx, s.o.Instance, s.unsure.segment)
	switch {
	case errors.Is(err, repo.ErrShipped):
		s.unsure = nil
		return s.taken(ctx, err)
	case err != nil:
		return err
	case stored:
		err = s.restoreLine(lineOf(s.unsure))
	default:
		s.attempts = append(s.attempts, *lineOf(s.unsure))
		err = s.rewrite()
	}
	if err == nil {
		s.unsure = nil
	}
	return err
}

// errLate says that an earlier attempt at a tick is what was stored: what has changed since is the next one.
var errLate = errors.New("an earlier attempt at this tick took effect after all; what is new since then follows")

// taken says who has stored the tick of the next number: an earlier attempt of this shipper, whose put took effect
// after it was given up, or somebody else.
func (s *Shipper) taken(ctx context.Context, cause error) error {
	for i := range s.attempts {
		a := &s.attempts[i]
		stored, err := s.o.Repo.IsShipped(ctx, s.o.Instance, a.Segment)
		switch {
		case errors.Is(err, repo.ErrShipped):
			continue
		case err != nil:
			return err
		case !stored:
			continue
		}
		if err := s.restoreLine(a); err != nil {
			return err
		}
		s.attempts = nil
		return errors.Join(errLate, s.rewrite())
	}
	return other("%w", cause)
}

// put stores an object until that succeeds, ctx ends, or another one is there.
func (s *Shipper) put(ctx context.Context, sealed *repo.Sealed) error {
	for wait := s.o.Interval; ; wait = min(2*wait, maxWait) {
		err := s.o.Repo.PutShipped(ctx, s.o.Instance, sealed)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, repo.ErrShipped):
			return err
		case ctx.Err() != nil, s.giveUp != nil && errors.Is(err, s.giveUp):
			return err
		}
		s.status.failed(err, s.o.Now())
		s.log.WarnContext(ctx, "a tick could not be stored; trying again", "err", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// fill makes the index of a tick.
func (s *Shipper) fill(t *tick) {
	n := s.chain.Tick + 1
	x := &t.index
	x.Instance, x.Chain, x.First, x.Last, x.Prev, x.Base, x.Since, x.Tool = s.o.Instance, s.chain.ID, n, n, s.chain.End, s.chain.Base, s.chain.Since, s.o.Tool
	at := s.started.UnixMilli()
	since := s.status.behind().UnixMilli()
	x.Times = manifest.Times{{At: at, Quiet: max(0, at-since)}}
	x.Identity, x.NodeName = s.identity, s.nodeName
	x.CouchDBVersion = s.o.Node.Version
	x.Parts = t.content.parts
	for i := range t.files {
		f := &t.files[i]
		c := manifest.Cut{Tick: n, Size: f.file.File.Size}
		if h := f.file.File.Header; h != nil {
			c = manifest.CutOf(n, f.file.File.Size, h, 0)
		}
		c.Ago = at - f.seen.UnixMilli()
		entry := &manifest.TickFile{File: *f.file.File, From: f.from, Cuts: manifest.Cuts{c}}
		t.content.number(&entry.File)
		x.Files = append(x.Files, entry)
	}
	for _, nm := range t.gone {
		x.Gone = append(x.Gone, manifest.Gone{Root: nm.Root, Path: nm.Path, Tick: n})
	}
}

// settle remembers what a tick had, now that it is stored.
func (s *Shipper) settle(t *tick) error {
	for _, f := range t.files {
		s.files[f.name] = bare(f.file)
		delete(s.ahead, f.name)
		s.changed[f.name] = true
		s.unread[f.name] = true
	}
	for _, nm := range t.gone {
		delete(s.files, nm)
		s.changed[nm] = true
	}
	clear(s.dirty)
	for _, nm := range t.absent {
		s.dirty[nm] = true
	}
	s.config = false
	s.quiet = s.started
	if s.booted { // all was looked at
		s.booted = false
		return s.rewrite()
	}
	return nil
}

// bare is a file without where its bytes are: that is for whoever puts moments together.
func bare(f *capture.Known) *capture.Known {
	b := *f.File
	b.Extents, b.Replays = nil, nil
	return &capture.Known{File: &b, Local: f.Local, Damaged: f.Damaged, Whole: f.Whole}
}

// generation names a physical file.
func (s *Shipper) generation() string {
	s.names++
	return fmt.Sprintf("%s-%d-%d", s.chain.ID, s.chain.Tick+1, s.names)
}

// doubt says why a file must be read whole, though its header and what is before it are the same.
func (s *Shipper) doubt(_ capture.Name, was, is *capture.Local) string {
	return capture.Doubt(was, is, s.booted, time.UnixMilli(s.chain.Seen))
}

// content is what files of a tick have, in the memory of one segment: what is more goes to
// parts. It is the sink of a taker.
type content struct {
	buf   []byte
	parts []manifest.Segment
	flush func(data []byte) (manifest.Segment, error)
}

// partSize is how much content a tick has at most in each of its objects, in bytes.
const partSize = repo.SegmentSize - repo.MaxTickIndex

// current is what extents call the object that is being filled: it is a part, or the last one.
func (c *content) current() int { return len(c.parts) + 1 }

func (c *content) room() error {
	if len(c.buf) < partSize {
		return nil
	}
	seg, err := c.flush(c.buf)
	if err != nil {
		return err
	}
	c.parts, c.buf = append(c.parts, seg), c.buf[:0]
	return nil
}

// Fill reads bytes of a file straight into the buffer.
func (c *content) Fill(_ capture.Name, _, n int64, read func([]byte) error) ([]manifest.Extent, error) {
	if err := c.room(); err != nil {
		return nil, err
	}
	at := len(c.buf)
	k := min(int(min(n, capture.ReadSize)), partSize-at)
	c.buf = slices.Grow(c.buf, k)[:at+k]
	if err := read(c.buf[at:]); err != nil {
		c.buf = c.buf[:at]
		return nil, err
	}
	return []manifest.Extent{{Seg: c.current(), At: int64(at), N: int64(k)}}, nil
}

// Append adds bytes.
func (c *content) Append(_ capture.Name, _ int64, b []byte) (out []manifest.Extent, err error) {
	for len(b) > 0 {
		if err := c.room(); err != nil {
			return nil, err
		}
		at := len(c.buf)
		k := min(len(b), partSize-at)
		c.buf = append(c.buf, b[:k]...)
		out = append(out, manifest.Extent{Seg: c.current(), At: int64(at), N: int64(k)})
		b = b[k:]
	}
	return out, nil
}

// rest is the content of the object that has the index.
func (c *content) rest() []byte { return c.buf }

// number gives the extents of a file the numbers that they have in the index, once all is taken.
func (c *content) number(f *manifest.File) {
	last := c.current()
	for e := range f.Stored() {
		if e.Seg == last {
			e.Seg = 0
		}
	}
}

// storePart stores a part of the object of a name, and returns the number that it has: that of the name, or the first after it
// that is free, as an attempt that failed may have left some.
func (s *Shipper) storePart(ctx context.Context, name repo.ShipName, data []byte) (seg manifest.Segment, part int, err error) {
	var sealed repo.Sealed
	for ; ; name.Part++ {
		if err := s.o.Repo.SealPart(&sealed, s.key, name, data); err != nil {
			return seg, 0, err
		}
		if err := s.o.Repo.PutShipped(ctx, s.o.Instance, &sealed); !errors.Is(err, repo.ErrShipped) {
			return sealed.Segment, name.Part, err
		}
	}
}

// newContent returns content whose parts are stored as those of the object of a name.
func (s *Shipper) newContent(ctx context.Context, name repo.ShipName) *content {
	return &content{flush: func(data []byte) (seg manifest.Segment, err error) {
		name.Part++
		seg, name.Part, err = s.storePart(ctx, name, data)
		return seg, err
	}}
}
