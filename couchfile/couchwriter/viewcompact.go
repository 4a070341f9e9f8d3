package couchwriter

import (
	"fmt"
	"io"
	"iter"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// ViewOptions are what the compaction of an index depends on beside its rows.
type ViewOptions struct {
	// Functions are the reduce functions of each tree of the index, in the
	// order of its header; what is behind the last one has none.
	Functions   [][]string
	Compression Compression // couchdb/file_compression
	ChunkSize   int         // couchdb/btree_chunk_size; DefaultChunkSize if 0
	// BufferSize is view_compaction/keyvalue_buffer_size: the bytes of rows
	// that are added at once; 2097152 if 0.
	BufferSize int
}

const viewBufferSize = 2097152

// CompactView writes a compacted index to f, which is empty: what the index in
// a file of size bytes holds at the header h. It returns the states of the new
// trees, the one by id first. The server then updates the index, if documents
// were written meanwhile, and writes a header with the trees: ViewHeader.
//
// An index is often newer in the server's memory than at its newest header,
// and it is that what the server compacts: then h is one that ViewHeader made
// of the offsets of the newest nodes behind it.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_compactor.erl, compact.
func CompactView(f *File, r io.ReaderAt, size int64, h couchfile.RawHeader, opts ViewOptions) (states []erlterm.Term, err error) {
	if opts.BufferSize == 0 {
		opts.BufferSize = viewBufferSize
	}
	index, err := couchfile.OpenViewAt(r, size, h)
	if err != nil {
		return nil, err
	}
	parts, ok := erlterm.Elements(erlterm.Term(h.Term[1:]))
	if !ok || len(parts) != 2 {
		return nil, errViewHeader
	}
	if _, err := f.Header(withVersion(tupleOf([]erlterm.Term{parts[0], erlterm.PutAtom(nil, "nil")}))); err != nil {
		return nil, err
	}
	for i, t := range append([]*couchfile.Tree{index.IDTree()}, index.Trees()...) {
		o := TreeOptions{Compression: opts.Compression, ChunkSize: opts.ChunkSize}
		if i > 0 {
			o.Reducer = ViewReduce(at(opts.Functions, i-1))
		}
		tree := NewTree(f, f, nil, o)
		if err := copyRows(tree, entries(t, nil), opts.BufferSize); err != nil {
			return nil, fmt.Errorf("tree %d of the index: %w", i, err)
		}
		states = append(states, tree.State())
	}
	return states, f.Flush()
}

func at(list [][]string, i int) []string {
	if i < len(list) {
		return list[i]
	}
	return nil
}

// copyRows adds rows in batches. CouchDB's checks for equal document ids in
// the id tree are left out: its trees have none.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_compactor.erl,
// compact_view_btree.
func copyRows(tree *Tree, rows iter.Seq2[couchfile.Entry, error], buffer int) error {
	var batch []couchfile.Entry
	size := 0
	for e, err := range rows {
		if err != nil {
			return err
		}
		batch = append(batch, e)
		if size += 1 + pairHead + len(e.Key) + len(e.Value); size < buffer {
			continue
		}
		if err := tree.Append(batch); err != nil {
			return err
		}
		batch, size = batch[:0], 0
	}
	return tree.Append(batch)
}

var errViewHeader = fmt.Errorf("header of the index: %w", ErrUnpredicted)

// ViewHeader returns the header of an index, 131 first, with other trees: the
// one by id and then those of its views.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl, make_header.
func ViewHeader(header []byte, states []erlterm.Term) ([]byte, error) {
	if len(header) == 0 {
		return nil, errViewHeader
	}
	parts, ok := erlterm.Elements(erlterm.Term(header[1:]))
	if !ok || len(parts) != 2 {
		return nil, errViewHeader
	}
	state, ok := erlterm.Elements(parts[1]) // {mrheader, seq, purge seq, id tree, ..., views}
	if !ok || len(state) < 5 || !erlterm.IsAtom(state[0], "mrheader") {
		return nil, errViewHeader
	}
	last := len(state) - 1
	views, ok := erlterm.Elements(state[last])
	if !ok || len(views) != len(states)-1 {
		return nil, errViewHeader
	}
	for i, view := range views {
		v, ok := erlterm.Elements(view)
		if !ok || len(v) == 0 {
			return nil, errViewHeader
		}
		v[0] = states[i+1]
		views[i] = tupleOf(v)
	}
	state[3], state[last] = states[0], erlterm.PutList(nil, views)
	return withVersion(tupleOf([]erlterm.Term{parts[0], tupleOf(state)})), nil
}
