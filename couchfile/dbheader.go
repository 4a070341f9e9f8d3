package couchfile

import (
	"fmt"
	"io"
	"math"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// TreeRoot is where a B-tree starts. The zero value is an empty tree.
type TreeRoot struct {
	Offset    int64        // of the root node's chunk
	Reduction erlterm.Term // of the whole tree; nil if the tree is empty
	Size      int64        // bytes on disk of all nodes; -1 in old files that don't say
	Empty     bool
}

// Epoch says which node wrote a database from which sequence on.
type Epoch struct {
	Node      string
	UpdateSeq uint64
}

// Header is a database header: one commit.
//
// A header has no time and no database name.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_header.erl, db_header; time_seq_ptr:
// the main branch of August 2026, where it took the place of a field that was always 0.
type Header struct {
	Offset, End int64 // in the file, as in RawHeader
	Checksum    ChecksumKind

	DiskVersion     int
	UpdateSeq       uint64
	CompactedSeq    uint64 // update_seq at the last compaction, 0 if never
	UUID            string // 32 hex digits; "" in files of 1.x
	Epochs          []Epoch
	RevsLimit       uint64
	PurgeInfosLimit uint64

	IDTree, SeqTree, LocalTree, PurgeTree, PurgeSeqTree TreeRoot

	SecurityPtr int64 // offset of the security chunk, -1 if there is none
	PropsPtr    int64 // offset of the props chunk, -1 if there is none
	TimeSeqPtr  int64 // offset of the chunk that maps times to sequences, -1 if there is none
	More        int   // fields behind those that are known, written by a later CouchDB

	OldPurgeSeq uint64 // purge_seq as it stood in headers of version 5 and 6
}

// Versions of the database header that CouchDB 3.5 opens.
const (
	minDiskVersion = 5 // before 1.2
	maxDiskVersion = 8 // 3.x; 6 is 1.2 to 2.2, 7 is 2.3
)

const (
	headerFields    = 16
	minHeaderFields = 11 // versions 5 and 6 of 1.x
	defaultLimit    = 1000
)

// ParseHeader reads the database header that raw holds. It returns
// ErrNotDatabase for other kinds and ErrUnsupportedVersion for versions
// outside 5 to 8. Fields behind the last that is known are passed over: later
// releases add some without another version.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_header.erl,
// upgrade_tuple and upgrade_disk_version.
func ParseHeader(raw RawHeader) (Header, error) {
	h := Header{
		Offset: raw.Offset, End: raw.End, Checksum: raw.Checksum,
		RevsLimit: defaultLimit, PurgeInfosLimit: defaultLimit, SecurityPtr: -1, PropsPtr: -1, TimeSeqPtr: -1,
	}
	if raw.Kind != HeaderDB {
		return h, fmt.Errorf("header at %d is of kind %v: %w", raw.Offset, raw.Kind, ErrNotDatabase)
	}
	t, err := erlterm.Parse(raw.Term)
	if err != nil {
		return h, corrupt(raw.Offset, "header", err)
	}
	var fields [headerFields]erlterm.Term
	n, ok := firstOfTuple(t, fields[:])
	if !ok || n < 2 {
		return h, fmt.Errorf("header at %d of %d fields: %w", raw.Offset, n, ErrUnsupportedVersion)
	}
	v, _, ok := erlterm.Uint(fields[1])
	if !ok || v < minDiskVersion || v > maxDiskVersion || n < minHeaderFields {
		return h, fmt.Errorf("header at %d of version %d and %d fields: %w", raw.Offset, v, n, ErrUnsupportedVersion)
	}
	h.DiskVersion = int(v)
	h.More = max(0, n-headerFields)
	if !h.fill(fields[:n-h.More]) {
		return h, corrupt(raw.Offset, "header", errShape)
	}
	return h, nil
}

// fill sets the fields from the elements of a db_header tuple; those that an
// older version does not have keep their defaults.
func (h *Header) fill(f []erlterm.Term) bool {
	var ok [10]bool
	h.UpdateSeq, _, ok[0] = erlterm.Uint(f[2])
	if ptr, ok := parsePtr(f[3]); ok && ptr > 0 { // 0 before there was a time_seq
		h.TimeSeqPtr = ptr
	}
	h.IDTree, ok[1] = parseRoot(f[4])
	h.SeqTree, ok[2] = parseRoot(f[5])
	h.LocalTree, ok[3] = parseRoot(f[6])
	ok[4] = h.fillPurge(f[7], f[8])
	h.SecurityPtr, ok[5] = parsePtr(f[9])
	h.RevsLimit, _, ok[6] = erlterm.Uint(f[10])
	ok[7], ok[8], ok[9] = true, true, true
	if len(f) > 12 {
		ok[7] = h.fillIdentity(f[11], f[12])
	}
	if len(f) > 13 {
		h.CompactedSeq, ok[8] = optionalUint(f[13], 0)
	}
	if len(f) > 14 {
		h.PurgeInfosLimit, ok[9] = optionalUint(f[14], defaultLimit)
	}
	propsOK := true
	if len(f) > 15 {
		h.PropsPtr, propsOK = parsePtr(f[15])
	}
	return propsOK && ok == [10]bool{true, true, true, true, true, true, true, true, true, true}
}

// fillPurge reads elements 8 and 9: two trees, or, until version 6, the purge
// sequence and a pointer to the ids purged last.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, upgrade_purge_info.
func (h *Header) fillPurge(a, b erlterm.Term) bool {
	if seq, _, ok := erlterm.Uint(a); ok {
		h.OldPurgeSeq = seq
		h.PurgeTree, h.PurgeSeqTree = emptyRoot, emptyRoot
		return true
	}
	var okA, okB bool
	h.PurgeTree, okA = parseRoot(a)
	h.PurgeSeqTree, okB = parseRoot(b)
	return okA && okB
}

func (h *Header) fillIdentity(uuid, epochs erlterm.Term) bool {
	if !erlterm.IsAtom(uuid, "undefined") {
		b, _, ok := erlterm.Binary(uuid)
		if !ok {
			return false
		}
		h.UUID = string(b)
	}
	if erlterm.IsAtom(epochs, "undefined") {
		return true
	}
	n, rest, ok := erlterm.List(epochs)
	for ; ok && n > 0; n-- {
		var node []byte
		var seq uint64
		if rest, ok = erlterm.TupleN(rest, 2); !ok {
			break
		}
		if node, rest, ok = erlterm.Atom(rest); !ok {
			break
		}
		if seq, rest, ok = erlterm.Uint(rest); ok {
			h.Epochs = append(h.Epochs, Epoch{Node: string(node), UpdateSeq: seq})
		}
	}
	return ok
}

var emptyRoot = TreeRoot{Offset: -1, Empty: true}

// parseRoot reads a tree's state: nil, {offset, reduction} of old files, or
// {offset, reduction, bytes}.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, get_state.
func parseRoot(t erlterm.Term) (TreeRoot, bool) {
	if erlterm.IsAtom(t, "nil") {
		return emptyRoot, true
	}
	n, rest, ok := erlterm.Tuple(t)
	if !ok || n < 2 || n > 3 {
		return emptyRoot, false
	}
	root := TreeRoot{Size: -1}
	off, rest, ok := erlterm.Uint(rest)
	if !ok || off > math.MaxInt64 {
		return emptyRoot, false
	}
	root.Offset = int64(off)
	if root.Reduction, rest, ok = erlterm.Next(rest); !ok {
		return emptyRoot, false
	}
	if n == 3 {
		if size, _, ok := erlterm.Uint(rest); ok && size <= math.MaxInt64 {
			root.Size = int64(size)
		} else if !erlterm.IsAtom(rest, "nil") {
			return emptyRoot, false
		}
	}
	return root, true
}

// parsePtr reads an offset, or nil or undefined as -1.
func parsePtr(t erlterm.Term) (int64, bool) {
	if v, _, ok := erlterm.Uint(t); ok && v <= math.MaxInt64 {
		return int64(v), true
	}
	return -1, erlterm.IsAtom(t, "nil") || erlterm.IsAtom(t, "undefined")
}

func optionalUint(t erlterm.Term, def uint64) (uint64, bool) {
	if erlterm.IsAtom(t, "undefined") {
		return def, true
	}
	v, _, ok := erlterm.Uint(t)
	return v, ok
}

// splitTuple puts the elements of a tuple into dst and returns their number.
// It is not ok if dst is too small or t is something else.
func splitTuple(t erlterm.Term, dst []erlterm.Term) (int, bool) {
	n, ok := firstOfTuple(t, dst)
	return n, ok && n <= len(dst)
}

// firstOfTuple is splitTuple for tuples that may be longer than dst.
func firstOfTuple(t erlterm.Term, dst []erlterm.Term) (int, bool) {
	n, rest, ok := erlterm.Tuple(t)
	if !ok {
		return n, false
	}
	for i := range min(n, len(dst)) {
		if dst[i], rest, ok = erlterm.Next(rest); !ok {
			return n, false
		}
	}
	return n, true
}

// DB is a database file at one header. It is safe for concurrent use if the
// io.ReaderAt is.
type DB struct {
	src *source
	hdr Header
}

// Open opens the database at its newest intact header. As the server does, it
// does not fall back to an older one if that is not a database header of a
// known version: then it returns ErrNotDatabase or ErrUnsupportedVersion.
// Without any header it returns ErrNoHeader.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, init.
func Open(r io.ReaderAt, size int64) (*DB, error) {
	raw, err := FindHeader(r, size)
	if err != nil {
		return nil, err
	}
	h, err := ParseHeader(raw)
	if err != nil {
		return nil, err
	}
	return newDB(r, h), nil
}

// OpenAt opens the database as it was at h, which came from this file:
// from Points, or from another DB's Header. Bytes behind h are not read.
func OpenAt(r io.ReaderAt, size int64, h Header) (*DB, error) {
	if h.End > size {
		return nil, corrupt(h.Offset, "header", errBeyondEnd)
	}
	return newDB(r, h), nil
}

// OpenOffset opens the database as it was at the header at off.
func OpenOffset(r io.ReaderAt, size, off int64) (*DB, error) {
	raw, err := ReadHeader(r, size, off)
	if err != nil {
		return nil, err
	}
	h, err := ParseHeader(raw)
	if err != nil {
		return nil, err
	}
	return newDB(r, h), nil
}

func newDB(r io.ReaderAt, h Header) *DB {
	return &DB{src: newSource(r, h.End, lookupShift, lookupFrames), hdr: h}
}

// Header is the header that db was opened at.
func (db *DB) Header() Header { return db.hdr }
