package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// resumable is how long segments of a run that never ended are left for the next
// run to take up, if no backup was completed since.
const resumable = 7 * 24 * time.Hour

// PruneOptions are the options of Prune.
type PruneOptions struct {
	// Remove are backups to remove. A pinned one is refused.
	Remove []manifest.BackupID
	// Forget are backups whose record vanished, and whose data is to be removed: it isn't
	// otherwise. Ids of others have no effect.
	Forget []manifest.BackupID
	// KeepMoments is how long before the newest one shipped moments are kept, and the backups that they rest on; 0
	// is for ever.
	KeepMoments time.Duration
	// Now is when it is, by the clock that is believed; it decides only whether
	// leftovers may still be of use, whether the storage protects a backup, and that no moment goes that would be
	// kept by it.
	Now time.Time
}

// Freed says what a prune removed, or would.
type Freed struct {
	Backups  int   `json:"backups"`
	Segments int   `json:"segments"`
	Bytes    int64 `json:"bytes"` // of segments
	// Kept counts segments of removed backups that other backups need.
	Kept int `json:"kept"`
	// Unreferenced counts those of the removed segments that belonged to no backup:
	// runs that did not end had left them.
	Unreferenced int `json:"unreferenced"`
	// Lost are backups whose record vanished and whose data therefore stays; Forgotten
	// those of them whose data was removed, as told.
	Lost      []manifest.BackupID `json:"lost,omitempty"`
	Forgotten []manifest.BackupID `json:"forgotten,omitempty"`
	// Shipped counts objects of moments that are kept no longer, and ShippedBytes theirs.
	Shipped      int   `json:"shipped,omitempty"`
	ShippedBytes int64 `json:"shipped_bytes,omitempty"`
	// Protected counts objects that the storage refused to remove before a date.
	Protected int `json:"protected"`
}

// plan is the object plans/<instance>/<number>.json, of the lock of that number:
// what is to be deleted. Once it is stored all of it counts as deleted, whoever
// does it and how often: no key of an object is ever used twice.
type plan struct {
	Format    int                                    `json:"format"`
	Made      time.Time                              `json:"made"`
	Backups   []manifest.BackupID                    `json:"backups"`   // record, manifest and marks
	Emptied   []manifest.BackupID                    `json:"emptied"`   // those of Backups whose record is emptied, not removed: see carryOut
	Manifests []manifest.BackupID                    `json:"manifests"` // of runs that never ended
	GivenUp   []manifest.BackupID                    `json:"given_up"`  // empty records that no late commit can come upon any more
	Segments  map[manifest.BackupID][]manifest.Range `json:"segments"`
	Shipped   []string                               `json:"shipped,omitempty"` // names of objects of chains
}

// The forms of a plan: one that names objects of chains is of the second, which versions that know none refuse.
const (
	planFormat        = 1
	planFormatShipped = 2
)

// A plan stands beside the locks, but not in their folder, which is listed often.
func planKey(instance string, n int) storage.Key {
	return storage.Key(fmt.Sprintf("plans/%s/%010d.json", instance, n))
}

// Prune removes backups of the lock's instance, and every segment and manifest that
// no backup needs. It stores what it is about to delete as a plan before it deletes
// the first object: whoever takes the lock after a crash ends it. If a record of
// the instance can't be read, nothing is deleted, since what it needs can't be
// known. It returns ErrNoBackup and ErrPinned.
func (r *Repo) Prune(ctx context.Context, lock *Lock, opts PruneOptions) (Freed, error) {
	p, freed, err := r.makePlan(ctx, lock.instance, lock.n, opts)
	if err != nil || p.empty() {
		return freed, err
	}
	if err := lock.Check(ctx); err != nil {
		return Freed{}, err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return Freed{}, err
	}
	err = r.store.Put(ctx, planKey(lock.instance, lock.n), bytes.NewReader(append(text, '\n')), storage.PutOptions{IfAbsent: true})
	if errors.Is(err, storage.ErrExist) {
		return Freed{}, fmt.Errorf("nothing was deleted: %w", ErrLockLost)
	}
	if err != nil {
		return Freed{}, fmt.Errorf("store the plan of the deletion: %w", err)
	}
	freed.Protected, err = r.carryOut(ctx, lock.instance, p)
	return freed, err
}

