// Package capture takes what is new of one file of a CouchDB node, while the node runs:
// for a backup, which has all of them, or for shipping, which comes back to each of them.
//
// A .couch file only grows and each of its headers is a complete committed state. So what
// is new of a file are the bytes behind its last cut, up to its newest header, once it is
// proven that the file is the same one grown; or else all of it, as another generation.
//
//	New -> Takers, what all files have in common -> Taker, one for each goroutine -> Take, one file
//
// A Taker reads through one descriptor. The bytes go straight into the buffers of a Sink,
// hashed and scanned on the way. What a compaction wrote, or what was appended, is first
// tried as a replay or a copy (package couchfile/replay), whose stream goes the same way;
// for that a few bytes of each document, or large piece, are remembered in the folder known
// of the state directory. Whatever stands in the way of a replay, the bytes are taken as they are.
//
// Take records nothing: what it found, stored, and what is to be known of the file the next
// time, it returns.
package capture
