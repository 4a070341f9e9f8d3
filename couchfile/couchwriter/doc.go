// Package couchwriter writes .couch and .view files as CouchDB does, byte for
// byte: given the same older trees and told the same changes, it appends the
// same chunks, nodes and headers at the same offsets.
//
// What CouchDB writes is a function of what happened. A File puts payloads
// into blocks; a Tree is one B-tree, changed by Modify; a Reducer computes what
// its nodes say about what is below them. A Database appends what a commit does
// to all its trees, and makes its header; a Compaction makes a new file out of
// what an older one holds, in as many passes as the server needed; CompactView
// does so for an index. Nothing here knows of backups.
//
// # What is exact
//
//	blocks, chunks, headers   all; a checksum's kind is told, not known
//	snappy                    all of it; terms stored plain too
//	deflate, zstd             what a server reads, but not the bytes it would write
//	B-tree nodes              of all trees of databases and views, whose keys and
//	                          values are told as terms and go into the file as they are
//	reductions                of databases; of views: _count, _sum of numbers and lists
//	                          of numbers, and _stats. Others return ErrUnpredicted.
//	compaction                of 2.3 to 3.5 and the main branch of August 2026. Of one that
//	                          was interrupted and resumed what it wrote before is told, and
//	                          of all what their headers say of the file that the server sorted in
//
// Floats are added in the order in which the server adds them and are rounded
// after each step, on every processor.
//
// # Memory
//
// A Tree keeps the nodes that it read or wrote last, some megabytes at most,
// and what one Modify touches. A Compaction keeps one batch of documents (their
// trees of revisions, not their bodies), one body or attachment part, and 8 MiB of
// what it sorts; more of that goes into a scratch file.
//
// Source: CouchDB 3.5, src/couch/src: couch_file.erl, couch_btree.erl,
// couch_bt_engine.erl, couch_bt_engine_compactor.erl, couch_key_tree.erl,
// couch_stream.erl and couch_query_servers.erl; src/couch_mrview/src:
// couch_mrview_util.erl and couch_mrview_compactor.erl. Each function names its own.
package couchwriter

import "errors"

// ErrUnpredicted says that what CouchDB writes in some place can't be computed
// here: a reduction in JavaScript, a term of an old version.
var ErrUnpredicted = errors.New("what CouchDB writes here is not known")

// Chunks gives back what a file holds; couchfile.ChunkReader and File do.
type Chunks interface {
	// Payload is what the chunk at off holds, without length and checksum. It
	// need not be valid longer than until the next call.
	Payload(off int64) ([]byte, error)
}
