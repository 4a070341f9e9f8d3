package ship

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/state"
)

// lookEvery is how long a shipper believes that its chain is still its own.
const lookEvery = time.Minute

// resume finds where the last shipper on this node ended, or begins a chain.
func (s *Shipper) resume(ctx context.Context) error {
	lines, err := s.journal.Read(true)
	if err != nil {
		return err
	}
	base, err := s.readBase()
	if err != nil {
		return err
	}
	s.boot = state.BootID()
	if lines == nil {
		s.booted = base.Boot == "" || base.Boot != s.boot
		return s.begin(ctx, base)
	}
	s.chain = lines.Head.Chain
	s.booted = lines.Head.Boot == "" || lines.Head.Boot != s.boot
	last := lines.Unproven()
	if err := s.restore(lines); err != nil {
		return err
	}
	if err := s.ended(ctx, last); err != nil {
		return err
	}
	if lines.Head.Base.Backup != s.based.Backup {
		return s.beginAnew(ctx)
	}
	if last != nil && s.chain.Tick < last.Tick.Last { // it isn't stored: the next one has its number
		s.attempts = append(s.attempts, *last)
		return s.rewrite()
	}
	return nil
}

// beginAnew begins another chain, as a backup was made while nobody shipped. Where a file was when this one's last tick was made
// isn't known any more of all files, so ticks would rest on that backup, and no record says so: that a chain was begun on it
// does.
func (s *Shipper) beginAnew(ctx context.Context) error {
	if err := s.drop(ctx); err != nil {
		return err
	}
	return s.beginOnBackup(ctx)
}

// beginOnBackup begins a chain on the last backup, as if nothing had been shipped.
func (s *Shipper) beginOnBackup(ctx context.Context) error {
	clear(s.files)
	base, err := s.readBase()
	if err != nil {
		return err
	}
	return s.begin(ctx, base)
}

// readBase reads the state of the last backup into s.files, and sets s.based.
func (s *Shipper) readBase() (*state.State, error) {
	now, err := s.stampOf()
	if err != nil {
		return nil, err
	}
	st, why, err := state.Read(s.dir, s.o.Repo.Config().ID)
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, fmt.Errorf("%w: %s; `slipcover backup create` makes one", ErrNoBase, why)
	}
	now.Backup = st.Summary.ID
	s.based = now
	for nm, k := range st.Files {
		if k.File.Kind == manifest.View {
			continue
		}
		s.files[nm] = bare(k)
	}
	return st, nil
}

// stampOf looks at the state of the last backup.
func (s *Shipper) stampOf() (state.Stamp, error) {
	info, err := os.Stat(state.Path(s.dir))
	if errors.Is(err, fs.ErrNotExist) {
		return state.Stamp{}, nil
	}
	if err != nil {
		return state.Stamp{}, err
	}
	return state.Stamp{Size: info.Size(), MTime: info.ModTime().UnixNano()}, nil
}

// begin begins a chain at the last backup.
func (s *Shipper) begin(ctx context.Context, base *state.State) error {
	shipped, err := s.o.Repo.Shipped(ctx, s.o.Instance)
	if err != nil {
		return err
	}
	at := s.o.Now()
	for _, o := range shipped { // after all that there are, whatever the clock says
		if t := o.Chain.Time(); at.UnixMilli() <= t.UnixMilli() { // ids have milliseconds
			at = t.Add(time.Millisecond)
		}
	}
	id, err := manifest.NewIDAt(at)
	if err != nil {
		return err
	}
	s.chain = state.Chain{ID: id, Base: base.Summary.ID, Since: base.Summary.ID, Seen: base.Summary.Started.UnixMilli()}
	s.links, s.long, s.old, s.kept, s.bare, s.attempts = nil, nil, nil, nil, nil, nil
	clear(s.pinned)
	clear(s.changed)
	clear(s.ahead)
	s.looked = time.Now()
	return s.rewrite()
}

