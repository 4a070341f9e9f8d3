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
// It consists of a prologue, which is known last, and a body. Numbers are
// varints, seven bits a byte, the lowest first, as of encoding/binary. A string
// is its length as a number and its bytes; a term is a string with an Erlang
// term without the version byte 131.
//
//	prologue
//	  8 bytes   "CouchRPL"
//	  1 byte    version, 1. Readers refuse all others.
//	  number    n: bytes of the fields, up to the checksum
//	  fields    release       number: 0 is 2.3, 1 is 3.0, 2 is 3.1 to 3.5, 3 is main of August 2026
//	            compression   number: 0 snappy, 1 none: couchdb/file_compression
//	            checksum      number: 1 XXH3-128, 2 MD5
//	            chunk size    number: couchdb/btree_chunk_size
//	            older seq     number: update_seq of the older file at its header
//	            older docs    number: documents that its seq tree has there; 0 if none is needed
//	            size          number: bytes of the file that is made
//	            sum           32 bytes: their SHA-256
//	            body size     number
//	            body sum      32 bytes: SHA-256 of the body
//	            passes        number: passes of the compaction, 1 at least
//	            security      term: the object that the new file began with
//	            uuid          term: of the database's header, as are the next two
//	            epochs        term
//	            compacted seq term
//	            corrections   number, then each: bytes behind the end of the one before (number), bytes (string)
//	  32 bytes  SHA-256 of all before
//
//	body        its passes, then the swap
//	pass        update_seq    number
//	            security      object
//	            props         object
//	            time_seq      object
//	            purges        number, then each: key (term), value (term) of the purge_seq tree, and
//	                          flags (number): 1 the database still had the document, 2 a batch ends
//	                          behind it, 4 a batch ends and a checkpoint follows
//	            batches       up to the one that ends the pass
//	object      number: 0 there is none; 1 the same as in the pass before; else n+1 and a term of n bytes
//	batch       steps, the last of which ends it, and then its payloads
//	step        number: 4n + kind
//	            kind 0, n 0   end of the batch
//	            kind 0, n 1   end of the batch, behind which the compactor wrote a checkpoint
//	            kind 0, n 2   end of the batch, which may be empty, and of the pass
//	            kind 1        the next n documents of the older file's seq tree are copied
//	            kind 2        the next n are passed over
//	            kind 3        n new documents follow, each: the distance of its update_seq from that
//	                          of the new document before, 0 at first (number), and the value of its
//	                          entry in the seq tree (term), as Record.AppendPlain makes it
//	payloads    those of the batch's new documents, in the order in which the compactor copies them:
//	            documents by the bytes of their ids, leaves of their trees from left to right, or in the
//	            order of their offsets where the values have some, which count from 1 on; of each leaf
//	            its body and then its attachments' chunks
//	payload     number: its kind
//	            kind 0        chunk of an attachment (string)
//	            kind 1        body (term), to be compressed; list of attachments (term)
//	            kind 2        body (string) as it is stored; list of attachments (term)
//	            The list has {0, 0} for each pointer to a chunk.
//	swap        number: 1 if there is one, else 0, and then nothing follows
//	            update_seq, revs_limit, purge_infos_limit: numbers
//	            time_seq      object
//	            locals        number, then each: key (term), value (term) of the local tree
//
// Corrections are applied to what is written, after prediction: what the
// simulator reads back is what it wrote.
//
// # What a node remembers: Known
//
//	8 bytes   "CouchKNW"
//	1 byte    version, 1
//	32 bytes  a random key
//	numbers   offset of the header; its update_seq
//	each      1 + the distance of its update_seq from that of the one before (number), and 8 bytes
//	          of hash, in the order of the seq tree
//	number    0: the end
//	number    documents
//	32 bytes  SHA-256 of all before
//
// A hash is the first 8 bytes of SHA-256 over the key; the plain value of the
// document's entry, as a string; and for each leaf two strings: its body as it is
// stored, and its list of attachments, in which the lengths of the chunks that
// the compactor makes of theirs stand for the pointers. So it is of all that the
// simulator takes from a document, but for attachments' bytes: these are held
// against the MD5 in the list when the stream is written. 8 zeros are no hash:
// such a document is never the same.
//
// Where file_compression was changed, documents are looked for with bodies of the
// other kind too. Those that deflate compressed, and those whose history the
// compaction cut, are new ones.
//
// # What is not replayed
//
// A compaction with deflate, one whose settings were changed while it ran, and
// one that was interrupted and had to be taken up again. btree_chunk_size, which
// is not in the file, is found by the leaves of its first pass.
//
// # Tails
//
// EncodeTail and DecodeTail do the same for a tail: what a server appended to a
// file between two headers. There the documents of each commit stand for the
// nodes that they led to; docs/replay-format.md has the stream byte by byte. A
// node that is not predicted is stored, with those above it; a commit that can't
// be simulated is stored chunk by chunk, and the next one is predicted again. So
// there are no corrections: what the simulator reads is what the file has.
// Not predicted: nodes of another couchdb/btree_chunk_size than the default, and
// those that are compressed with deflate or zstd.
package replay
