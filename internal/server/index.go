package server

import (
	"cmp"
	"slices"
	"strings"
	"unique"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/newest"
)

// backupIndex has all backups in the order of lists, the newest Updated first, and what
// is counted of them. The lock of the shelf guards it.
type backupIndex struct {
	order    []*job.Backup
	statuses map[job.BackupStatus]int
	// last has the newest backup of each instance that was made of it (what was taken in
	// may be of another node, and is as old as it is), and proofs the newest proof.
	last   map[string]*job.Backup
	proofs map[string]*job.Backup
	// stored is what the backups of each instance added to repositories, in bytes, and counts
	// how many there are.
	stored map[string]int64
	counts map[string]int
	shown  map[string]int           // how many each project has that are not being deleted
	sets   map[string][]*job.Backup // by the id of the set that they are of
	// of has those of each instance, in the same order as all, and parents how many were made of one by parent_id.
	of      map[string][]*job.Backup
	parents map[parent]int
	// edits has for each instance a number that is another one after each change of its backups, and of what parents says of
	// them: what was worked out of these is good as long as it is the same.
	edits map[string]uint64
	edit  uint64 // the last number
	// kept is the backup of an id, as the shelf has it; nil if it has none.
	kept func(id string) *job.Backup
}

// parent is a backup that others were made of, and their project.
type parent struct{ project, id string }

func newBackupIndex() *backupIndex {
	return &backupIndex{statuses: map[job.BackupStatus]int{}, last: map[string]*job.Backup{}, proofs: map[string]*job.Backup{}, stored: map[string]int64{}, counts: map[string]int{}, shown: map[string]int{},
		sets: map[string][]*job.Backup{}, of: map[string][]*job.Backup{}, parents: map[parent]int{}, edits: map[string]uint64{}, kept: func(string) *job.Backup { return nil }}
}

// before is the order of lists.
func before(a, b *job.Backup) int {
	return cmp.Or(b.Updated.Compare(a.Updated), strings.Compare(b.ID, a.ID))
}

// orderOf returns what package newest puts backups in order by. What is not made yet, or
// is of an agent that tells no order, has its time.
func orderOf(b *job.Backup) newest.Backup {
	return newest.Backup{ID: b.ID, Parent: b.Parent, Order: b.Order, Time: b.Created}
}

// changed keeps the index in step with the shelf.
func (x *backupIndex) changed(_ string, old, now *job.Backup) {
	x.changedSet(old, now)
	x.changedParent(old, -1)
	x.changedParent(now, 1)
	x.changedShown(old, -1)
	x.changedShown(now, 1)
	defer x.changedEdits(old, now)
	if old != nil {
		if mine := x.of[old.Instance]; len(mine) > 0 {
			if i, ok := slices.BinarySearchFunc(mine, old, before); ok {
				mine = slices.Delete(mine, i, i+1)
			}
			if x.of[old.Instance] = mine; len(mine) == 0 {
				delete(x.of, old.Instance)
			}
		}
		if i, ok := slices.BinarySearchFunc(x.order, old, before); ok {
			x.order = slices.Delete(x.order, i, i+1)
		}
		x.statuses[old.Status]--
		if x.stored[old.Instance] -= old.Stored; x.stored[old.Instance] == 0 {
			delete(x.stored, old.Instance)
		}
		if x.counts[old.Instance]--; x.counts[old.Instance] == 0 {
			delete(x.counts, old.Instance)
		}
	}
	if now != nil {
		i, _ := slices.BinarySearchFunc(x.order, now, before)
		x.order = slices.Insert(x.order, i, now)
		i, _ = slices.BinarySearchFunc(x.of[now.Instance], now, before)
		x.of[now.Instance] = slices.Insert(x.of[now.Instance], i, now)
		x.statuses[now.Status]++
		x.counts[now.Instance]++
		if now.Stored != 0 {
			x.stored[now.Instance] += now.Stored
		}
		if now.Status.Usable() {
			if l := x.last[now.Instance]; now.Status == job.BackupCompleted && (l == nil || l.ID == now.ID || newest.After(orderOf(now), orderOf(l))) {
				x.last[now.Instance] = now
			}
			if p := x.proofs[now.Instance]; now.Proof != nil && (p == nil || p.ID == now.ID || now.Proof.At.After(p.Proof.At)) {
				x.proofs[now.Instance] = now
			}
			return
		}
	}
	x.forget(old, x.last, func(b *job.Backup) bool { return b.Status == job.BackupCompleted })
	x.forget(old, x.proofs, func(b *job.Backup) bool { return b.Status.Usable() && b.Proof != nil })
}

