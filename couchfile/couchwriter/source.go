package couchwriter

import (
	"errors"
	"io"
	"iter"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Source is a database as a pass of the compactor saw it. OpenSource reads
// one from a file; another may take parts of it from elsewhere.
type Source struct {
	Header   erlterm.Term // its db_header
	Security erlterm.Term // what the header points to; nil if it points to nothing
	Props    erlterm.Term
	TimeSeq  erlterm.Term

	// Docs iterates over the entries of the seq tree behind since. They must
	// stay valid.
	Docs func(since uint64) iter.Seq2[SourceDoc, error]
	// Purges iterates over those of the purge_seq tree in the same way.
	Purges func(since uint64) iter.Seq2[SourcePurge, error]
	// Locals iterates over the local documents.
	Locals func() iter.Seq2[couchfile.Entry, error]
	// Has says whether the database has a document, deleted or not.
	Has func(id erlterm.Term) (bool, error)
	// Sorting is what the next header of the compaction says of the file in which
	// the server sorted, as a term: offsets in that file, which are not computed
	// here. nil: all say [].
	//
	// Source: CouchDB 3.5, src/couch/src/couch_emsort.erl, get_state.
	Sorting func() (erlterm.Term, error)
}

// SourceDoc is an entry of a seq tree, and the file that its record points into.
type SourceDoc struct {
	couchfile.Entry
	Chunks Chunks
	Batch  Batch // behind this document, if CompactionOptions.Told
	// ByOffset says that leaves are copied in the order of their offsets, and
	// from left to right only where these are the same. A compaction copies a
	// tree before it cuts it, and then orders what it became.
	ByOffset bool
	// Dead is not of a document, and then there is nothing else: it is what an
	// interrupted compaction had written when another one took it up again.
	Dead []byte
}

// SourcePurge is an entry of a purge_seq tree.
type SourcePurge struct {
	couchfile.Entry
	Batch Batch // as of a document
}

// OpenSource opens the database in a file of size bytes at one of its headers,
// or at the one that a header of a compaction holds, as if it stood there.
func OpenSource(r io.ReaderAt, size int64, h couchfile.RawHeader) (*Source, error) {
	parsed, err := couchfile.ParseHeader(h)
	if err != nil {
		return nil, err
	}
	db, err := couchfile.OpenAt(r, size, parsed)
	if err != nil {
		return nil, err
	}
	head, err := parseDBHeader(erlterm.Term(h.Term[1:]))
	if err != nil {
		return nil, err
	}
	s := &Source{Header: head.term()}
	chunks := couchfile.NewChunkReader(r, size)
	for at, to := range map[int]*erlterm.Term{AtSecurity: &s.Security, AtProps: &s.Props, AtTimeSeq: &s.TimeSeq} {
		off := head.pointer(at)
		if off < 0 {
			continue
		}
		t, err := chunks.Term(off)
		if err != nil {
			return nil, err
		}
		*to = slices.Clone(t)
	}
	s.Docs = func(since uint64) iter.Seq2[SourceDoc, error] {
		return func(yield func(SourceDoc, error) bool) {
			for e, err := range entries(db.SeqTree(), &couchfile.Key{Seq: since + 1}) {
				if !yield(SourceDoc{Entry: e, Chunks: chunks}, err) {
					return
				}
			}
		}
	}
	s.Purges = func(since uint64) iter.Seq2[SourcePurge, error] {
		return func(yield func(SourcePurge, error) bool) {
			for e, err := range entries(db.PurgeSeqTree(), &couchfile.Key{Seq: since + 1}) {
				if !yield(SourcePurge{Entry: e}, err) {
					return
				}
			}
		}
	}
	s.Locals = func() iter.Seq2[couchfile.Entry, error] { return entries(db.LocalTree(), nil) }
	s.Has = func(id erlterm.Term) (bool, error) {
		name, _, _ := erlterm.Binary(id)
		_, err := db.DocInfo(string(name))
		if errors.Is(err, couchfile.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	}
	return s, nil
}

// entries iterates over a tree and copies its entries.
func entries(t *couchfile.Tree, from *couchfile.Key) iter.Seq2[couchfile.Entry, error] {
	return func(yield func(couchfile.Entry, error) bool) {
		for e, err := range t.All(from, false) {
			if err == nil {
				both := append(append(make(erlterm.Term, 0, len(e.Key)+len(e.Value)), e.Key...), e.Value...)
				e = couchfile.Entry{Key: both[:len(e.Key):len(e.Key)], Value: both[len(e.Key):]}
			}
			if !yield(e, err) {
				return
			}
		}
	}
}
