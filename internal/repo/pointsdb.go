package repo

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

// PointsDB is what can be had back of a database.
type PointsDB struct {
	DB      string
	First   time.Time // the first moment that has it
	Last    time.Time // when its last commit was seen, or the last backup that has it was begun
	There   bool      // it is there at the newest moment
	Commits int       // that were shipped, of its shards
	Events  []DatabaseEvent
}

// DatabaseEvent is what happened to a database, as the next moment saw it.
type DatabaseEvent struct {
	At     time.Time
	What   EventKind
	Shards int    // of so many of its shards
	Note   string // what a shipper noted

	paths []string // of these
}

// EventKind says what happened to a database.
type EventKind string

// The kinds of events.
const (
	Made      EventKind = "made"
	Dropped   EventKind = "dropped"
	MadeAnew  EventKind = "re-created" // under a name that a database had before
	Compacted EventKind = "compacted"
	WentBack  EventKind = "went back" // an older state of a file took its place
	Split     EventKind = "split"     // shards took the place of one
)

// eventsNear is within which time the same of several shards is one event.
const eventsNear = 10 * time.Minute

// look is what a tick says of a shard.
type look struct {
	tick      int64
	path, db  string
	gone      bool
	commits   int
	last      int64 // tick of the last of them
	compacted uint64
}

// databaseLooks gathers what ticks say of the databases that are wanted.
type databaseLooks struct {
	wanted func(string) bool
	mu     sync.Mutex
	links  map[*Link][]look // guarded by mu
}

// link keeps what a link says.
func (d *databaseLooks) link(l *Link) {
	var out []look
	for _, g := range l.Tick.Gone {
		if db := DatabaseName(g.Path); g.Root == manifest.DataRoot && d.wanted(db) {
			out = append(out, look{tick: g.Tick, path: g.Path, db: db, gone: true})
		}
	}
	for _, f := range l.Tick.Files {
		db := DatabaseName(f.Path)
		if f.Root != manifest.DataRoot || f.Kind != manifest.Shard && f.Kind != manifest.System || !d.wanted(db) {
			continue
		}
		compacted := uint64(0)
		for i, c := range f.Cuts {
			if i == 0 || c.Compacted != compacted {
				out = append(out, look{tick: c.Tick, path: f.Path, db: db, compacted: c.Compacted})
				compacted = c.Compacted
			}
			x := &out[len(out)-1]
			x.commits, x.last = x.commits+1, c.Tick
		}
	}
	slices.SortStableFunc(out, func(a, b look) int { return cmp.Compare(a.tick, b.tick) })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.links == nil {
		d.links = map[*Link][]look{}
	}
	d.links[l] = out
}

// biographer tells what happened to databases.
type biographer struct {
	dbs    map[string]*PointsDB
	shards map[string]uint64 // compacted_seq of those that are there, by path
	of     map[string]string // database by path
	begun  bool
}

// databases tells of the databases of a history.
func (d *databaseLooks) databases(ctx context.Context, h *History) ([]*PointsDB, error) {
	backups, err := d.backups(ctx, h)
	if err != nil {
		return nil, err
	}
	d.onlyTheirs(backups)
	b := &biographer{dbs: map[string]*PointsDB{}, shards: map[string]uint64{}, of: map[string]string{}}
	links := map[*Chain]int{}
	for i := range h.events {
		e := &h.events[i]
		if e.backup >= 0 {
			b.backup(backups[e.backup], e.at)
			continue
		}
		k := links[e.chain]
		for e.chain.Links[k].Last < e.tick {
			k++
		}
		links[e.chain] = k
		l := e.chain.Links[k]
		for _, x := range d.links[l] {
			if x.tick == e.tick {
				last, _ := e.chain.timeOf(max(x.last, x.tick))
				b.seen(x, e.at, last)
			}
		}
		if e.tick == l.First {
			b.notes(l.Tick.Notes, e.at)
		}
		b.begun = true
	}
	for path := range b.shards {
		b.dbs[b.of[path]].There = true
	}
	out := slices.Collect(maps.Values(b.dbs))
	slices.SortFunc(out, func(a, b *PointsDB) int { return cmp.Compare(a.DB, b.DB) })
	return out, nil
}

