package couchwriter

import (
	"fmt"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Reducer computes what a tree's pointers say of the nodes below them. Both
// methods append a term to dst.
type Reducer interface {
	// Reduce is of a leaf's entries, in their order.
	Reduce(dst []byte, entries []couchfile.Entry) ([]byte, error)
	// Rereduce is of an inner node's pointers, in their order.
	Rereduce(dst []byte, reductions []erlterm.Term) ([]byte, error)
}

// Reducers of the trees of databases.
var (
	// NoReduce is of the local tree and of views' trees by id: an empty list.
	NoReduce Reducer = noReduce{}
	// CountReduce is of the seq, purge and purge_seq trees: a number.
	CountReduce Reducer = countReduce{}
	// DocsReduce is of the id tree: {documents, deleted ones, sizes}.
	DocsReduce Reducer = docsReduce{}
)

type noReduce struct{}

func (noReduce) Reduce(dst []byte, _ []couchfile.Entry) ([]byte, error) {
	return append(dst, erlterm.TagNil), nil
}

func (noReduce) Rereduce(dst []byte, _ []erlterm.Term) ([]byte, error) {
	return append(dst, erlterm.TagNil), nil
}

// countReduce counts entries.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, seq_tree_reduce and
// purge_tree_reduce.
type countReduce struct{}

func (countReduce) Reduce(dst []byte, entries []couchfile.Entry) ([]byte, error) {
	return erlterm.PutInt(dst, int64(len(entries))), nil
}

func (countReduce) Rereduce(dst []byte, reductions []erlterm.Term) ([]byte, error) {
	var sum uint64
	for _, r := range reductions {
		n, _, ok := erlterm.Uint(r)
		if !ok {
			return dst, fmt.Errorf("count in a node: %w", couchfile.ErrCorrupt)
		}
		sum += n
	}
	return erlterm.PutUint(dst, sum), nil
}

// docsReduce sums up documents.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, id_tree_reduce and
// reduce_sizes.
type docsReduce struct{}

// docSums is what docsReduce computes.
type docSums struct {
	docs, deleted uint64
	sizes         sizes
	unsized       bool // from before sizes were kept
}

func (docsReduce) Reduce(dst []byte, entries []couchfile.Entry) ([]byte, error) {
	var sum docSums
	for _, e := range entries {
		n, rest, ok := erlterm.Tuple(e.Value)
		if !ok || n < 3 || n > 4 {
			return dst, fmt.Errorf("document in a node: %w", couchfile.ErrCorrupt)
		}
		if _, rest, ok = erlterm.Next(rest); !ok {
			return dst, fmt.Errorf("document in a node: %w", couchfile.ErrCorrupt)
		}
		deleted, rest, ok := erlterm.Uint(rest)
		if !ok {
			return dst, fmt.Errorf("document in a node: %w", couchfile.ErrCorrupt)
		}
		if deleted != 0 {
			sum.deleted++
		} else {
			sum.docs++
		}
		if n == 4 {
			s, _, ok := parseSizes(rest)
			if !ok {
				return dst, fmt.Errorf("sizes of a document: %w", ErrUnpredicted)
			}
			sum.sizes.add(s)
		}
	}
	return sum.put(dst), nil
}

func (docsReduce) Rereduce(dst []byte, reductions []erlterm.Term) ([]byte, error) {
	var sum docSums
	for _, r := range reductions {
		n, rest, ok := erlterm.Tuple(r)
		if !ok || n < 2 || n > 3 {
			return dst, fmt.Errorf("counts in a node: %w", couchfile.ErrCorrupt)
		}
		docs, rest, ok1 := erlterm.Uint(rest)
		deleted, rest, ok2 := erlterm.Uint(rest)
		if !ok1 || !ok2 {
			return dst, fmt.Errorf("counts in a node: %w", couchfile.ErrCorrupt)
		}
		sum.docs, sum.deleted = sum.docs+docs, sum.deleted+deleted
		if n == 2 || erlterm.IsAtom(rest, "nil") {
			sum.unsized = true
			continue
		}
		s, _, ok := parseSizes(rest)
		if !ok {
			return dst, fmt.Errorf("sizes in a node: %w", ErrUnpredicted)
		}
		sum.sizes.add(s)
	}
	return sum.put(dst), nil
}

func (s *docSums) put(dst []byte) []byte {
	dst = erlterm.PutTuple(dst, 3)
	dst = erlterm.PutUint(dst, s.docs)
	dst = erlterm.PutUint(dst, s.deleted)
	if s.unsized {
		return erlterm.PutAtom(dst, "nil")
	}
	return s.sizes.putRecord(dst)
}

// sizes are a record size_info.
type sizes struct{ active, external uint64 }

func (s *sizes) add(o sizes) { s.active += o.active; s.external += o.external }

func (s sizes) putRecord(dst []byte) []byte {
	return s.putNumbers(erlterm.PutAtom(erlterm.PutTuple(dst, 3), "size_info"))
}

func (s sizes) putTuple(dst []byte) []byte { return s.putNumbers(erlterm.PutTuple(dst, 2)) }

func (s sizes) putNumbers(dst []byte) []byte {
	return erlterm.PutUint(erlterm.PutUint(dst, s.active), s.external)
}

// parseSizes reads {active, external}, a record of them, or the active size
// alone.
//
// Source: CouchDB 3.5, src/couch/src/couch_db_updater.erl, upgrade_sizes.
func parseSizes(b []byte) (s sizes, rest []byte, ok bool) {
	if v, rest, ok := erlterm.Uint(b); ok {
		return sizes{active: v}, rest, true
	}
	n, rest, ok := erlterm.Tuple(b)
	if ok && n == 3 {
		var name []byte
		name, rest, ok = erlterm.Atom(rest)
		ok = ok && string(name) == "size_info"
	}
	if !ok || n < 2 || n > 3 {
		return s, nil, false
	}
	if s.active, rest, ok = erlterm.Uint(rest); !ok {
		return s, nil, false
	}
	s.external, rest, ok = erlterm.Uint(rest)
	return s, rest, ok
}
