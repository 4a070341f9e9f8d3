package repo

import "errors"

var (
	// ErrNoRepository says that the storage holds no repository.
	ErrNoRepository = errors.New("no repository here")
	// ErrExists says that the storage holds a repository already.
	ErrExists = errors.New("a repository is here already")
	// ErrFormat says that the repository is of a format this program doesn't know.
	ErrFormat = errors.New("unknown repository format")
	// ErrNoKey says that reading needs a key that wasn't given.
	ErrNoKey = errors.New("the repository is encrypted: reading needs its key")
	// ErrWrongKey says that the key given doesn't open the repository.
	ErrWrongKey = errors.New("the key does not open this repository")
	// ErrKeyGone says that the key of an instance isn't stored: what is encrypted to
	// it can't be read by anyone.
	ErrKeyGone = errors.New("its key is gone from the repository, so nobody can read what it encrypted")
	// ErrRecipients says that a node must not make a key for the recipients that the
	// repository names.
	ErrRecipients = errors.New("the repository's recipients are not those accepted")
	// ErrNotRecipient says that who shall be removed isn't there.
	ErrNotRecipient = errors.New("not a recipient of the repository")
	// ErrLastRecipient says that nobody could read after a removal.
	ErrLastRecipient = errors.New("the last recipient can't be removed")
	// ErrNotEncrypted says that there are no keys.
	ErrNotEncrypted = errors.New("the repository is not encrypted: it has no keys")
	// ErrNoBackup says that no backup has that id or name.
	ErrNoBackup = errors.New("no such backup")
	// ErrIDUsed says that an id can't be that of a new backup.
	ErrIDUsed = errors.New("the id of the backup was used before: another attempt needs a new one")
	// ErrAmbiguous says that several backups match.
	ErrAmbiguous = errors.New("more than one backup matches")
	// ErrLocked says that another process works on the instance.
	ErrLocked = errors.New("the instance is locked")
	// ErrLockLost says that another process took the lock over.
	ErrLockLost = errors.New("the lock was lost to another process")
	// ErrPinned says that a backup is pinned and not deleted.
	ErrPinned = errors.New("the backup is pinned")
	// ErrCorrupt says that stored bytes aren't what was written.
	ErrCorrupt = errors.New("stored data is damaged")
	// ErrSignature says that a record isn't signed by a trusted writer.
	ErrSignature = errors.New("signature of the backup's record is not valid")
)