// changedSet keeps sets in step.
func (x *backupIndex) changedSet(old, now *job.Backup) {
	if old != nil && old.Set != "" {
		rest := slices.DeleteFunc(slices.Clone(x.sets[old.Set]), func(b *job.Backup) bool { return b.ID == old.ID })
		if x.sets[old.Set] = rest; len(rest) == 0 {
			delete(x.sets, old.Set)
		}
	}
	if now != nil && now.Set != "" {
		x.sets[now.Set] = append(slices.Clip(x.sets[now.Set]), now)
	}
}

// changedParent counts a backup that comes or goes for the one that it was made of.
func (x *backupIndex) changedParent(b *job.Backup, by int) {
	if b == nil || b.Parent == "" || b.Parent == b.ID {
		return
	}
	key := parent{b.Project, b.Parent}
	if p := x.kept(b.Parent); p != nil && p.Instance != b.Instance { // as no server makes it; that of b itself gets its number by changedEdits
		x.edit++
		x.edits[p.Instance] = x.edit
	}
	if x.parents[key] += by; x.parents[key] == 0 {
		delete(x.parents, key)
	}
}

// changedShown counts a backup that comes or goes for its project.
func (x *backupIndex) changedShown(b *job.Backup, by int) {
	if b == nil || b.Status == job.BackupDeleting {
		return
	}
	if x.shown[b.Project] += by; x.shown[b.Project] == 0 {
		delete(x.shown, b.Project)
	}
}

// changedEdits gives the instances of a backup that changed new numbers.
func (x *backupIndex) changedEdits(old, now *job.Backup) {
	for _, b := range []*job.Backup{old, now} {
		if b == nil {
			continue
		}
		x.edit++
		x.edits[b.Instance] = x.edit
		if len(x.of[b.Instance]) == 0 {
			delete(x.edits, b.Instance)
		}
	}
}

// forget puts the next best in the place of a backup that is gone.
func (x *backupIndex) forget(old *job.Backup, from map[string]*job.Backup, good func(*job.Backup) bool) {
	if old == nil || from[old.Instance] == nil || from[old.Instance].ID != old.ID {
		return
	}
	delete(from, old.Instance)
	for _, b := range x.of[old.Instance] {
		if !good(b) {
			continue
		}
		if best := from[old.Instance]; best == nil || newest.After(orderOf(b), orderOf(best)) {
			from[old.Instance] = b
		}
	}
}

// setIndex has the sets of each cluster, by its name, and a number that is another one after each change of these. The lock of
// the shelf of sets guards it.
type setIndex struct {
	of    map[string][]*job.Set // in no order
	edits map[string]uint64
	edit  uint64 // the last number
}

func newSetIndex() *setIndex {
	return &setIndex{of: map[string][]*job.Set{}, edits: map[string]uint64{}}
}

// changed keeps the index in step with the shelf.
func (x *setIndex) changed(_ string, old, now *job.Set) {
	if old != nil {
		x.of[old.Cluster] = slices.DeleteFunc(x.of[old.Cluster], func(t *job.Set) bool { return t == old })
		x.touch(old.Cluster)
	}
	if now != nil {
		x.of[now.Cluster] = append(x.of[now.Cluster], now)
		x.touch(now.Cluster)
	}
}

// touch gives a cluster a new number, or forgets it if it has no set any more.
func (x *setIndex) touch(cluster string) {
	x.edit++
	x.edits[cluster] = x.edit
	if len(x.of[cluster]) == 0 {
		delete(x.of, cluster)
		delete(x.edits, cluster)
	}
}

// page returns the backups of an instance, or all, that fit from the one of number offset on, at most limit.
func (x *backupIndex) page(instance string, fits func(*job.Backup) bool, offset, limit int) (page []*job.Backup, more bool) {
	list := x.order
	if instance != "" {
		list = x.of[instance]
	}
	for _, b := range list {
		if !fits(b) {
			continue
		}
		if offset > 0 {
			offset--
			continue
		}
		if len(page) == limit {
			return page, true
		}
		page = append(page, b)
	}
	return page, false
}

// shareStrings lets a backup use the strings that there are already: with 100,000 of
// them that is half of the memory.
func shareStrings(id string, b *job.Backup) {
	if b.RepoID == b.ID { // as it is if the first attempt made it
		b.RepoID = id
	}
	b.ID = id
	for _, s := range []*string{&b.Project, &b.Instance, &b.Schedule, &b.Set, &b.RepoName, &b.CouchDBVersion, &b.Description, &b.Type,
		&b.Repository.URL, &b.Repository.ID, &b.Repository.Storage, (*string)(&b.Status)} {
		*s = unique.Make(*s).Value()
	}
	if b.ShortenLocation(); strings.HasPrefix(b.LocationRef, "/") {
		b.LocationRef = unique.Make(b.LocationRef).Value()
	}
}