// rewrite writes the journal anew: where the chain is, which files differed from the backup's
// state before the links that are kept, and these.
func (s *Shipper) rewrite() error {
	before := map[capture.Name]*capture.Known{}
	for nm := range s.changed {
		before[nm] = s.files[nm]
	}
	for _, l := range slices.Backward(s.links) {
		for i, f := range l.tick.Files {
			before[capture.Name{Root: f.Root, Path: f.Path}] = l.was[i]
		}
	}
	head := state.JournalHead{Format: state.JournalFormat, Chain: s.chain, Boot: s.boot, Base: s.based, Files: len(before), Long: s.long,
		Pinned: slices.Sorted(maps.Keys(s.pinned)), Old: s.old, Kept: s.kept, Attempts: s.attempts}
	return s.journal.Rewrite(func(add func(any) error) error {
		err := add(head)
		for nm, f := range before {
			line := state.JournalFile{Root: nm.Root, Path: nm.Path}
			if f != nil {
				line.File, line.Local, line.Whole = f.File, f.Local, f.Whole
			}
			if err == nil {
				err = add(line)
			}
		}
		for _, l := range s.links {
			if err == nil {
				err = add(lineOf(l))
			}
		}
		return err
	})
}

// restore puts what the journal says of files over the backup's state, if that is the one that it
// was written for.
func (s *Shipper) restore(lines *state.Lines) error {
	if lines.Head.Base.Backup == s.based.Backup {
		for _, f := range lines.Files {
			nm := capture.Name{Root: f.Root, Path: f.Path}
			s.changed[nm] = true
			s.behind(nm, f.File, s.files[nm])
			if delete(s.files, nm); f.File != nil {
				s.files[nm] = &capture.Known{File: f.File, Local: f.Local, Damaged: f.Local.Unsound, Whole: f.Whole}
			}
		}
	}
	s.long, s.old, s.kept, s.attempts = lines.Head.Long, lines.Head.Old, lines.Head.Kept, lines.Head.Attempts
	for _, key := range lines.Head.Pinned {
		s.pinned[key] = true
	}
	s.bare = slices.Concat(s.long, lines.Head.Pinned) // some may not have been protected
	for i := range lines.Ticks {
		if err := s.restoreLine(&lines.Ticks[i]); err != nil {
			return err
		}
	}
	return nil
}

// restoreLine goes on from a tick or roll-up that is stored.
func (s *Shipper) restoreLine(t *state.JournalTick) error {
	name, ok := repo.ParseShipName(t.Segment.Key)
	if !ok {
		return fmt.Errorf("the journal of shipping names an object %q", t.Segment.Key)
	}
	l := &link{name: name, tick: t.Tick, segment: t.Segment, locals: t.Locals}
	if name.RollUp() {
		return s.restoreRollUp(l)
	}
	s.restoreFiles(l)
	s.goOn(l)
	return nil
}

// goOn lets the chain go on from its newest object.
func (s *Shipper) goOn(l *link) {
	s.links = append(s.links, l)
	s.chain.Tick, s.chain.End = l.tick.Last, cmp.Or(l.tick.End, l.segment.SHA256)
	s.chain.Seen = l.end().UnixMilli()
}

// restoreFiles makes what is known of files what the journal says of a link.
func (s *Shipper) restoreFiles(l *link) {
	for i, f := range l.tick.Files {
		nm := capture.Name{Root: f.Root, Path: f.Path}
		l.was = append(l.was, s.files[nm])
		s.files[nm] = bare(&capture.Known{File: &f.File, Local: l.locals[i], Damaged: l.locals[i].Unsound})
		s.changed[nm] = true
	}
	for _, g := range l.tick.Gone {
		nm := capture.Name{Root: g.Root, Path: g.Path}
		if goneLast(l, nm, g.Tick) {
			delete(s.files, nm)
		}
		s.changed[nm] = true
	}
}

// restoreRollUp puts a roll-up in the place of the links before it; or behind them, where the journal
// was written anew since.
func (s *Shipper) restoreRollUp(made *link) error {
	i := slices.IndexFunc(s.links, func(l *link) bool { return l.tick.First == made.tick.First })
	n := slices.IndexFunc(s.links, func(l *link) bool { return l.tick.Last == made.tick.Last })
	if i < 0 && n < 0 {
		s.restoreFiles(made)
		s.goOn(made)
		return nil
	}
	if i < 0 || n < i {
		return fmt.Errorf("the journal of shipping has a roll-up of ticks %d to %d, and not these", made.tick.First, made.tick.Last)
	}
	links := s.links[i : n+1]
	for _, f := range made.tick.Files {
		made.was = append(made.was, wasOf(links, f))
	}
	s.replace(i, links, made)
	return nil
}

