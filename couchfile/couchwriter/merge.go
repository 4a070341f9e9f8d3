package couchwriter

import (
	"bytes"
	"errors"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// NewMerge begins a Compaction that continues the older file instead of beginning a
// new one: what it appends to f makes of the database in it the one that the compacted
// file has. It is the same documents, purges and limits in a file of other bytes, for the
// price of the documents that are new. header is the older file's, with 131 first, at the
// end of f; nil if f is empty.
//
// Sources of its passes have new documents alone. Then Remove and EndMerge follow.
func NewMerge(f *File, header []byte, opts CompactionOptions) (*Compaction, error) {
	c := NewCompaction(f, nil, opts)
	c.allTrees = newTrees(f, f, None, None, None, TreeOptions{}) // nobody keeps it
	c.older = NewTree(f, f, nil, TreeOptions{Reducer: CountReduce})
	c.put, c.late = map[string]bool{}, map[string]bool{}
	if len(header) == 0 {
		return c, nil
	}
	head, err := parseDBHeader(erlterm.Term(header[1:]))
	if err != nil {
		return nil, err
	}
	c.ids.Reset(head[AtIDTree])
	c.seqs.Reset(head[AtSeqTree])
	c.older.Reset(head[AtSeqTree])
	return c, nil
}

// merges says whether the older file is continued.
func (c *Compaction) merges() bool { return c.older != nil }

// ErrLate says that the compacted file has a document as it was before it became what it is
// in the older file, which is continued.
var ErrLate = errors.New("a document of the older file is newer than that of the compacted one")

// isLate says whether a new document is older than that in the file. A pass began, or was
// interrupted, before the older file was as it is; the newer document comes with what follows
// of the compaction: it is that of the older file, or a new one again.
func (c *Compaction) isLate(d *docInfo, was erlterm.Term) bool {
	if !c.merges() {
		return false
	}
	is, _, _ := erlterm.Uint(d.seq)
	newer, _, _ := erlterm.Uint(firstOf(was))
	if newer <= is {
		return false
	}
	c.late[string(d.id)] = true
	return true
}

// removeBatch is how many documents are removed at once.
const removeBatch = 1000

// Remove removes n documents of the older file, from the one on that has so many before
// it, unless others took their place. It returns ErrLate if one of them was newer than that of the
// compacted file.
func (c *Compaction) Remove(from, n uint64) error {
	var ids, seqs []erlterm.Term
	flush := func() error {
		if err := c.ids.Modify(nil, ids); err != nil {
			return err
		}
		err := c.seqs.Modify(nil, seqs)
		ids, seqs = ids[:0], seqs[:0]
		return err
	}
	err := c.older.slice(from, n, func(e couchfile.Entry) error {
		d, err := parseSeqEntry(e)
		if err != nil || c.put[string(d.seq)] {
			return err
		}
		is, err := c.ids.Lookup(d.id)
		if err != nil || is == nil || !bytes.Equal(firstOf(is), d.seq) {
			return err
		}
		if c.late[string(d.id)] {
			return ErrLate
		}
		if ids, seqs = append(ids, bytes.Clone(d.id)), append(seqs, bytes.Clone(d.seq)); len(ids) < removeBatch {
			return nil
		}
		return flush()
	})
	if err != nil || len(ids) == 0 {
		return err
	}
	return flush()
}

// EndMerge writes the header of the database, and returns its offset.
func (c *Compaction) EndMerge() (header int64, err error) {
	c.allTrees.put(c.head)
	return c.f.Header(withVersion(c.head.term()))
}
