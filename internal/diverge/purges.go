package diverge

import (
	"context"
	"hash/maphash"

	"github.com/slipcover/slipcover/couchfile"
)

// mostPurged is how many purged revisions are kept in mind: some 60 MiB.
const mostPurged = 1 << 20

// purgeIndex holds, by the hash of a document and a revision, which copies know that it was purged: a bit for each. Only
// purges are in it that not all copies know of.
type purgeIndex struct {
	seeds [2]maphash.Seed
	known map[[2]uint64]uint64
}

func newPurgeIndex() purgeIndex {
	return purgeIndex{[2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, map[[2]uint64]uint64{}}
}

type purgedRev struct {
	doc string
	rev couchfile.Rev
}

func (p *purgeIndex) key(doc string, rev couchfile.Rev) [2]uint64 {
	r := purgedRev{doc, rev}
	return [2]uint64{maphash.Comparable(p.seeds[0], r), maphash.Comparable(p.seeds[1], r)}
}

// purges compares the purge trees, which are in the order of the purges' uuids: replication of a purge keeps its uuid.
func (c *comparison) purges(ctx context.Context) error {
	c.purged = newPurgeIndex()
	trees := make([]*couchfile.Tree, len(c.copies))
	picks := make([]pick, len(c.copies))
	for i := range c.copies {
		db := c.copies[i].DB
		trees[i] = db.PurgeTree()
		picks[i] = func(dst []byte, e couchfile.Entry) (key, sum []byte, ok bool, err error) {
			p, err := db.EntryPurge(e)
			return []byte(p.UUID), dst, true, err
		}
	}
	return c.merge(ctx, trees, picks, func(i int, h *hole) { // which purges these are no uuid tells
		c.damage(i, Damage{Part: PartPurges, Error: h.err.Error()})
	}, c.purge)
}

func (c *comparison) purge(r *row) error {
	if r.equal() {
		return nil
	}
	var knows uint64
	var p couchfile.Purge
	for i, it := range r.items {
		if it == nil {
			continue
		}
		var err error
		if p, err = c.copies[i].DB.EntryPurge(it.entry()); err != nil {
			return err
		}
		knows |= 1 << i
	}
	for _, rev := range p.Revs {
		k := c.purged.key(p.DocID, rev)
		if _, ok := c.purged.known[k]; !ok && len(c.purged.known) == mostPurged {
			c.report.PurgesLeftOut++
			continue
		}
		c.purged.known[k] |= knows
	}
	return nil
}

// purgedOn says that a copy lacks a leaf since it was purged there, which no copy that has the leaf knows of: one that does
// got it again later. has are the leaves of the copies.
func (c *comparison) purgedOn(i int, doc string, l Leaf, has []map[Leaf]bool) bool {
	if len(c.purged.known) == 0 {
		return false
	}
	knows := c.purged.known[c.purged.key(doc, l.Rev)]
	if knows&(1<<i) == 0 {
		return false
	}
	for j := range has {
		if knows&(1<<j) != 0 && has[j][l] {
			return false
		}
	}
	return true
}
