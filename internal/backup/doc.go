// Package backup makes full and incremental backups of a CouchDB node by its
// files, while the node runs.
//
// What a backup takes of each file, and how it is proven to be the one of the backup
// before, is package capture's: a file's bytes up to the end of its newest header, and of
// one that has grown those behind the cut of the backup before.
//
// The data's way: a worker's taker reads a file straight into the buffer of the segment
// that the worker is filling, hashing and scanning on the way; a full buffer goes to a packer,
// which compresses, encrypts, hashes and stores it and hands the buffer back.
// The number of buffers bounds the memory.
//
//	taker:  file -> buffer (SHA-256 of the file, scan of the chunks)
//	packer: buffer -> zstd -> age -> SHA-256 -> journal -> storage
//
// With Options.Compaction and Options.Tails the streams of replays and copies go into
// segments like bytes.
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