// goneLast reports whether a link has nothing of a file behind the tick in which it was gone.
func goneLast(l *link, nm capture.Name, tick int64) bool {
	return !slices.ContainsFunc(l.tick.Files, func(f *manifest.TickFile) bool {
		return f.Root == nm.Root && f.Path == nm.Path && f.Cuts[len(f.Cuts)-1].Tick > tick
	})
}

// wasOf returns what was known of a file before the range of a roll-up began.
func wasOf(links []*link, f *manifest.TickFile) *capture.Known {
	for _, l := range links {
		for i, g := range l.tick.Files {
			if g.Root == f.Root && g.Path == f.Path && g.Generation == f.Generation && g.From == f.From {
				return l.was[i]
			}
		}
	}
	return nil
}

// ended finds out whether the last tick in the journal was stored, and whether the chain is
// this shipper's.
func (s *Shipper) ended(ctx context.Context, last *state.JournalTick) error {
	if last != nil {
		stored, err := s.o.Repo.IsShipped(ctx, s.o.Instance, last.Segment)
		if errors.Is(err, repo.ErrShipped) {
			err = s.taken(ctx, err)
		}
		switch {
		case errors.Is(err, ErrOther):
			return s.elsewhere(ctx, err)
		case err != nil && !errors.Is(err, errLate):
			return err
		}
		if stored {
			if err := s.restoreLine(last); err != nil {
				return err
			}
		}
	}
	err := s.look(ctx)
	if err == nil {
		err = s.clean(ctx)
	}
	if errors.Is(err, ErrOther) {
		return s.elsewhere(ctx, err)
	}
	return err
}

// elsewhere is what becomes of a shipper that finds another one's ticks: an error, or a chain of
// its own.
func (s *Shipper) elsewhere(ctx context.Context, err error) error {
	if !s.o.TakeOver {
		return err
	}
	return s.beginOnBackup(ctx)
}

// other is an ErrOther by what was found, with what to do.
func other(format string, args ...any) error {
	return fmt.Errorf("%w: %w. A copy of this machine, or an older image of it, ships under the same name, or this is one. If the other one is gone for good, make a backup here and run this once with --take-over",
		ErrOther, fmt.Errorf(format, args...))
}

// look makes sure that nobody else ships the instance, unless that was found a moment ago. A number
// of a tick that was rolled up is free again, so that its name is free says little.
func (s *Shipper) look(ctx context.Context) error {
	if time.Since(s.looked) < lookEvery {
		return nil
	}
	shipped, err := s.o.Repo.Shipped(ctx, s.o.Instance)
	if err != nil {
		return err
	}
	for _, o := range shipped {
		switch {
		case o.Chain > s.chain.ID:
			return other("chain %s was begun after the one of this node, %s", o.Chain, s.chain.ID)
		case o.Chain == s.chain.ID && o.Last > s.chain.Tick && (o.Part == 0 || o.Last > s.chain.Tick+1):
			return other("it has tick %d of chain %s, and this node has stored %d", o.Last, o.Chain, s.chain.Tick)
		}
	}
	s.looked = time.Now()
	return nil
}

// clean deletes what this shipper stored and never made use of, as it was stopped: roll-ups that the
// journal doesn't know, and parts. If something is gone that the journal knows, somebody else works on the chain.
func (s *Shipper) clean(ctx context.Context) error {
	shipped, err := s.o.Repo.Shipped(ctx, s.o.Instance)
	if err != nil {
		return err
	}
	known := s.needed()
	for _, l := range s.links {
		known[l.name.String()] = true
	}
	for _, name := range s.long {
		known[name] = true
	}
	for _, d := range s.old {
		for _, k := range d.Keys {
			known[k] = true
		}
	}
	listed := map[string]bool{}
	var stray []repo.Shipped
	for _, o := range shipped {
		listed[o.String()] = true
		if o.Chain == s.chain.ID && o.Last <= s.chain.Tick && !known[o.String()] && !s.partOfLong(o.ShipName) {
			stray = append(stray, o)
		}
	}
	for _, l := range s.links {
		if listed[l.name.String()] {
			continue
		}
		if there, err := s.o.Repo.IsShipped(ctx, s.o.Instance, l.segment); err != nil || !there { // the listing may be late
			return errors.Join(err, other("%s, which this node stored, is gone", l.name))
		}
	}
	if len(stray) == 0 {
		return nil
	}
	return s.o.Repo.DropUnfinished(ctx, s.o.Instance, stray)
}