// backups reads what backups have of the databases.
func (d *databaseLooks) backups(ctx context.Context, h *History) ([][]look, error) {
	out := make([][]look, len(h.Backups))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2) // a manifest may be large
	for i, rec := range h.Backups {
		g.Go(func() error {
			m, err := h.repo.Manifest(ctx, rec)
			if err != nil {
				return err
			}
			for _, f := range m.Files {
				if f.Root != manifest.DataRoot || f.Kind != manifest.Shard && f.Kind != manifest.System {
					continue
				}
				x := look{path: f.Path, db: DatabaseName(f.Path)}
				if f.Header != nil {
					x.compacted = f.Header.CompactedSeq
				}
				if d.wanted(x.db) {
					out[i] = append(out[i], x)
				}
			}
			return nil
		})
	}
	return out, g.Wait()
}

// onlyTheirs drops what backups and ticks say of nodes' own files beside clustered databases of the system.
func (d *databaseLooks) onlyTheirs(backups [][]look) {
	clustered := Clustered{}
	for _, list := range slices.Concat(backups, slices.Collect(maps.Values(d.links))) {
		for _, x := range list {
			clustered.see(x.path)
		}
	}
	theirs := func(list []look) []look {
		return slices.DeleteFunc(list, func(x look) bool { return !clustered.Has(x.path) && !earlier(x.db) })
	}
	for i, list := range backups {
		backups[i] = theirs(list)
	}
	for l, list := range d.links {
		d.links[l] = theirs(list)
	}
}

func (b *biographer) backup(list []look, at time.Time) {
	there := map[string]bool{}
	for _, x := range list {
		there[x.path] = true
		b.seen(x, at, at)
	}
	for path := range b.shards {
		if !there[path] {
			b.seen(look{path: path, db: b.of[path], gone: true}, at, at)
		}
	}
	b.begun = true
}

// seen takes one look at a shard.
func (b *biographer) seen(x look, at, last time.Time) {
	was, there := b.shards[x.path]
	db := b.dbs[x.db]
	if x.gone {
		if there {
			delete(b.shards, x.path)
			if !b.replaced(db, x.path, at) {
				db.tell(DatabaseEvent{At: at, What: Dropped, paths: []string{x.path}})
			}
		}
		return
	}
	if db == nil {
		db = &PointsDB{DB: x.db, First: at}
		b.dbs[x.db] = db
	}
	switch {
	case there && x.compacted > was:
		db.tell(DatabaseEvent{At: at, What: Compacted, paths: []string{x.path}})
	case !there && b.begun:
		what := Made
		if slices.ContainsFunc(db.Events, func(e DatabaseEvent) bool { return e.What == Dropped }) {
			what = MadeAnew
		}
		db.tell(DatabaseEvent{At: at, What: what, paths: []string{x.path}})
	}
	b.shards[x.path], b.of[x.path] = x.compacted, x.db
	db.Commits += x.commits
	db.Last = last
}

// replaced reports whether a shard is gone because others have its place, which were made a moment ago: those of a database
// of the same name that was made anew, whose files are named by another time, or those into which it was split.
func (b *biographer) replaced(db *PointsDB, path string, at time.Time) bool {
	n := len(db.Events)
	if n == 0 || db.Events[n-1].What == Dropped || at.Sub(db.Events[n-1].At) >= eventsNear {
		return false
	}
	e := &db.Events[n-1]
	there := func(p string) bool { _, ok := b.shards[p]; return ok }
	if e.What == MadeAnew || e.What == Split {
		return slices.ContainsFunc(e.paths, there)
	}
	if e.What != Made || !slices.ContainsFunc(e.paths, there) {
		return false
	}
	e.What = MadeAnew
	if gone, err := shard.ParsePath(path); err == nil {
		if made, err := shard.ParsePath(e.paths[0]); err == nil && made.Suffix == gone.Suffix {
			e.What = Split
		}
	}
	return true
}

// tell adds an event, to the same of another shard if that was a moment ago.
func (d *PointsDB) tell(e DatabaseEvent) {
	e.Shards = 1
	if n := len(d.Events); n > 0 {
		was := &d.Events[n-1]
		if was.What == e.What && was.Note == e.Note && e.At.Sub(was.At) < eventsNear && !slices.Contains(was.paths, e.paths[0]) {
			was.Shards++
			was.paths = append(was.paths, e.paths[0])
			return
		}
	}
	d.Events = append(d.Events, e)
}

// notes takes what a shipper noted of a file of a database.
func (b *biographer) notes(list []string, at time.Time) {
	for _, text := range list {
		path, what, ok := strings.Cut(text, ": ")
		if db := b.dbs[b.of[path]]; ok && db != nil {
			db.tell(DatabaseEvent{At: at, What: WentBack, paths: []string{path}, Note: fmt.Sprintf("%s: %s", path, what)})
		}
	}
}
