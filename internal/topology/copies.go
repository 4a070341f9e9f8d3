package topology

import (
	"cmp"
	"slices"

	"github.com/slipcover/slipcover/internal/shard"
)

// Copy is what the backup of one node holds of a range of a database.
type Copy struct {
	Backup  int    // index of the backup, as in Plan.Backups
	Docs    uint64 // that are not deleted
	Deleted uint64
	Purges  uint64 // purge_seq: how often documents were purged in it
	Seq     uint64 // update_seq, of this copy alone: no other one counts alike
	Size    int64  // bytes of the file
}

// better orders copies, the one first that has seen more documents: one that was purged was seen too, and of two copies that
// saw alike the one that knows the purge doesn't bring it back. Sequences of copies count different things and only decide
// between those that are alike.
func better(a, b Copy) int {
	return cmp.Or(cmp.Compare(b.Docs+b.Deleted+b.Purges, a.Docs+a.Deleted+a.Purges), cmp.Compare(b.Purges, a.Purges), cmp.Compare(b.Seq, a.Seq), cmp.Compare(a.Backup, b.Backup))
}

// Range is a range of a database with the copies that can be restored.
type Range struct {
	shard.Range
	Copies []Copy
}

// Best is the copy that saw most documents, ok if there is one.
func (r *Range) Best() (best Copy, ok bool) {
	if len(r.Copies) == 0 {
		return Copy{}, false
	}
	return slices.MinFunc(r.Copies, better), true
}

// Database is a database of a cluster, out of the backups of its nodes.
type Database struct {
	Map    shard.Map // the newest that a backup has
	Doc    []byte    // its document, as the server shows it
	Rev    string    // the document's revision
	Ranges []Range   // those of the map, sorted
}

// Gaps are ranges that no shard is for: CouchDB takes such a map, and requests for their documents hang.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3_bdu.erl, validate.
func (d *Database) Gaps() (out []shard.Range) {
	next := uint64(0) // the first hash that nothing is known of
	for _, r := range d.Ranges {
		if uint64(r.Begin) > next {
			out = append(out, shard.Range{Begin: uint32(next), End: r.Begin - 1})
		}
		next = max(next, uint64(r.End)+1)
	}
	if next <= uint64(shard.Full.End) {
		out = append(out, shard.Range{Begin: uint32(next), End: shard.Full.End})
	}
	return out
}

// copies is how many nodes hold a range by the map.
func (d *Database) copies() map[shard.Range][]string {
	out := map[shard.Range][]string{}
	for node, list := range d.Map.ByNode {
		for _, r := range list {
			out[r] = append(out[r], node)
		}
	}
	for _, nodes := range out {
		slices.Sort(nodes)
	}
	return out
}

// N is how many copies of its ranges the database has, the most if they differ.
func (d *Database) N() int {
	n := 0
	for _, nodes := range d.copies() {
		n = max(n, len(nodes))
	}
	return n
}
