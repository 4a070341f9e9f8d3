package diverge

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
)

// documents compares the id trees.
func (c *comparison) documents(ctx context.Context) error {
	if same, n := sameDocuments(c.copies); same {
		c.report.SameState = true
		c.report.Documents, c.report.Equal = n, n
		for i := range c.report.Copies {
			c.report.Copies[i].Documents = n
		}
		return nil
	}
	trees := make([]*couchfile.Tree, len(c.copies))
	picks := make([]pick, len(c.copies))
	for i := range c.copies {
		trees[i] = c.copies[i].DB.IDTree()
		var leaves couchfile.LeafReader
		picks[i] = func(dst []byte, e couchfile.Entry) (key, sum []byte, ok bool, err error) {
			key, sum, err = leaves.Append(dst, e)
			return key, sum, true, err
		}
	}
	return c.merge(ctx, trees, picks, c.lost(PartDocuments), c.document)
}

// lost returns what notes holes in a part of copies.
func (c *comparison) lost(part string) func(int, *hole) {
	return func(i int, h *hole) {
		c.damage(i, Damage{Part: part, After: string(h.after), Last: string(h.last), Error: h.err.Error()})
	}
}

// sameDocuments says whether all copies are one file at one state, as far as its documents go, and how many these are: the
// same uuid, sequence and trees, and all of it written before their nodes part. Of nodes that started from the same file
// each has an epoch of its own from the sequence on at which it opened it.
func sameDocuments(copies []Copy) (bool, uint64) {
	first := copies[0].DB.Header()
	for _, c := range copies[1:] {
		h := c.DB.Header()
		if h.UUID == "" || h.UUID != first.UUID || h.UpdateSeq != first.UpdateSeq || h.CompactedSeq != first.CompactedSeq ||
			!sameRoot(h.IDTree, first.IDTree) || !sameRoot(h.SeqTree, first.SeqTree) || !sameWriters(h, first) {
			return false, 0
		}
	}
	for _, c := range copies[1:] {
		if !sameNewest(copies[0].DB, c.DB) {
			return false, 0
		}
	}
	info, err := copies[0].DB.Info()
	return err == nil, info.DocCount + info.DeletedCount
}

// newest is how many changes sameNewest looks at.
const newest = 100

// sameNewest says that the newest changes of two files are the same: where a file was put back and one of its copies then
// got other writes of the same sizes, these are the newest.
func sameNewest(a, b *couchfile.DB) bool {
	next, stop := iter.Pull2(b.Changes(0, true))
	defer stop()
	n := 0
	for x, err := range a.Changes(0, true) {
		y, err2, ok := next()
		if err != nil || err2 != nil || !ok || x.ID != y.ID || x.UpdateSeq != y.UpdateSeq || !slices.Equal(x.Revs, y.Revs) {
			return false
		}
		if n++; n == newest {
			break
		}
	}
	return true
}

func sameRoot(a, b couchfile.TreeRoot) bool {
	return a.Offset == b.Offset && a.Size == b.Size && a.Empty == b.Empty && slices.Equal(a.Reduction, b.Reduction)
}

// sameWriters says that the epochs of two headers with the same sequence are the same up to it. Epochs have the newest first.
func sameWriters(a, b couchfile.Header) bool {
	written := func(h couchfile.Header) []couchfile.Epoch {
		return slices.DeleteFunc(slices.Clone(h.Epochs), func(e couchfile.Epoch) bool { return e.UpdateSeq >= h.UpdateSeq })
	}
	return slices.Equal(written(a), written(b))
}

// document looks at what all copies have of a document.
func (c *comparison) document(r *row) error {
	rep := c.report
	rep.Documents++
	for i, it := range r.items {
		if it != nil {
			rep.Copies[i].Documents++
		}
		if r.unread[i] {
			rep.Copies[i].Unread++
		}
	}
	if r.equal() {
		if r.whole() {
			rep.Equal++
		} else {
			rep.Unread++
		}
		return nil
	}
	rep.Different++
	d, err := c.difference(r)
	if err != nil {
		return err
	}
	c.count(&d)
	return c.each(d)
}

