package couchfile

import (
	"errors"
	"io"
)

// Point is a database header in a file, and whether it is a moment of the
// database's history that the file can be cut to.
type Point struct {
	Header
	History bool
}

// Points returns every intact database header of a version that can be opened,
// in file order, which is the order in which they were written. It reads the whole file once.
//
// All of them are history, except in a file that a compaction wrote: there
// the compaction's own headers are states that never were. History then
// begins with the second database header behind the last comp_header; the
// one before has all documents, but no local documents and default limits.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl, and
// src/couch/src/couch_bt_engine.erl, finish_compaction_int.
func Points(r io.ReaderAt, size int64) ([]Point, error) {
	var points []Point
	artifacts := 0 // points before this one are the compaction's
	err := EachHeader(r, size, func(raw RawHeader) error {
		switch raw.Kind {
		case HeaderCompaction:
			artifacts = len(points) + 1
		case HeaderDB:
			if h, err := ParseHeader(raw); err == nil { // else no state that can be opened
				points = append(points, Point{Header: share(h, points)})
			}
		}
		return nil
	})
	for i := min(artifacts, len(points)); i < len(points); i++ {
		points[i].History = true
	}
	return points, err
}

// share lets equal parts of neighbouring headers be one in memory.
func share(h Header, points []Point) Header {
	if len(points) == 0 {
		return h
	}
	last := &points[len(points)-1]
	if h.UUID == last.UUID {
		h.UUID = last.UUID
	}
	if len(h.Epochs) == len(last.Epochs) {
		same := true
		for i := range h.Epochs {
			same = same && h.Epochs[i] == last.Epochs[i]
		}
		if same {
			h.Epochs = last.Epochs
		}
	}
	return h
}

// NewestPoint returns the newest database header that fits and is a moment of the database's
// history, as Points tells. It goes back from the end, so it reads little more than what is behind that
// header. It returns ErrNoHeader if the file has none.
func NewestPoint(r io.ReaderAt, size int64, fits func(*Header) bool) (Header, error) {
	var found *Header // if what is before it is another header of a database, or nothing
	for limit := size; ; {
		raw, err := FindHeader(r, limit)
		if errors.Is(err, ErrNoHeader) && found != nil {
			return *found, nil // the first one
		}
		if err != nil {
			return Header{}, err
		}
		limit = raw.Offset
		switch raw.Kind {
		case HeaderCompaction:
			return Header{}, ErrNoHeader // what is before it, and the one behind it, are the compaction's
		case HeaderDB:
			if found != nil {
				return *found, nil
			}
			if h, err := ParseHeader(raw); err == nil && fits(&h) {
				found = &h
			}
		}
	}
}