// WouldPrune returns what Prune would free, and changes nothing. It needs no lock,
// so what it says may be otherwise by the time that a prune begins.
func (r *Repo) WouldPrune(ctx context.Context, instance string, opts PruneOptions) (Freed, error) {
	top, err := r.topLock(ctx, instance)
	if err != nil {
		return Freed{}, err
	}
	_, freed, err := r.makePlan(ctx, instance, top, opts)
	return freed, err
}

func (p *plan) empty() bool {
	return len(p.Backups)+len(p.Manifests)+len(p.GivenUp)+len(p.Segments)+len(p.Shipped) == 0
}

// makePlan decides what goes, when the newest lock is that of number top.
func (r *Repo) makePlan(ctx context.Context, instance string, top int, opts PruneOptions) (*plan, Freed, error) {
	var freed Freed
	stored, err := r.Segments(ctx, instance)
	if err != nil {
		return nil, freed, err
	}
	found, recent, locks, err := r.allBackups(ctx, instance, top, stored)
	if err != nil {
		return nil, freed, err
	}
	recs, bad, err := r.readRecords(ctx, found)
	if err != nil {
		return nil, freed, err
	}
	for _, b := range bad {
		return nil, freed, fmt.Errorf("nothing is deleted, since nobody knows which segments this backup needs: %w", b.Err)
	}
	p := &plan{Format: planFormat, Made: r.now().UTC().Truncate(time.Second), Segments: map[manifest.BackupID][]manifest.Range{}}
	shipped, err := r.Shipped(ctx, instance)
	if err != nil {
		return nil, freed, err
	}
	moments := momentsOf(shipped, recs, opts.KeepMoments, opts.Now)
	if p.Backups, err = r.removable(ctx, instance, recs, opts, moments.bases); err != nil {
		return nil, freed, err
	}
	named := map[string]bool{} // by backups that stay
	for _, rec := range recs {
		if !slices.Contains(p.Backups, rec.ID) {
			for _, name := range rec.Shipped {
				named[name] = true
			}
		}
	}
	needed, dropped := map[SegmentID]bool{}, map[SegmentID]bool{}
	known := map[manifest.BackupID]bool{}
	for _, rec := range recs {
		known[rec.ID] = true
		set := needed
		if slices.Contains(p.Backups, rec.ID) {
			set = dropped
		}
		for _, s := range present(rec.Segments, stored) {
			set[s] = true
		}
	}
	lost, err := r.lostBackups(ctx, instance, found, known, unnamed(stored, needed, dropped), top, locks)
	if err != nil {
		return nil, freed, err
	}
	freed.forget(lost, opts.Forget)
	for _, o := range moments.expired {
		if named[o.String()] || len(freed.Lost) > 0 { // nobody knows what a lost backup names
			continue
		}
		p.Format = planFormatShipped
		p.Shipped = append(p.Shipped, o.String())
		freed.Shipped++
		freed.ShippedBytes += o.Size
	}
	p.Backups = append(p.Backups, freed.Forgotten...)
	for _, id := range p.Backups {
		if recent[id].lock > 0 {
			p.Emptied = append(p.Emptied, id)
		}
	}
	left := leftovers(known, recent, opts.Now)
	leftover := func(id manifest.BackupID) bool {
		return lost[id] == "" && left(id) || slices.Contains(freed.Forgotten, id)
	}
	for _, l := range found {
		if slices.Contains(freed.Forgotten, l.id) {
			continue
		}
		// That of a run which can't be committed any more is of no use to the next one, and
		// once the lock that says so is gone it would look like that of a lost backup.
		if l.manifest && !known[l.id] && (leftover(l.id) || recent[l.id].unfinished) {
			p.Manifests = append(p.Manifests, l.id)
		}
		if leftover(l.id) && l.givenUp && recent[l.id].lock == 0 {
			p.GivenUp = append(p.GivenUp, l.id)
		}
	}
	var going []SegmentID
	for s, size := range stored {
		switch {
		case needed[s]:
			if dropped[s] {
				freed.Kept++
			}
			continue
		case dropped[s]:
		case leftover(s.Backup):
			freed.Unreferenced++
		case known[s.Backup]: // stored by that run, and no backup refers to it
			freed.Unreferenced++
		default:
			continue
		}
		going = append(going, s)
		freed.Segments++
		freed.Bytes += size
	}
	p.Segments = collapse(going)
	freed.Backups = len(p.Backups)
	return p, freed, nil
}

