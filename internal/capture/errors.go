package capture

import "errors"

var (
	// ErrPermission says that a file of the node may not be read.
	ErrPermission = errors.New("not allowed to read CouchDB's files")
	// ErrShrunk says that a file lost bytes while it was read.
	ErrShrunk = errors.New("a file shrank while it was read")
	// ErrIrregular says that something else than a file is in a file's place.
	ErrIrregular = errors.New("it is not a regular file")
)
