package couchwriter

import (
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Places of elements in a db_header.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_header.erl, record db_header.
const (
	AtUpdateSeq    = 2
	AtTimeSeq      = 3
	AtIDTree       = 4
	AtSeqTree      = 5
	AtLocalTree    = 6
	AtPurgeTree    = 7
	AtPurgeSeqTree = 8
	AtSecurity     = 9
	AtRevsLimit    = 10
	AtUUID         = 11
	AtEpochs       = 12
	AtCompactedSeq = 13
	AtPurgesLimit  = 14
	AtProps        = 15
)

// dbHeader is a db_header, its elements as they are stored.
type dbHeader []erlterm.Term

func parseDBHeader(t erlterm.Term) (dbHeader, error) {
	h, err := parseOldHeader(t)
	if err == nil && len(h) <= AtPurgesLimit {
		err = fmt.Errorf("header of the database: %w", ErrUnpredicted)
	}
	return h, err
}

// parseOldHeader also takes those of 2.0 to 2.2, which have no trees of purges,
// but numbers and pointers in their places.
func parseOldHeader(t erlterm.Term) (dbHeader, error) {
	h, ok := erlterm.Elements(t)
	if !ok || len(h) <= AtCompactedSeq || !erlterm.IsAtom(h[0], "db_header") {
		return nil, fmt.Errorf("header of the database: %w", ErrUnpredicted)
	}
	return h, nil
}

func (h dbHeader) term() erlterm.Term { return tupleOf(h) }

func (h dbHeader) uint(at int) uint64 {
	v, _, _ := erlterm.Uint(h[at])
	return v
}

// pointer is the offset of an object, or -1.
func (h dbHeader) pointer(at int) int64 {
	if at < len(h) {
		if v, _, ok := erlterm.Uint(h[at]); ok && v < 1<<62 && (at != AtTimeSeq || v > 0) {
			return int64(v)
		}
	}
	return -1
}

// newDBHeader is the header that a compaction begins with.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_header.erl, from.
func newDBHeader(release Release, src dbHeader) dbHeader {
	null, limit := erlterm.PutAtom(nil, "nil"), erlterm.PutInt(nil, 1000)
	h := dbHeader{erlterm.PutAtom(nil, "db_header"), erlterm.PutInt(nil, 8), erlterm.PutInt(nil, 0), erlterm.PutInt(nil, 0),
		null, null, null, null, null, null, limit, src[AtUUID], src[AtEpochs], src[AtCompactedSeq], limit}
	if release == Release23 {
		h[1] = erlterm.PutInt(nil, 7)
		return h
	}
	undefined := erlterm.PutAtom(nil, "undefined")
	if release == ReleaseMain {
		h[AtTimeSeq] = undefined
	}
	return append(h, undefined)
}

func (h dbHeader) clone() dbHeader { return slices.Clone(h) }

// withVersion is a term as it is stored plain.
func withVersion(t erlterm.Term) []byte { return append([]byte{erlterm.Version}, t...) }

var errCorruptSource = fmt.Errorf("the older database: %w", couchfile.ErrCorrupt)