// partOfLong reports whether an object is a part of a roll-up of the long level.
func (s *Shipper) partOfLong(n repo.ShipName) bool {
	n.Part = 0
	return slices.Contains(s.long, n.String())
}

// adopt goes on from the cuts of a backup that was made meanwhile.
func (s *Shipper) adopt(ctx context.Context) error {
	now, err := s.stampOf()
	if err != nil || now.Size == s.based.Size && now.MTime == s.based.MTime || now.Size == 0 {
		return err
	}
	if st, err := state.Open(s.dir); err == nil { // it may be that of the same backup, as after a copy
		same := st.Summary().ID == s.chain.Since
		st.Close()
		if same && s.based != (state.Stamp{}) {
			s.based.Size, s.based.MTime = now.Size, now.MTime
			return nil
		}
	}
	mine := s.files
	s.files = map[capture.Name]*capture.Known{}
	base, err := s.readBase()
	if errors.Is(err, ErrNoBase) { // it is being made anew, or can't be read; the next one will do
		s.files = mine
		s.log.WarnContext(ctx, "the state of the last backup can't be used; shipping goes on as it was", "err", err)
		return nil
	}
	if err != nil {
		s.files = mine
		return err
	}
	clear(s.changed)
	clear(s.ahead)
	for nm, m := range mine {
		if s.keepMine(m, s.files[nm], base) {
			s.behind(nm, m.File, s.files[nm])
			s.files[nm] = m
			s.changed[nm] = true
		} else if b := s.files[nm]; b == nil || m.File.Size != b.File.Size {
			s.mark(nm)
		}
	}
	for nm := range s.files {
		if mine[nm] == nil {
			s.mark(nm)
		}
	}
	s.chain.Since = base.Summary.ID
	s.forget(base)
	if err := s.openKey(ctx); err != nil {
		return err
	}
	s.openTakers()
	s.log.InfoContext(ctx, "going on from a backup", "backup", base.Summary.ID)
	return s.rewrite()
}

// behind notes that a backup has more of a generation than was shipped of it, if it has: what is shipped next must go
// on to that, and not from a file that was set back in between.
func (s *Shipper) behind(nm capture.Name, m *manifest.File, b *capture.Known) {
	if m != nil && b != nil && m.Header != nil && m.Generation == b.File.Generation && m.Size < b.File.Size {
		s.ahead[nm] = b.File
		s.mark(nm)
	}
}

// keepMine says whether what was shipped of a file counts, and not what a backup says of it, nil if it has none.
// Of one generation any cut will do, since its bytes are the same in both; of a physical file that the backup gave
// another name, as a full one does, that name counts, so that later moments need no earlier backup.
func (s *Shipper) keepMine(m, b *capture.Known, base *state.State) bool {
	switch {
	case b == nil:
		return !time.UnixMilli(s.chain.Seen).Before(base.Summary.Started) // else it is gone since
	case m.File.Header == nil || b.File.Header == nil:
		return false
	case m.File.Generation == b.File.Generation:
		return m.File.Size != b.File.Size
	case m.Local.Ino != 0 && m.Local.Ino == b.Local.Ino && m.Local.Dev == b.Local.Dev:
		return false
	}
	if is, ok := s.o.Node.Entry(m.File.Path); ok { // which of the two is there, now that a compaction came between them
		if info, err := os.Stat(s.o.Node.Path(&is)); err == nil {
			l := capture.LocalOf(info)
			return l.Ino != b.Local.Ino || l.Dev != b.Local.Dev || b.Local.Ino == 0
		}
	}
	return m.File.Header.UUID == b.File.Header.UUID && m.File.Header.UpdateSeq >= b.File.Header.UpdateSeq
}

// mark has a file looked at in the next tick.
func (s *Shipper) mark(nm capture.Name) {
	if nm.Root == manifest.EtcRoot {
		s.config = true
	} else if _, ok := s.dirty[nm]; !ok {
		s.dirty[nm] = false
	}
}
