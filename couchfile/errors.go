package couchfile

import (
	"errors"
	"fmt"
)

var (
	// ErrNoHeader says that no block of the file holds a header whose
	// checksum is right. The server would turn such a file into an empty
	// database, so nothing here treats it as one.
	ErrNoHeader = errors.New("no valid header")

	// ErrCorrupt is what every *CorruptError answers to errors.Is.
	ErrCorrupt = errors.New("corrupt couch file")

	// ErrNotDatabase says that the newest header is intact but belongs to
	// something else than was asked for: a view index, an unfinished
	// compaction, or nothing known.
	ErrNotDatabase = errors.New("not a database file")

	// ErrNotView says that the newest header is not a view index's.
	ErrNotView = errors.New("not a view file")

	// ErrUnsupportedVersion says that a database header has a disk version
	// outside 5 to 8, which are those that CouchDB 3.5 opens.
	ErrUnsupportedVersion = errors.New("unsupported disk version")

	// ErrNotFound says that the state which is open holds no such document,
	// revision or attachment.
	ErrNotFound = errors.New("not found")

	// ErrDeleted says that a document's winning revision is a deletion.
	ErrDeleted = errors.New("deleted")

	// ErrMissing says that a revision is known but its body is not in the
	// file any more, as after a compaction.
	ErrMissing = errors.New("revision body missing")
)

// CorruptError reports bytes of a file that can't be what they should be.
type CorruptError struct {
	Offset int64  // bytes from the start of the file
	What   string // what was being read: "header", "kp_node", "doc summary"
	Err    error  // cause; may be nil
}

func (e *CorruptError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s at %d: corrupt", e.What, e.Offset)
	}
	return fmt.Sprintf("%s at %d: %v", e.What, e.Offset, e.Err)
}

// Unwrap returns the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// Is answers for ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

func corrupt(off int64, what string, err error) error {
	return &CorruptError{Offset: off, What: what, Err: err}
}

var (
	errBeyondEnd = errors.New("reaches beyond the end of the file")
	errChecksum  = errors.New("checksum mismatch")
	errShape     = errors.New("unexpected term")
	errCycle     = errors.New("node holds itself")
	errShared    = errors.New("belongs to two views")
	errTwice     = errors.New("node is part of a tree twice")
	errDepth     = errors.New("tree is too deep")
	errMarker    = errors.New("block marker is not 0")
)
