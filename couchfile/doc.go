// Package couchfile reads the files of Apache CouchDB: databases (.couch) and
// view indexes (.view). It reads through an io.ReaderAt and a size, so a live
// file, a file inside a backup and a fuzz input are one code path. It writes
// nothing and needs no server.
//
// A file only grows, and every header in it is a complete committed state.
// Open takes the newest one, as the server does; Points lists the others, and
// OpenAt opens the database as it was at one of them.
//
// # Bytes
//
// All integers are big-endian. A file is a sequence of blocks of 4096 bytes.
// The first byte of each is a marker, which is no part of any payload:
//
//	offset       size  field
//	0            1     0x00 = data, 0x01 = a header starts in this block
//	1            4095  data: chunks back to back, or a header and then chunks
//
// A chunk starts anywhere and may cross blocks, skipping their markers. A
// chunk whose last byte ends a block is followed by the marker of the next
// one, which counts as part of it.
//
//	offset       size  field
//	0            4     bit 31: a checksum follows; bits 30..0: payload length n
//	4            16    checksum of the payload, if bit 31 is set
//	4 or 20      n     payload
//
// A header starts at a block's start. From the chunk before it the block
// before is filled up with zeros.
//
//	offset       size  field
//	0            1     0x01
//	1            4     length L of what follows, without block markers
//	5            16    checksum of the term
//	21           L-16  term in external format, from its version byte 131 on
//
// A checksum is the 128-bit XXH3 of the bytes, high half first, or their MD5.
// Nothing says which; a file may mix them. Only headers and document summaries
// have one: B-tree nodes, attachments, security and props do not.
//
// A term in a chunk is stored plain (first byte 131), deflated (131, 80, 4
// bytes of length, zlib), as snappy (first byte 1, then a raw block), or, by the
// main branch of August 2026 that follows 3.5.2, as a zstd frame (28 B5 2F FD).
//
//	chunk                payload
//	B-tree node          {kp_node, [{last key of child, {offset, reduction, bytes}}]}
//	                     {kv_node, [{key, value}]}
//	document summary     {body, attachment list}, both compressed on their own
//	attachment part      bytes of the attachment
//	security, props      list of pairs
//	time_seq             map of wall-clock times to sequences (main branch)
//
//	tree       key            value
//	id         document id    {update_seq, deleted, sizes, revision tree}
//	seq        update_seq     {document id, deleted, sizes, revision tree}
//	local      _local/ id     {revision, body}
//	purge      purge uuid     {purge_seq, document id, revisions}
//	purge_seq  purge_seq      {purge uuid, document id, revisions}
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl (blocks, chunks, headers),
// couch_btree.erl (nodes), couch_bt_engine.erl (trees and summaries),
// couch_bt_engine_header.erl (the header's fields), couch_att.erl
// (attachments), couch_compress.erl; and of the main branch of August 2026
// couch_zstd.erl and couch_time_seq.erl.
//
// # Other versions
//
// Files that servers 2.1.2, 2.3.1, 3.3.3, 3.5.0, 3.5.2 and the main branch of
// August 2026 wrote are read in the tests, each document, revision and
// attachment of them held against what the server answered. Of 1.2 to 2.0 only
// the header's forms are known, from the source. What a header or the
// properties hold that is not known here is passed over, and is no damage.
//
// # Damage
//
// Reading never panics, whatever the bytes are. All damage answers
// errors.Is(err, ErrCorrupt). Verify looks for damage on purpose; a Scanner
// does so in passing, while a file is copied.
//
// # What a forged file costs
//
// Nobody needs to trust a file to read it. No two pieces of a file share bytes,
// so what a header reaches fits the file. Each pass over one (Verify, an
// iteration, the Bodies of one, an attachment) has one budget: it reads pieces
// of 4 times the file's size and 1 MiB at most, and of a sparse file 64 times
// the bytes that are really there and 8 MiB at most. What it decompresses is
// at most 128 times that, or 128 MiB; its buffers hold 32 times that and
// 64 MiB, and never more than 1 GiB. Where the budget ends the file is damaged,
// which CouchDB's own files are not: Verify needs a quarter of it for them.
//
// Holes are read as the zeros that they are, and are skipped when looking for
// a header. An *os.File tells its holes (on Linux), as do readers that are
// Sparse. Not looked into, and told as damage, are single nodes and documents
// of more than 512 MiB, more than 1,048,576 revisions of a document, and more
// than 131,072 attachments of a revision. Attachments may have any size.
//
// Readers from WithContext end soon once their context is done; Verify has a
// context of its own.
package couchfile
