// Package couchgen writes valid .couch files and whole CouchDB data directories
// without a CouchDB, for tests and benchmarks; and shard maps that a restore has to
// rewrite. It is deterministic: the same options and the same calls give the same bytes.
//
// A file is written append by append, as the server does it, so that it holds
// what a real one holds: dead tree nodes, superseded bodies, a header for every
// commit, earlier states that can be cut out.
//
//	block    offset mod 4096 = 0: one marker byte, 0 = data, 1 = a header starts
//	chunk    4 bytes: bit 31 checksum flag, bits 30..0 length n (big-endian)
//	         16 bytes checksum of the payload, if flagged
//	         n bytes payload; may cross blocks, skipping their marker bytes
//	header   1 byte  marker 1
//	         4 bytes length of checksum and term
//	         16 bytes checksum of the term: XXH3-128 (high half first) or MD5
//	         the term, 131 first, not compressed
//
// A payload that ends on a block boundary is followed by the next block's
// marker, so no chunk starts at a multiple of 4096, except the one at 0.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl (make_blocks,
// assemble_file_chunk, handle_call write_header), couch_btree.erl (write_node,
// chunkify), couch_bt_engine.erl (id_tree_split, seq_tree_split, serialize_doc,
// purge_docs), couch_bt_engine_header.erl (record db_header), couch_att.erl
// (to_disk_term).
//
// The package does not use couchfile or erlterm, on purpose: it is what their
// tests read.
package couchgen
