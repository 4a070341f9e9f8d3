package restore

import "errors"

var (
	// ErrNotEmpty says that the target directory holds something and neither
	// --delta was given nor is it an unfinished restore of the same backup.
	ErrNotEmpty = errors.New("the directory is not empty: name an empty one, or pass --delta to turn what is there into the backup")
	// ErrUnfinished says that the target holds an unfinished restore of another
	// backup or of another choice of databases.
	ErrUnfinished = errors.New("the directory holds another restore that was not finished: finish that one, name another directory, or pass --delta")
	// ErrInUse says that a running process has files of the target open.
	ErrInUse = errors.New("the directory is in use: stop CouchDB first, or restore to another directory")
	// ErrLinked says that a folder of the target is a symbolic link. What is behind it is
	// outside of the directory, where a restore writes and removes nothing.
	ErrLinked = errors.New("it is a symbolic link, and a restore writes and removes nothing outside of its directory: restore to a new directory, or replace the link by a mount (mount --bind)")
	// ErrMounted says that a directory can't get another name.
	ErrMounted = errors.New("it is a volume of its own, so what is in it can't be kept beside it: move that away by hand, then restore into the empty directory")
	// ErrTaken says that the directory of a new instance holds something.
	ErrTaken = errors.New("the directory is not empty: name another directory for the instance")
	// ErrNoSuchDB says that no database of the backup matches.
	ErrNoSuchDB = errors.New("no database of the backup matches")
	// ErrMismatch says that the bytes that came back are not those that were
	// backed up.
	ErrMismatch = errors.New("the bytes read back are not those of the backup: run `slipcover check`, and restore another backup if it finds damage")
	// ErrNoShardMap says that the backup has no readable shard map to choose databases by.
	ErrNoShardMap = errors.New("the backup holds no shard map (_dbs.couch) to choose databases by: restore it whole")
	// ErrOptions says that an option is out of form, or does not fit another.
	ErrOptions = errors.New("this can't be done as asked")
	// ErrInstanceExists says that a directory holds another instance than the one that
	// shall be made, or that one, complete.
	ErrInstanceExists = errors.New("the directory holds an instance already: name another directory, or remove that instance")
	// ErrNoInstance says that Create did not make a directory.
	ErrNoInstance = errors.New("no instance that Slipcover made is here")
	// ErrStart says that the new CouchDB did not come up.
	ErrStart = errors.New("CouchDB did not come up")
)
