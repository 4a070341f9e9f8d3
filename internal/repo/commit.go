package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

// ErrNoCommit says that no commit can be had back that fits what was asked for.
var ErrNoCommit = errors.New("there is no such commit that can be had back")

// Commit says which commits of a database are wanted.
type Commit struct {
	DB string
	// Seqs are the highest update_seq that is wanted of each shard, each counting its own. The zero Range is for a database
	// of one shard. A shard that isn't named comes as it was then.
	Seqs map[shard.Range]uint64
	// UUIDs are, if they are known, how the uuids of the shards begin that the numbers are of.
	UUIDs map[shard.Range]string
	// Doc, if not empty, is a document: the state before its last change is wanted, its deletion too.
	Doc string
}

// AtCommit returns the newest moment up to a time that has no later commits of a database than those that are wanted, and
// of the shards that numbers are given for the newest such commit, also if no moment saw that one. A
// zero time is no bound. It returns ErrNoCommit if no file that is stored goes back so far, ErrNoMoment, ErrGap.
func (r *Repo) AtCommit(ctx context.Context, instance string, at time.Time, want Commit) (*manifest.Manifest, *Moment, error) {
	s := &seeker{repo: r, instance: instance, want: want, manifests: map[int]map[string]seenShard{}}
	var err error
	if s.h, err = r.history(ctx, instance, reading{lean: true, keep: s.keep}); err != nil {
		return nil, nil, err
	}
	if at.IsZero() {
		at = s.h.end()
	}
	if err := s.anchor(ctx, at); err != nil {
		return nil, nil, err
	}
	if want.Doc != "" {
		if err := s.beforeDoc(ctx); err != nil {
			return nil, nil, err
		}
	} else if err := s.byNumber(); err != nil {
		return nil, nil, err
	}
	return s.seek(ctx)
}

// end is when the last moment was.
func (h *History) end() (end time.Time) {
	for _, e := range h.events {
		if e.done.After(end) {
			end = e.done
		}
	}
	return end
}

// seenShard is what a backup or tick says of a shard.
type seenShard struct {
	path  string
	seq   uint64
	purge uint64
	uuid  string
	tick  int64
	gone  bool

	generation string
	compacted  uint64
}

// seeker looks for commits.
type seeker struct {
	repo     *Repo
	instance string
	want     Commit
	h        *History

	mu    sync.Mutex
	ticks map[*Link][]seenShard // guarded by mu

	manifests map[int]map[string]seenShard // shards of the database in backups
	clustered atomic.Bool                  // a shard of it was seen, so that a node's own file of its name is none of it; see Clustered
	newest    int                          // the newest event that has the database, in h.events
	shards    map[string]seenShard         // its shards then, by path
	most      map[string]uint64            // the numbers that are wanted, by path
}

