package couchfile

import (
	"fmt"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Space is what documents take of a database file, in bytes as they are stored: compressed, with checksums. What is stored once
// counts once, for the first of the fields that it belongs to.
//
// Files of CouchDB 1.x name no attachments in the trees: there, they count with the revisions that have them. Before 1.2 no
// sizes are stored at all, and all is 0.
type Space struct {
	Documents   uint64 // bodies of winning revisions that are no deletions
	Attachments uint64 // of these revisions
	Conflicts   uint64 // the other leaf revisions that are no deletions, with attachments
	Tombstones  uint64 // leaf revisions that are deletions, with attachments
	// Older are revisions that are no leaves and still stored, with attachments that no leaf has: a compaction drops them.
	Older uint64
}

// Live is what a compaction keeps.
func (s Space) Live() uint64 { return s.Documents + s.Attachments + s.Conflicts + s.Tombstones }

// SpaceReader adds up the space of many documents, in memory that it uses again. The zero value is ready. It is not safe for
// concurrent use.
type SpaceReader struct {
	parser revParser
	atts   map[string]bool // that were counted, of one document
}

// Add adds the document of an entry of the id tree to s.
//
// Source: CouchDB 3.5, src/couch/src/couch_db_updater.erl, add_sizes.
func (r *SpaceReader) Add(s *Space, e Entry) error {
	d, ok := parseIDEntry(e)
	if !ok {
		return fmt.Errorf("document entry: %w", ErrCorrupt)
	}
	r.parser.withAtts = true
	revs, rest, ok := r.parser.parse(d.revs)
	if !ok || len(rest) != 0 {
		return fmt.Errorf("revision tree of %q: %w", d.id, ErrCorrupt)
	}
	clear(r.atts)
	winner := -1
	for i := range revs {
		if revs[i].Leaf && (winner < 0 || compareRaw(&revs[i], &revs[winner]) > 0) {
			winner = i
		}
	}
	if winner >= 0 && !revs[winner].Deleted {
		if err := r.add(&s.Documents, &s.Attachments, winner); err != nil {
			return err
		}
	} else {
		winner = -1
	}
	for _, of := range []struct {
		to   *uint64
		fits func(*rawRev) bool
	}{
		{&s.Conflicts, func(v *rawRev) bool { return v.Leaf && !v.Deleted }},
		{&s.Tombstones, func(v *rawRev) bool { return v.Leaf && v.Deleted }},
		{&s.Older, func(v *rawRev) bool { return !v.Leaf }},
	} {
		for i := range revs {
			if i == winner || !revs[i].Stored || !of.fits(&revs[i]) {
				continue
			}
			if err := r.add(of.to, of.to, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// add adds a revision's body, and its attachments that were not counted yet.
func (r *SpaceReader) add(body, atts *uint64, rev int) error {
	*body += r.parser.revs[rev].Sizes.Active
	list := r.parser.atts[rev]
	if len(list) == 0 || list[0] == erlterm.TagNil {
		return nil
	}
	n, rest, ok := erlterm.List(list)
	for range n {
		var one erlterm.Term
		if one, rest, ok = erlterm.Next(rest); !ok {
			break
		}
		size, isPair := attLength(one)
		if ok = isPair; !ok {
			break
		}
		if r.atts[string(one)] {
			continue
		}
		if r.atts == nil {
			r.atts = map[string]bool{}
		}
		r.atts[string(one)] = true
		*atts += size
	}
	if !ok {
		return fmt.Errorf("attachments of a revision: %w", ErrCorrupt)
	}
	return nil
}

// attLength reads the length of {where it is, stored length}.
func attLength(t erlterm.Term) (uint64, bool) {
	rest, ok := erlterm.TupleN(t, 2)
	if !ok {
		return 0, false
	}
	if _, rest, ok = erlterm.Next(rest); !ok {
		return 0, false
	}
	n, _, ok := erlterm.Uint(rest)
	return n, ok
}

// compareRaw is compareLeaves of revisions that are not copied.
func compareRaw(a, b *rawRev) int {
	x, y := Revision{Rev: a.rev(), RevInfo: a.RevInfo}, Revision{Rev: b.rev(), RevInfo: b.RevInfo}
	return compareLeaves(&x, &y)
}
