package restore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

const (
	// laterBackups is how many of an instance's later backups are looked into, from the
	// newest back: those before it serve databases that it doesn't have any more.
	laterBackups = 5
	// purgeBatch is how many purged documents are looked up at once.
	purgeBatch = 1000
	// namedDocs is how many of them a result names.
	namedDocs = 1000
	// mostPurges is how many purges of one shard are read.
	mostPurges = 1 << 20
)

// ComesBack are documents that a restore brings back although they were purged after its
// backup was made, as far as later backups of the instance know.
//
// A document or tombstone can vanish in no other way: compaction keeps deleted documents.
// CouchDB remembers the last purges only, as _purged_infos_limit says.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl, copy_compact and
// copy_purge_info.
type ComesBack struct {
	Count int `json:"count"`
	// AtLeast says that the later backup doesn't remember all purges any more.
	AtLeast bool              `json:"at_least"`
	Backup  manifest.BackupID `json:"backup"` // the newest that knows of them
	Docs    []PurgedDoc       `json:"docs"`   // the first 1000
}

// PurgedDoc is a document that comes back.
type PurgedDoc struct {
	Database string `json:"database"` // as it was backed up
	ID       string `json:"id"`
}

// String says how many there are, and names the first.
func (c *ComesBack) String() string {
	const most = 10
	least, what, more := "", "1 document comes back that was", ""
	if c.Count > 1 {
		what = fmt.Sprintf("%d documents come back that were", c.Count)
	}
	if c.AtLeast {
		least = "at least "
	}
	names := make([]string, min(most, len(c.Docs)))
	for i := range names {
		names[i] = c.Docs[i].Database + "/" + c.Docs[i].ID
	}
	if c.Count > len(names) {
		more = fmt.Sprintf(" and %d more", c.Count-len(names))
	}
	return fmt.Sprintf("%s%s purged since, as the later backup %s knows: %s%s; purge again what must not be seen",
		least, what, c.Backup, strings.Join(names, ", "), more)
}

// purgedSince looks in later backups of the instance for purges of what is to be restored.
// What can't be read is a warning.
func (r *run) purgedSince(ctx context.Context) error {
	left := map[string]*manifest.File{}
	for _, it := range r.plan.items {
		if it.f.Kind == manifest.Shard && it.f.Header != nil && it.f.Header.UUID != "" {
			left[it.f.Path] = it.f
		}
	}
	s := &purgeSearch{run: r, left: left, found: &ComesBack{Docs: []PurgedDoc{}}}
	s.older = s.reader(r.m)
	defer s.older.Close()
	for i := len(r.later) - 1; i >= max(0, len(r.later)-laterBackups) && len(left) > 0; i-- {
		if err := s.in(ctx, r.later[i]); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.res.warn("which documents come back that were purged since is not known, since the later backup %s can't be read: %v",
				r.later[i].ID, err)
			break // the ones before it know less
		}
	}
	if s.found.Count > 0 {
		r.res.ComesBack = s.found
		if r.opts.Tell != nil {
			r.opts.Tell(s.found)
		}
	}
	return nil
}

// purgeSearch is a search for purged documents.
type purgeSearch struct {
	run   *run
	older *repo.Reader              // of the backup that is restored
	left  map[string]*manifest.File // its shards that were in no later backup yet, by path
	found *ComesBack
}

func (s *purgeSearch) reader(m *manifest.Manifest) *repo.Reader {
	rd := s.run.opts.Repo.NewReader(m, nil)
	rd.Scratch = s.run.opts.To
	return rd
}

// in looks into one later backup. Only shards with more purges than then are opened.
func (s *purgeSearch) in(ctx context.Context, rec *manifest.Record) error {
	m, err := s.run.opts.Repo.Manifest(ctx, rec)
	if err != nil {
		return err
	}
	rd := s.reader(m)
	defer rd.Close()
	for _, f := range m.Files {
		old := s.left[f.Path]
		if old == nil || f.Kind != manifest.Shard || f.Header == nil || f.Header.UUID != old.Header.UUID {
			continue
		}
		delete(s.left, f.Path)
		if f.Header.PurgeSeq <= old.Header.PurgeSeq {
			continue
		}
		if err := s.shard(ctx, rd, f, old); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		s.found.Backup = cmp.Or(s.found.Backup, m.ID)
	}
	return nil
}

// shard looks for what was purged between two states of a shard.
func (s *purgeSearch) shard(ctx context.Context, rd *repo.Reader, f, old *manifest.File) error {
	name, err := shard.ParsePath(f.Path)
	if err != nil {
		return err
	}
	later, done, err := openShard(ctx, rd, f)
	if err != nil {
		return err
	}
	defer done()
	older, done, err := openShard(ctx, s.older, old)
	if err != nil {
		return err
	}
	defer done()
	batch, n := map[string][]couchfile.Rev{}, uint64(0)
	seen := map[string]bool{}
	for p, err := range later.Purges(old.Header.PurgeSeq) {
		if err != nil {
			return err
		}
		if n++; n > mostPurges {
			break
		}
		batch[p.DocID] = append(batch[p.DocID], p.Revs...)
		if len(batch) == purgeBatch {
			if err := s.batch(name.DB, older, later, batch, seen); err != nil {
				return err
			}
			clear(batch)
		}
	}
	if n != f.Header.PurgeSeq-old.Header.PurgeSeq {
		s.found.AtLeast = true
	}
	return s.batch(name.DB, older, later, batch, seen)
}

// batch counts the documents that the older state has and the later one doesn't, or not
// with a revision that was purged.
func (s *purgeSearch) batch(db string, older, later *couchfile.DB, purged map[string][]couchfile.Rev, seen map[string]bool) error {
	back := map[string]bool{} // whether a revision that was purged is there itself
	for d, err := range older.Lookup(slices.Collect(maps.Keys(purged))) {
		if err != nil {
			return err
		}
		back[d.ID] = slices.ContainsFunc(purged[d.ID], func(rev couchfile.Rev) bool { _, ok := d.Revision(rev); return ok })
	}
	for d, err := range later.Lookup(slices.Collect(maps.Keys(back))) {
		if err != nil {
			return err
		}
		if !back[d.ID] { // an older revision of what is still there
			delete(back, d.ID)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(back)) {
		if seen[id] {
			continue
		}
		seen[id] = true
		s.found.Count++
		if len(s.found.Docs) < namedDocs {
			s.found.Docs = append(s.found.Docs, PurgedDoc{db, id})
		}
	}
	return nil
}

// openShard opens a stored shard; done must be called.
func openShard(ctx context.Context, rd *repo.Reader, f *manifest.File) (db *couchfile.DB, done func(), err error) {
	d, err := rd.Database(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	db, err = couchfile.OpenOffset(couchfile.WithContext(ctx, d), d.Size, d.Header)
	if err != nil {
		d.Close()
	}
	return db, d.Close, err
}
