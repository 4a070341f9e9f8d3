// Package couchgen writes valid .couch files and whole CouchDB data directories
// without a CouchDB, for tests and benchmarks; and shard maps that a restore has to
// rewrite. It is deterministic: the same options and the same calls give the same bytes.
//
// A file is written append by append, as the server does it, so that it holds
// what a real one holds: dead tree nodes, superseded bodies, a header for every
// commit, earlier states that can be cut out.
//
// Blocks, chunks and trees are couchwriter's, and so are the bytes that a server
// would write; documents, revisions, attachments and headers are made here.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl (id_tree_split,
// seq_tree_split, serialize_doc, purge_docs), couch_bt_engine_header.erl (record
// db_header), couch_att.erl (to_disk_term).
package couchgen
