// Package replay stores a compacted database as what the compactor read instead
// of what it wrote: as the documents that an older file of the database has, by
// their places in it, and those that are new. Decode hands both to the simulator
// of package couchwriter, which makes the same file again, byte for byte.
//
// It does no I/O of its own and knows nothing of repositories. Whoever stores a
// file so must keep the older one for as long.
//
// # Predict, compare, correct
//
// Nothing is believed. Encode has the true file before it; while it writes the
// stream it decodes it with Decode's own code, the older documents taken from
// the true file where Known says that the older file has the same, and compares
// all bytes. Some that differ are stored as corrections; more than a few, or
// another length, are ErrNotReplayed: then the file is stored as it is.
//
// # What of a file is stored
//
// The file that a compaction made, up to the end of the header that the server
// wrote when it took the file into use (Result.Size). What it appended later is
// an ordinary tail and stays with the caller. Where the server wrote no such
// header, since there were no local documents to copy, it is the header of the
// last pass.
//
// # The stream
//
// It consists of a prologue, which is known last, and a body: the passes of the
// compaction, each of them batches of documents, and the swap. docs/replay-format.md
// describes it byte by byte, with all rules by which a file follows from it;
// docs/replay.py is a second reader, which was written from that page.
//
// Corrections are applied to what is written, after prediction: what the
// simulator reads back is what it wrote.
//
// # What a node remembers: Known
//
// For each document of a file its sequence and a hash of 8 bytes, keyed; the page
// has its bytes. The hash is of all that the simulator takes from a document, but
// for attachments' bytes: these are held against the MD5 in the list when the
// stream is written. 8 zeros are no hash: such a document is never the same.
//
// Where file_compression was changed, documents are looked for with bodies of the
// other kind too. Those that deflate compressed, and those whose history the
// compaction cut, are new ones.
//
// # What is not replayed
//
// A compaction with deflate, one whose settings were changed while it ran, and
// one that was interrupted, if documents were purged before it was taken up
// again, or if it was at its end. Of one that was interrupted elsewhere what it
// wrote in vain is stored as it is. btree_chunk_size, which is not in the file, is
// found by the leaves of the first pass.
//
// # View indexes
//
// EncodeView and DecodeView do the same for the compacted file of a view index: a
// stream has the runs of rows that an older file has, the other rows, where batches end,
// and the values of reduce functions that aren't those of the server. EncodeView reads the
// file in its own order, which shows how the compaction went: batch after batch, each of
// them leaves and then inner nodes. It finds the reduce functions by trying those of the
// server on each batch, as nothing in the file names them. KnownView has hashes of runs of
// rows.
//
// # Copies
//
// EncodeCopy knows nothing of documents: it finds large chunks of an older file in a
// compacted one, and the stream is a list of places in that file's payload, which is its
// bytes without markers, and what stands between them. Nothing is simulated, so a
// CopyReader reads any byte without the others. Known's counterpart is CopyKnown: pieces
// of chunks by their places and hashes of 16 bytes.
//
// # Merging
//
// Merge and MergeTail don't make the file but the database: they append what is new in a
// stream to the older file, or to one that is the same database in other bytes. Along a
// chain of streams only the last file is then made, and single documents without any.
//
// # Tails
//
// EncodeTail and DecodeTail do the same for a tail: what a server appended to a
// file between two headers. There the documents of each commit stand for the
// nodes that they led to; docs/replay-format.md has the stream byte by byte. A
// node that is not predicted is stored, with those above it; a commit that can't
// be simulated is stored chunk by chunk, and the next one is predicted again. So
// there are no corrections: what the simulator reads is what the file has.
// couchdb/btree_chunk_size is found by how the first nodes are cut that are not as
// predicted. Not predicted: nodes that are compressed with deflate or zstd, and commits
// of 2.x that have more than one write in front of a header (delayed_commits, and
// replications).
package replay