// keep takes what ticks say of the database.
func (s *seeker) keep(l *Link) {
	var out []seenShard
	for _, f := range l.Tick.Files {
		if f.Root != manifest.DataRoot || f.Header == nil || f.Kind == manifest.View || DatabaseName(f.Path) != s.want.DB {
			continue
		}
		for _, c := range f.Cuts {
			out = append(out, seenShard{path: f.Path, seq: c.Seq, purge: c.Purge, uuid: f.Header.UUID, tick: c.Tick, generation: f.Generation, compacted: c.Compacted})
		}
	}
	for _, g := range l.Tick.Gone {
		if g.Root == manifest.DataRoot && DatabaseName(g.Path) == s.want.DB {
			out = append(out, seenShard{path: g.Path, tick: g.Tick, gone: true})
		}
	}
	s.sawShards(out)
	slices.SortStableFunc(out, func(a, b seenShard) int { return cmp.Compare(a.tick, b.tick) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ticks == nil {
		s.ticks = map[*Link][]seenShard{}
	}
	s.ticks[l] = out
}

// sawShards remembers whether there are shards of the database.
func (s *seeker) sawShards(list []seenShard) {
	if slices.ContainsFunc(list, func(x seenShard) bool { return !ownFile(x.path) }) {
		s.clustered.Store(true)
	}
}

// backup returns the shards of the database that a backup has.
func (s *seeker) backup(ctx context.Context, i int) (map[string]seenShard, error) {
	if m := s.manifests[i]; m != nil {
		return m, nil
	}
	out, err := s.read(ctx, i)
	if err == nil {
		s.manifests[i] = out
	}
	return out, err
}

func (s *seeker) read(ctx context.Context, i int) (map[string]seenShard, error) {
	m, err := s.repo.partOf(ctx, s.h.Backups[i], partOfDatabase(s.want.DB))
	if err != nil {
		return nil, err
	}
	out := map[string]seenShard{}
	for _, f := range m.Files {
		out[f.Path] = seenShard{path: f.Path, seq: f.Header.UpdateSeq, purge: f.Header.PurgeSeq, uuid: f.Header.UUID, generation: f.Generation, compacted: f.Header.CompactedSeq}
	}
	s.sawShards(slices.Collect(maps.Values(out)))
	return out, nil
}

// partOfDatabase is what a manifest says of the files of a database.
func partOfDatabase(db string) manifest.Part {
	name, _ := json.Marshal(db) // a string
	name = name[1 : len(name)-1]
	shards, local := slices.Concat([]byte("/"), name, []byte(".")), slices.Concat([]byte(`"`), name, []byte(`.couch"`))
	return manifest.Part{
		Line: func(line []byte) bool { return bytes.Contains(line, shards) || bytes.Contains(line, local) },
		Wanted: func(f *manifest.File) bool {
			return f.Root == manifest.DataRoot && f.Kind != manifest.View && f.Header != nil && DatabaseName(f.Path) == db
		},
	}
}

// readAll reads what all backups have of the database.
func (s *seeker) readAll(ctx context.Context) error {
	list := make([]map[string]seenShard, len(s.h.Backups))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(4, runtime.GOMAXPROCS(0)))
	for i := range list {
		g.Go(func() (err error) {
			list[i], err = s.read(ctx, i)
			return err
		})
	}
	err := g.Wait()
	for i, x := range list {
		if err == nil {
			s.manifests[i] = x
		}
	}
	return err
}

// each calls fn with the shards of the database at each moment from the newest backup on that is not behind event i,
// in order. The map changes from call to call.
func (s *seeker) each(ctx context.Context, i int, fn func(i int, e *event, shards map[string]seenShard)) error {
	first := i
	for first > 0 && s.h.events[first].backup < 0 {
		first--
	}
	state := map[string]seenShard{}
	for k := first; k < len(s.h.events); k++ {
		e := &s.h.events[k]
		if e.backup >= 0 {
			if k > first && k > i {
				return nil
			}
			list, err := s.backup(ctx, e.backup)
			if err != nil {
				return err
			}
			clear(state)
			for path, x := range list {
				state[path] = x
			}
		} else {
			l := e.chain.link(e.tick)
			for _, x := range s.ticks[l] {
				switch {
				case x.tick != e.tick:
				case x.gone:
					delete(state, x.path)
				case x.seq >= state[x.path].seq:
					state[x.path] = x
				}
			}
		}
		if s.clustered.Load() && (!earlier(s.want.DB) || ClusteredIn(maps.Keys(state))[s.want.DB]) {
			maps.DeleteFunc(state, func(path string, _ seenShard) bool { return ownFile(path) })
		}
		fn(k, e, state)
	}
	return nil
}

// anchor finds the newest moment up to a time that has the database.
func (s *seeker) anchor(ctx context.Context, at time.Time) error {
	s.newest = -1
	for i := len(s.h.events) - 1; i >= 0 && s.newest < 0; i-- {
		if e := &s.h.events[i]; e.backup < 0 && i > 0 {
			continue // told with the backup before it
		}
		err := s.each(ctx, i, func(k int, e *event, shards map[string]seenShard) {
			if k < i || len(shards) == 0 || e.done.After(at) {
				return
			}
			if _, err := s.h.base(e); err == nil {
				s.newest, s.shards = k, map[string]seenShard{}
				for path, x := range shards {
					s.shards[path] = x
				}
			}
		})
		if err != nil {
			return err
		}
	}
	if s.newest < 0 {
		return fmt.Errorf("%w: no moment of %s up to %s has a database %q", ErrNoCommit, s.instance, at.UTC().Format(time.RFC3339), s.want.DB)
	}
	return nil
}

// rangeOf returns the range of a shard; a node-local database is one shard.
func rangeOf(path string) shard.Range {
	if n, err := shard.ParsePath(path); err == nil {
		return n.Range
	}
	return shard.Full
}

// byNumber says which number is wanted of which shard.
func (s *seeker) byNumber() error {
	s.most = map[string]uint64{}
	seqs := s.want.Seqs
	if n, ok := seqs[shard.Range{}]; ok {
		if len(s.shards) != 1 {
			return fmt.Errorf("%w: %s has %d shards here, and each counts its own sequence: name a number for each, as DB/RANGE=N with the ranges %s, or the whole sequence that CouchDB shows",
				ErrNoCommit, s.want.DB, len(s.shards), strings.Join(s.ranges(), ", "))
		}
		for path := range s.shards {
			s.most[path] = n
		}
		return nil
	}
	for rg, n := range seqs {
		found := false
		for path, x := range s.shards {
			if rangeOf(path) != rg {
				continue
			}
			if id := s.want.UUIDs[rg]; !strings.HasPrefix(x.uuid, id) {
				return fmt.Errorf("%w: the sequence is of another copy of shard %s of %s than the one that this node had: its uuid begins with %s, and here it is %s",
					ErrNoCommit, rg, s.want.DB, id, x.uuid)
			}
			s.most[path], found = n, true
		}
		if !found {
			return fmt.Errorf("%w: %s has no shard %s here, but %s", ErrNoCommit, s.want.DB, rg, strings.Join(s.ranges(), ", "))
		}
	}
	return nil
}

func (s *seeker) ranges() (out []string) {
	for path := range s.shards {
		out = append(out, rangeOf(path).String())
	}
	slices.Sort(out)
	return out
}

// beforeDoc finds the shard of the document, and the number before its last change.
func (s *seeker) beforeDoc(ctx context.Context) error {
	m, _, err := s.open(ctx, s.newest)
	if err != nil {
		return err
	}
	rd := s.repo.NewReader(m, nil)
	defer rd.Close()
	for _, f := range m.Files {
		if _, ok := s.shards[f.Path]; !ok || f.Root != manifest.DataRoot {
			continue
		}
		found, err := s.beforeDocIn(ctx, rd, f)
		if err != nil || found {
			return err
		}
	}
	return fmt.Errorf("%w: no shard of %s that is here has the range of the document %q", ErrNoCommit, s.want.DB, s.want.Doc)
}

func (s *seeker) beforeDocIn(ctx context.Context, rd *Reader, f *manifest.File) (found bool, err error) {
	d, err := rd.Database(ctx, f)
	if err != nil {
		return false, err
	}
	defer d.Close()
	db, err := couchfile.OpenOffset(d, d.Size, d.Header)
	if err != nil {
		return false, err
	}
	parted, err := db.Partitioned()
	if err != nil {
		return false, err
	}
	if !rangeOf(f.Path).Contains(shard.Hash(s.want.Doc, parted)) {
		return false, nil
	}
	info, err := db.DocInfo(s.want.Doc)
	if errors.Is(err, couchfile.ErrNotFound) {
		for p, perr := range db.Purges(0) {
			if perr == nil && p.DocID == s.want.Doc {
				return false, fmt.Errorf("%w: the document %q of %s was purged, so nothing tells when it changed last: pass a time, or a sequence before the purge", ErrNoCommit, s.want.Doc, s.want.DB)
			}
		}
		return false, fmt.Errorf("%w: %s has no document %q at the newest moment, not even a deleted one", ErrNoCommit, s.want.DB, s.want.Doc)
	}
	if err != nil {
		return false, err
	}
	s.most = map[string]uint64{f.Path: info.UpdateSeq - 1}
	return true, nil
}

// fits reports whether no shard of the database is behind what is wanted, and those that numbers are given for are there.
func (s *seeker) fits(shards map[string]seenShard) bool {
	for path := range s.shards {
		x, ok := shards[path]
		if most, named := s.most[path]; !ok || named && x.seq > most {
			return false
		}
	}
	return true
}

// seek finds the moment, and the commits behind it.
func (s *seeker) seek(ctx context.Context) (*manifest.Manifest, *Moment, error) {
	start, err := s.start(ctx)
	if err != nil {
		return nil, nil, err
	}
	found, first := -1, -1
	err = s.each(ctx, start, func(k int, e *event, shards map[string]seenShard) {
		if k > s.newest || len(shards) == 0 {
			return
		}
		if _, err := s.h.base(e); err != nil {
			return
		}
		if first < 0 && len(shards) == len(s.shards) {
			first = k
		}
		if s.fits(shards) {
			found = k
		}
	})
	if err != nil {
		return nil, nil, err
	}
	if found < 0 { // only a file of the first moment can have it
		if first < 0 {
			first = s.newest
		}
		return s.cut(ctx, first, first)
	}
	next := found
	if found < s.newest {
		for next = found + 1; next < s.newest; next++ {
			if _, err := s.h.base(&s.h.events[next]); err == nil {
				break
			}
		}
	}
	return s.cut(ctx, found, next)
}

// start returns the newest backup among the events from which on a moment is found: those of after have later commits
// than are wanted, as numbers only rise.
func (s *seeker) start(ctx context.Context) (int, error) {
	var backups []int
	for i := range s.h.events[:s.newest+1] {
		if s.h.events[i].backup >= 0 {
			backups = append(backups, i)
		}
	}
	lo, hi := 0, len(backups)
	for lo < hi { // the first one that is behind
		mid := (lo + hi) / 2
		list, err := s.backup(ctx, s.h.events[backups[mid]].backup)
		if err != nil {
			return 0, err
		}
		behind := false
		for path, most := range s.most {
			if x, ok := list[path]; ok && x.seq > most {
				behind = true
			}
		}
		if behind {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if len(backups) == 0 {
		return 0, nil
	}
	return backups[max(0, lo-1)], nil
}

// open makes the manifest of the moment of an event.
func (s *seeker) open(ctx context.Context, i int) (*manifest.Manifest, *Moment, error) {
	e := &s.h.events[i]
	base, err := s.h.base(e)
	if err != nil {
		return nil, nil, err
	}
	if e.backup >= 0 {
		return s.h.moment(ctx, e, base)
	}
	return s.repo.find(ctx, s.instance, reading{from: s.h.Backups[base].Started, to: e.done}, func(h *History) (*event, error) {
		for k := range h.events {
			if x := &h.events[k]; x.backup < 0 && x.chain.ID == e.chain.ID && x.tick == e.tick {
				return x, nil
			}
		}
		return nil, fmt.Errorf("%w: tick %d of chain %s is gone meanwhile", ErrNoMoment, e.tick, e.chain.ID)
	})
}

// cut makes the moment of an event, with the files of the database at the newest commits that are wanted, which may be in the
// file that the next moment has.
func (s *seeker) cut(ctx context.Context, i, next int) (*manifest.Manifest, *Moment, error) {
	m, moment, err := s.open(ctx, i)
	if err != nil {
		return nil, nil, err
	}
	from := m
	if next != i {
		if from, _, err = s.open(ctx, next); err != nil {
			return nil, nil, err
		}
	}
	rd := s.repo.NewReader(from, nil)
	defer rd.Close()
	cuts := map[string]*manifest.File{}
	for _, f := range from.Files {
		most, ok := s.most[f.Path]
		if !ok || f.Root != manifest.DataRoot || f.Header == nil {
			continue
		}
		c, err := cutAt(ctx, rd, f, most)
		if err != nil && (next == i || !errors.Is(err, couchfile.ErrNoHeader)) {
			return nil, nil, fmt.Errorf("%s has update_seq %d: %w", f.Path, f.Header.UpdateSeq, err)
		}
		if err == nil {
			cuts[f.Path] = c
		}
	}
	s.exchange(m, from, cuts)
	for k := range moment.Shards {
		if f := cuts[moment.Shards[k].Path]; f != nil {
			x := &moment.Shards[k]
			x.UpdateSeq, x.Size = f.Header.UpdateSeq, f.Size
		}
	}
	moment.Until, moment.Next = moment.At, time.Time{}
	return m, moment, nil
}

// cutAt returns a file up to its newest commit with an update_seq of at most most.
func cutAt(ctx context.Context, rd *Reader, f *manifest.File, most uint64) (*manifest.File, error) {
	if f.Header.UpdateSeq <= most {
		return f, nil
	}
	r := rd.ReaderAt(ctx, f)
	h, err := couchfile.NewestPoint(r, f.Size, func(h *couchfile.Header) bool { return h.UpdateSeq <= most })
	if errors.Is(err, couchfile.ErrNoHeader) {
		return nil, fmt.Errorf("%w: none of the commits that its file has goes back to %d: it was compacted since, or made later: %w", ErrNoCommit, most, err)
	}
	if err != nil {
		return nil, err
	}
	db, err := couchfile.OpenAt(r, h.End, h)
	if err != nil {
		return nil, err
	}
	info, err := db.Info()
	if err != nil {
		return nil, err
	}
	c := *f
	if c.Longer == nil {
		c.Longer = &manifest.Longer{Size: f.Size, SHA256: f.SHA256}
	}
	c.Size, c.SHA256 = h.End, ""
	c.Header = &manifest.Header{Offset: h.Offset, UUID: h.UUID, UpdateSeq: h.UpdateSeq, PurgeSeq: info.PurgeSeq, CompactedSeq: h.CompactedSeq,
		Docs: info.DocCount, DeletedDocs: info.DeletedCount}
	return &c, nil
}

// exchange puts files of another manifest in the place of m's.
func (s *seeker) exchange(m, from *manifest.Manifest, cuts map[string]*manifest.File) {
	if m != from && len(cuts) > 0 {
		n := len(m.Segments)
		m.Segments = append(m.Segments, from.Segments...)
		moved := map[*manifest.Extent]bool{} // a file may be there twice: as it is, and cut
		for _, f := range cuts {
			for e := range f.Stored() {
				if !moved[e] {
					e.Seg, moved[e] = e.Seg+n, true
				}
			}
		}
	}
	id := sha256.New()
	fmt.Fprintf(id, "%s", m.ID)
	for i, f := range m.Files {
		if c := cuts[f.Path]; c != nil && f.Root == manifest.DataRoot {
			m.Files[i] = c
			fmt.Fprintf(id, "/%s/%d", c.Path, c.Size)
		}
	}
	m.ID = manifest.BackupID(uuid.NewHash(sha256.New(), uuid.Nil, id.Sum(nil), 8).String())
	count(m)
}
