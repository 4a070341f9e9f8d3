// Package backup makes full and incremental backups of a CouchDB node by its
// files, while the node runs.
//
// A .couch file only grows and each of its headers is a complete committed state.
// So a file's backup is its bytes up to the end of its newest header, read
// through one descriptor, and an incremental is the bytes behind the cut of the
// backup before, once it is proven that the file is the same one grown.
//
// The data's way: a worker reads a file straight into the buffer of the segment
// it is filling, hashing and scanning on the way; a full buffer goes to a packer,
// which compresses, encrypts, hashes and stores it and hands the buffer back.
// The number of buffers bounds the memory.
//
//	worker: file -> buffer (SHA-256 of the file, scan of the chunks)
//	packer: buffer -> zstd -> age -> SHA-256 -> journal -> storage
//
// With Options.Compaction and Options.Tails what a compaction wrote, and what was
// appended, is first tried as a replay or a copy (package couchfile/replay): the stream
// goes into segments like bytes, and a few bytes of each document, or large chunk, are
// remembered for the next compaction. Where there is none, or it is no gain, the bytes go their way as above.
//
// Order: view indexes, shards, node-local files (the shard map among them), ini
// files; each kind is done before the next begins. An index in a backup is so
// never ahead of its shard for want of order, and every shard that the shard map
// names was there before it was copied, or is looked for again.
//
// What the next run must know stands in the state directory: the manifest of the
// last backup with inode, times and hash state of each file; and while a backup
// runs the journal of the segments it stores, so that a run after a crash sends
// none of them again; beside them, for replays, what is remembered of documents. Losing
// all of it costs a full backup, nothing else.
package backup
