package couchwriter

import (
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Database is a database that is appended to, commit by commit: its trees and
// what its next header says.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, write_doc_infos,
// purge_docs and commit_data.
type Database struct {
	f     *File
	head  dbHeader
	found map[string]erlterm.Term // values of the documents that were looked for last
	allTrees
}

// foundDocs is how many values of documents are kept, at most.
const foundDocs = 1024

// allTrees are the trees of a database.
type allTrees struct{ ids, seqs, locals, purges, purgeSeqs *Tree }

// newTrees opens empty trees. Before main, those of purges are compressed by
// snappy, whatever is configured; and the one by id in a compaction.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, init_state.
func newTrees(f *File, nodes Chunks, ids, others, purges Compression, opts TreeOptions) allTrees {
	tree := func(r Reducer, z Compression) *Tree {
		opts.Reducer, opts.Compression = r, z
		return NewTree(f, nodes, nil, opts)
	}
	return allTrees{tree(DocsReduce, ids), tree(CountReduce, others), tree(NoReduce, others),
		tree(CountReduce, purges), tree(CountReduce, purges)}
}

// put puts the trees' states into a header.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, update_header.
func (t *allTrees) put(h dbHeader) {
	for at, tree := range t.places() {
		h[at] = tree.State()
	}
}

func (t *allTrees) places() map[int]*Tree {
	return map[int]*Tree{AtIDTree: t.ids, AtSeqTree: t.seqs, AtLocalTree: t.locals, AtPurgeTree: t.purges, AtPurgeSeqTree: t.purgeSeqs}
}

// DatabaseOptions are what the trees of a database depend on beside entries.
type DatabaseOptions struct {
	Release     Release
	Compression Compression                         // couchdb/file_compression, as it was when the server opened the file
	ChunkSize   int                                 // couchdb/btree_chunk_size; DefaultChunkSize if 0
	Node        func(stored []byte) ([]byte, error) // as of TreeOptions
	List        func(entries [][]byte)              // as of TreeOptions
	CacheNodes  int                                 // of each tree, as of TreeOptions
}

// OpenDatabase continues a database at a header, the term of a db_header with
// 131 first. Nodes are appended to f; older ones are read from nodes, which
// usually is f.
func OpenDatabase(f *File, nodes Chunks, header []byte, opts DatabaseOptions) (*Database, error) {
	if len(header) == 0 {
		return nil, errCorruptSource
	}
	head, err := parseOldHeader(erlterm.Term(header[1:]))
	if err != nil {
		return nil, err
	}
	purges := Snappy
	if opts.Release == ReleaseMain {
		purges = opts.Compression
	}
	d := &Database{f: f}
	d.allTrees = newTrees(f, nodes, opts.Compression, opts.Compression, purges,
		TreeOptions{ChunkSize: opts.ChunkSize, Node: opts.Node, List: opts.List, CacheNodes: opts.CacheNodes})
	d.reset(head)
	return d, nil
}

// Reset goes to another header of the same file, which what comes next continues.
func (d *Database) Reset(header []byte) error {
	if len(header) == 0 {
		return errCorruptSource
	}
	head, err := parseOldHeader(erlterm.Term(header[1:]))
	if err == nil {
		d.reset(head)
	}
	return err
}

func (d *Database) reset(head dbHeader) {
	d.head, d.found = make(dbHeader, len(head)), map[string]erlterm.Term{}
	for at, t := range head {
		d.head[at] = slices.Clone(t)
	}
	for at, tree := range d.places() {
		tree.Reset(head[at])
	}
}

// Doc is a document's value in the id tree, or nil. As with Tree.Lookup, it is
// not to be written to.
func (d *Database) Doc(id erlterm.Term) (erlterm.Term, error) {
	if v, ok := d.found[string(id)]; ok {
		return v, nil
	}
	v, err := d.ids.Lookup(id)
	if err != nil {
		return nil, err
	}
	if len(d.found) == foundDocs {
		clear(d.found)
	}
	d.found[string(id)] = v
	return v, nil
}

// DocAt is a document's value in the seq tree, or nil, as Doc is.
func (d *Database) DocAt(seq erlterm.Term) (erlterm.Term, error) { return d.seqs.Lookup(seq) }

// Local is a local document's value, or nil, as Doc is.
func (d *Database) Local(id erlterm.Term) (erlterm.Term, error) { return d.locals.Lookup(id) }

// Update is what one commit does to the trees. Terms are as they are stored.
type Update struct {
	Docs   []couchfile.Entry // the new entries of the seq tree
	Gone   []erlterm.Term    // ids of documents that were purged altogether
	Locals []couchfile.Entry // local documents that are new or changed
	// LocalsGone are the ids of those that were deleted.
	LocalsGone []erlterm.Term
	Purges     []couchfile.Entry // the new entries of the purge_seq tree
}

// Update appends the nodes of one commit, in the server's order. Bodies are in
// the file already: they go before.
func (d *Database) Update(u Update) error {
	ids := make([]couchfile.Entry, 0, len(u.Docs))
	var seqsGone []erlterm.Term
	gone := func(id erlterm.Term) error {
		was, err := d.Doc(id)
		if was != nil {
			seqsGone = append(seqsGone, firstOf(was))
		}
		return err
	}
	newest := d.head.uint(AtUpdateSeq)
	for _, e := range u.Docs {
		id, seq, err := idEntry(e)
		if err != nil {
			return err
		}
		if err := gone(id.Key); err != nil {
			return err
		}
		ids, newest = append(ids, id), max(newest, seq)
	}
	for _, id := range u.Gone {
		if err := gone(id); err != nil {
			return err
		}
	}
	if len(u.Purges) > 0 && newest == d.head.uint(AtUpdateSeq) {
		newest++
	}
	byUUID := make([]couchfile.Entry, 0, len(u.Purges))
	for _, e := range u.Purges {
		p, err := parsePurge(e)
		if err != nil {
			return err
		}
		byUUID = append(byUUID, p.byUUID())
	}
	d.head[AtUpdateSeq] = erlterm.PutUint(nil, newest)
	clear(d.found)
	for _, change := range []struct {
		tree *Tree
		put  []couchfile.Entry
		gone []erlterm.Term
	}{{d.ids, ids, u.Gone}, {d.seqs, u.Docs, seqsGone}, {d.locals, u.Locals, u.LocalsGone}, {d.purges, byUUID, nil}, {d.purgeSeqs, u.Purges, nil}} {
		if len(change.put)+len(change.gone) == 0 {
			continue // purge trees may be none: see parseOldHeader
		}
		if err := change.tree.Modify(change.put, change.gone); err != nil {
			return err
		}
	}
	return nil
}

// idEntry makes an entry of the id tree out of one of the seq tree.
func idEntry(e couchfile.Entry) (id couchfile.Entry, seq uint64, err error) {
	n, rest, ok := erlterm.Tuple(e.Value)
	name, tail, ok2 := erlterm.Next(rest)
	seq, _, ok3 := erlterm.Uint(e.Key)
	if !ok || !ok2 || !ok3 {
		return id, 0, errCorruptSource
	}
	value := append(erlterm.PutTuple(nil, n), e.Key...)
	return couchfile.Entry{Key: name, Value: append(value, tail...)}, seq, nil
}

// SetUUID gives the database another uuid, 32 hex digits, from the next header on: for
// who knows its sequences it is another file then. The server takes it as it is, and
// files of 1.x, whose headers have none, are not opened by OpenDatabase.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, get_uuid; src/couch/src/couch_db.erl,
// calculate_start_seq.
func (d *Database) SetUUID(uuid string) { d.head[AtUUID] = erlterm.PutBinary(nil, uuid) }

// SetSecurity appends a security object as it is stored in some database, the payload of a chunk, and has the next header
// point to it.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, set_security.
func (d *Database) SetSecurity(stored []byte) {
	off, _ := d.f.Chunk(stored)
	d.head[AtSecurity] = erlterm.PutInt(nil, off)
}

// Header is what the server writes as the header of the commit, 131 first, if
// nothing but the trees changed: security, limits and the like are those of
// the header before.
func (d *Database) Header() []byte {
	d.put(d.head)
	return withVersion(d.head.term())
}