// removable returns the backups to remove, without those that the storage protects.
func (r *Repo) removable(ctx context.Context, instance string, recs []*manifest.Record, opts PruneOptions, bases map[manifest.BackupID]bool) ([]manifest.BackupID, error) {
	var out []manifest.BackupID
	for _, id := range opts.Remove {
		i := slices.IndexFunc(recs, func(rec *manifest.Record) bool { return rec.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("%w: %s", ErrNoBackup, id)
		}
		if bases[id] {
			return nil, fmt.Errorf("%s: %w: they go when keep_moments is over for them", id, ErrMoments)
		}
		if until := recs[i].RetainUntil; until != nil && until.After(opts.Now) {
			return nil, fmt.Errorf("%s: %w: %s", id, storage.ErrRetained, until.Format(time.RFC3339))
		}
		// The listing may not show a pin of just now.
		pin, err := r.Pinned(ctx, instance, id)
		if err != nil {
			return nil, err
		}
		if pin != nil {
			return nil, fmt.Errorf("%s: %w: %s", id, ErrPinned, pin.Reason)
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out, nil
}

// attempt is what one of the newest locks tells of a backup that its holder was making.
type attempt struct {
	lock int // number of the lock; 0 if none names the backup
	copy bool
	seen time.Time // the holder's last sign of life
	// unfinished says that the holder made no backup, or died.
	unfinished bool
}

// leftovers returns a function that tells what is of no use to the next run: what
// belongs to no backup, unless it is of a run that was the last to begin, and that not
// long ago. Which was the last the locks' numbers tell, and no clock; where a clock was
// wrong, the next run stores again what it could have taken up, and no more than that.
// A copy stores segments under the ids of earlier runs too, which no lock names.
func leftovers(known map[manifest.BackupID]bool, recent map[manifest.BackupID]attempt, now time.Time) func(manifest.BackupID) bool {
	last := 0
	for id, a := range recent {
		if known[id] {
			last = max(last, a.lock)
		}
	}
	open := func(a attempt) bool { return a.lock > last && now.Sub(a.seen).Abs() <= resumable }
	unfinished := false
	for _, a := range recent {
		unfinished = unfinished || a.copy && open(a)
	}
	return func(id manifest.BackupID) bool {
		a, named := recent[id]
		mayEnd := unfinished // a copy may have stored it
		if named {
			mayEnd = open(a)
		}
		return !known[id] && !mayEnd
	}
}

// allBackups lists everything that may be a backup of the instance: what listings
// show, which may be late, and what the holders of the newest locks were making.
// recent has the latter, and locks what they are from, the newest first.
func (r *Repo) allBackups(ctx context.Context, instance string, top int, stored map[SegmentID]int64) (found []listing, recent map[manifest.BackupID]attempt, locks []LockInfo, err error) {
	if found, err = r.listBackups(ctx, instance); err != nil {
		return nil, nil, nil, err
	}
	if locks, err = r.recentLocks(ctx, instance, top); err != nil {
		return nil, nil, nil, err
	}
	seen := map[manifest.BackupID]bool{}
	for _, l := range found {
		seen[l.id] = true
	}
	add := func(id manifest.BackupID) {
		if !seen[id] && id.Valid() {
			seen[id] = true
			found = append(found, listing{instance: instance, id: id})
		}
	}
	recent = map[manifest.BackupID]attempt{}
	for i, info := range locks { // the newest first
		if _, there := recent[info.Backup]; !there && info.Backup != "" {
			recent[info.Backup] = attempt{top - i, info.Purpose == purposeCopy, info.Renewed, info.unfinished()}
		}
		add(info.Backup)
	}
	for s := range stored {
		add(s.Backup)
	}
	return found, recent, locks, nil
}

// readPlan reads the plan of lock n; nil if it was given up before it was made.
func (r *Repo) readPlan(ctx context.Context, instance string, n int) (*plan, error) {
	b, err := readObject(ctx, r.store, planKey(instance, n), maxRecord)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	p := &plan{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("%s: %w", planKey(instance, n), errors.Join(ErrCorrupt, err))
	}
	if p.Format != planFormat && p.Format != planFormatShipped {
		return nil, fmt.Errorf("%s: %w: version %d", planKey(instance, n), ErrFormat, p.Format)
	}
	for _, name := range p.Shipped {
		if _, ok := ParseShipName(name); !ok {
			return nil, fmt.Errorf("%s: %w: %q", planKey(instance, n), ErrCorrupt, name)
		}
	}
	if err := checkRanges(p.Segments); err != nil {
		return nil, fmt.Errorf("%s: %w", planKey(instance, n), err)
	}
	for _, id := range slices.Concat(p.Backups, p.Emptied, p.Manifests, p.GivenUp, slices.Collect(maps.Keys(p.Segments))) {
		if !id.Valid() {
			return nil, fmt.Errorf("%s: %w: %q", planKey(instance, n), ErrCorrupt, id)
		}
	}
	return p, nil
}

// carryOut deletes what p says: the records first, which makes the backups vanish,
// then the rest. What is gone already is no error. It returns how many objects the
// storage protects.
//
// The record of a backup whose lock is still stored is emptied: whoever made it may
// not know yet that it was stored, and put it again.
func (r *Repo) carryOut(ctx context.Context, instance string, p *plan) (protected int, err error) {
	var records, others []storage.Key
	for _, id := range p.Backups {
		if key := backupKey(instance, id, recordName); !slices.Contains(p.Emptied, id) {
			records = append(records, key)
		} else if err := r.store.Put(ctx, key, bytes.NewReader(nil), storage.PutOptions{}); errors.Is(err, storage.ErrRetained) {
			protected++
		} else if err != nil {
			return protected, fmt.Errorf("delete: %w", err)
		}
		others = append(others, r.manifestKey(instance, id), backupKey(instance, id, pinName), backupKey(instance, id, verifiedName))
	}
	for _, id := range p.Manifests {
		others = append(others, r.manifestKey(instance, id))
	}
	for _, id := range p.GivenUp {
		others = append(others, backupKey(instance, id, recordName))
	}
	for _, name := range p.Shipped {
		others = append(others, r.shipKey(instance, name))
	}
	segments, err := r.plannedSegments(ctx, instance, p)
	if err != nil {
		return protected, fmt.Errorf("delete: %w", err)
	}
	remove := func(keys []storage.Key) bool {
		var n int
		n, err = r.deleteAll(ctx, keys)
		protected += n
		return err == nil
	}
	if remove(records) && remove(others) {
		segments(remove)
	}
	if err != nil {
		return protected, fmt.Errorf("delete: %w", err)
	}
	return protected, nil
}

// plannedSegments returns the segments that p deletes, some thousands at a time. Where
// it names far more than are stored, as one that was carried out before may and a forged
// one, they are those that are listed.
func (r *Repo) plannedSegments(ctx context.Context, instance string, p *plan) (iter.Seq[[]storage.Key], error) {
	ids := each(p.Segments)
	if n := manifest.CountRefs(p.Segments); n > maxUnlisted {
		stored, err := r.Segments(ctx, instance)
		if err != nil {
			return nil, err
		}
		if n > int64(len(stored))+maxUnlisted {
			ids = slices.Values(present(p.Segments, stored))
		}
	}
	return func(yield func([]storage.Key) bool) {
		var keys []storage.Key
		for s := range ids {
			keys = append(keys, r.segmentKey(instance, s.Backup, s.N))
			if len(keys) == deletedAtOnce {
				if !yield(keys) {
					return
				}
				keys = keys[:0]
			}
		}
		yield(keys)
	}, nil
}

// deleteAll deletes objects, and counts those that the storage protects.
func (r *Repo) deleteAll(ctx context.Context, keys []storage.Key) (protected int, err error) {
	err = storage.DeleteAll(ctx, r.store, keys)
	if !errors.Is(err, storage.ErrRetained) {
		return 0, err
	}
	for _, key := range keys {
		switch err := r.store.Delete(ctx, key); {
		case errors.Is(err, storage.ErrRetained):
			protected++
		case err != nil:
			return protected, err
		}
	}
	return protected, nil
}

// collapse undoes each.
func collapse(list []SegmentID) map[manifest.BackupID][]manifest.Range {
	slices.SortFunc(list, func(a, b SegmentID) int {
		if c := strings.Compare(string(a.Backup), string(b.Backup)); c != 0 {
			return c
		}
		return a.N - b.N
	})
	out := map[manifest.BackupID][]manifest.Range{}
	for _, s := range list {
		ranges := out[s.Backup]
		if k := len(ranges); k > 0 && ranges[k-1][1] == s.N-1 {
			ranges[k-1][1] = s.N
			continue
		}
		out[s.Backup] = append(ranges, manifest.Range{s.N, s.N})
	}
	return out
}
