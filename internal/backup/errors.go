package backup

import (
	"errors"

	"github.com/slipcover/slipcover/internal/capture"
)

var (
	// ErrPermission says that a file of the node may not be read.
	ErrPermission = capture.ErrPermission
	// ErrDamaged says that Strict was asked for and the source has damage.
	ErrDamaged = errors.New("the source is damaged")
	// ErrShrunk says that a file lost bytes while it was read.
	ErrShrunk = capture.ErrShrunk
	// ErrParent says that the backup asked for as parent can't be one.
	ErrParent = errors.New("cannot be the parent")
	// ErrOptions says that an option is out of form.
	ErrOptions = errors.New("an option of the backup can't be used")
	// ErrOtherNode says that the files are not those of the CouchDB that the instance's
	// backups are of, or that two write under one instance name.
	ErrOtherNode = errors.New("this is not, or may not be, the CouchDB whose backups are under that name")
	// ErrNothing says that the node has no files to back up.
	ErrNothing = errors.New("nothing to back up")
)