// difference is what copies disagree about.
func (c *comparison) difference(r *row) (Difference, error) {
	d := Difference{ID: string(r.key), Copies: make([]Held, len(r.items))}
	for i, it := range r.items {
		if it == nil {
			continue
		}
		info, err := c.copies[i].DB.EntryDoc(it.entry())
		if err != nil {
			return d, err
		}
		d.Copies[i].Info = info
	}
	d.Leaves = allLeaves(d.Copies)
	has := make([]map[Leaf]bool, len(d.Copies)) // of a document with many conflicts each is asked for often
	for i := range d.Copies {
		has[i] = d.Copies[i].leaves()
	}
	for i := range d.Copies {
		h := &d.Copies[i]
		if r.unread[i] {
			h.State = Unread
			continue
		}
		known := 0
		for _, l := range d.Leaves {
			if has[i][l] {
				known++
				continue
			}
			h.Lacks = append(h.Lacks, l)
			if c.purgedOn(i, d.ID, l, has) {
				h.Purged = append(h.Purged, l)
			}
		}
		switch {
		case len(h.Lacks) > 0 && len(h.Lacks) == len(h.Purged):
			h.State = Purged
		case h.Info == nil:
			h.State = Missing
		case len(h.Lacks) > 0, known < len(has[i]): // else it has a leaf for a conflict that another one knows as an inner revision
			h.State = Behind
		}
	}
	return d, nil
}

// leaves are the leaf revisions of a copy.
func (h *Held) leaves() map[Leaf]bool {
	out := map[Leaf]bool{}
	if h.Info != nil {
		for _, r := range h.Info.Revs {
			if r.Leaf {
				out[Leaf{r.Rev, r.Deleted}] = true
			}
		}
	}
	return out
}

// allLeaves returns the leaf revisions of all copies together, in the order of their names, without those that are inner
// revisions in one.
func allLeaves(copies []Held) []Leaf {
	inner := map[couchfile.Rev]bool{}
	var leaves []Leaf
	for _, h := range copies {
		if h.Info == nil {
			continue
		}
		for _, r := range h.Info.Revs {
			if r.Leaf {
				leaves = append(leaves, Leaf{r.Rev, r.Deleted})
			} else {
				inner[r.Rev] = true
			}
		}
	}
	leaves = slices.DeleteFunc(leaves, func(l Leaf) bool { return inner[l.Rev] })
	slices.SortFunc(leaves, func(a, b Leaf) int {
		deleted := 0
		if a.Deleted != b.Deleted {
			if deleted = 1; b.Deleted {
				deleted = -1
			}
		}
		return cmp.Or(cmp.Compare(a.Pos, b.Pos), strings.Compare(a.ID, b.ID), deleted)
	})
	return slices.Compact(leaves)
}

// count adds a difference to the report.
func (c *comparison) count(d *Difference) {
	holders, holder, others := 0, 0, 0
	for i := range d.Copies {
		h := &d.Copies[i]
		if h.Info != nil {
			holders, holder = holders+1, i
		}
		if h.State == Missing {
			others++
		}
		list := c.list(i, h.State)
		if list == nil {
			continue
		}
		c.add(list, d.ID, func() []string { return revTexts(h.Lacks) })
	}
	if holders == 1 && others == len(d.Copies)-1 {
		c.add(&c.report.Copies[holder].Only, d.ID, func() []string { return revTexts(leavesOf(d.Copies[holder].Info)) })
	}
}

// list is where a report lists the documents that a copy is in a state of; nil if nowhere.
func (c *comparison) list(i int, s State) *List {
	r := &c.report.Copies[i]
	switch s {
	case Missing:
		return &r.Missing
	case Behind:
		return &r.Behind
	case Purged:
		return &r.Purged
	}
	return nil
}

func leavesOf(info *couchfile.DocInfo) []Leaf {
	var out []Leaf
	for _, r := range info.Leaves() {
		out = append(out, Leaf{r.Rev, r.Deleted})
	}
	return out
}

func revTexts(leaves []Leaf) []string {
	out := []string{}
	for _, l := range leaves {
		out = append(out, l.String())
	}
	return out
}

// String is the revision as the server shows it, and whether it is a deletion.
func (l Leaf) String() string {
	if l.Deleted {
		return l.Rev.String() + " deleted"
	}
	return l.Rev.String()
}
